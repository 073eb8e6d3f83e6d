"""What a retirement of everything costs a machine: a process of `retirement.py`, one JSON line out.

    python benchmarks/retirement_machine.py resets LIVE COUNT
    python benchmarks/retirement_machine.py events HARTS COUNT
    python benchmarks/retirement_machine.py program TRACKING SECONDS
    python benchmarks/retirement_machine.py patches COUNT

`resets`: a guest makes chains of small functions and runs them until LIVE translations are there,
then resets itself, COUNT times over. The translator is a service that remembers what it made of
equal bytes (`--store memory`): pages are alike, so that 100,000 regions, each with messages, a
place in the code segment and records of its own, are a matter of minutes. Milliseconds a reset, by
the machine's book of retirements; and from the guest's view, from its store to the finisher to its
first instruction after.

`events`: milliseconds from an event to the last of HARTS harts out of old code, 50th and 99th
percentile. `store`: hart 0 stores over a function that all harts call in loops; it waits, by the
guest's clock, until each has executed the new one. `request` and `reset`, by the machine's book:
the host has everything retired, and the machine reset.

`program`: a program that never changes its code, with an engine that tracks stores (1) or whose
tracking is left out (0): the least and the median milliseconds of a round of it, in the second half
of so many seconds.

`patches`: COUNT changes of code that is run in between, while a second hart is stopped, and all the
time everything is retired, over and over. What there is of records at the end, and the most code
segments that machine and translator had mapped at any time, of so many epochs: one is the present
one; the translator's second is the next, empty, or the last, not yet given back.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cpu_proc import options
from cpu_proc.machine import SWITCH_INTERVAL, Machine
from cpu_proc.records import Region
from cpu_proc.retirement import Event
from protocol.layout import PAGE
from protocol.riscv.assembler import assemble

RAM = 0x8000_0000
NOTES = RAM + 0x1_0000  # magic, time of the last reset, nanoseconds of the last, go
CHAINS = RAM + 0x10_0000
MAGIC = 0x5E7
PAGES = 8000  # that functions lie in; a machine has records for 8192
GROWN = 0.97  # of the translations that are wanted: here and there two of a page are made one
THRESHOLD = "16"  # executions that make code hot: what is measured comes after
PATIENCE = 3600.0  # seconds for all the translations to be made

# s0 notes, s1 pages, s2 columns: function (page, column) adds 1 and jumps to the next page's, and
# the last page's returns. Column after column is run until the host says go on.
GROW = f"""
    .equ RTC, 0x101000
    csrr t0, mhartid
    bnez t0, park
    li s0, {NOTES}
    li t1, {MAGIC}
    ld t0, 0(s0)
    li t4, RTC                      # the only clock that a reset leaves alone
    lwu t2, 0(t4)
    lwu t5, 4(t4)
    slli t5, t5, 32
    or t2, t2, t5
    bne t0, t1, 1f
    ld t3, 8(s0)
    sub t2, t2, t3
    sd t2, 16(s0)
1:  sd t1, 0(s0)
    li s1, PAGES
    li s2, COLUMNS
    li t0, {CHAINS}
    li t6, 1
    ld t4, code
    ld t5, last
2:  mv t3, t0
    mv t1, s2
    mv t2, t4
    bne s1, t6, 3f
    mv t2, t5
3:  sd t2, 0(t3)
    addi t3, t3, 64
    addi t1, t1, -1
    bnez t1, 3b
    li t1, 4096
    add t0, t0, t1
    addi s1, s1, -1
    bnez s1, 2b
    fence.i
    li s3, 0                        # column
4:  li s4, {CHAINS}
    slli t0, s3, 6
    add s4, s4, t0
5:  jalr s4
    ld t0, 24(s0)                   # the column that is wanted
    beq t0, s3, 5b
    mv s3, t0
    bne t0, s2, 4b
    sd zero, 24(s0)
    li t4, RTC
    lwu t0, 0(t4)
    lwu t5, 4(t4)
    slli t5, t5, 32
    or t0, t0, t5
    sd t0, 8(s0)
    li t0, 0x7777
    li t1, 0x100000
    sw t0, 0(t1)
