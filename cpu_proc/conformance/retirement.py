"""Checks of retirement: after RETIRED nothing older is alive, and RETIRED comes in time.

Read next: `lifetime.py`.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import replace

from cpu_proc.conformance.content import refused
from cpu_proc.conformance.peer import PAGES, Peer
from cpu_proc.conformance.programs import HEAVY_ENTRIES, heavy, small
from cpu_proc.conformance.requests import LENGTH, listen, time_of_heavy, until_running
from cpu_proc.conformance.rules import Bench, check, require
from protocol.messages import Retire, Retired, Translated

QUEUED = 1200


def _works(peer: Peer, number: int) -> Translated:
    peer.write(20, small(number))
    return peer.translated(peer.translate(20))


@check("retire.idle", "6.2", "RETIRE is answered by RETIRED of its epoch, with a new code segment")
def idle(bench: Bench) -> None:
    with bench.peer() as peer:
        _works(peer, 1)
        before = os.stat(peer.code.path).st_ino if peer.code else 0
        done = peer.retire()
        require(os.stat(done.code.path).st_ino != before, "the code segment is the old one")
        require(done.backend != "", "RETIRED names no backend")
        answer = _works(peer, 1)
        require(answer.epoch == peer.epoch, "an answer of another epoch came")


@check(
    "retire.under_way",
    "6.2",
    "what was under way is abandoned: it reaches no message of the "
    "new epoch, and RETIRED does not wait for it",
)
def under_way(bench: Bench) -> None:
    with bench.peer() as peer:
        whole = time_of_heavy(peer)
        for moment in (0.0, 0.5):
            delay = moment * whole
            for page in range(4):
                peer.write(page, heavy(secrets.randbits(33), LENGTH))
                peer.translate(page, HEAVY_ENTRIES)
            until_running(peer)
            listen(peer, delay)
            peer.retire()
            peer.write(5, heavy(secrets.randbits(33), LENGTH))  # takes as long as those
            peer.answer(peer.translate(5, HEAVY_ENTRIES))
            peer.barrier()


@check("retire.full_queue", "6.2", "RETIRE is heard however much is queued")
def full_queue(bench: Bench) -> None:
    with bench.peer() as peer:
        for page in range(PAGES):
            peer.write(page, heavy(secrets.randbits(33)))
        for number in range(QUEUED):
            peer.translate(number % PAGES, HEAVY_ENTRIES)
        peer.barrier()  # they have been heard before the epoch moves
        peer.retire("overflow")
        _works(peer, 2)
        peer.barrier()


@check("retire.twice", "4.6", "RETIRE that comes twice has the same answer")
def twice(bench: Bench) -> None:
    with bench.peer() as peer:
        first = peer.retire()
        peer.send(Retire(peer.session, peer.epoch, "system_reset"))
        second = peer.wait(Retired, lambda m: m.epoch == peer.epoch)
        require(first == second, "the second RETIRED differs from the first")


@check("retire.replaced", "6.5", "of two RETIREs under way the later one is answered")
def replaced(bench: Bench) -> None:
    with bench.peer() as peer:
        peer.write(0, heavy(secrets.randbits(33)))
        peer.translate(0, HEAVY_ENTRIES)
        for cause in ("system_reset", "snapshot_restore", "request"):
            peer.say_retire(cause)
        peer.retired()
        _works(peer, 3)


@check("retire.older", "5 counters", "RETIRE of an older epoch retires nothing")
def older(bench: Bench) -> None:
    with bench.peer() as peer:
        peer.retire()
        answer = _works(peer, 4)
        code = peer.bytes_of(answer)
        peer.send(Retire(peer.session, peer.epoch - 1, "system_reset"))
        peer.barrier()
        require(not [m for m in peer.drain() if isinstance(m, Retired)], "it was answered")
        require(_works(peer, 5).epoch == peer.epoch, "an answer of another epoch came")
        require(peer.bytes_of(answer) == code, "code of the present epoch is gone")


@check("retire.requests", "5.1.1", "a request of an older epoch is rejected by `stale_epoch`")
def requests(bench: Bench) -> None:
    with bench.peer() as peer:
        peer.write(1, small(1))
        old = peer.stamp(1)
        peer.retire()
        peer.rejected(peer.translate(1, stamp=old), "stale_epoch")
        peer.rejected(peer.translate(1, stamp=replace(old, epoch=peer.epoch + 1)), "stale_epoch")
        _works(peer, 6)


@check(
    "retire.snapshots",
    "6.2",
    "page snapshots and refusals of an older epoch are forgotten, "
    "though the page's generation is the same",
)
def snapshots(bench: Bench) -> None:
    with bench.peer() as peer:
        peer.write(4, small(1))
        peer.translated(peer.translate(4))
        refused(peer, 6)
        for page in (4, 6):
            peer.poke(page, small(2))
        peer.retire("snapshot_restore")
        peer.translated(peer.translate(4))
        found = peer.answer(peer.translate(6))
        require(
            isinstance(found, Translated),
            "what was no code in an older epoch is refused",
            "7 negative result",
        )


@check("retire.closed", "6.2", "the old code segment is closed")
def closed(bench: Bench) -> None:
    with bench.peer() as peer:
        _works(peer, 7)
        assert peer.code is not None
        path, inode = peer.code.path, os.stat(peer.code.path).st_ino
        folder = os.path.dirname(path)
        peer.retire()
        end = time.monotonic() + bench.deadline
        while _held(folder, inode) and time.monotonic() < end:
            peer.hear(0.02)
        require(not _held(folder, inode), f"{path} is still open")


def _held(folder: str, inode: int) -> bool:
    """Whether a process has a memfd open, by its folder of descriptors."""
    for name in os.listdir(folder):
        try:
            if os.stat(os.path.join(folder, name)).st_ino == inode and "memfd" in os.readlink(
                os.path.join(folder, name)
            ):
                return True
        except OSError:
            continue
    return False


@check("retire.wrap", "5 counters", "an epoch that wraps to 0 is younger than the one before")
def wrap(bench: Bench) -> None:
    with bench.peer(epoch=2**64 - 2) as peer:
        for number in range(3):
            _works(peer, 10 + number)
            peer.retire("counter_wrap")
        _works(peer, 20)
