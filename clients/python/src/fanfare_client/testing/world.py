"""What the fake knows, and what its routes do with it."""

import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fanfare_client.testing.refusals import Json, Refusal, now
from fanfare_client.testing.sessions import Sessions

EPOCH = "fake"


class World(Sessions):
    """`listeners` are told of each event: its topic, and the event."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[str, Json], None]] = [self.put]
        self.connected: defaultdict[str, int] = defaultdict(int)
        self.logs: defaultdict[str, list[Json]] = defaultdict(list)
        self._sent: list[Json] = []
        self._replies: dict[str, tuple[int, Any]] = {}
        self._receipts: defaultdict[tuple[str, str], Json] = defaultdict(dict)
        self._said: defaultdict[str, Json] = defaultdict(lambda: {"availability": "available", "text": ""})
        self._boards: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._tasks: dict[str, Json] = {}
        self._users: dict[str, Json] = {}

    def sent(self) -> list[Json]:
        with self.lock:
            return list(self._sent)

    def user_of(self, authorization: str) -> str | None:
        """The user that a credential stands for; None for a service. Raises Refusal."""
        credential = authorization.removeprefix("Bearer ")
        if credential.startswith("user:"):
            return credential.removeprefix("user:")
        if not credential.startswith("ff_"):
            raise Refusal(401, "unauthenticated")
        return None

    def do(self, method: str, path: list[str], query: Json, body: Any, user: str | None, key: str) -> tuple[int, Any]:
        """Status and JSON of a request. Raises Refusal."""
        with self.lock:
            if key and key in self._replies:
                return self._replies[key]
            route = getattr(self, f"_{method.lower()}_{path[0].replace('-', '_')}", None)
            if route is None:
                raise Refusal(501, "not_faked", f"The fake does not know {method} {'/'.join(path)}.")
            reply: tuple[int, Any] = route(path[1:], query | {"user": query.get("user") or user}, body)
            if key:
                self._replies[key] = reply
            return reply

    # --- Messages ---------------------------------------------------------------------------------

    def _post_notifications(self, path: list[str], query: Json, body: Json) -> tuple[int, Any]:
        if path == ["batch"]:
            return 202, {"results": [self._item(item, query) for item in body["notifications"]]}
        places = [self._store(topic, body, query["user"]) for topic in self._topics(body["to"])]
        if "users" in body["to"]:
            return 202, {"messages": [{**place, "user": place["topic"][5:]} for place in places]}
        return 202, places[0]

    def _item(self, item: Json, query: Json) -> Json:
        try:
            status, reply = self._post_notifications([], query, item)
        except Refusal as refusal:
            return {"status": refusal.status, "error": {"code": refusal.code, "message": str(refusal)}}
        return {"status": status, **reply}

    def _topics(self, to: Json) -> list[str]:
        match [(kind, value) for kind, value in to.items() if value]:
            case [("all", True)]:
                return ["all"]
            case [("users", list(users))]:
                return [f"user.{user}" for user in dict.fromkeys(users)]
            case [(("user" | "account" | "session" | "topic") as kind, str(name))]:
                return [f"{kind}.{name}"]
        raise Refusal(400, "malformed", "to: exactly one of user, users, account, session, topic, all.")

    def _store(self, topic: str, body: Json, sender: str | None) -> Json:
        stored = body.get("store", True) and not body.get("send_at")
        message: Json = {"id": str(uuid.uuid4()), "topic": topic, "offset": None, "type": body.get("type", "message")}
        message |= {"data": body.get("data"), "created_at": now(), "expires_at": None}
        message |= {"sender": sender} if sender else {}
        if stored:
            self.logs[topic].append(message)
            message["offset"] = len(self.logs[topic])
        self._sent.append(message)
        if not body.get("send_at"):
            self.tell(topic, {"event": "message", **message})
        return {"id": message["id"], "topic": topic, "epoch": EPOCH if stored else None, "offset": message["offset"]}

    def tell(self, topic: str, event: Json) -> None:
        for listener in self.listeners:
            listener(topic, event)

    def _get_notifications(self, path: list[str], query: Json, _body: Any) -> tuple[int, Any]:
        if path:
            message = self._message(path[0])
            return 200, message | {
                "key": "",
                "timeline": [{"what": "accepted", "at": message["created_at"]}],
                "totals": {},
            }
        topic = query.get("topic") or f"user.{query['user']}"
        return 200, {"messages": self._live(topic)[::-1], "next": None}

    def _delete_notifications(self, path: list[str], _query: Json, _body: Any) -> tuple[int, Any]:
        message = self._message(path[0])
        message["recalled"] = True
        self.tell(
            message["topic"], {"event": "recalled", **{name: message[name] for name in ("topic", "offset", "id")}}
        )
        return 204, None

    def _message(self, id: str) -> Json:
        for message in self._sent:
            if message["id"] == id:
                return message
        raise Refusal(404, "unknown_message")

    def _live(self, topic: str) -> list[Json]:
        return [message for message in self.logs[topic] if not message.get("recalled")]

    def _get_topics(self, path: list[str], query: Json, _body: Any) -> tuple[int, Any]:
        messages = [one for one in self._live(path[0]) if one["offset"] > int(query.get("since", 0))]
        head = len(self.logs[path[0]])
        return 200, {"messages": messages[: int(query.get("limit", 25))], "epoch": EPOCH, "head": head, "tail": 1}

    # --- The inbox --------------------------------------------------------------------------------

    def _inbox(self, user: str) -> list[Json]:
        account = self._users.get(user, {}).get("account")
        topics = [f"user.{user}", "all"] + ([f"account.{account}"] if account else [])
        messages = [message for topic in topics for message in self._live(topic)]
        marks: Json = {"seen_at": None, "read_at": None, "archived_at": None}
        shown = [message | marks | self._receipts[user, message["id"]] for message in messages]
        return sorted(shown, key=lambda message: str(message["created_at"]), reverse=True)

    def counts(self, user: str) -> Json:
        waiting = [message for message in self._inbox(user) if not message["archived_at"]]
        unread, unseen = (sum(not message[name] for message in waiting) for name in ("read_at", "seen_at"))
        return {"unread": unread, "unseen": unseen, "unread_more": False}

    def _get_inbox(self, _path: list[str], query: Json, _body: Any) -> tuple[int, Any]:
        found = [one for one in self._inbox(query["user"]) if bool(one["archived_at"]) == bool(query.get("archived"))]
        found = [one for one in found if not (query.get("unread") and one["read_at"])]
        start, limit = int(query.get("cursor", 0)), int(query.get("limit", 25))
        following = str(start + limit) if start + limit < len(found) else None
        return 200, {"messages": found[start : start + limit], "next": following, **self.counts(query["user"])}

    def _post_inbox(self, path: list[str], query: Json, body: Json) -> tuple[int, Any]:
        (deed,) = path
        user = body.get("user") or query["user"]
        mine = [one["id"] for one in self._inbox(user)]
        wanted = [id for id in mine if body.get("all") or body.get("as_of") or id in body.get("ids", [])]
        if deed == "ack":
            return 200, {"acknowledged": len(wanted)}
        marks = {
            "seen": ["seen_at"],
            "read": ["seen_at", "read_at"],
            "archive": ["archived_at"],
            "unread": ["read_at"],
        }[deed]
        changed = [id for id in wanted if bool(self._receipts[user, id].get(marks[-1])) == (deed == "unread")]
        for id in changed:
            self._receipts[user, id].update(dict.fromkeys(marks, None if deed == "unread" else now()))
        if changed:
            self.tell(f"user.{user}", {"event": "receipt", "state": deed, "ids": changed})
            self.tell(f"user.{user}", {"event": "unread", **self.counts(user)})
        return 200, {"receipted": changed, **self.counts(user)}

    # --- Tasks, users, tokens, presence, boards -----------------------------------------------------

    def _post_tasks(self, path: list[str], query: Json, body: Json) -> tuple[int, Any]:
        if path:
            raise Refusal(501, "not_faked", "Use FakeFanfare.finish.")
        task: Json = {
            "id": str(uuid.uuid4()),
            "user": body.get("user") or query["user"],
            "type": body.get("type", "echo"),
        }
        task |= {
            "state": "queued",
            "progress": 0.0,
            "note": "",
            "error": None,
            "attempts": 0,
            "cancel_requested": False,
        }
        task |= {"created_at": now(), "payload": body.get("payload"), "result": None}
        self._tasks[task["id"]] = task
        self._tell_of_task(task)
        return 202, {"id": task["id"]}

    def _tell_of_task(self, task: Json) -> None:
        event = {name: task[name] for name in ("type", "state", "progress")}
        self.tell(
            f"user.{task['user']}", {"event": "task", "topic": f"user.{task['user']}", "task": task["id"], **event}
        )

    def finish(self, id: str, result: Any, error: str | None) -> None:
        with self.lock:
            task = self._tasks[id]
            ended = {"state": "failed" if error else "done", "progress": task["progress"] if error else 1.0}
            task.update(ended, result=result, error=error, finished_at=now())
            self._tell_of_task(task)
            kind = "task.failed" if error else "task.finished"
            self._store(f"user.{task['user']}", {"type": kind, "data": {"task": id, "text": kind}}, None)

    def _get_tasks(self, path: list[str], query: Json, _body: Any) -> tuple[int, Any]:
        if path and path[0] not in self._tasks:
            raise Refusal(404, "unknown_task")
        found = [one for one in self._tasks.values() if query["user"] in (None, one["user"])]
        return 200, self._tasks[path[0]] if path else {"tasks": found[::-1], "next": None}

    def _delete_tasks(self, path: list[str], _query: Json, _body: Any) -> tuple[int, Any]:
        self._get_tasks(path, {"user": None}, None)[1].update(state="cancelled")
        return 204, None

    def _put_users(self, path: list[str], _query: Json, body: Json) -> tuple[int, Any]:
        known: Json = {"id": path[0], "account": None, "name": "", "attributes": {}, "created_at": now()}
        self._users[path[0]] = known | self._users.get(path[0], {}) | body
        return 200, self._users[path[0]]

    def _get_users(self, path: list[str], _query: Json, _body: Any) -> tuple[int, Any]:
        if path[0] not in self._users:
            raise Refusal(404, "unknown_user")
        return 200, self._users[path[0]]

    def _post_tokens(self, _path: list[str], _query: Json, body: Json) -> tuple[int, Any]:
        expires_at = (datetime.now(UTC) + timedelta(seconds=body["ttl"])).isoformat()
        return 201, {"id": str(uuid.uuid4()), "token": f"user:{body.get('user', '')}", "expires_at": expires_at}

    def _presence(self, user: str) -> Json:
        count = self.connected[user]
        status = {
            "user": user,
            "status": "ONLINE" if count else "OFFLINE",
            "connections": count,
            "seq": 0,
            "version": 0,
        }
        return status | self._said[user]

    def _get_presence(self, path: list[str], _query: Json, _body: Any) -> tuple[int, Any]:
        return 200, self._presence(path[0])

    def _put_presence(self, path: list[str], _query: Json, body: Json) -> tuple[int, Any]:
        self._said[path[0]].update(body)
        return 200, self._presence(path[0])

    def _post_presence(self, _path: list[str], _query: Json, body: Json) -> tuple[int, Any]:
        return 200, {"presences": [self._presence(user) for user in body["users"]]}

    def _ranked(self, board: str) -> list[Json]:
        entries = sorted(self._boards[board].items(), key=lambda entry: -entry[1])
        return [
            {"name": name, "score": score, "subscore": 0, "rank": rank} for rank, (name, score) in enumerate(entries)
        ]

    def _post_leaderboards(self, path: list[str], _query: Json, body: Json) -> tuple[int, Any]:
        if len(path) != 2:
            raise Refusal(501, "not_faked", "The fake takes one score at a time.")
        board, name = path
        before = self._boards[board].get(name)
        self._boards[board][name] = body["score"] if before is None else max(before, body["score"])
        row = next(row for row in self._ranked(board) if row["name"] == name)
        changed = before != self._boards[board][name]
        return 202, row | {"board": board, "position": row["rank"] + 1, "previous_rank": None, "changed": changed}

    def _get_leaderboards(self, path: list[str], query: Json, _body: Any) -> tuple[int, Any]:
        rows = self._ranked(path[0])
        page = {"total": len(rows), "version": 1, "window": "1"}
        if len(path) == 1:
            start = int(query.get("startRank", 0))
            return 200, page | {"leaderboard": rows[start : int(query.get("endRank", start + 20))], "next": None}
        for row in rows:
            if row["name"] == path[1]:
                return 200, page | row | {"board": path[0], "position": row["rank"] + 1, "percentile": None}
        raise Refusal(404, "not_ranked")
