"""The courier's port answers parties with a certificate of the root alone, and each under its own name."""

import json
import shutil
import signal
import socket
import ssl
import subprocess
import time

import pytest
from tests.certificates import self_signed
from tests.transport.consortium import NAMES
from tests.transport.test_watched import wait_until

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
