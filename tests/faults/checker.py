"""The checker: from what was seen to what was broken. Pure; it is tested itself, with planted faults.

The invariants are those of docs/reliability.md.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tests.faults.ledger import At, Closed, Got, History, Ledger, Opened, Recall, Reply, Row, Sample, Send

EXAMPLES = 3  # Of each kind of violation are enough to begin with.
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Violation:
    invariant: str
    what: str
    example: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.what}: {self.example}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run has to keep. Seconds and bytes; `after` is measured when all clients have gone."""

    answer_seconds: float = 10.0  # Enough for a machine that has other things to do; "never" is longer.
    heal_seconds: float = 15.0
    rss: int = 400 * MIB
    files: int = 2000
    rss_after: float = 1.1  # Times what it was under load before the fault …
    rss_slack: int = 64 * MIB  # … and this, for what a Python process keeps.
    files_slack: int = 30


@dataclass(slots=True)
class Run:
    """Everything that the checker looks at."""

    ledger: Ledger
    history: History
    limits: Limits = field(default_factory=Limits)
    faults: tuple[float, float] | None = None  # When the first fault began, when the last was undone; None: it lasts.
    before: dict[int, Sample] = field(default_factory=dict)  # Process -> what it used under load, before the fault.
    after: dict[int, Sample] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)  # What should be nothing in the end, by name.
    ends: dict[str, int] = field(default_factory=dict)  # Topic -> the offset up to which the clients stayed.


def check(run: Run) -> list[Violation]:
    """Every invariant, a few counter-examples of each."""
    checks = (durable, honest, order, delivery, isolation, bounds, liveness, fail_fast, conservation)
    return [violation for one in checks for violation in _few(one(run))]


def _few(violations: Iterable[Violation]) -> Iterator[Violation]:
    seen: Counter[str] = Counter()
    for violation in violations:
        seen[violation.what] += 1
        if seen[violation.what] <= EXAMPLES:
            yield violation
    for what, count in seen.items():
        if count > EXAMPLES:
            yield Violation("...", what, f"{count} in all")


@dataclass(slots=True)
class Intent:
    """One thing that a producer wanted, with all its attempts."""

    send: Send
    replies: list[Reply] = field(default_factory=list)

    @property
    def accepted(self) -> Reply | None:
        return next((reply for reply in self.replies if reply.outcome == "ok"), None)

    @property
    def refused(self) -> bool:
        return bool(self.replies) and all(reply.outcome == "fail" for reply in self.replies)


def intents(ledger: Ledger) -> dict[str, Intent]:
    found: dict[str, Intent] = {}
    for line in ledger.of(Send, Reply):
        if isinstance(line, Send):
            found.setdefault(line.key, Intent(line))
        else:
            found[line.key].replies.append(line)
    return found


# --- The log --------------------------------------------------------------------------------------


def durable(run: Run) -> Iterator[Violation]:
    """I1: what was accepted is in the log once, as the reply said."""
    rows = _by_key(run.history.rows)
    for key, intent in intents(run.ledger).items():
        reply = intent.accepted
        if reply is None:
            continue
        found = rows[key]
        if not found and not intent.send.expires:
            yield Violation("I1", "accepted and not in the log", f"{intent.send} {reply}")
        for row in found[:1]:
            said = (reply.id, intent.send.topic) + (() if intent.send.scheduled else (reply.offset,))
            has = (row.id, row.topic) + (() if intent.send.scheduled else (row.offset,))
            if said != has:
                yield Violation("I1", "the log has another than the reply said", f"{reply} {row}")
        for other in intent.replies:
            if other.outcome == "ok" and (other.id, other.offset) != (reply.id, reply.offset):
                yield Violation("I1", "one key, two replies", f"{reply} {other}")


def honest(run: Run) -> Iterator[Violation]:
    """I2: what was refused is not in the log; what nobody knows of is there once at most; nothing else is."""
    known = intents(run.ledger)
    for key, rows in _by_key(run.history.rows).items():
        intent = known.get(key)
        if intent is None:
            yield Violation("I2", "in the log, and nobody sent it", str(rows[0]))
        elif intent.refused:
            yield Violation("I2", "refused and in the log", f"{intent.replies[-1]} {rows[0]}")
        elif len(rows) > 1:
            yield Violation("I2", "twice in the log", f"{rows[0]} {rows[1]}")


def order(run: Run) -> Iterator[Violation]:
    """I3: offsets are 1..head without gap or repetition, and their order is the order of commits."""
    known = intents(run.ledger)
    gone = {
        (intent.send.topic, reply.offset)
        for intent in known.values()
        if intent.send.expires and (reply := intent.accepted)
    }
    for topic, rows in _by_topic(run.history.rows).items():
        offsets = Counter(row.offset or 0 for row in rows)
        _epoch, head = run.history.heads[topic]
        for offset in range(1, head + 1):
            if not offsets[offset] and (topic, offset) not in gone:
                yield Violation("I3", "no message has this offset", f"{topic} {offset}, head {head}")
        for offset, count in offsets.items():
            if count > 1 or offset > head:
                yield Violation("I3", "an offset twice, or beyond the head", f"{topic} {offset}, head {head}")
        for one, two in pairwise(rows):
            if one.created_at > two.created_at + 0.001:  # julianday() rounds to a tenth of a millisecond.
                yield Violation("I3", "time runs against the offsets", f"{one} {two}")
    yield from _real_time_order(known)


