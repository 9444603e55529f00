"""For /metrics: what sources bring, counted by the processes that consume them, and what destinations were owed.

The latter is read from the database when it is asked.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import Count, F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from prometheus_client import Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapters.models import Delivery, Destination

records = Counter("fanfare_records_total", "Records that consumers have brought.", ["source", "status"])
source_failures = Counter("fanfare_source_failures_total", "Times that a source could not be read.", ["source"])
source_gaps = Counter("fanfare_source_gaps_total", "Times that a source had lost records.", ["source"])
source_lag = Gauge(
    "fanfare_source_lag_seconds", "How far behind a source is taken.", ["source"], multiprocess_mode="livemax"
)

ENDS = ("delivered", "dead", "expired")


class DeliveryCollector(Collector):
    """For each destination, in one snapshot: what was accepted is what is pending, delivered, dead and expired.

    `accepted` counts the rows, those that are forgotten too; the ends were counted when they came.
    """

    def collect(self) -> Iterator[Metric]:
        accepted = CounterMetricFamily("fanfare_deliveries_accepted_total", "Events owed.", labels=["destination"])
        ended = GaugeMetricFamily(
            "fanfare_deliveries_state", "What became of the events owed.", labels=["destination", "state"]
        )
        failures = GaugeMetricFamily("fanfare_destination_failures", "Failures in a row.", labels=["destination"])
        for row in tallies():
            accepted.add_metric([row.name], row.accepted)
            for state in ("pending", *ENDS):
                ended.add_metric([row.name, state], getattr(row, state))
            failures.add_metric([row.name], row.failures)
        yield from (accepted, ended, failures)


@dataclass(frozen=True, slots=True)
class Tally:
    name: str
    accepted: int
    pending: int
    delivered: int
    dead: int
    expired: int
    failures: int


def tallies() -> list[Tally]:
    """Each destination's, in one statement, so in one snapshot."""
    rows = Delivery.objects.filter(destination=OuterRef("pk"))
    found = Destination.objects.filter(deleted_at=None).order_by("name")
    counted = found.values(
        "name", "failures", *ENDS, pending=_count(rows.filter(state="pending")), accepted=_count(rows) + F("purged")
    )
    return [Tally(**row) for row in counted]


def _count(rows: QuerySet[Delivery]) -> Coalesce:
    counted = rows.order_by().values("destination").annotate(count=Count("pk")).values("count")
    return Coalesce(Subquery(counted), 0)
