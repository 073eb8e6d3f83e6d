"""What a retirement of everything costs a machine: a process of `retirement.py`, one JSON line out.

    python benchmarks/retirement_machine.py resets LIVE COUNT
    python benchmarks/retirement_machine.py spin HARTS COUNT

`resets`: a guest makes chains of small functions and runs them until LIVE translations are there,
then resets itself, COUNT times over. Milliseconds a reset, from the machine's book of retirements;
and from the guest's view, from its store to the finisher to its first instruction after.

`spin`: HARTS harts in one-instruction loops; everything is retired COUNT times. Milliseconds from
the call to the last hart out of native code, and until the translator had let go.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cpu_proc import options
from cpu_proc.machine import SWITCH_INTERVAL, Machine
from protocol.riscv.assembler import assemble

RAM = 0x8000_0000
NOTES = RAM + 0x1_0000  # magic, time of the last reset, microticks of the last, go
CHAINS = RAM + 0x10_0000
MAGIC = 0x5E7
PAGES = 8000  # that functions lie in; a machine has records for 8192
PATIENCE = 3600.0  # seconds for all the translations to be made

# s0 notes, s1 pages, s2 columns: function (page, column) adds 1 and jumps to the next page's, and
# the last page's returns. Column after column is run until the host says go on.
GROW = f"""
    csrr t0, mhartid
    bnez t0, park
    li s0, {NOTES}
    li t1, {MAGIC}
    ld t0, 0(s0)
    csrr t2, time
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
    csrr t0, time
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
    machine = make(text, "-m", f"{memory}M")
    book, seen, grown = [], [], []

    def word(offset: int) -> int:
        return int.from_bytes(machine.memory.read(NOTES + offset, 8), "little")

    try:
        machine.power_on()
        for number in range(count):
            start = time.monotonic()
            for column in range(columns):
                wanted = min(live, (column + 1) * pages)
                until("growth", lambda w=wanted: machine.records.region_count >= w, PATIENCE)
                grown.append(machine.records.region_count)
                if column + 1 < columns:
                    machine.memory.write(NOTES + 24, (column + 1).to_bytes(8, "little"))
            took = time.monotonic() - start
            before = word(16)
            machine.memory.write(NOTES + 24, columns.to_bytes(8, "little"))
            until("reset", lambda n=number, b=before: machine.resets > n and word(16) != b, 60.0)
            event = [e for e in machine.retirement.history if e.cause == "system_reset"][-1]
            book.append(event)
            seen.append(word(16) / 1e4)
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


def spin(harts: int, count: int) -> dict[str, object]:
    """COUNT retirements of everything while HARTS harts spin."""
    machine = make(SPIN, "-m", "16M", "-smp", str(harts))
    try:
        machine.power_on()
        link = machine.translator
        assert link is not None
        until("the translator", lambda: link.incarnation, 60.0)
        for _ in range(count):
            machine.host.retire()
            time.sleep(0.002)  # harts spin again
        events = list(machine.retirement.history)[-count:]
    finally:
        machine.close()

    def both(values: list[float]) -> dict[str, float]:
        ranks = statistics.quantiles(values, n=100)
        return {"p50": ranks[49], "p99": ranks[98]}

    return {
        "waited_ms": both([e.waited_ms for e in events]),
        "records_ms": both([e.records_ms for e in events]),
        "translator_ms": both([e.translator_ms for e in events]),
    }


def main() -> int:
    """One measurement."""
    what, *numbers = sys.argv[1:]
    found = {"resets": resets, "spin": spin}[what](*(int(n) for n in numbers))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
