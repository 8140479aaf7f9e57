"""The courier's port answers parties with a certificate of the root alone, each under its own name and for itself."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.certificates import self_signed
from tests.transport.consortium import NAMES
from tests.transport.sockets import connected, frame_from, serving
from tests.transport.test_watched import wait_until

from wardround.errors import FederationError
from wardround.federation.wire.signatures import Arrived, CoordinatorKeys, HospitalKeys
from wardround.secure_aggregation.keys.identity import Identity, SigningKey
from wardround.secure_aggregation.keys.secret import system_entropy
from wardround.transport.frames import Kind, framed

pytestmark = pytest.mark.thorough

SETTINGS = 4
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + bytes([SETTINGS]) + bytes(5)
"""The first bytes of a client of gRPC: preface, and a frame of settings without content."""
CLAIMED_S = 45.0


def answered(flare, context=None):
    """What the port sends to a client of gRPC, as application data; nothing where it gives no channel."""
    port = json.loads((flare.folder / "kits/coordinator/kit.json").read_text())["port"]
    try:
        plain = socket.create_connection(("localhost", port), timeout=10)
        with plain, plain if context is None else context.wrap_socket(plain, server_hostname="localhost") as link:
            link.sendall(HTTP2)
            return link.recv(1 << 12)
    except (ConnectionError, ssl.SSLError):
        return b""


def context_of(flare, certificate=None, key=None):
    context = ssl.create_default_context(cafile=str(flare.folder / "kits" / NAMES[0] / "rootCA.pem"))
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def served(flare):
    """The hospitals that are served now."""
    said = flare.call("state", flare.folder / "kits/coordinator", "--sockets", flare.sockets)
    return json.loads(said)["sites"]


def test_the_port_gives_no_channel_without_a_certificate_of_the_root(flare, tmp_path):
    flare.wait()
    kit = flare.folder / "kits" / NAMES[0]
    genuine = answered(flare, context_of(flare, kit / "client.crt", kit / "client.key"))
    assert genuine[3] == SETTINGS, "a channel of gRPC"
    assert answered(flare) == b"", "plain text"
    assert answered(flare, context_of(flare)) == b"", "the root certificate alone"
    own = self_signed(tmp_path / "own.crt", NAMES[0])
    assert answered(flare, context_of(flare, own, own.with_suffix(".key"))) == b"", "self-signed"


def test_a_kit_of_one_hospital_is_no_kit_of_another(flare, tmp_path):
    flare.wait()
    claimed, own = NAMES[:2]
    kit = tmp_path / "kit"
    shutil.copytree(flare.folder / "kits" / own, kit, ignore=shutil.ignore_patterns("work", "*lock*"))
    values = json.loads((kit / "kit.json").read_text())
    (kit / "kit.json").write_text(json.dumps(values | {"name": claimed}))
    kit.chmod(0o700)
    flare.up[claimed].send_signal(signal.SIGTERM)
    assert flare.up.pop(claimed).wait(60) == 0
    wait_until(lambda: claimed not in served(flare), patience_s=120.0)
    reached = False
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent.sock"))
        agent.listen()
        agent.settimeout(0.5)
        command = flare.command("up", kit, "--agent", tmp_path / "agent.sock")
        with subprocess.Popen(
            command, env=flare.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as impostor:
            try:
                end = time.monotonic() + CLAIMED_S
                while time.monotonic() < end:
                    reached = reached or claimed in served(flare)
                    time.sleep(1.0)
                assert impostor.poll() is None, "it tries on"
            finally:
                impostor.send_signal(signal.SIGTERM)
                impostor.wait(60)
        with pytest.raises(TimeoutError):
            agent.accept()
    said = (flare.folder / "kits/coordinator/work/log.txt").read_text()
    assert f"authenticated as '{own}' but claimed endpoint '{claimed}'" in said
    flare.start(claimed)
    flare.wait()  # the genuine kit is served again
    assert not reached


@contextmanager
def hostile(flare, name, folder):
    """One site's side of the courier runs another program, which reads its orders in a folder, until the block ends."""
    kit = flare.folder / "kits" / name
    program = Path(__file__).with_name("hostile_site")
    paths = f"{program}{os.pathsep}{flare.environment['PYTHONPATH']}"
    environment = flare.environment | {"PYTHONPATH": paths, "WARDROUND_HOSTILE": str(folder)}
    left(flare, name)
    with subprocess.Popen(
        flare.command("up", kit, "--agent", flare.link(name)), env=environment, stdout=subprocess.DEVNULL
    ) as flare.up[name]:
        flare.wait()
        yield
        left(flare, name)
    flare.start(name)
    flare.wait()


