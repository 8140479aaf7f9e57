"""Agents of a consortium, each in a thread with its own folder, ledger and socket; and a courier before each."""

import threading
from contextlib import ExitStack, contextmanager

from tests.transport.consortium import NAMES

from wardround.hospital.desk import MOST_BYTES, Desk
from wardround.transport.server import Server


@contextmanager
def hosted(between, courier=lambda name, answer: answer):
    """The agents of all hospitals; `courier` stands between an agent and its socket."""
    with ExitStack() as stack:
        for name in NAMES:
            stack.enter_context(agent_of(between.home(name), lambda answer, name=name: courier(name, answer)))
        yield


@contextmanager
def agent_of(home, courier=lambda answer: answer):
    """The agent of one home, behind its socket."""
    waiting: list[Server] = []
    ready = threading.Event()

    def serve():
        try:
            with Desk(home) as desk:
                waiting.append(Server(home / "agent.sock", courier(desk.answer), most_bytes=MOST_BYTES))
                ready.set()
                waiting[0].serve()
        finally:
            ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        for server in waiting:
            server.stop()
        thread.join()
