"""Servers on sockets of a test, each in a thread of its own."""

import socket
import threading
from contextlib import contextmanager

from wardround.transport.frames import FrameReader
from wardround.transport.server import Server

MOST = 1 << 20


@contextmanager
def serving(path, answer, *, patience_s=30.0, most_bytes=MOST):
    """A server that answers until the block ends."""
    server = Server(path, lambda message: answer(bytes(message)), most_bytes=most_bytes, patience_s=patience_s)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


@contextmanager
def connected(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(120)
        client.connect(str(path))
        yield client


def frame_from(client, most_bytes=MOST):
    """The next frame, or None where the connection ends without one."""
    reader = FrameReader(most_bytes)
    while (frame := reader.take()) is None:
        arrived = client.recv(1 << 16)
        if not arrived:
            return None
        reader.feed(arrived)
    return frame
