"""When windows begin and end: months' ends, leap years, weeks of the year, and clocks that are put forward and back."""

import itertools
import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from leaderboards.schedules import Period, period, validate, validate_timezone

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def shown(found: Period) -> tuple[str, str, str]:
    """In UTC, to the minute."""
    assert found.ends_at
    return f"{found.starts_at:%Y-%m-%dT%H:%M}", f"{found.ends_at:%Y-%m-%dT%H:%M}", found.label


@pytest.mark.parametrize(
    ("schedule", "zone", "moment", "expected"),
    [
        ("hourly", "UTC", "2026-11-21T14:30:15.5", ("2026-11-21T14:00", "2026-11-21T15:00", "2026-11-21T14Z")),
        ("hourly", "Asia/Kathmandu", "2026-11-21T14:00", ("2026-11-21T14:00", "2026-11-21T15:00", "2026-11-21T14Z")),
        ("daily", "UTC", "2026-11-21T00:00", ("2026-11-21T00:00", "2026-11-22T00:00", "2026-11-21")),
        ("daily", "UTC", "2026-11-21T23:59:59.999999", ("2026-11-21T00:00", "2026-11-22T00:00", "2026-11-21")),
        ("daily", "Asia/Kathmandu", "2026-11-21T18:15", ("2026-11-21T18:15", "2026-11-22T18:15", "2026-11-22")),
        ("daily", "America/New_York", "2026-11-21T04:59", ("2026-11-20T05:00", "2026-11-21T05:00", "2026-11-20")),
        # Clocks are put forward: a day of 23 hours; and back: one of 25.
        ("daily", "Europe/Berlin", "2026-03-29T12:00", ("2026-03-28T23:00", "2026-03-29T22:00", "2026-03-29")),
        ("daily", "Europe/Berlin", "2026-10-25T12:00", ("2026-10-24T22:00", "2026-10-25T23:00", "2026-10-25")),
        ("daily", "America/New_York", "2026-03-08T12:00", ("2026-03-08T05:00", "2026-03-09T04:00", "2026-03-08")),
        ("daily", "America/New_York", "2026-11-01T12:00", ("2026-11-01T04:00", "2026-11-02T05:00", "2026-11-01")),
        # By half an hour.
        ("daily", "Australia/Lord_Howe", "2026-10-04T00:00", ("2026-10-03T13:30", "2026-10-04T13:00", "2026-10-04")),
        ("daily", "Australia/Lord_Howe", "2026-04-05T00:00", ("2026-04-04T13:00", "2026-04-05T13:30", "2026-04-05")),
        # Midnight is skipped: the day begins at one.
        ("daily", "America/Sao_Paulo", "2018-11-04T12:00", ("2018-11-04T03:00", "2018-11-05T02:00", "2018-11-04")),
        ("daily", "America/Sao_Paulo", "2018-11-04T02:59", ("2018-11-03T03:00", "2018-11-04T03:00", "2018-11-03")),
        # Midnight comes twice: the day begins the first time.
        ("daily", "America/Havana", "2026-11-01T04:30", ("2026-11-01T04:00", "2026-11-02T05:00", "2026-11-01")),
        ("daily", "America/Havana", "2026-11-01T05:30", ("2026-11-01T04:00", "2026-11-02T05:00", "2026-11-01")),
        # The last hour before midnight comes twice.
        ("daily", "America/Sao_Paulo", "2018-02-18T02:30", ("2018-02-17T02:00", "2018-02-18T03:00", "2018-02-17")),
        # A whole day is skipped.
        ("daily", "Pacific/Apia", "2011-12-30T09:59", ("2011-12-29T10:00", "2011-12-30T10:00", "2011-12-29")),
        ("daily", "Pacific/Apia", "2011-12-30T10:00", ("2011-12-30T10:00", "2011-12-31T10:00", "2011-12-31")),
        ("weekly", "UTC", "2026-11-22T23:59", ("2026-11-16T00:00", "2026-11-23T00:00", "2026-W47")),
        # The week is named after the year that most of it is in.
        ("weekly", "UTC", "2027-01-01T00:00", ("2026-12-28T00:00", "2027-01-04T00:00", "2026-W53")),
        ("weekly", "UTC", "2024-12-31T00:00", ("2024-12-30T00:00", "2025-01-06T00:00", "2025-W01")),
        ("weekly", "Europe/Berlin", "2026-03-29T12:00", ("2026-03-22T23:00", "2026-03-29T22:00", "2026-W13")),
        ("monthly", "UTC", "2026-01-31T23:59", ("2026-01-01T00:00", "2026-02-01T00:00", "2026-01")),
        ("monthly", "UTC", "2024-02-29T12:00", ("2024-02-01T00:00", "2024-03-01T00:00", "2024-02")),
        ("monthly", "UTC", "2026-02-28T23:59", ("2026-02-01T00:00", "2026-03-01T00:00", "2026-02")),
        ("monthly", "UTC", "2026-12-31T23:59", ("2026-12-01T00:00", "2027-01-01T00:00", "2026-12")),
        ("monthly", "Europe/Berlin", "2026-03-31T22:00", ("2026-03-31T22:00", "2026-04-30T22:00", "2026-04")),
        ("0 0 L * *", "UTC", "2028-02-29T00:00", ("2028-02-29T00:00", "2028-03-31T00:00", "2028-02-29T00:00Z")),
        ("0 0 29 2 *", "UTC", "2026-06-01T00:00", ("2024-02-29T00:00", "2028-02-29T00:00", "2024-02-29T00:00Z")),
        ("30 9 * * 1-5", "UTC", "2026-11-21T12:00", ("2026-11-20T09:30", "2026-11-23T09:30", "2026-11-20T09:30Z")),
        # What is skipped happens right after, what comes twice, once.
        ("30 2 * * *", BERLIN, "2026-03-29T01:00", ("2026-03-29T01:00", "2026-03-30T00:30", "2026-03-29T01:00Z")),
        ("30 2 * * *", BERLIN, "2026-10-25T01:15", ("2026-10-25T00:30", "2026-10-26T01:30", "2026-10-25T00:30Z")),
        ("30 2 * * *", BERLIN, "2026-10-25T01:45", ("2026-10-25T00:30", "2026-10-26T01:30", "2026-10-25T00:30Z")),
        # But what happens all the time, goes on through both.
        ("*/30 * * * *", BERLIN, "2026-10-25T01:15", ("2026-10-25T01:00", "2026-10-25T01:30", "2026-10-25T01:00Z")),
    ],
)  # fmt: skip
def test_a_moment_is_in_this_period(schedule: str, zone: str, moment: str, expected: tuple[str, str, str]) -> None:
    assert shown(period(schedule, zone, at(moment))) == expected


