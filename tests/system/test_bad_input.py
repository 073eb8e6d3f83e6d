"""Mistakes of users and nonsense from strangers, through real processes.

A mistake is one clear line and exit status 2, with no traceback; nonsense costs its sender alone.

Read next: `tests/cpu_proc/test_cli.py`, for mistakes that are seen before anything is started.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from protocol.codec import encode
from protocol.layout import LAYOUT_HASH
from protocol.messages import Bye, Hello, Message, Retire, Stats, Translate
from protocol.riscv.isa import isa_hash
from tests.system import programs, runner
from tests.system.runner import PROMPT, Machine, Translator, linux
from tests.system.test_faults import computes, power_off

SPIN = "main:\n1: addi t0, t0, 1\n j 1b\n"


def complaint(result: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that was said; fails unless that was all, with status 2."""
    said = result.stderr.decode()
    assert 2 == result.returncode, said
    assert 1 == said.count("\n"), said
    assert said.startswith("coldboot: "), said
    return said


# --- users ----------------------------------------------------------------------------------------


def test_a_drive_that_another_machine_uses(tmp_path: Path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    path = programs.elf(SPIN, tmp_path)
    words = ["-drive", f"file={disk},format=raw"]
    with Machine([*words, path], tmp_path) as machine:
        machine.wait_event("translator_attached")
        result = runner.run(*words, path)

    assert f"disk {disk} is in use by another machine" in complaint(result)


@pytest.mark.parametrize("backend", ["nobody", "llvm,nothing=1"])
def test_a_backend_that_is_none_though_the_guest_ends_first(backend: str, tmp_path: Path):
    result = programs.run("main: j PASS\n", tmp_path, "-backend", backend)
    assert f"backend {backend.split(',')[0]}" in complaint(result)


def test_two_translators_at_one_endpoint(tmp_path: Path):
    with Translator(tmp_path) as translator:
        line = runner.command("translator", "--endpoint", translator.endpoint)
        result = subprocess.run(
            line, capture_output=True, env=runner.environment(), timeout=240, check=False
        )
        assert f"endpoint {translator.endpoint} is in use" in complaint(result)
        assert 0 == translator_answers(translator.endpoint)


def translator_answers(endpoint: str) -> int:
    """Session of the answer to STATS: 0."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.connect(endpoint)
        client.send(encode(Stats(0)))
        assert client.poll(240_000), "no answer"
        client.recv()
        return 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--code-space", "lots"), "'lots' is not a size"),
        (("--workers", "0"), "1 to 64"),
        (("--endpoint", "tcp://0.0.0.0:5000"), "needs keys"),
        (("--endpoint", "ipc:///nowhere/at/all/x"), "/nowhere/at/all"),
        (("--frobnicate",), "unrecognized arguments"),
    ],
)
def test_mistakes_in_starting_a_translator(words: tuple[str, ...], expected: str):
    result = subprocess.run(
        runner.command("translator", *words),
        capture_output=True,
        env=runner.environment(),
        timeout=240,
        check=False,
    )

    assert expected in complaint(result)


# --- translators of another kind ------------------------------------------------------------------


@contextmanager
def peer(answer: bytes, endpoint: str = "") -> Iterator[str]:
    """Something that listens as a translator does, and answers everything by `answer`."""
    endpoint = endpoint or f"ipc://{runner.socket_folder()}/peer"
    with zmq.Context() as context:
        server = context.socket(zmq.ROUTER)
        server.linger = 0
        server.bind(endpoint)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                if server.poll(50):
                    name, *_ = server.recv_multipart()
                    server.send_multipart([name, answer])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield endpoint
        finally:
            stop.set()
            thread.join()
            server.close()


def versioned(data: bytes, version: int) -> bytes:
    """A message as a peer with another version of the protocol would send it."""
    import msgpack  # type: ignore[import-untyped]

    parts = msgpack.unpackb(data)
    parts[1] = version
    packed: bytes = msgpack.packb(parts)
    return packed


def test_a_translator_of_another_version(tmp_path: Path):
    with peer(versioned(encode(Bye(1, "x")), 99)) as endpoint:
        path = programs.elf(SPIN, tmp_path)
        result = runner.run("--translator", endpoint, path)

    assert "version" in complaint(result)


def test_a_translator_that_comes_back_as_another_version(tmp_path: Path):
    # A guest that runs is not ended for that: it goes on without.
    path = programs.elf(SPIN, tmp_path)
    with (
        Translator(tmp_path) as translator,
        Machine(["--translator", translator.endpoint, path], tmp_path) as machine,
    ):
        machine.wait_event("translator_attached")
        translator.kill()
        with peer(versioned(encode(Bye(1, "x")), 99), translator.endpoint):
            refused = machine.wait_event("translator_incompatible")
        assert "version 99" in refused["text"]
        machine.send("\x01c")
        machine.expect(r"\(coldboot\)")
        machine.send("info status\r")
        machine.expect("running")
        machine.send("quit\r")
        assert 0 == machine.wait()


@pytest.mark.parametrize(
    "answer",
    [b"", b"\xc1", b"garbage" * 100, bytes(1 << 16)],
    ids=["nothing", "no msgpack", "text", "zeros"],
)
def test_a_peer_that_answers_by_nonsense(answer: bytes, tmp_path: Path):
    # It is no translator; the machine does without.
    text = "main:\n li t0, 50000000\n1: addi t0, t0, -1\n bnez t0, 1b\n j PASS\n"
    with peer(answer) as endpoint:
        result = programs.run(text, tmp_path, "--translator", endpoint)

    assert 0 == result.returncode, result.stderr
    assert b"Traceback" not in result.stderr


def test_nobody_listens(tmp_path: Path):
    endpoint = f"ipc://{runner.socket_folder()}/nobody"

    result = programs.run("main: j PASS\n", tmp_path, "--translator", endpoint)

    assert (0, b"") == (result.returncode, result.stderr)


# --- strangers at a translator's socket -----------------------------------------------------------


def hello(session: int) -> Hello:
    return Hello(session, LAYOUT_HASH, isa_hash(), "x86_64", (), "", os.getpid())


def nonsense(seed: int) -> Iterator[list[bytes]]:
    """Multipart messages that are none, or that nobody may send."""
    chance = random.Random(seed)
    good = encode(hello(7))
    yield [b""]
    yield [b"", b""]
    yield [good, good]
    yield [b"\xc1" * 100]
    yield [bytes(1 << 20)]
    yield [versioned(good, 99)]
    for _ in range(200):
        yield [chance.randbytes(chance.randrange(1, 300))]
        spoiled = bytearray(good)
        spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
        yield [bytes(spoiled)]
        yield [good[: chance.randrange(len(good))]]


def strangers_messages(session: int) -> list[Message]:
    """Well-formed, but for a session that is not the sender's."""
    return [
        Bye(session, "go away"),
        Retire(session, 99, "system_reset"),
        Translate(session, 10**9, 1, 0, 0, 0, 0, (1,), 1),
        Stats(session),
    ]


def raw_bytes(endpoint: str, data: bytes) -> None:
    """What is not even ZeroMQ, on the unix socket itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(10)
        stream.connect(endpoint.removeprefix("ipc://"))
        try:
            stream.sendall(data)
            stream.recv(4096)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass


def test_nonsense_while_a_machine_is_served(guests_folder: Path, tmp_path: Path):
    with Translator(tmp_path) as translator, zmq.Context() as context:
        words = linux(guests_folder, "--translator", translator.endpoint)
        with Machine(words, tmp_path) as machine:
            machine.wait_event("translator_attached")
            session = translator.wait_event("machine_attached")["session"]
            with context.socket(zmq.DEALER) as stranger:
                stranger.linger = 0
                stranger.connect(translator.endpoint)
                for message in nonsense(1):
                    stranger.send_multipart(message)
                for known in strangers_messages(session):
                    stranger.send(encode(known))
                stranger.send(encode(Stats(0)))
                while b"STATS" not in stranger.recv() and stranger.poll(240_000):
                    pass
                # Longer than anything: libzmq closes the connection before it is in memory.
                stranger.send(bytes(64 << 20))
            raw_bytes(translator.endpoint, secrets.token_bytes(10_000))
            raw_bytes(translator.endpoint, b"\xff" + b"\0" * 8 + b"\x7f" + b"\0" * 100_000)
            raw_bytes(translator.endpoint, b"GET / HTTP/1.0\r\n\r\n")

            regions = len(machine.events("region_published"))
            machine.wait_event("region_published", regions + 1)
            machine.send("\r")
            machine.expect(PROMPT)
            computes(machine)
            power_off(machine)

        assert [] == machine.events("translator_lost")
        assert 1 == len(machine.events("translator_attached"))
        assert "" == machine.errors
        assert translator.process.poll() is None
        refused = translator.events("message_refused")
        assert refused
        assert len(refused) < 100, "a flood of nonsense is no flood of the log"
        assert "Traceback" not in translator.log_path.read_text()
