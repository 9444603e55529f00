"""What a process counts about live traffic; /metrics adds the processes up."""

from prometheus_client import Counter, Gauge, Histogram

connections = Gauge("fanfare_connections", "Live connections.", ["transport"], multiprocess_mode="livesum")
refused = Counter("fanfare_refused_connections_total", "Connections that were not let in, by cause.", ["cause"])
topics = Gauge("fanfare_topics", "Topics with a local listener.", multiprocess_mode="livesum")
deliveries = Counter("fanfare_deliveries_total", "Events written to connections.")
drops = Counter("fanfare_drops_total", "What was not sent, by cause.", ["cause"])
repairs = Counter("fanfare_repairs_total", "Reads of the log that closed a gap in live events.")
resets = Counter("fanfare_resets_total", "Times that listeners of a topic had to reload.")
published = Counter("fanfare_bus_events_total", "Events handed to the bus.")
bus_up = Gauge("fanfare_bus_up", "Whether the bus carries events to all processes.", multiprocess_mode="livemin")
send_lag = Histogram(
    "fanfare_publish_to_send_seconds",
    "From the making of an event to its last local write.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30),
)
closes = Counter("fanfare_closes_total", "Connections that the server ended, by close code.", ["code"])
