"""Outside, for tests of faults: receivers that write down what comes, and the ledger of what was accepted for them."""

import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from tests.adapters.receivers import Answer, Call, Handler, Receiver, _Server, status
from tests.servers import READY_SECONDS, STOP_SECONDS, Stack, eventually

SETTLE_SECONDS = 30.0
LATE_SECONDS = 0.5
STATES = ("pending", "delivered", "dead", "expired")

Behaviour = Callable[[str, int], Answer]  # An event's id, and how often it has come -> what it is answered.

TAKE = status(200)


def take_late(handler: Handler, call: Call) -> None:
    time.sleep(LATE_SECONDS)
    TAKE(handler, call)


class Shop(Receiver):
    """Writes down when each event came and how often it took it. `behave` is how it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.behave: Behaviour = lambda _id, _times: TAKE
        self.came: list[tuple[str, float]] = []
        self.taken: Counter[str] = Counter()
        self._times: Counter[str] = Counter()
        self._connections: set[socket.socket] = set()
        self.answer = self._answer

    def _answer(self, handler: Handler, call: Call) -> None:
        id = call.headers["webhook-id"]
        with self.lock:
            self._connections.add(handler.connection)
            self.came.append((id, time.monotonic()))
            self._times[id] += 1
            answer = self.behave(id, self._times[id])
            if answer in (TAKE, take_late):
                self.taken[id] += 1
        answer(handler, call)

    def times(self) -> Counter[str]:
        """How often each came, taken or not."""
        with self.lock:
            return Counter(self._times)

    def arrivals(self) -> dict[str, float]:
        """When each came first."""
        with self.lock:
            return dict(reversed(self.came))

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Nobody listens at its port for the time of the block, and open connections are cut."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self.lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # Closed before.
            self._connections.clear()
        yield
        self._server = _Server(("127.0.0.1", self.port), self._server.RequestHandlerClass)
        self._server.context = None
        self._thread = type(self._thread)(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()


class House:
    """A stack whose workers and beats come and go."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._staff: list[subprocess.Popen[bytes]] = []
        self._hired = 0
        self._shape: tuple[Any, ...] = ()
        stack.start_web()
        self.http = stack.client()

    def employ(self, *, workers: int = 1, beats: int = 1, app: str = "config", **environment: str) -> None:
        """So many workers and beats, ready, and no others."""
        shape = (workers, beats, app, environment)
        if shape == self._shape and all(process.poll() is None for process in self._staff):
            return
        self.dismiss()
        for _ in range(beats):
            schedule = str(self.stack.home / f"beat{self._hired}")
            self._hire("beat", "celery", "-A", "config", "beat", "-s", schedule, "--pidfile=")
        for _ in range(workers):
            queue = ("-Q", "outside", "-c", "2", "-n", f"w{self._hired}@%h")
            self._hire("worker", "celery", "-A", app, "worker", "-l", "INFO", *queue, **environment)
        broker = self.stack.environment["REDIS_URL"].replace("unix://", "redis+socket://")
        with Celery(broker=broker, set_as_current=False) as celery:
            eventually(lambda: len(celery.control.ping(timeout=0.3) or ()) == workers, READY_SECONDS, self.explain)
        self._shape = shape

    def dismiss(self) -> None:
        """kill -9 of each with all its processes."""
        for process in self._staff:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
        self._staff.clear()
        self._shape = ()

    def explain(self) -> str:
        return self.stack.logs()[-4000:]

    def _hire(self, name: str, *command: str, **environment: str) -> None:
        self._staff.append(self.stack.spawn(f"{name}{self._hired}", *command, **environment))
        self._hired += 1

    def call(self, method: str, path: str, expect: int = 200, **request: Any) -> dict[str, Any]:
        reply = self.http.request(method, path, **request)
        assert reply.status_code == expect, reply.text
        return dict(reply.json())

    def metrics(self, destination: str) -> dict[str, int]:
        """What /metrics says of a destination: what was `accepted`, and what became of it."""
        found = {}
        for family in text_string_to_metric_families(self.http.get("/metrics").text):
            for sample in family.samples:
                if sample.labels.get("destination") == destination:
                    if sample.name == "fanfare_deliveries_accepted_total":
                        found["accepted"] = int(sample.value)
                    elif sample.name == "fanfare_deliveries_state":
                        found[sample.labels["state"]] = int(sample.value)
        return found


