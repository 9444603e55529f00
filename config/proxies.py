"""Who the client is behind proxies, and whether it came by TLS: what X-Forwarded-For and -Proto say, if one may say it.

Uvicorn's own middleware does the reading; its default, which trusts this machine, is off (`--no-proxy-headers`).
"""

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any, cast

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from realtime.asgi import Application, Receive, Scope, Send


def behind(application: Application, trusted: Sequence[str]) -> Application:
    """The application, but the client's address and scheme are what `trusted` proxies forwarded.

    The client is the rightmost address in X-Forwarded-For that is not a trusted proxy itself: what stands left of it
    anybody can write. `trusted`: addresses, and networks as 10.0.0.0/8.
    """
    if not trusted:
        return application

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if "peer" in scope and _address(scope["client"]) is None:
            scope["client"] = scope["peer"]  # The proxy forwarded what is no address.
        await application(scope, receive, send)

    forwarded = ProxyHeadersMiddleware(cast(Any, checked), list(trusted))

    async def connected(scope: Scope, receive: Receive, send: Send) -> None:
        if (client := scope.get("client")) and (address := _address(client)):
            peer = (address, client[1])
            scope = {**scope, "client": peer, "peer": peer}
        await forwarded(cast(Any, scope), cast(Any, receive), cast(Any, send))

    return connected


def _address(client: Sequence[Any]) -> str | None:
    """The address in its shortest form; None for what is none. A socket for both families shows IPv4 as IPv6."""
    try:
        ip = ip_address(client[0])
    except ValueError:
        return None
    return str((isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip)