def left(flare, name):
    """Ends one site's side, and waits until it is not served any more."""
    flare.up[name].send_signal(signal.SIGTERM)
    assert flare.up.pop(name).wait(60) == 0
    wait_until(lambda: name not in served(flare), patience_s=120.0)


def ordered(folder, **order):
    """Returns the outcome of an order to the hostile site."""
    (folder / "found.json").unlink(missing_ok=True)
    (folder / "order.tmp").write_text(json.dumps({"message": "no frame"} | order))
    (folder / "order.tmp").rename(folder / "order.json")
    wait_until((folder / "found.json").exists, patience_s=120.0)
    return json.loads((folder / "found.json").read_text())


def test_a_site_neither_hands_messages_to_another_nor_drops_its_exchange(flare, tmp_path, short_path):
    """FLARE carries what one site's job writes to another's job, which answers the coordinator's alone."""
    flare.wait()
    asked, other = NAMES[:2]
    got, honest, release = [], [], threading.Event()

    def answer(message):
        got.append(message)
        assert release.wait(240)
        return message

    def carry():
        with connected(flare.socket_of(asked)) as link:
            link.sendall(framed(b"honest"))
            while (frame := frame_from(link)) == (Kind.WORKING, b""):
                pass
            honest.append(frame)

    flare.link(asked).unlink(missing_ok=True)
    flare.link(asked).symlink_to(short_path / "s")
    with hostile(flare, other, tmp_path), serving(short_path / "s", answer, patience_s=240.0):
        thread = threading.Thread(target=carry)
        thread.start()
        try:
            wait_until(lambda: got)
            assert ordered(tmp_path, sites=[asked]) == {asked: ["invalid_request", None, 0]}
        finally:
            release.set()
            thread.join()
    assert got == [b"honest"], "once: it was not dropped, and nothing of the other site came"
    assert honest == [(Kind.MESSAGE, b"honest")]


def test_a_site_that_has_left_is_not_believed_as_the_server(flare, tmp_path, short_path):
    """FLARE 2.9 ties an origin to a token as long as it knows the token; then the signature alone tells."""
    flare.wait()
    asked, other = NAMES[:2]
    coordinator, own = SigningKey.new(system_entropy), SigningKey.new(system_entropy)
    [honest] = CoordinatorKeys(coordinator, {asked: own.public}).sign(b"honest", [asked], 1)
    keys, got = HospitalKeys(Identity(asked, own)), list[bytes | str]()

    def answer(message):
        try:
            got.append(bytes(keys.open(Arrived.of(message), [coordinator.public]).body))
        except FederationError as error:
            got.append(error.code)
        return b"answer"

    flare.link(asked).unlink(missing_ok=True)
    flare.link(asked).symlink_to(short_path / "s")
    with hostile(flare, other, tmp_path), serving(short_path / "s", answer, patience_s=240.0):
        order = {"sites": [asked], "message": framed(b"forged").decode(), "origin": "server"}
        assert ordered(tmp_path, **order) == {asked: ["timeout", None, 0]}
        assert got == [], "FLARE's server knows the token, and that it is not the server's"
        for _ in range(10):  # a heartbeat in between makes the site known again
            assert ordered(tmp_path, **order, quits=True) == {asked: ["timeout", None, 0]}, "no answer comes back"
            if got:
                break
        assert set(got) == {"federation-message"}
        with connected(flare.socket_of(asked)) as link:
            link.sendall(framed(honest.content))
            assert frame_from(link) == (Kind.MESSAGE, b"answer")
        assert got[-1] == b"honest"