class Route:
    """A destination, its receiver, and the ledger: the ids that a 202 named, with the time before the request."""

    def __init__(self, house: House, name: str, shop: Shop) -> None:
        self.house, self.name, self.shop = house, name, shop
        self.accepted: dict[str, float] = {}
        made = {"name": name, "kind": "webhook", "address": shop.url, "events": ["message"]}
        self.id = house.call("POST", "/api/destinations", 201, json=made | {"topics": [f"topic.{name}/"]})["id"]

    # --- What is done ---------------------------------------------------------------------------

    def accept(self, count: int = 1) -> list[str]:
        """Messages, in one batch; one by itself -> their ids, in their order."""
        began = time.monotonic()
        items = [{"to": {"topic": f"{self.name}/{number % 7}"}, "data": {"number": number}} for number in range(count)]
        if count == 1:
            results = [self.house.call("POST", "/api/notifications", 202, json=items[0])]
        else:
            results = self.house.call("POST", "/api/notifications/batch", 202, json={"notifications": items})["results"]
            assert {result["status"] for result in results} == {202}
        ids = [str(result["id"]) for result in results]
        self.accepted |= dict.fromkeys(ids, began)
        return ids

    def trickle(self, count: int, every: float = 0.05) -> list[str]:
        """One after the other -> their ids."""
        ids = []
        for _ in range(count):
            ids += self.accept()
            time.sleep(every)
        return ids

    def redrive(self) -> int:
        """-> how many dead letters are owed again."""
        body = {"destination": self.id}
        return int(self.house.call("POST", "/api/deliveries/redrive", 202, json=body)["redriven"])

    def mended(self) -> None:
        """As an operator ends a destination's pause."""
        self.house.call("PATCH", f"/api/destinations/{self.id}", json={"enabled": True})

    # --- What is seen ---------------------------------------------------------------------------

    def shown(self) -> dict[str, Any]:
        return self.house.call("GET", f"/api/destinations/{self.id}")

    def rows(self, state: str) -> list[dict[str, Any]]:
        """Its deliveries in a state, newest first."""
        rows: list[dict[str, Any]] = []
        after = None
        while True:
            params = {"destination": self.id, "state": state, "limit": 100} | ({"cursor": after} if after else {})
            page = self.house.call("GET", "/api/deliveries", params=params)
            rows += page["deliveries"]
            if not (after := page["next"]):
                return rows

    def eventually(self, condition: Callable[[], bool], seconds: float = SETTLE_SECONDS) -> float:
        """Waits until it holds -> the seconds that it took."""
        began = time.monotonic()
        eventually(condition, seconds, lambda: f"{self.shown()} {self.house.explain()}")
        return time.monotonic() - began

    def taken(self, ids: Sequence[str]) -> bool:
        return all(id in self.shop.taken for id in ids)

    def repeated(self) -> int:
        """How often an event was taken once more."""
        return self.shop.taken.total() - len(self.shop.taken)

    def delay(self, ids: Sequence[str]) -> float:
        """From the request to the arrival, in seconds: what 95 of 100 stay under."""
        self.eventually(lambda: self.taken(ids))
        arrivals = self.shop.arrivals()
        delays = sorted(arrivals[id] - self.accepted[id] for id in ids)
        return delays[int(len(delays) * 0.95)]

    # --- What has to hold -----------------------------------------------------------------------

    def assert_conserved(self) -> dict[str, int]:
        """At any time, whatever breaks -> what /metrics says."""
        counts = self.house.metrics(self.name)
        assert counts["accepted"] == len(self.accepted) == sum(counts[state] for state in STATES), counts
        return counts

    def assert_all_arrived(self, *, but: Sequence[str] = ()) -> None:
        """What was accepted is what was taken is what is stored as delivered; `but` these, which are dead letters."""
        wanted = self.accepted.keys() - set(but)
        self.eventually(lambda: self.taken([*wanted]) and self.house.metrics(self.name)["pending"] == 0)
        assert self.shop.taken.keys() == wanted
        assert Counter(row["event_id"] for row in self.rows("delivered")) == Counter(wanted)
        assert Counter(row["event_id"] for row in self.rows("dead")) == Counter(but)
        assert self.shop.times().keys() == self.accepted.keys()
        counts = self.assert_conserved()
        assert (counts["delivered"], counts["dead"], counts["expired"]) == (len(wanted), len(but), 0)
