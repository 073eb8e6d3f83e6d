"""The demonstration: `coldboot run` without arguments. Retired code, watched from both sides.

The problem: that no stale code ever runs is invisible when it works. So a guest of our own
(`demo_guest/firmware.s`) does nothing but check its results while this module does to it what makes
emulators run stale code: it has hot code patched by the guest, by the code itself and by a device,
lets the guest reset its machine, and kills the translator with SIGKILL. What the guest saw and what
the machine's book of retirements says must agree.

Invariants:
- Nothing shown is written down beforehand: every figure is the guest's own, or read from the
  machine. The verdict is the conjunction of all checks; the exit status is 0 only if all hold.
- Steps wait for events, until a deadline: a slow computer makes the demonstration longer, not
  wrong. No check is about speed but that regions are faster than tier 0.
- The guest is driven as any guest could be: by its serial line, by stores to its memory as a
  device makes them, by signals to the translator's process.

Read next: `demo_guest/` (the guest and its serial line), `demo_view.py` (what is seen),
`retirement.py` (the book).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from cpu_proc.demo_guest import TICKS_PER_MICROSECOND, Guest, Unfinished
from cpu_proc.demo_view import View
from cpu_proc.option_values import writable
from protocol.errors import USER_ERROR_EXIT, UserError

if TYPE_CHECKING:
    from cpu_proc.retirement import Event

SETTLED = 0.6  # seconds without a new region after which translation has caught up
MOMENT = 0.8  # seconds for what is only to be seen running
PATCHES_A_PIECE = 2000
ADDI = 0x50513  # addi a0, a0, 0


# --- the chapters --------------------------------------------------------------------------------


def hot_code(guest: Guest, view: View) -> None:
    view.chapter(
        "Hot code becomes regions",
        "The engine (tier 0) runs the guest at once. The translator comes later, with regions.",
    )
    counts = guest.translator.counts
    guest.until(lambda: bool(guest.boots), "the guest's first words")
    guest.until(lambda: counts["published"] > 0, "the first region")
    first = guest.now()
    slow = max((r.mips for r in guest.reports if r.published == 0), default=0.0)
    view.fact("tier 0, until the translator is there", f"{slow:,.0f} MIPS")
    settle(guest)
    fast = max(r.mips for r in guest.reports if r.published > 0)
    regions = guest.machine.records.region_count
    view.check(
        f"with {regions} regions, the first {first:.1f} s after power-on",
        f"{fast:,.0f} MIPS, {fast / max(slow, 0.1):.1f} times as fast",
        regions > 0 and fast > slow > 0 and guest.stale == 0,
    )
    here, there = permissions(os.getpid()), permissions(guest.translator.child_pid or 0)
    view.check(
        f"code: {here.get('code')} in the machine, {there.get('code')} in the translator",
        f"RAM: {here.get('ram')} and {there.get('ram')}",
        here == {"code": "r-x", "engine": "r-x", "ram": "rw-", "ctrl": "rw-"}
        and there == {"code": "rw-", "ram": "r--", "ctrl": "r--"},
    )


def permissions(pid: int) -> dict[str, str]:
    """How a process has mapped the shared segments: segment -> r, w and x (proc(5))."""
    found = {}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        for line in maps:
            name = line.partition("/memfd:coldboot-")[2].split()
            if name:
                found[name[0]] = line.split()[1][:3]
    return found


def settle(guest: Guest) -> None:
    """Wait until no new regions come, and the guest has reported since."""
    published, since = -1, guest.now()

    def quiet() -> bool:
        nonlocal published, since
        if guest.translator.counts["published"] != published:
            published, since = guest.translator.counts["published"], guest.now()
        return published > 0 and guest.now() - since > SETTLED

    guest.until(quiet, "a region")
    guest.more_reports()


def patched_code(guest: Guest, view: View) -> None:
    view.chapter(
        "Code is patched", "What was made from bytes that changed must never run again, not once."
    )
    began = len(guest.mode("p"))
    guest.watch(MOMENT)
    reports = guest.reports[began:]
    patches = PATCHES_A_PIECE * sum(r.pieces for r in reports)
    each = sum(r.ticks for r in reports) * 1000 / TICKS_PER_MICROSECOND / max(patches, 1)
    view.check(
        "store, fence.i, call the new instruction, compare",
        f"{patches:,} times, {each:,.0f} ns each, {guest.stale} stale",
        patches > 0 and guest.stale == 0,
    )
    guest.mode("h")
    times = [replace(guest, "hot_site", "guest_store", partial(guest.order, "n")) for _ in range(6)]
    tell_replaced(guest, view, "a region's instruction, by a store from outside", times)
    guest.mode("s")
    switch = partial(guest.store, guest.symbols["LEDGER"] + guest.symbols["ORDER"], 1, 8)
    times = [replace(guest, "spin_site", "guest_store", switch) for _ in range(6)]
    tell_replaced(guest, view, "a region's instruction, by the region as it runs", times)
    guest.mode("h")
    times = [replace(guest, "hot_site", "memory_write", partial(dma, guest, n)) for n in range(6)]
    tell_replaced(guest, view, "a region's instruction, by a device (DMA)", times)


def replace(guest: Guest, symbol: str, cause: str, act: Callable[[], None]) -> float:
    """Replace an instruction that a region was made from; milliseconds until a new one is there."""
    guest.until(lambda: guest.is_translated(symbol), f"a region of {symbol}")
    old, before = guest.region_of(symbol), guest.retired(cause)
    began = guest.now()
    act()
    guest.until(lambda: guest.retired(cause) > before, f"the retirement of {symbol}'s region")
    guest.until(lambda: guest.region_of(symbol) not in (old, None), f"a new region of {symbol}")
    took = (guest.now() - began) * 1e3
    guest.more_reports()
    return took


def dma(guest: Guest, number: int) -> None:
    """Write over `hot` as a device does, while the guest waits for it."""
    heard = guest.ready
    guest.order("d")
    guest.until(lambda: guest.ready > heard, "the guest's word that it waits for the device")
    value = 100 + number
    guest.store(guest.symbols["hot_site"], ADDI | value << 20, 4)
    guest.store(guest.symbols["LEDGER"] + guest.symbols["ORDER"], value, 8)
    guest.order(".")


def tell_replaced(guest: Guest, view: View, text: str, times: list[float]) -> None:
    mean = sum(times) / len(times)
    view.check(
        text,
        f"{len(times)} times, new region in {mean:.0f} ms, {guest.stale} stale",
        guest.stale == 0,
    )


def resets(guest: Guest, view: View) -> None:
    view.chapter(
        "The guest resets its machine",
        "answer() is 42 in the image. The guest patches it to 13, runs it hot, and resets.",
    )
    guest.mode("a")
    retirement = guest.machine.retirement
    for _ in range(3):
        guest.until(lambda: guest.is_translated("answer"), "a region of answer()")
        old = guest.region_of("answer")
        guest.order("b")
        anew = partial(lambda o: guest.region_of("answer") not in (o, None), old)
        guest.until(anew, "a region of the patched answer()")
        guest.more_reports()
        epoch, boots = retirement.epoch, len(guest.boots)
        view.mark(guest.now(), "R")
        guest.order("x")
        booted = partial(lambda n: len(guest.boots) > n, boots)
        guest.until(booted, "the boot after the reset")
        event = retired_since(guest, epoch, "the reset's retirement")
        number, answer = guest.boots[-1]
        guest.more_reports()
        regions, older = event.details["regions"], event.details.get("live_older", 0)
        view.check(
            f"boot {number}: answer() is {answer}",
            f"epoch {epoch} to {event.epoch}, {count(regions, 'region')} gone in {event.ms:.1f} ms",
            answer == guest.symbols["ANSWER"]
            and number == boots + 1
            and event.cause == "system_reset"
            and retirement.epoch == epoch + 1 == event.epoch
            and regions > 0
            and older == 0
            and guest.stale == 0,
        )


def killed_translator(guest: Guest, view: View) -> None:
    view.chapter(
        "The translator is killed",
        "Its code goes with it. The machine runs on under a new epoch, and starts another.",
    )
    link, retirement, records = guest.translator, guest.machine.retirement, guest.machine.records
    guest.mode("w")
    for _ in range(2):
        settle(guest)
        guest.order("w")  # the longest piece counts from here
        guest.more_reports()
        pid, incarnation, epoch = link.child_pid, link.incarnation, retirement.epoch
        boots, at = len(guest.boots), len(guest.reports)
        assert pid is not None
        view.mark(guest.now(), "K")
        killed = guest.now()
        os.kill(pid, signal.SIGKILL)
        event = retired_since(guest, epoch, "the retirement after the translator's death")
        noticed = (guest.now() - killed) * 1e3
        view.fact(
            f"kill -9 {pid}",
            f"noticed in {noticed:.0f} ms, {count(event.details['regions'], 'region')} gone",
        )
        back = partial(lambda i: link.incarnation != i and records.region_count > 0, incarnation)
        guest.until(back, "the translator's return")
        away = guest.now() - killed
        meanwhile = guest.reports[at:]
        pieces = sum(r.pieces for r in meanwhile)
        pause = max((r.pause for r in meanwhile), default=0) / 1000 / TICKS_PER_MICROSECOND
        view.fact(
            f"the guest works on in tier 0 for {away:.1f} s",
            f"{pieces} pieces, the longest of {pause:.0f} ms",
        )
        guest.more_reports()
        view.check(
            f"process {link.child_pid}, incarnation {link.incarnation:016x}",
            f"epoch {epoch} to {event.epoch}, {guest.stale} stale, no reboot",
            link.child_pid not in (pid, None)
            and retirement.epoch == epoch + 1 == event.epoch
            and event.cause == "translator_restart"
            and pieces > 0
            and len(guest.boots) == boots
            and guest.stale == 0,
        )


def retired_since(guest: Guest, epoch: int, what: str) -> Event:
    """The last retirement of everything after `epoch`, as soon as the book has it: when done."""

    def entered() -> list[Event]:
        history = tuple(guest.machine.retirement.history)
        return [e for e in history if "pages" in e.details and e.epoch > epoch]

    guest.until(lambda: bool(entered()), what)
    return entered()[-1]


def the_end(guest: Guest, view: View) -> None:
    view.chapter("The guest powers off", "Its account, then the machine's.")
    checks = guest.reports[-1].checks
    guest.order("q")
    guest.until(lambda: guest.last_words.startswith("end "), "the guest's last words")
    total, stale = (int(text) for text in guest.last_words.split()[1:])
    code = guest.machine.wait()
    view.check(
        f"{total:,} results checked by the guest",
        f"{stale} stale, exit code {code}",
        total >= checks > 0 and stale == 0 and code == 0,
    )


def count(number: int, thing: str) -> str:
    """ "1 region", "2 regions"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def book(guest: Guest, view: View) -> None:
    """What was retired, when, why; and what became of translations."""
    machine = guest.machine
    stores = sum(int(hart.state.stat_stores) for hart in machine.harts)
    view.book(list(machine.retirement.history), stores)
    if machine.translator is not None:
        view.translations(machine.translator.counts)


