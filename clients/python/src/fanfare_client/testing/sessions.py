"""What the fake knows of sessions that poll."""

import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from fanfare_client.testing.refusals import Json, Refusal, now


class Sessions:
    """Each has a queue of what was told to its topics since it was made."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._came = threading.Condition(self.lock)
        self._sessions: dict[str, Json] = {}
        self._queues: dict[str, list[Json]] = {}

    def put(self, topic: str, event: Json) -> None:
        """Puts an event into the queues of all that hear the topic."""
        with self._came:
            for id, session in self._sessions.items():
                own = (f"session.{id}", f"user.{session['userId']}", f"account.{session['accountId']}", "all")
                if topic in own:
                    one = {"messageId": event.get("id") or str(uuid.uuid4()), "body": event, "times": 0, "due": 0.0}
                    kept = [other for other in self._queues[id] if other["messageId"] != one["messageId"]]
                    self._queues[id] = [*kept, one]  # A message that is recalled is there no more.
            self._came.notify_all()

    def _post_sessions(self, path: list[str], query: Json, body: Json) -> tuple[int, Any]:
        match path:
            case []:
                return self._open(body, query["user"])
            case [id, "renew"]:
                return 200, {"session": self._find(id, query)}
            case [id, "receive"]:
                return 200, {"messages": self._receive(self._find(id, query), body)}
            case [id, "ack"]:
                return 200, {"acknowledged": self._acknowledge(self._find(id, query), body["receipts"])}
        raise Refusal(404, "not_found")

    def _get_sessions(self, path: list[str], query: Json, _body: Any) -> tuple[int, Any]:
        if path:
            return 200, {"session": self._find(path[0], query)}
        wanted = {"userId": query["user"], "accountId": query.get("account")}
        found = [one for one in self._sessions.values() if all(v in (None, one[n]) for n, v in wanted.items())]
        return 200, {"sessions": found, "next": None}

    def _delete_sessions(self, path: list[str], query: Json, _body: Any) -> tuple[int, Any]:
        id = self._find(path[0], query)["sessionId"]
        del self._sessions[id], self._queues[id]
        return 204, None

    def _open(self, body: Json, caller: str | None) -> tuple[int, Any]:
        if body.get("transport", "poll") != "poll":
            raise Refusal(422, "provider_not_configured")
        user, id = body.get("user") or caller, body.get("session") or uuid.uuid4().hex
        is_new = id not in self._sessions
        if not user:
            raise Refusal(400, "malformed")
        if not is_new and self._sessions[id]["userId"] != user:
            raise Refusal(409, "session_taken")
        made = {"sessionId": id, "userId": user, "accountId": body.get("account"), "transport": "poll"}
        made |= {"topic": f"session.{id}", "retention": body.get("retention", 3600), "created_at": now()}
        made |= {"address": "127.0.0.1", "agent": "", "last_seen_at": now()}
        made["expires_at"] = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        self._sessions[id] = made if is_new else made | {"created_at": self._sessions[id]["created_at"]}
        self._queues.setdefault(id, [])
        return 201 if is_new else 200, {"session": self._sessions[id]}

    def _find(self, id: str, query: Json) -> Json:
        session = self._sessions.get(id)
        if session is None or query["user"] not in (None, session["userId"]):
            raise Refusal(404, "unknown_session")
        return session

    def _receive(self, session: Json, body: Json) -> list[Json]:
        id, until = session["sessionId"], time.monotonic() + body.get("wait", 0)
        while not (due := [one for one in self._queues.get(id, ()) if one["due"] <= time.monotonic()]):
            left = until - time.monotonic()
            if left <= 0:
                break
            self._came.wait(min(left, 1.0))  # What is lent comes again without a word.
        lent = due[: body.get("max", 10)]
        for one in lent:
            one.update(times=one["times"] + 1, due=time.monotonic() + body.get("visibility", 30))
        return [{"messageId": one["messageId"], "receipt": _receipt(one), "body": one["body"]} for one in lent]

    def _acknowledge(self, session: Json, receipts: list[str]) -> list[str]:
        queue = self._queues[session["sessionId"]]
        held = [receipt for receipt in receipts if receipt in map(_receipt, queue)]
        self._queues[session["sessionId"]] = [one for one in queue if _receipt(one) not in held]
        return held


def _receipt(one: Json) -> str:
    return f"{one['messageId']}:{one['times']}"
