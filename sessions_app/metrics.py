"""What is counted about queues of sessions; /metrics adds the processes up, and asks the database what is left."""

from collections.abc import Collection, Iterator

from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sessions_app import dispatches
from sessions_app.dispatches import Result

sends = Counter("fanfare_session_sends_total", "Messages for queues of sessions, by what became of them.", ["outcome"])


def count(results: Collection[Result]) -> None:
    """What is left for later is counted each time."""
    sends.labels("sent").inc(sum(result.sent for result in results))
    sends.labels("gone").inc(sum(result.gone for result in results))
    sends.labels("failed").inc(sum(result.failed for result in results))
    sends.labels("again").inc(sum(len(result.left) for result in results if result.tried))


class DispatchCollector(Collector):
    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "fanfare_session_sends_due", "Messages that queues of sessions have still to get.", dispatches.backlog()
        )