CHAPTERS = (hot_code, patched_code, resets, killed_translator, the_end)


def run(svg: str | None = None) -> int:
    """Run the demonstration; 0 if every check held, 1 if not. `svg`: a file for its picture."""
    from protocol import logs

    logs.configure(level="error")  # that a translator is lost is told below
    view = View(record=svg is not None)
    began = time.monotonic()
    guest = Guest(view)
    try:
        with view.live():
            guest.machine.power_on()
            guest.start = time.monotonic()
            try:
                for chapter in CHAPTERS:
                    view.mark(guest.now(), "")
                    chapter(guest, view)
            except Unfinished as error:
                view.check(str(error), f"{guest.stale} stale so far", False)
        if guest.machine.failure is not None:
            raise guest.machine.failure
        book(guest, view)
    finally:
        guest.close()
    held = view.verdict(time.monotonic() - began)
    if svg is not None:
        view.save_svg(svg)
    return 0 if held else 1


def main() -> int:
    """`python -m cpu_proc.demo [--svg FILE]`."""
    parser = argparse.ArgumentParser(prog="python -m cpu_proc.demo", description=run.__doc__)
    parser.add_argument("--svg", metavar="FILE", help="also write a picture of the run there")
    try:
        svg = parser.parse_args().svg
        return run(svg and writable("--svg", svg))
    except UserError as error:
        print(f"coldboot: {error.text}", file=sys.stderr)
        return USER_ERROR_EXIT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
