"""A proxy between browser and server that bars, holds back or swallows what the test says."""

import select
import socket
import threading

PATHS = {"websocket": "/ws/", "stream": "/api/stream", "poll": "/api/poll"}


class Proxy:
    """Between browser and server, one request a connection: refuses or swallows what the test says, by its path."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.barred: set[str] = set()  # These get 403.
        self.held: set[str] = set()  # Their replies are kept back, as by a proxy that buffers.
        self.unanswered: list[str] = []  # One reply to each is swallowed.
        self._open: list[tuple[str, socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def bar(self, *ways: str) -> None:
        """These ways are barred from now on, others are not, and who came by them is thrown out."""
        self.barred = {PATHS[way] for way in ways}
        for path, *ends in self._open:
            for end in ends if path in self.barred else ():
                close(end)

    def stop(self) -> None:
        close(self._listener)
        for _, *ends in self._open:
            for end in ends:
                close(end)

    def _accept(self) -> None:
        while True:
            try:
                browser, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[browser], daemon=True).start()

    def _serve(self, browser: socket.socket) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (part := browser.recv(65536)):
                    return
                head += part
            path = head.split(b" ")[1].decode().partition("?")[0]
            if path in self.barred:
                browser.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
                return
            swallow = path in self.unanswered
            if swallow:
                self.unanswered.remove(path)
            with socket.create_connection(("127.0.0.1", self.port)) as server:
                self._open.append((path, browser, server))
                server.sendall(head.replace(b"Connection: keep-alive\r\n", b"Connection: close\r\n"))
                if swallow:
                    server.recv(65536)
                    return
                self._pipe(browser, server, held=path in self.held)
        except OSError:
            pass
        finally:
            close(browser)

    def _pipe(self, browser: socket.socket, server: socket.socket, *, held: bool) -> None:
        while True:
            for end in select.select([browser, server], [], [])[0]:
                if not (part := end.recv(65536)):
                    return
                if end is browser:
                    server.sendall(part)
                elif not held:
                    browser.sendall(part)


def close(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
