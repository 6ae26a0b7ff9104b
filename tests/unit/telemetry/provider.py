"""Local servers that stand in for model providers, for tests with the providers' real clients."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Provider", "serving"]


class Provider(BaseHTTPRequestHandler):
    """Base class of the request handlers, one subclass for each provider."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Parse the request body."""
        self.respond(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def respond(self, request: dict[str, Any]) -> None:
        """Respond to a parsed request."""
        raise NotImplementedError

    def reply(self, status: int, content_type: str, text: str) -> None:
        """Send a response."""
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def serving(provider: type[Provider]) -> Iterator[str]:
    """Yield the address of a provider that serves inside the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), provider)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
