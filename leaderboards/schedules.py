"""Schedules of a board: when its windows begin and end, and what they are called. No database here."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

NONE = "none"
SCHEDULE_MAX = 100  # Characters.

_CRON = {"hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 1", "monthly": "0 0 1 * *"}
_LABELS = {"daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m"}
_UTC_LABELS = {"hourly": "%Y-%m-%dT%HZ"}
_CRON_LABEL = "%Y-%m-%dT%H:%MZ"
_FOLD_MAX = timedelta(hours=3)  # More than clocks are ever set back.


@dataclass(frozen=True, slots=True)
class Period:
    """From `starts_at` to before `ends_at`, both in UTC. `none` has no end, and no label of its own."""

    starts_at: datetime
    ends_at: datetime | None
    label: str


def validate(schedule: str) -> str:
    """The schedule as it is stored. Raises ValueError that says what a schedule is."""
    if schedule == NONE or schedule in _CRON:
        return schedule
    cron = " ".join(schedule.split())
    if len(cron.split()) == 5 and len(cron) <= SCHEDULE_MAX:
        try:
            period(cron, "UTC", datetime.now(UTC))
            return cron
        except (CronSimError, StopIteration, ValueError, AssertionError):
            pass
    raise ValueError(f"one of {NONE}, {', '.join(_CRON)}, or a cron expression of five fields that comes true")


def validate_timezone(name: str) -> str:
    """The time zone's name. Raises ValueError for one that there is not."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("a time zone, such as UTC or Europe/Berlin") from None
    return name


def period(schedule: str, timezone: str, at: datetime) -> Period:
    """The period that a moment is in.

    Days, weeks (from Monday) and months begin at the time zone's midnight, or when its clocks skip that, right after;
    hours are those of UTC. What cron says for a time that is skipped, happens right after it, and for one that comes
    twice, the first time.
    """
    if schedule == NONE:
        return Period(at, None, "")
    zone = ZoneInfo("UTC" if schedule == "hourly" else timezone)
    cron = _CRON.get(schedule, schedule.upper())
    begin = _last(cron, zone, at)
    if schedule in _LABELS:
        label = begin.strftime(_LABELS[schedule])
    else:
        label = begin.astimezone(UTC).strftime(_UTC_LABELS.get(schedule, _CRON_LABEL))
    return Period(begin.astimezone(UTC), _next(cron, begin, at), label)


def _last(cron: str, zone: ZoneInfo, at: datetime) -> datetime:
    """When it last happened, in its time zone."""
    local = at.astimezone(zone)
    # Cron's own time does not run twice, so what has happened the first time may look as if it were yet to come.
    ahead = _FOLD_MAX if local.fold else timedelta(seconds=1)
    times = CronSim(cron, (at + ahead).astimezone(zone), reverse=True)
    return next(time for time in times if time.astimezone(UTC) <= at)


def _next(cron: str, begin: datetime, at: datetime) -> datetime:
    """When it happens next, in UTC."""
    return next(end for time in CronSim(cron, begin) if (end := time.astimezone(UTC)) > at)
