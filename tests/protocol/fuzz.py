"""Garbage and hostile order, for as long as you like: no crash, no hang, no growth.

    python -m tests.protocol.fuzz --minutes 10

Parts, each in a process of its own that gives way to others:
- codec: any bytes end in a message or in a CodecError, and a message's bytes are canonical enough
  to come back as the same message. Guided by coverage where `atheris` is installed, else by
  mutations of one message of each kind.
- sessions: both ends of a machine's session over a bad network (`test_session_world.py`).
- hostile: each end of it, and of an agent's, alone with a peer that says anything in any order.
- agents: agents and a remote translator over a bad network (`agent_network.py`).

A part that raises, is silent for a minute, or grows by more than `GROWTH` after its first third
makes the exit status 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import importlib
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import protocol.codec
from protocol.codec import CodecError, decode, encode
from protocol.messages import Message
from tests.protocol.examples import EXAMPLES

GROWTH = 48 << 20
SILENCE = 60.0
PARTS = ("codec", "sessions", "hostile", "agents")


def check_bytes(data: bytes) -> None:
    """What holds of any bytes."""
    try:
        message = decode(data)
    except CodecError:
        return
    assert decode(encode(message)) == message


def spoiled(draw: random.Random) -> bytes:
    """One message's bytes, or two's mixed, a little wrong."""
    data = bytearray(encode(draw.choice(EXAMPLES)))
    for _ in range(draw.randint(0, 4)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(5):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del data[at : at + draw.randint(1, 8)]
            case 2:
                data[at:at] = draw.randbytes(draw.randint(1, 8))
            case 3:
                other = encode(draw.choice(EXAMPLES))
                data[at:] = other[draw.randrange(len(other)) :]
            case 4:
                data[at : at + 9] = draw.choice((b"\xcf", b"\xd3")) + draw.randbytes(8)
    return bytes(data)


def codec(round: int) -> None:
    """A round of the codec without a guide."""
    draw = random.Random(round)
    for _ in range(2000):
        check_bytes(spoiled(draw) if draw.random() < 0.9 else draw.randbytes(draw.randrange(400)))


def guided(seconds: float) -> None:
    """The codec, guided by coverage; does not return."""
    atheris: Any = importlib.import_module("atheris")

    for function in vars(protocol.codec).values():
        if isinstance(function, FunctionType) and function.__module__ == "protocol.codec":
            atheris.instrument_func(function)
    with tempfile.TemporaryDirectory() as folder:
        for number, message in enumerate(EXAMPLES):
            (Path(folder) / str(number)).write_bytes(encode(message))
        words = ["fuzz", folder, f"-max_total_time={int(seconds)}", "-timeout=20"]
        words += ["-rss_limit_mb=600", "-max_len=20000", "-print_final_stats=1", "-verbosity=0"]
        os.chdir(folder)  # where a finding would be written
        atheris.Setup(words, check_bytes)
        atheris.Fuzz()


def sessions(round: int) -> None:
    """A round of both ends of a session."""
    from hypothesis import HealthCheck, settings
    from hypothesis.stateful import run_state_machine_as_test

    from tests.protocol.test_session_world import Sessions

    rules = settings(
        max_examples=50,
        stateful_step_count=60,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Sessions, settings=rules)


def hostile(round: int) -> None:
    """A round of each end alone."""
    from jit_proc.agent_clients import AgentSessions
    from jit_proc.agent_session import AgentSession
    from jit_proc.job import Job
    from protocol.layout import LAYOUT_HASH
    from protocol.session import Job as Asked
    from protocol.session_machine import MachineSession
    from protocol.session_terms import Service
    from protocol.session_translator import TranslatorSessions
    from tests.jit_proc.agent_network import TERMS
    from tests.protocol.world import OFFER

    draw = random.Random(round)
    machine = MachineSession(OFFER, 1)
    machine.connect(1)
    service = Service(1, 1, LAYOUT_HASH, "isa", ("x86_64",), ("llvm",), complaint=lambda _: "")
    translator = TranslatorSessions(service)
    agent = AgentSession(TERMS, lambda: draw.randint(1, 3), 0.0)
    remote = AgentSessions(TERMS, ("x86_64",), 1, lambda _: "")
    taken: list[Asked] = []
    now, epoch = 0.0, 1
    for _ in range(1500):
        message = any_message(draw)
        peer = draw.choice((b"a", b"b"))
        now += draw.choice((0.0, 0.1, 3.0))
        machine.receive(message)
        translator.receive(peer, message)
        remote.receive(peer, message, now)
        agent.receive(message, now)
        agent.tick(now)
        remote.tick(now)
        match draw.randrange(12):
            case 0:
                machine.timer(draw.choice(("hello", "heartbeat", "retire", "attach", "swap")))
            case 1:
                translator.timer("sweep")
            case 2:
                agent.submit(draw.randrange(9), Job(1, bytes(4096), (0,), 0), now)
            case 3:
                agent.disconnected("", now)
            case 4:
                if machine.awaits_epoch:
                    epoch += 1
                    machine.retire(epoch, "translator_restart")
                if machine.state in ("idle", "dead"):
                    machine.connect(draw.randint(1, 3))
            case 5:
                if (job := translator.take()) is not None:
                    taken.append(job)
            case 6:
                if taken:
                    translator.rejected(taken.pop(), "unsupported")
            case 7:
                remote.take()
            case _:
                pass
        agent.outbox.clear()
        agent.finished.clear()
        remote.abandoned.clear()


def any_message(draw: random.Random) -> Message:
    """A valid message; its numbers are small, so that they mean something."""
    message = draw.choice(EXAMPLES)
    small = {"session": 3, "id": 9, "epoch": 4, "token": 4, "offset": 3, "page_generation": 3}
    changed: dict[str, Any] = {
        name: draw.randint(0, high)
        for name, high in small.items()
        if hasattr(message, name) and draw.random() < 0.8
    }
    for name, value in zip(
        ("layout_hash", "isa_hash", "engine", "host", "cpu"),
        ("layout", "isa", "program", "x86_64", "x86-64-v2"),
        strict=True,
    ):
        if hasattr(message, name) and draw.random() < 0.9:
            changed[name] = value
    try:
        found = dataclasses.replace(message, **changed)
        encode(found)
    except CodecError:
        return message
    return found


def agents(round: int) -> None:
    """A round of agents and a remote translator."""
    from tests.jit_proc.agent_network import Network

    draw = random.Random(round)
    network = Network(draw.randint(1, 4))
    for _ in range(draw.randint(1, 1500)):
        network.step(draw.randrange(12), draw.randrange(1000))
    network.settle()


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def repeat(part: Callable[[int], None], name: str, seconds: float) -> int:
    """Rounds for so long; the exit status."""
    begin = time.monotonic()
    base = rounds = 0
    seed = random.SystemRandom().getrandbits(32)
    while (spent := time.monotonic() - begin) < seconds:
        faulthandler.dump_traceback_later(SILENCE, exit=True)
        try:
            part(seed + rounds)
        except BaseException:
            print(f"{name}: round {seed + rounds} failed", flush=True)
            raise
        rounds += 1
        if not base and spent > seconds / 3:
            base = resident()
    faulthandler.cancel_dump_traceback_later()
    grown = resident() - base if base else 0
    print(f"{name}: {rounds} rounds, no finding; grew by {grown / 2**20:.1f} MiB", flush=True)
    return int(grown > GROWTH)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.protocol.fuzz")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each part (default 10)")
    parser.add_argument("--part", choices=PARTS, help="one part, in this process")
    options = parser.parse_args(arguments)
    seconds = options.minutes * 60
    if options.part is not None:
        if options.part == "codec" and importlib.util.find_spec("atheris"):
            guided(seconds)
        return repeat(globals()[options.part], options.part, seconds)
    os.nice(19)
    line = [sys.executable, "-m", "tests.protocol.fuzz", "--minutes", str(options.minutes)]
    started = [(part, subprocess.Popen([*line, "--part", part])) for part in PARTS]
    failed = [part for part, process in started if process.wait() != 0]
    print("failed: " + ", ".join(failed) if failed else f"all parts passed: {', '.join(PARTS)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
