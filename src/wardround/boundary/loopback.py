"""HTTP for the screen of this machine: a handler that tells nothing about itself, and answers its own name alone."""

from http.server import BaseHTTPRequestHandler
from typing import ClassVar

LOOPBACK = "127.0.0.1"


def is_own_name(header: str, address: str = LOOPBACK) -> bool:
    """Returns True for a Host header that names a server on loopback: a page elsewhere may have a name that leads here.

    The port is not compared, for a tunnel may begin at another one; DNS rebinding needs another name.
    """
    return header.rpartition(":")[0] in (address, "localhost")


class QuietHandler(BaseHTTPRequestHandler):
    """Answers of one server, which no other page may frame, keep, or take for something else; nothing is logged."""

    server_version, sys_version = "wardround", ""
    content_policy: ClassVar[str] = "default-src 'none'; frame-ancestors 'none'"

    def send(self, status: int, kind: str, content: bytes) -> None:
        """Sends one whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", self.content_policy)
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Writes nothing: who looks is not kept."""
