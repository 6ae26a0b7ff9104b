"""A model provider on this machine: what the real clients of providers are pointed at."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Provider", "serving"]


class Provider(BaseHTTPRequestHandler):
    """Answers with whole responses, and says nothing about it; one subclass a provider."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read the request."""
        self.respond(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def respond(self, asked: dict[str, Any]) -> None:
        """Answer."""
        raise NotImplementedError

    def reply(self, status: int, content_type: str, text: str) -> None:
        """Send a whole response."""
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(provider: type[Provider]) -> Iterator[str]:
    """The address of a provider that serves inside the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), provider)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
