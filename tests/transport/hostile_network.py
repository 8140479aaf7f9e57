"""A courier between a coordinator and an agent that is as bad as one can be: it drops, doubles, delays and more."""

import random
import socket
import threading
import time
from contextlib import suppress

from tests.transport.sockets import frame_from

from wardround.transport.frames import framed

MOST = 1 << 26
CUT = ("cut a request", "cut a reply")
HARMLESS = ("drop", "lose", "double", "delay", "reorder", "old request", *CUT)
"""Ills that honest parties survive without another release."""
HARMFUL = ("flip a request", "flip a reply", "old reply")


class Hostile:
    """Carries messages of one hospital, and is ill at one of ten.

    Attributes:
        exchanged: each message that reached the agent, and its reply, in order.
    """

    def __init__(self, path, agent, *, seed, ills, yesterday=()):
        self.path, self.agent, self.ills = path, agent, ills
        self.random, self.yesterday = random.Random(seed), list(yesterday)
        self.exchanged, self.done = [], []
        self._held, self._cuts = [], False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self):
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self):
        """One connection at a time: the coordinator has one to each hospital."""
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            with link, suppress(OSError):
                while (message := content_from(link)) is not None:
                    reply = self._carried(message)
                    if reply is None:
                        break
                    link.sendall(self.cut(framed(reply)) if self._cuts else framed(reply))
                    if self._cuts:
                        self._cuts = False
                        assert not link.recv(1), "the coordinator hangs up"
                        break

    def _carried(self, message):
        """The reply, or None where the connection is to be closed."""
        ill = self.random.choice(self.ills) if self.ills and self.random.random() < 0.1 else None
        if ill is not None:
            self.done.append(ill)
        late, self._held = self._held, []
        match ill:
            case "drop":
                self._held = late
                return None
            case "reorder":
                self._held = [*late, message]
                return None
            case "delay":
                time.sleep(0.2)
            case "old request":
                if self.yesterday:
                    self.ask(self.random.choice(self.yesterday)[0])
            case "old reply":
                if self.yesterday:
                    return self.random.choice(self.yesterday)[1]
            case "flip a request":
                message = self.flipped(message)
            case "double":
                self.ask(message)
            case "cut a reply":
                self._cuts = True
            case "cut a request":
                with socket.socket(socket.AF_UNIX) as link:
                    link.connect(str(self.agent))
                    link.sendall(self.cut(framed(message)))
                    assert content_from(link) is None, "the agent hangs up"
                return None
        reply = self.ask(message)
        for one in late:
            self.ask(one)
        if ill == "lose":
            return None
        return self.flipped(reply) if ill == "flip a reply" and reply is not None else reply

    def flipped(self, message):
        bits = bytearray(message)
        bits[self.random.randrange(len(bits))] ^= 1 << self.random.randrange(8)
        return bytes(bits)

    def cut(self, frame):
        return frame[: self.random.randrange(1, len(frame))]

    def ask(self, message):
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.agent))
            link.sendall(framed(message))
            reply = content_from(link)
        self.exchanged.append((bytes(message), bytes(reply)))
        return reply


def content_from(link):
    """The content of the next frame, or None where the connection ends without one."""
    frame = frame_from(link, MOST)
    return None if frame is None else frame[1]