def _real_time_order(known: dict[str, Intent]) -> Iterator[Violation]:
    """Whatever was asked for after the reply to another one has the higher offset."""
    topics: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for intent in known.values():
        if (reply := intent.accepted) and reply.offset is not None:
            topics[intent.send.topic].append((intent.send.at, reply.at, reply.offset))
    for topic, done in topics.items():
        replies = sorted((at, offset) for _sent, at, offset in done)
        highest, next_reply = 0, 0
        for sent, _at, offset in sorted(done):
            while next_reply < len(replies) and replies[next_reply][0] < sent:
                highest = max(highest, replies[next_reply][1])
                next_reply += 1
            if offset < highest:
                yield Violation("I3", "asked for later, and before it", f"{topic} {offset} after {highest}")


# --- The clients ----------------------------------------------------------------------------------


def delivery(run: Run) -> Iterator[Violation]:
    """I4: from where it started on, each client gets each message that it may see, in order, once on a connection."""
    rows = _by_topic(run.history.rows)
    for (client, topic), seen in _threads(run.ledger).items():
        if not isinstance(seen[0], At):
            yield Violation("I4", "a message before the server said where the client stands", str(seen[0]))
            continue
        yield from _in_order(seen)
        user = run.ledger.clients[client].user
        got = {line.offset for line in seen if isinstance(line, Got)}
        end = run.ends.get(topic, len(run.history.rows))
        for row in rows.get(topic, ()):
            hidden = row.expires or row.recalled or user in row.excluded or row.offset is None
            if not hidden and seen[0].offset < (row.offset or 0) <= end and row.offset not in got:
                yield Violation("I4", "lost", f"{client} started at {seen[0].offset} and lacks {row}")


def _in_order(seen: list[At | Got]) -> Iterator[Violation]:
    assert isinstance(seen[0], At)
    at = seen[0].offset
    arrived: dict[int, int] = {}  # Offset -> connection.
    for line in seen[1:]:
        if not isinstance(line, Got):
            continue
        if line.offset in arrived or (line.offset <= at and not arrived):
            if arrived.get(line.offset, line.connection) == line.connection:
                yield Violation("I4", "twice on one connection", str(line))
            continue
        if line.offset <= at:
            yield Violation("I4", "out of order", f"{line} after {at}")
        arrived[line.offset] = line.connection
        at = max(at, line.offset)


def isolation(run: Run) -> Iterator[Violation]:
    """I5: no client gets what it may not see, or one message in the place of another."""
    rows = {(row.topic, row.offset): row for row in run.history.rows}
    recalled = {line.id: line.at for line in run.ledger.of(Recall)}
    for line in run.ledger.of(Got, At):
        client = run.ledger.clients[line.client]
        if line.topic not in client.topics:
            yield Violation("I5", "a topic that is not for this client", str(line))
        if not isinstance(line, Got):
            continue
        row = rows.get((line.topic, line.offset))
        if row is None:
            continue  # Expired and purged; that nobody sent it is found by I2.
        epoch = run.history.heads[row.topic][0]
        if (row.id, row.key) != (line.id, line.key) or line.epoch not in (epoch, None):
            yield Violation("I5", "another message than the log has there", f"{line} {row}")
        if client.user in row.excluded:
            yield Violation("I5", "a message that is not for this user", f"{line} {row}")
        if row.recalled and line.connection == 0 and recalled.get(row.id, line.at) < line.at - 1:
            yield Violation("I5", "read from the log after it was recalled", f"{line} {row}")


# --- The processes --------------------------------------------------------------------------------


def bounds(run: Run) -> Iterator[Violation]:
    """I6: memory and files stay under their limits, and come back when the clients have gone."""
    limits = run.limits
    for sample in run.ledger.of(Sample):
        if sample.rss > limits.rss or sample.files > limits.files:
            yield Violation("I6", "too much memory or too many files", str(sample))
    for process, after in run.after.items():
        if (before := run.before.get(process)) is None:
            continue  # It was started again since.
        if after.rss > before.rss * limits.rss_after + limits.rss_slack:
            yield Violation("I6", "memory does not come back", f"{before} {after}")
        if after.files > limits.files_slack + min(before.files, limits.files_slack):
            yield Violation("I6", "files do not come back", f"{before} {after}")


def liveness(run: Run) -> Iterator[Violation]:
    """I7: soon after the last fault, all is as before, and nothing waits any more."""
    for what, count in run.left.items():
        if count:
            yield Violation("I7", "left over", f"{count} {what}")
    healed = heal_seconds(run)
    if healed > run.limits.heal_seconds:
        yield Violation("I7", "not healed in time", f"{healed:.1f} s, allowed are {run.limits.heal_seconds:.0f}")