def test_none_has_no_end_and_begins_now() -> None:
    assert period("none", "UTC", at("2026-11-21T14:30")) == Period(at("2026-11-21T14:30"), None, "")


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Africa/Cairo", "Asia/Beirut", "Pacific/Apia"]
ZONES += ["America/Sao_Paulo", "America/Asuncion", "Atlantic/Azores", "Asia/Kathmandu", "Antarctica/Troll"]
SCHEDULES = ["hourly", "daily", "weekly", "monthly", "30 2 * * *", "0,30 2 * * 0", "*/15 * * * *", "0 */6 * * *"]
HALF_AN_HOUR = "Australia/Lord_Howe"


def changes_of(zone: str) -> list[datetime]:
    """Just before its clocks are changed."""
    days = [at("2010-01-01T00:00") + timedelta(days=day) for day in range(9 * 365)]
    offsets = [day.astimezone(ZoneInfo(zone)).utcoffset() for day in days]
    pairs = itertools.pairwise(zip(days, offsets, strict=True))
    return [day for (day, before), (_, after) in pairs if before != after] or days[:1]


@pytest.mark.parametrize("zone", [*ZONES, HALF_AN_HOUR])
def test_each_moment_is_in_exactly_one_period_also_around_changes_of_the_clock(zone: str) -> None:
    choice = random.Random(zone)
    for change, schedule in itertools.product(choice.sample(changes_of(zone), 1), SCHEDULES):
        if zone == HALF_AN_HOUR and "*/" in schedule:
            continue  # cronsim steps by whole hours.
        for _ in range(10):
            moment = change + MINUTE * choice.randrange(36 * 60) + SECOND * choice.randrange(60)
            found = period(schedule, zone, moment)
            assert found.ends_at
            assert found.starts_at <= moment < found.ends_at
            assert period(schedule, zone, found.starts_at) == found
            assert period(schedule, zone, found.ends_at - SECOND / 2) == found
            assert period(schedule, zone, found.ends_at).starts_at == found.ends_at


@pytest.mark.parametrize("zone", ZONES)
def test_the_days_of_years_have_labels_of_their_own(zone: str) -> None:
    moment, labels = at("2009-06-01T12:00"), []
    while moment.year < 2013:
        found = period("daily", zone, moment)
        labels.append(found.label)
        assert found.ends_at
        moment = found.ends_at
    assert labels == sorted(set(labels))


def test_schedules_are_stored_in_one_way() -> None:
    assert [validate(name) for name in ("none", "hourly", "daily", "weekly", "monthly")] == [
        "none", "hourly", "daily", "weekly", "monthly",
    ]  # fmt: skip
    assert validate("  0 9   * * mon-fri ") == "0 9 * * mon-fri"  # As it was sent, so that it is found again.


@pytest.mark.parametrize(
    "text",
    ["", "yearly", "Daily", "@daily", "* * * *", "0 0 0 * * *", "60 * * * *", "0 0 30 2 *", "0 24 * * *", "*/0 * * * *",
     "a b c d e", "0 0 * * 1#6", "0 0 * * L", "0 0 L-3 * *", "0 0 1 1 *," + "1," * 60 + "1"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="one of none, hourly"):
        validate(text)


@pytest.mark.parametrize("name", ["", "Mars/Base", "../../etc/passwd", "/etc/localtime", "Europe", "a\0b", "x" * 64])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a time zone"):
        validate_timezone(name)


def test_time_zones_are_those_of_the_world() -> None:
    assert validate_timezone("Europe/Berlin") == "Europe/Berlin"
