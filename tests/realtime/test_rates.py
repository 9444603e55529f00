"""Rates hold for whatever comes in: frames, polls, handshakes."""

from collections.abc import Callable

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.realtime.sockets import dial
from tests.servers import Stack

pytestmark = pytest.mark.any_database

GUESS = {"Authorization": "Bearer ff_guess_x"}


async def test_what_is_published_and_polled_counts_with_the_requests(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(RATE_SERVICE="3/h")
    web = stack.start_web()
    async with dial(web, stack.api_key) as socket:
        for number in range(3):
            await socket.ask("ok", action="publish", topic="user.bob", data=number)
        refused = await socket.ask("error", action="publish", topic="user.bob", data=3)
        assert (refused["code"], refused["message"]) == ("rate_limited", "At most 3/h (RATE_SERVICE): again in 1200 s.")
        await socket.ask("pong", action="ping")
    with stack.client() as client:
        for path in ("/api/poll?topics=user.bob&wait=0", "/api/notifications?user=bob"):
            reply = client.get(path)
            assert (reply.status_code, reply.headers["Retry-After"]) == (429, "1200")


async def test_an_address_opens_so_many_and_guesses_count(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(PRODUCTION="1", SECURE_SSL_REDIRECT="0", RATE_ADDRESS="4/h")
    web = stack.start_web()
    paths = ("/api/poll?wait=0", "/api/stream", "/api/notifications")
    async with dial(web, stack.api_key):
        assert [httpx.get(web.url + path, headers=GUESS).status_code for path in paths] == [401] * 3
    for path in paths:
        reply = httpx.get(web.url + path, headers=GUESS)
        assert (reply.status_code, reply.headers["Retry-After"]) == (429, "900")
        assert reply.json()["error"]["code"] == "rate_limited"
    with pytest.raises(InvalidStatus) as refused:
        async with dial(web, stack.api_key):
            pass
    assert refused.value.response.status_code == 429
    with stack.client() as client:
        assert client.get("/api/poll?topics=user.bob&wait=0").status_code == 200