def fail_fast(run: Run) -> Iterator[Violation]:
    """I10: an answer comes in time; one that says `later` says when; none is an internal error."""
    for reply in run.ledger.of(Reply):
        if reply.at - reply.asked_at > run.limits.answer_seconds:
            yield Violation("I10", "slow answer", f"{reply.at - reply.asked_at:.1f} s: {reply}")
        if reply.status in (429, 503) and not reply.retry_after:
            yield Violation("I10", "no Retry-After", str(reply))
        if reply.status in (500, 502, 504):
            yield Violation("I10", "an internal error", str(reply))
    for closed in run.ledger.of(Closed):
        if closed.code == 500:
            yield Violation("I10", "an internal error", str(closed))


def conservation(run: Run) -> Iterator[Violation]:
    """I12: accepted = in the log + recalled + expired; and the heads add up to what is in the log."""
    known = intents(run.ledger).values()
    accepted = sum(1 for intent in known if intent.accepted)
    unknown = sum(1 for intent in known if not intent.accepted and not intent.refused)
    purged = sum(1 for intent in known if intent.accepted and intent.send.expires) - sum(
        1 for row in run.history.rows if row.expires
    )
    stored = len(run.history.rows)
    if not accepted - max(0, purged) <= stored <= accepted + unknown:
        yield Violation("I12", "accepted is not what is stored", f"{accepted=} {purged=} {stored=} {unknown=}")
    in_log = sum(1 for row in run.history.rows if row.offset is not None)
    heads = sum(head for _epoch, head in run.history.heads.values())
    expiring = sum(1 for intent in known if intent.send.expires)
    if not in_log <= heads <= in_log + expiring:
        yield Violation("I12", "the heads do not add up", f"{heads=} {in_log=} {expiring=}")


# --- Numbers for the report -----------------------------------------------------------------------

LATE_SECONDS = 1.0


def delays(run: Run) -> list[tuple[float, float]]:
    """(when it arrived, how long after it was accepted or the client had connected), sorted by delay."""
    created = {(row.topic, row.offset): row.created_at for row in run.history.rows}
    opened: dict[tuple[str, int], float] = {}
    found = []
    for line in run.ledger.of(Opened, Got):
        if isinstance(line, Opened):
            opened[line.client, line.connection] = line.at
        elif line.connection:
            since = max(created.get((line.topic, line.offset), line.at), opened[line.client, line.connection])
            found.append((line.at, max(0.0, line.at - since)))
    return sorted(found, key=lambda one: one[1])


def heal_seconds(run: Run) -> float:
    """How long after the last fault was undone something still failed or came more than LATE_SECONDS late."""
    if run.faults is None:
        return 0.0
    end = run.faults[1]
    bad = [at for at, delay in delays(run) if delay > LATE_SECONDS]
    bad += [reply.at for reply in run.ledger.of(Reply) if reply.outcome == "info" or reply.status == 503]
    bad += [line.at for line in run.ledger.of(Closed) if not line.meant]
    return max([0.0, *(at - end for at in bad)])


@dataclass(frozen=True, slots=True)
class Summary:
    accepted: int
    lost: int
    duplicated: int
    reordered: int
    indeterminate: int
    reloads: int
    heal: float
    rss: int
    p50: float
    p99: float
    deliveries: int


def summary(run: Run, violations: Iterable[Violation]) -> Summary:
    """The row of the table. Lost, duplicated and reordered count what clients saw; duplicated also what is legal."""
    broken = Counter(violation.what for violation in delivery(run))
    waits = [delay for _at, delay in delays(run)] or [0.0]
    known = intents(run.ledger).values()
    return Summary(
        accepted=sum(1 for intent in known if intent.accepted),
        lost=broken["lost"] + sum(1 for one in violations if one.what == "accepted and not in the log"),
        duplicated=_repetitions(run.ledger),
        reordered=broken["out of order"],
        indeterminate=sum(1 for intent in known if any(reply.outcome == "info" for reply in intent.replies)),
        reloads=sum(1 for line in run.ledger.of(At) if line.why == "lost"),
        heal=heal_seconds(run),
        rss=max((sample.rss for sample in run.ledger.of(Sample)), default=0),
        p50=waits[len(waits) // 2],
        p99=waits[len(waits) * 99 // 100],
        deliveries=len(waits),
    )


def _repetitions(ledger: Ledger) -> int:
    seen = Counter((line.client, line.topic, line.offset) for line in ledger.of(Got))
    return sum(count - 1 for count in seen.values())


def _by_key(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.key].append(row)
    return found


def _by_topic(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The messages that have an offset, in its order."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.offset or 0):
        if row.offset is not None:
            found[row.topic].append(row)
    return found


def _threads(ledger: Ledger) -> dict[tuple[str, str], list[At | Got]]:
    """What each client saw of each topic, in order."""
    found: dict[tuple[str, str], list[At | Got]] = defaultdict(list)
    for line in ledger.of(At, Got):
        found[line.client, line.topic].append(line)
    return found