park:
    wfi
    j park
    .align 3
code:
    addi a0, a0, 1
    j code + 4096
last:
    addi a0, a0, 1
    ret
"""
SPIN = "1: j 1b"
PROGRAM = f"""
    csrr t0, mhartid
    bnez t0, park
    li s0, {NOTES}
    li sp, {NOTES}
round:
    csrr s1, time
    li s2, 40                       # rounds of a sieve, of copies and of calls
1:  li t0, {RAM + 0x20_0000}
    li t1, 0x8000
    add t1, t1, t0
2:  sd s2, 0(t0)
    addi t0, t0, 8
    bne t0, t1, 2b
    li s4, 3
3:  li t0, {RAM + 0x20_0000}
    slli t2, s4, 3
4:  sb s4, 0(t0)
    lbu t3, 1(t0)
    add a0, a0, t3
    add t0, t0, t2
    bltu t0, t1, 4b
    call leaf
    addi s4, s4, 2
    li t4, 99
    bltu s4, t4, 3b
    addi s2, s2, -1
    bnez s2, 1b
    csrr s3, time
    sub s3, s3, s1
    sd s3, 8(s0)
    ld t0, 0(s0)
    addi t0, t0, 1
    sd t0, 0(s0)
    j round
leaf:
    addi sp, sp, -16
    sd ra, 8(sp)
    mul a0, a0, s4
    xor a0, a0, s2
    ld ra, 8(sp)
    addi sp, sp, 16
    ret
park:
    wfi
    j park
"""
PATCH = f"""
    csrr t0, mhartid
    bnez t0, park
    li s0, {NOTES}
    la s7, victim
    li s8, 0x00000513               # li a0, 0
    li s9, 1 << 20
    li s6, COUNT
0:  ld t0, 8(s0)                    # until there is a translator
    beqz t0, 0b
1:  sw s8, 0(s7)
    fence.i
    li t1, 1000
3:  jalr s7
    addi t1, t1, -1
    bnez t1, 3b
    srli t0, s8, 20
    bne a0, t0, 2f
    xor s8, s8, s9
    addi s6, s6, -1
    bnez s6, 1b
2:  sub s6, s6, zero
    addi s6, s6, 1                  # 1 when all went well
    sd s6, 0(s0)
park:
    wfi
    j park
    .balign 4096
victim:
    li a0, 0
    ret
"""

STORES = f"""
    li s0, {NOTES}
    li t0, HARTS
    csrr s1, mhartid
    bgeu s1, t0, park
    slli s2, s1, 6                  # a line of its own for what each hart has seen
    add s2, s2, s0
    bnez s1, others
    la s7, victim
    li s6, COUNT
    li s8, 0x00000513               # li a0, 0
    li s9, 1 << 20
    li s10, {NOTES + 0x1000}             # ticks that each took
1:  csrr t0, time
    li t1, GAP                      # ticks between two stores: the function becomes hot again
    add t1, t0, t1
2:  jal victim
    csrr t0, time
    bltu t0, t1, 2b
    xor s8, s8, s9
    srli s5, s8, 20
    csrr s3, time
    sw s8, 0(s7)
    fence.i
    jal victim
    sd a0, 0(s2)
    mv t2, s0
    li t3, HARTS
3:  ld t0, 0(t2)
    bne t0, s5, 3b
    addi t2, t2, 64
    addi t3, t3, -1
    bnez t3, 3b
    csrr t0, time
    sub t0, t0, s3
    sd t0, 0(s10)
    addi s10, s10, 8
    addi s6, s6, -1
    bnez s6, 1b
    li t0, 1
    sd t0, 32(s0)
park:
    wfi
    j park
others:
    jal victim
    sd a0, 0(s2)
    j others
    .balign 4096
victim:
    li a0, 0
    ret
"""


def make(text: str, *words: str) -> Machine:
    """A machine with this program for its firmware."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    with tempfile.TemporaryDirectory(prefix="retirement-") as folder:
        path = Path(folder, "guest.bin")
        path.write_bytes(assemble(text, RAM).data)
        return Machine(options.parse(["-serial", "null", "-bios", str(path), *words]))


