"""What a random program must report: the reference interpreter runs it.

The problem: an oracle must not share what is being tested. The reference hart keeps no records, no
lookups and no regions: it fetches every instruction anew. Round it there is only what programs
touch: RAM, a serial port that is always ready, and a finisher that ends or resets.

Invariant: a reset does here what the machine promises: the image is copied again, the rest of RAM
is kept, the hart begins at the image's start.

Read next: `protocol/riscv/reference.py`, `random_program.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from protocol.riscv.reference import Memory, ReferenceHart

RAM_BASE = 0x8000_0000
RAM_SIZE = 16 << 20
UART, FINISHER = 0x1000_0000, 0x10_0000
STATE = {"mstatus": 2**32 - 1, "mepc": -1, "mcause": -1, "mtval": -1, "satp": -1, "frm": 7}
"""What counts of a hart besides its registers, for `state_hash`, and which bits of it (not the
constant ones of mstatus, which the two keep in different places)."""
STEPS = 3_000_000
PASS, RESET = 0x5555, 0x7777


class OutOfSteps(Exception):
    """The program did not end."""


@dataclass
class Uart:
    """A serial port that has always room, and at once an answer to a program's wish."""

    said: bytearray = field(default_factory=bytearray)
    answers: int = 0

    def read(self, offset: int, size: int) -> int:
        if offset == 0 and self.answers:
            self.answers -= 1
            return ord("k")
        return 0x60 | (self.answers > 0) if offset == 5 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset != 0:
            return
        self.said.append(value & 0xFF)
        if value & 0xFF == ord("\n") and self.said.split(b"\n")[-2].startswith(b"!"):
            self.answers += 1


@dataclass
class Finisher:
    """Ends the run, or asks for a reset."""

    value: int = 0

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.value = value & 0xFFFF


@dataclass(frozen=True)
class Expectation:
    """What the reference says: the reported values, instructions executed, and the final state."""

    values: tuple[int, ...]
    instructions: int
    state: str


def expect(image: bytes, steps: int = STEPS) -> Expectation:
    """Run an image on one reference hart. Raises OutOfSteps."""
    memory, uart, finisher = Memory(), Uart(), Finisher()
    ram = memory.add_ram(RAM_BASE, RAM_SIZE)
    memory.devices += [(UART, 8, uart), (FINISHER, 4, finisher)]
    hart = ReferenceHart(memory, RAM_BASE)
    ram[: len(image)] = image
    left = steps
    while finisher.value != PASS:
        finisher.value = 0
        done = hart.run(left, until=lambda: finisher.value != 0)
        left -= done
        if left <= 0 or not finisher.value:
            raise OutOfSteps(
                f"still running after {steps} steps; it said {bytes(uart.said[-80:])!r}"
            )
        if finisher.value == RESET:
            ram[: len(image)] = image
            hart.reset(RAM_BASE)
    lines = uart.said.decode("ascii", "replace").splitlines()
    values = tuple(int(line[1:]) for line in lines if line.startswith("="))
    return Expectation(values, hart.count, state_hash(hart, bytes(ram)))


def state_hash(hart: Any, ram: bytes) -> str:
    """A hash of a hart's registers and of memory; of the reference's hart or of a machine's."""
    digest = hashlib.blake2b(digest_size=16)
    state = (getattr(hart, name) & mask for name, mask in STATE.items())
    for value in (*hart.x[:32], *hart.f[:32], *state):
        digest.update((value & 2**64 - 1).to_bytes(8, "little"))
    digest.update(ram)
    return digest.hexdigest()
