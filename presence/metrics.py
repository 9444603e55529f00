"""What is counted about presence; /metrics adds the processes up."""

from prometheus_client import Counter, Gauge, Histogram

transitions = Counter("fanfare_presence_transitions_total", "Users who went ONLINE or OFFLINE.", ["status"])
due = Gauge("fanfare_presence_due", "Users to be settled, now or after a grace.", multiprocess_mode="mostrecent")
flushes = Histogram(
    "fanfare_presence_flush_seconds",
    "From taking changes of connections to having them registered and settled.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5),
)
registered_again = Counter("fanfare_presence_registered_again_total", "Times that a process registered all anew.")
swept = Counter("fanfare_presence_swept_total", "Connections that were taken out for processes that died.")
