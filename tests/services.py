"""A service on this machine that notes how it is called, as healthchecks.io does."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Service:
    """url: to be called. calls: path and body of each call. status: what is answered; None is never anything."""

    url: str
    calls: list[tuple[str, str]] = field(default_factory=list)
    status: int | None = 200
    over: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def listening(status: int | None = 200) -> Iterator[Service]:
    """Listen on a port of 127.0.0.1 that is free."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            service.calls.append((self.path, body.decode()))
            if service.status is None:
                service.over.wait(300)
                return
            self.send_response(service.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # so that closing it waits for the calls that are being answered
    service = Service(f"http://127.0.0.1:{server.server_port}/ping", status=status)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield service
    finally:
        service.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
