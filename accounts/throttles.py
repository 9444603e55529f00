"""How often a caller may come. The counts are in Redis, so all processes count together.

While Redis does not answer, everybody is let in, and no request waits for it: only the one that finds out.
"""

import logging
import math
import re
import threading
import time
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Network, ip_address

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from prometheus_client import Counter
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from accounts.errors import ApiError
from accounts.principals import Kind, Principal

logger = logging.getLogger(__name__)

PREFIX = "fanfare:rate:"
ANSWER_SECONDS = 0.25  # For Redis to answer, and to take a connection.
PAUSE_SECONDS = 1.0  # For which it is not asked after it did not.

throttled = Counter("fanfare_throttled_total", "Requests, handshakes and frames refused by a rate.", ["setting"])
uncounted = Counter("fanfare_throttle_uncounted_total", "Those let in uncounted, for Redis did not answer.")

# The generic cell rate algorithm: all that is kept is when the bucket will be full again, in microseconds of Redis's
# clock. It never lies further ahead than an empty bucket takes, even if that clock was set back or the rate changed.
TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local each, room = tonumber(ARGV[1]), tonumber(ARGV[2])
local full_at = math.min(math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now), now + room) + each
local wait = full_at - now - room
if wait > 0 then return wait end
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
return 0
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many at once, and as many again in so many seconds."""

    count: int
    seconds: int

    @property
    def each(self) -> int:
        """Microseconds until one more may come."""
        return self.seconds * 1_000_000 // self.count


@cache
def parse(text: str) -> Rate | None:
    """`20/s`, `50/10s`, `600/m` or `9/h` as a rate; None for no text: no limit. Raises ImproperlyConfigured."""
    if not text:
        return None
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{0,5})([smh])", text)
    if found:
        rate = Rate(int(found[1]), int(found[2] or 1) * {"s": 1, "m": 60, "h": 3600}[found[3]])
        if rate.count and rate.each:
            return rate
    raise ImproperlyConfigured(f"{text!r} is no rate: write it as 20/s, 50/10s or 600/m, or leave it empty.")


def take(setting: str, who: str) -> float | None:
    """Counts one against the rate of this setting -> seconds until it would be let in, or None when it is."""
    rate = parse(getattr(settings, setting))
    if rate is None:
        return None
    if not is_counting():
        uncounted.inc()
        return None
    try:
        wait = _ask(rate, who)
    except (RedisError, OSError) as error:
        _outage.begin(error)
        uncounted.inc()
        return None
    if not wait:
        return None
    throttled.labels(setting).inc()
    return wait


def throttle(principal: Principal) -> None:
    """Counts a request, a poll or a published frame. Raises ApiError 429.

    All that one user's credentials do counts together; a service counts by its key.
    """
    setting = "RATE_SERVICE" if principal.kind is Kind.SERVICE else "RATE_USER"
    _refuse_beyond(setting, str(principal) if principal.user is None else f"user:{principal.user}")


def throttle_address(address: str | None) -> None:
    """Counts a handshake, or a credential that is not good, against where it came from. Raises ApiError 429.

    In development, loopback is let in.
    """
    origin = _origin(address)
    if origin is not None and (settings.PRODUCTION or not origin.is_loopback):
        _refuse_beyond("RATE_ADDRESS", f"address:{origin}")


def throttle_login(address: str | None) -> None:
    """Counts a password that somebody tries. Raises ApiError 429."""
    _refuse_beyond("RATE_LOGIN", f"login:{_origin(address)}")


def _origin(address: str | None) -> IPv4Address | IPv6Network | None:
    """Where a caller comes from; one IPv6 client has a whole network of 64 bits, so that counts as one.

    None for what is no address, such as the other end of a unix socket.
    """
    try:
        ip = ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, IPv4Address):
        return ip
    return ip.ipv4_mapped or IPv6Network((int(ip), 128 if ip.is_loopback else 64), strict=False)


class PrincipalThrottle(BaseThrottle):
    """Counts every authenticated request to the REST API."""

    def allow_request(self, request: Request, _view: object) -> bool:
        if isinstance(request.user, Principal):
            throttle(request.user)
        return True


def is_counting() -> bool:
    """Whether Redis answered when it was last asked. If not, it is asked again, in the background."""
    return not _outage.goes_on()


def _refuse_beyond(setting: str, who: str) -> None:
    wait = take(setting, who)
    if wait is not None:
        seconds = math.ceil(wait)
        text = f"At most {getattr(settings, setting)} ({setting}): again in {seconds} s."
        raise ApiError(429, "rate_limited", text, retry_after=seconds)


def _ask(rate: Rate, who: str) -> float:
    wait = _script(settings.REDIS_URL)(keys=[PREFIX + who], args=[rate.each, rate.each * rate.count])
    return int(wait) / 1_000_000


@cache
def _script(url: str) -> Script:
    client = Redis.from_url(
        url,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    return client.register_script(TAKE)


class _Outage:
    """Whether Redis fails, as this process knows. While it does, one thread at a time looks whether it is back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._look_at: float | None = None  # None while Redis answers.

    def begin(self, error: Exception) -> None:
        with self._lock:
            if self._look_at is None:
                self._look_at = time.monotonic() + PAUSE_SECONDS
                logger.warning("Nobody is throttled until Redis answers (REDIS_URL): %r", error)

    def goes_on(self) -> bool:
        if self._look_at is None:
            return False
        with self._lock:
            if self._look_at is not None and time.monotonic() >= self._look_at:
                self._look_at = math.inf  # One is looking.
                threading.Thread(target=self._look, daemon=True).start()
        return True

    def _look(self) -> None:
        try:
            _ask(Rate(1_000, 1), "probe")  # The script, not a ping: a Redis that only reads would answer that.
        except (RedisError, OSError):
            self._look_at = time.monotonic() + PAUSE_SECONDS
        else:
            self._look_at = None
            logger.info("Redis answers again: callers are throttled.")


_outage = _Outage()