def until(what: str, holds: object, limit: float) -> None:
    """Wait until `holds()`; SystemExit after `limit` seconds."""
    assert callable(holds)
    deadline = time.monotonic() + limit
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not come to pass within {limit:.0f} s")
        time.sleep(0.01)


def resets(live: int, count: int) -> dict[str, object]:
    """COUNT resets with LIVE translations each."""
    columns = min(64, -(-live // PAGES))
    pages = min(PAGES, -(-live // columns))
    text = f".equ PAGES, {pages}\n.equ COLUMNS, {columns}\n{GROW}"
    memory = (pages * 4096 >> 20) + 8
    with tempfile.TemporaryDirectory(prefix="retirement-") as folder:
        endpoint = f"ipc://{folder}/translator"
        command = [sys.executable, "-m", "jit_proc", "--store", "memory"]
        command += ["--code-space", "128M", "--endpoint", endpoint, "--log-level", "warning"]
        translator = subprocess.Popen(command)
        try:
            words = ["-m", f"{memory}M", "-threshold", THRESHOLD, "-translator", endpoint]
            return count_resets(make(text, *words), live, pages, columns, count)
        finally:
            translator.terminate()
            translator.wait()


def count_resets(
    machine: Machine, live: int, pages: int, columns: int, count: int
) -> dict[str, object]:
    """`resets` of a machine whose guest has functions in so many pages and columns."""
    book, seen, grown = [], [], []

    def word(offset: int) -> int:
        return int.from_bytes(machine.memory.read(NOTES + offset, 8), "little")

    try:
        machine.power_on()
        for number in range(count):
            start = time.monotonic()
            for column in range(columns):
                wanted = int(min(live, (column + 1) * pages) * GROWN)
                until("growth", lambda w=wanted: machine.records.region_count >= w, PATIENCE)
                grown.append(machine.records.region_count)
                if column + 1 < columns:
                    machine.memory.write(NOTES + 24, (column + 1).to_bytes(8, "little"))
            took = time.monotonic() - start
            before = word(16)
            machine.memory.write(NOTES + 24, columns.to_bytes(8, "little"))
            until("reset", lambda n=number, b=before: machine.resets > n and word(16) != b, 60.0)
            until("the answer", lambda n=number: len(resets_of(machine)) > n, 60.0)
            book.append(resets_of(machine)[-1])
            seen.append(word(16) / 1e6)
    finally:
        machine.close()
    return {
        "live": [e.details["regions"] for e in book],
        "ms": [e.ms for e in book],
        "records_ms": [e.records_ms for e in book],
        "translator_ms": [e.translator_ms for e in book],
        "guest_ms": seen,
        "seconds_to_grow": took,
    }


def both(values: list[float]) -> dict[str, float]:
    """The median, and what one in a hundred exceeds."""
    ranks = statistics.quantiles(values, n=100)
    return {"p50": ranks[49], "p99": ranks[98]}


def events(harts: int, count: int) -> dict[str, object]:
    """From each kind of event to the last hart out."""
    text = f".equ HARTS, {harts}\n.equ COUNT, {count}\n.equ GAP, 20000\n{STORES}"
    machine = make(text, "-m", "16M", "-smp", str(harts))

    def word(offset: int) -> int:
        return int.from_bytes(machine.memory.read(NOTES + offset, 8), "little")

    try:
        machine.power_on()
        until("the last store", lambda: word(32) == 1, 60.0 + count)
        found = {"store": both([word(0x1000 + 8 * i) / 1e4 for i in range(count)])}
    finally:
        machine.close()
    machine = make(SPIN, "-m", "16M", "-smp", str(harts))
    try:
        machine.power_on()
        link = machine.translator
        assert link is not None
        until("the translator", lambda: link.incarnation, 60.0)
        for number in range(count):
            time.sleep(0.002)  # harts spin again, as after the next
            machine.host.retire()
            time.sleep(0.002)
            machine.request_reset(guest=False)
            until("reset", lambda n=number: len(resets_of(machine)) > n, 60.0)
        found["request"] = both(
            [e.waited_ms for e in machine.retirement.history if e.cause == "request"]
        )
        found["reset"] = both([e.waited_ms for e in resets_of(machine)])
    finally:
        machine.close()
    return dict(found)


def resets_of(machine: Machine) -> list[Event]:
    return [e for e in list(machine.retirement.history) if e.cause == "system_reset"]


def publish_untracked(machine: Machine) -> None:
    """Have regions published for pages that nothing is tracked of, and leave them so."""
    pages, publish = machine.control.pages, machine.records.publish
    words = PAGE.size // 8
    tracked, regions = PAGE.offset("lines") // 8, PAGE.offset("region_lines") // 8

    def untracked(
        page: int, lines: int, entries: Iterable[tuple[int, int]], number: int = 0
    ) -> Region | None:
        pages[page * words + tracked] = lines
        region = publish(page, lines, entries, number)
        pages[page * words + tracked] = pages[page * words + regions] = 0
        return region

    machine.records.publish = untracked  # type: ignore[method-assign]


def program(tracking: int, seconds: int) -> dict[str, object]:
    """Milliseconds a round of a program that never changes its code."""
    if not tracking:
        from cpu_proc import engine as engines
        from cpu_proc import native
        from cpu_proc.engine import Engine
        from jit_proc.engine import build

        code, symbols = build(tracking=False)
        with tempfile.NamedTemporaryFile(prefix="engine-") as file:
            file.write(code)
            file.flush()
            base = native.map_code_copy(file.name, len(code), 0)
        engine = Engine(base, len(code), symbols)
        engines.load = lambda: engine
    machine = make(PROGRAM, "-m", "16M")
    if not tracking:
        publish_untracked(machine)
    rounds: list[float] = []
    try:
        machine.power_on()
        end = time.monotonic() + seconds
        done = 0
        while time.monotonic() < end:
            notes = machine.memory.read(NOTES, 16)
            if (number := int.from_bytes(notes[:8], "little")) != done:
                done = number
                rounds.append(int.from_bytes(notes[8:], "little") / 1e4)
            time.sleep(0.002)
        published = machine.translator.counts["published"] if machine.translator else 0
    finally:
        machine.close()
    late = rounds[len(rounds) // 2 :]
    return {"median": statistics.median(late), "least": min(late), "regions": published}


def segments(pid: int | None) -> int:
    """How many code segments a process has mapped."""
    with contextlib.suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
        return len({line.split()[4] for line in maps if "/memfd:coldboot-code" in line})
    return 0


def patches(count: int) -> dict[str, object]:
    """Change code so often with a hart stopped; what is held at the end."""
    machine = make(f".equ COUNT, {count}\n{PATCH}", "-m", "16M", "-smp", "2")
    try:
        machine.power_on()
        link = machine.translator
        assert link is not None
        until("the translator", lambda: link.incarnation, 60.0)
        machine.memory.write(NOTES + 8, (1).to_bytes(8, "little"))
        start = time.monotonic()
        ours = theirs = samples = 0
        end = start + 600.0 + count / 1000
        while int.from_bytes(machine.memory.read(NOTES, 8), "little") == 0:
            if time.monotonic() > end:
                raise SystemExit("the last patch did not come to pass")
            ours, theirs = max(ours, segments(os.getpid())), max(theirs, segments(link.child_pid))
            samples += 1
            machine.host.retire()
            time.sleep(0.1)
        took = time.monotonic() - start
        arrays = sum(
            (int(hart.state.pool_next) - first) >> 16
            for hart, (first, _) in zip(machine.harts, machine.pools, strict=True)
        )
        return {
            "right": machine.memory.read(NOTES, 8) == (1).to_bytes(8, "little"),
            "segments": ours,
            "translator_segments": theirs,
            "samples": samples,
            "seconds": took,
            "arrays": arrays,
            "regions": machine.records.region_count,
            "translated": link.counts["translated"],
            "epoch": machine.retirement.epoch,
        }
    finally:
        machine.close()


def main() -> int:
    """One measurement."""
    what, *numbers = sys.argv[1:]
    modes: dict[str, Callable[..., dict[str, object]]] = {
        "resets": resets,
        "events": events,
        "program": program,
        "patches": patches,
    }
    found = modes[what](*(int(n) for n in numbers))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
