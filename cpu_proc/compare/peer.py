"""What an emulator has to offer to be compared: one class with three methods.

The problem: emulators differ in all but what a guest sees of them. So a `Peer` is given a `Guest`
(a program and what it needs) and gives back a `Cell` (what came of it). Most are processes with a
serial line; `Dialogue` is what they have in common: it reads the guest's lines, has its wishes
granted, and keeps the time.

Invariants:
- A wish (`!verb`) that the emulator cannot grant ends the run as `not possible`, with the reason:
  never as passed, since the event did not happen, and never as a failure.
- Every wait has a deadline. An emulator's process is gone when `run` returns.

Read next: `qemu.py` (a peer with verbs), `spike.py` (one without).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cpu_proc.stress.scenario import Mode, Scenario

if TYPE_CHECKING:
    from protocol.riscv.assembler import Program

IMPOSSIBLE = "not possible"
DONE = b"k"
ILLEGAL = 2  # mcause of an illegal instruction
SYSTEM = 0x73  # the opcode of CSR instructions
KEPT = 2000  # characters of an emulator's own words
WAITS = ("settle", "ready", "regions", "slow")
"""Verbs that wait for a translator in a process of its own, or delay it: without one, nothing is
to be done."""


class Impossible(Exception):
    """What a guest needs is not there. Its text says what and why."""


@dataclass(frozen=True)
class Guest:
    """A scenario's program, as one emulator is to run it.

    `path`: the scenario's file. `patience`: seconds. `folder`: for files, empty at first.
    """

    path: Path
    scenario: Scenario
    mode: Mode
    harts: int
    folder: Path
    patience: float

    def program(self) -> Program:
        """The image, for the start of RAM."""
        return self.scenario.assemble(self.mode)

    def disk(self, program: Program) -> bytes:
        """What the drive holds that the scenario asks for."""
        return self.scenario.drive(program)

    def needs(self, *options: str) -> list[str]:
        """Those of `options` that the scenario needs."""
        return [option for option in options if option in self.scenario.options]


@dataclass(frozen=True)
class Cell:
    """What came of one guest on one emulator: `kind` is one of `trial.Outcome`'s or `IMPOSSIBLE`.

    `detail`: the first wrong value, or the reason.
    """

    kind: str
    detail: str = ""
    values: tuple[int, ...] = ()
    seconds: float = 0.0


class Peer(ABC):
    """An emulator, as one column of the table."""

    name: str

    @abstractmethod
    def version(self) -> str:
        """Its name and version for people, as `QEMU 7.2.22`. Only asked if it is there."""

    @abstractmethod
    def missing(self) -> str:
        """Empty, or why it cannot be used here and what to do."""

    @abstractmethod
    def run(self, guest: Guest) -> Cell:
        """Run a guest to its end, or for as long as it may take."""


Verb = Callable[..., bytes | None]


@dataclass
class Dialogue:
    """A guest that speaks by a stream of bytes.

    `receive(seconds)` gives what came, empty at the end, None if nothing did; `send` is the way
    back; `verbs` are what can be done for the guest, by name. A verb returns the byte of answer.
    """

    guest: Guest
    receive: Callable[[float], bytes | None]
    send: Callable[[bytes], None]
    verbs: Mapping[str, Verb] = field(default_factory=dict)
    values: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def go(self) -> Cell:
        """Listen until the guest ends or its time is over; what came of it."""
        began = time.monotonic()
        late = False
        rest = b""
        try:
            while not late:
                data = self.receive(0.2)
                if data == b"":
                    break
                *lines, rest = (rest + (data or b"")).split(b"\n")
                for line in lines:
                    self._hear(line.decode("ascii", "replace").strip("\r"))
                late = time.monotonic() > began + self.guest.patience
        except Impossible as reason:
            return Cell(IMPOSSIBLE, str(reason))
        kind, detail = self.guest.scenario.verdict(
            self.guest.mode, self.values, self.said, late=late
        )
        return Cell(kind, detail, tuple(self.values), time.monotonic() - began)

    def _hear(self, line: str) -> None:
        self.said.append(line)
        if missing := self._absent_csr(line):
            raise Impossible(f"no such CSR: {missing}")
        if line.startswith("=") and line[1:].isdecimal():
            self.values.append(int(line[1:]))
        elif line.startswith("!"):
            verb, *words = line[1:].split()
            if verb in WAITS:
                self.send(DONE)
                return
            if verb not in self.verbs:
                raise Impossible(f"no such event: {verb}")
            answer = self.verbs[verb](*words)
            if answer is not None:
                self.send(answer)

    def _absent_csr(self, line: str) -> str:
        """The CSR that an unexpected trap (`trap CAUSE EPC`) was about, if it was about one."""
        words = line.split()
        if words[:2] != ["trap", str(ILLEGAL)] or len(words) != 3:
            return ""
        program = self.guest.program()
        at = int(words[2]) - program.base
        word = int.from_bytes(program.data[at : at + 4], "little") if at >= 0 else 0
        if word & 0x7F != SYSTEM or not word >> 12 & 3:
            return ""
        from protocol.riscv.operands import csr_name

        return csr_name(word >> 20)


def reader(descriptor: int) -> Callable[[float], bytes | None]:
    """A `Dialogue.receive` for a pipe or a socket."""

    def receive(seconds: float) -> bytes | None:
        if not select.select([descriptor], [], [], seconds)[0]:
            return None
        try:
            return os.read(descriptor, 1 << 16)
        except ConnectionResetError:
            return b""

    return receive


def end(process: subprocess.Popen[bytes]) -> None:
    """See to it that a process is gone."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait()
