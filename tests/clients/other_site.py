"""Pages of another origin than the server's, under a policy that lets nothing through but what they say."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.servers import Stack

Headers = dict[str, str]
# As strict as can be: no style, no inline script, no eval, and no string that becomes HTML.
POLICY = (
    "default-src 'none'; script-src {servers}; connect-src 'self' {servers} {sockets}; style-src 'none'; "
    "img-src 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HTML = """<!doctype html><html lang="{lang}" dir="{dir}"><head><meta charset="utf-8"><title>Elements</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">{style}
<script type="module" src="{server}/static/fanfare-elements.js" crossorigin></script></head>
<body><main><h1>Elements</h1>{body}</main></body></html>"""


class OtherSite:
    """A server of pages, and of tokens at `/token?user=`, with its own origin. Use as a context manager."""

    def __init__(self) -> None:
        site = self
        self.pages: dict[str, tuple[str, Headers]] = {}
        self.stack: Stack | None = None
        self.tokens_asked = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body, headers = site.answer(self.path)
                self.send_response(200 if body else 404)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, target: str) -> tuple[bytes, Headers]:
        url = urlsplit(target)
        if url.path == "/token" and self.stack:
            self.tokens_asked += 1
            query = parse_qs(url.query)
            token = self.stack.token(query["user"][0], subscribe=["watch.*"])
            if "json" in query:
                return json.dumps({"token": token}).encode(), {"Content-Type": "application/json"}
            return token.encode(), {"Content-Type": "text/plain"}
        text, headers = self.pages.get(url.path, ("", {}))
        return text.encode(), headers

    def page(self, stack: Stack, body: str, *, lang: str = "en", dir: str = "ltr", style: str = "") -> str:
        """A page with the elements in it -> its address. With a style of its own, it has no policy."""
        servers = " ".join(web.url for web in stack.web)
        headers = {"Content-Type": "text/html; charset=utf-8"}
        if not style:
            headers["Content-Security-Policy"] = POLICY.format(servers=servers, sockets=servers.replace("http", "ws"))
        path = f"/{len(self.pages)}.html"
        values = {"body": body, "lang": lang, "dir": dir, "style": style and f"<style>{style}</style>"}
        self.pages[path] = (HTML.format(server=stack.web[0].url, **values), headers)
        return self.origin + path
