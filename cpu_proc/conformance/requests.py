"""Checks of requests: what is answered, with which stamp, and what is not served.

Read next: `content.py`.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from cpu_proc.conformance.peer import PAGES, Peer
from cpu_proc.conformance.programs import HEAVY_ENTRIES, heavy, small
from cpu_proc.conformance.rules import Bench, Violation, check, require
from protocol.messages import Cancel, Error, Ping, Pong, Rejected, Stats, StatsReply, Translated

MOMENTS = (0.0, 0.3, 0.7)
"""Of the time that a heavy page takes: when its counters are moved."""
FLOOD = 1500
LENGTH = 500
"""Instructions of a heavy page."""


@check("requests.answered", "4.5", "each request is answered, with its own stamp")
def answered(bench: Bench) -> None:
    with bench.peer() as peer:
        for number in range(6):
            peer.write(number, small(number))
        ids = [peer.translate(page, heat=page + 1) for page in range(6)]
        for id in ids:
            peer.translated(id)
        peer.barrier()
        require(not peer.outstanding, "not every request was answered")
        peer.unchanged()


@check(
    "requests.stale",
    "5.1.1",
    "a request whose counters have moved is rejected: `bytes_moved`, or `stale_epoch`",
)
def stale(bench: Bench) -> None:
    with bench.peer() as peer:
        peer.write(1, small(1))
        old = peer.stamp(1)
        peer.write(1, small(2))
        now = peer.stamp(1)
        peer.rejected(peer.translate(1, stamp=old), "bytes_moved")
        peer.map_generation += 1
        peer.store_counters()
        peer.rejected(peer.translate(1, stamp=now), "bytes_moved")
        past = replace(peer.stamp(1), epoch=peer.epoch - 1)
        peer.rejected(peer.translate(1, stamp=past), "stale_epoch")
        peer.answer(peer.translate(1))


@check("requests.not_backed", "2.4", "a page that the machine does not have is rejected")
def not_backed(bench: Bench) -> None:
    with bench.peer() as peer:
        for page in (PAGES, PAGES + 12345, 2**35 - 1):
            peer.rejected(peer.translate(0, stamp=replace(peer.stamp(0), page=page)))
        peer.write(1, small(1))
        peer.answer(peer.translate(1))


@check("requests.twice", "4.4", "an id that is not greater than the last one is not served")
def twice(bench: Bench) -> None:
    with bench.peer() as peer:
        peer.write(1, small(1))
        peer.translate(1, id=10)
        peer.answer(10)
        for id in (10, 9):
            asked = peer.translate(1, id=id)
            peer.outstanding.pop(asked)
        peer.translate(1, id=11)
        peer.answer(11)
        peer.barrier()


@check("requests.cancelled", "4.5", "a cancelled request costs nobody else anything")
def cancelled(bench: Bench) -> None:
    with bench.peer() as peer:
        peer.send(Cancel(peer.session, 77))
        peer.write(1, heavy(secrets.randbits(33)))
        peer.write(2, small(2))
        waste = [peer.translate(1, HEAVY_ENTRIES), peer.translate(1, HEAVY_ENTRIES[1:])]
        for id in waste:
            peer.send(Cancel(peer.session, id))
            peer.forget(id)
            peer.outstanding.pop(id, None)
        peer.answer(peer.translate(2))
        peer.barrier()


@check(
    "requests.moved",
    "3 TRANSLATED",
    "an answer has the stamp of its request, not that of when "
    "it was served, though counters move meanwhile",
)
def moved(bench: Bench) -> None:
    with bench.peer() as peer:
        whole = time_of_heavy(peer)
        for moment in MOMENTS:
            delay = moment * whole
            for page in (8, 9):
                peer.write(page, heavy(secrets.randbits(33), 100 if page == 9 else LENGTH))
            ids = [peer.translate(8, HEAVY_ENTRIES), peer.translate(9)]
            until_running(peer)
            listen(peer, delay)
            for page in (8, 9):
                peer.write(page, heavy(secrets.randbits(33), 100))
            for id in ids:
                peer.answer(id)
            peer.write(8, heavy(secrets.randbits(33), LENGTH))
            id = peer.translate(8, HEAVY_ENTRIES)
            until_running(peer)
            listen(peer, delay)
            peer.map_generation += 1
            peer.store_counters()
            peer.answer(id)


def until_running(peer: Peer) -> None:
    """Wait until the translator counts something as running, if it counts that, or all is done."""
    end = time.monotonic() + peer.bench.deadline
    while peer.outstanding and time.monotonic() < end:
        peer.send(Stats(peer.session))
        counts = dict(peer.wait(StatsReply).counters)
        if counts.get("running", 1):
            return


def time_of_heavy(peer: Peer) -> float:
    """Seconds that a heavy page takes, from TRANSLATE to its answer, when workers are there."""
    for _ in range(2):
        peer.write(30, heavy(secrets.randbits(33), LENGTH))
        began = time.monotonic()
        peer.answer(peer.translate(30, HEAVY_ENTRIES))
    return time.monotonic() - began


def listen(peer: Peer, seconds: float) -> None:
    """Hear what comes for so long."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        peer.hear(left)


@check("requests.flood", "4.5", "more requests than it queues are each answered")
def flood(bench: Bench) -> None:
    with bench.peer() as peer:
        for page in range(PAGES):
            peer.write(page, small(page % 8))
        for number in range(FLOOD):
            peer.translate(number % PAGES)
        peer.send(Ping(peer.session, 1))
        last, since = len(peer.outstanding), time.monotonic()
        while peer.outstanding:
            peer.hear(0.1)
            for message in peer.drain():
                if isinstance(message, Error):
                    require(message.id != 0, f"ERROR {message.name} of no request came")
                    peer.outstanding.pop(message.id, None)
                known = isinstance(message, Error | Translated | Rejected | Pong)
                require(known, f"{type(message).__name__} came in a flood of requests")
            if len(peer.outstanding) != last:
                last, since = len(peer.outstanding), time.monotonic()
            if peer.lost or time.monotonic() - since > bench.deadline:
                why = "the connection was lost" if peer.lost else "nothing more came"
                raise Violation(f"{last} of {FLOOD} requests were not answered: {why}")
        peer.barrier()
