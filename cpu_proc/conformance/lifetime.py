"""Checks of a translator's life: heartbeats, counts, goodbyes, swaps, deaths.

Read next: `guests.py`.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from cpu_proc.conformance.peer import Peer, show
from cpu_proc.conformance.programs import HEAVY_ENTRIES, heavy, small
from cpu_proc.conformance.rules import Bench, Skipped, check, require
from protocol.backends import name_of
from protocol.messages import (
    Bye,
    Engine,
    EngineReady,
    Error,
    Ping,
    Pong,
    Stats,
    StatsReply,
    Swap,
    Swapped,
)


@check(
    "life.ping",
    "4.7",
    "PING is answered by PONG, with its token and WELCOME's incarnation, "
    "also while code is being made, also without a session",
)
def ping(bench: Bench) -> None:
    with bench.peer() as peer:
        assert peer.welcome is not None
        for busy in (False, True):
            if busy:
                peer.write(1, heavy(secrets.randbits(33)))
                peer.translate(1, HEAVY_ENTRIES)
            for session in (peer.session, 0):
                token = secrets.randbits(60)
                peer.send(Ping(session, token))
                pong = peer.wait(Pong)
                require(pong.token == token, f"PONG has token {pong.token}, PING had {token}")
                same = pong.incarnation == peer.welcome.incarnation
                require(same, "PONG's incarnation is not WELCOME's")
                require(pong.session == session, "PONG is of another session than PING")


@check("life.stats", "3 STATS", "STATS is answered, for a session and for all")
def stats(bench: Bench) -> None:
    with bench.peer() as peer:
        peer.write(1, small(1))
        peer.answer(peer.translate(1))
        for session in (peer.session, 0):
            peer.send(Stats(session))
            found = peer.wait(StatsReply)
            require(found.session == session, "STATS_REPLY is of another session")


@check("life.bye", "4.7", "BYE ends a session: its number is unknown, its memory let go")
def bye(bench: Bench) -> None:
    with bench.peer() as peer:
        assert peer.welcome is not None
        peer.write(1, heavy(secrets.randbits(33)))
        peer.translate(1, HEAVY_ENTRIES)
        peer.send(Bye(peer.session, "the check says goodbye"))
        peer.send(Ping(peer.session, 9))
        found = peer.wait(Error, errors=True)
        require(found.name == "unknown_session", f"{show(found)} came after BYE")
        _let_go(bench, peer.welcome.pid, peer.mark)
        peer.welcome = None


@check("life.killed_machine", "4.7", "a machine that is killed leaves nothing behind")
def killed_machine(bench: Bench) -> None:
    command = [sys.executable, "-m", "cpu_proc.conformance.victim"]
    asked = json.dumps({"endpoint": bench.target.endpoint, "backend": bench.backend})
    with subprocess.Popen([*command, asked], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            require(bool(line.strip()), "another process could not attach")
        finally:
            process.kill()
    told = json.loads(line)
    _let_go(bench, told["translator"], told["mark"])
    with bench.peer() as peer:
        peer.write(1, small(1))
        peer.answer(peer.translate(1))


def _let_go(bench: Bench, pid: int, mark: str) -> None:
    """Wait until a translator's process holds no map of a machine's memory."""
    maps = Path(f"/proc/{pid}/maps")
    try:
        maps.read_text()
    except OSError as error:
        raise Skipped(f"what process {pid} holds is not to be seen: {error.strerror}") from error
    end = time.monotonic() + bench.deadline
    while mark in maps.read_text() and time.monotonic() < end:
        time.sleep(0.02)
    require(mark not in maps.read_text(), f"process {pid} still has the machine's memory mapped")


@check("life.swap", "4.9", "SWAP makes a backend ready, and RETIRED says that it is in force")
def swap(bench: Bench) -> None:
    with bench.peer() as peer:
        assert peer.welcome is not None
        force = peer.retire().backend
        back = peer.welcome.backends[0]
        for backend in (*peer.welcome.backends[1:], "nobody-has-this-one", bench.backend or back):
            peer.send(Swap(peer.session, backend))
            found: Swapped | Error = peer.wait(Swapped | Error, errors=True)  # type: ignore[arg-type]
            if isinstance(found, Error):
                named = found.name == "unknown_backend"
                require(named, f"{show(found)} came to SWAP {backend}, not unknown_backend")
            else:
                require(found.backend == backend, f"SWAPPED {found.backend} came to SWAP {backend}")
                known = name_of(backend) in peer.welcome.backends
                require(known, f"SWAP {backend} was accepted, WELCOME names no such backend")
                force = backend
            now = peer.retire("backend_swap").backend
            require(now == force, f"RETIRED names {now}, in force should be {force}")
            peer.write(1, small(1))
            peer.answer(peer.translate(1))


@check("life.engine", "4.8", "ENGINE of an unknown key is refused by `engine_failed`")
def engine(bench: Bench) -> None:
    with bench.peer(attach=False) as peer:
        peer.greet()
        peer.send(Engine(peer.session, "0" * 32))
        found: EngineReady | Error = peer.wait(EngineReady | Error, errors=True)  # type: ignore[arg-type]
        require(
            isinstance(found, Error) and found.name == "engine_failed",
            f"{show(found)} came, not ERROR engine_failed",
        )


@check(
    "restart.killed",
    "4.7",
    "one that was killed and started again knows nothing of before",
    restarts=True,
)
def killed(bench: Bench) -> None:
    with bench.peer() as peer:
        assert peer.welcome is not None
        peer.write(1, heavy(secrets.randbits(33)))
        peer.translate(1, HEAVY_ENTRIES)
        bench.target.kill(signal.SIGKILL)
        bench.target.start(bench.deadline)
        with bench.peer(attach=False) as other:
            other.session = peer.session
            other.send(Ping(peer.session, 1))
            found = other.wait(Error, errors=True)
            require(
                found.name == "unknown_session", f"{show(found)} came to a session of before", "4.3"
            )
        peer.lost = False
        peer.client.close()
        peer.welcome_again()
        assert peer.welcome is not None
        _works(peer)


@check("restart.asked", "4.7", "SIGTERM ends it, with BYE to its machines", restarts=True)
def asked_to_end(bench: Bench) -> None:
    try:
        with bench.peer() as peer:
            bench.target.signal(signal.SIGTERM)
            end = time.monotonic() + bench.deadline
            while not any(isinstance(m, Bye) for m in peer.rest) and time.monotonic() < end:
                peer.hear(0.05)
                if peer.lost and bench.target.ended():
                    peer.hear(0.2)
                    break
            told = any(isinstance(m, Bye) for m in peer.rest)
            require(told, "no BYE came")
            peer.welcome = None
        require(bench.target.wait(bench.deadline), "its process did not end")
    finally:
        bench.target.kill(signal.SIGKILL)
        bench.target.start(bench.deadline)


def _works(peer: Peer) -> None:
    peer.write(2, small(2))
    peer.answer(peer.translate(2))
