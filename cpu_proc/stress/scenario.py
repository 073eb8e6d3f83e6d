"""Scenarios: guest programs that end in "run this and compare what it returned".

The problem: a scenario must run unchanged on every tier, with one hart or several, on this emulator
and on others, and say by itself what it expects. So it is one file of assembly, `scenarios/*.s`,
whose leading `#:` lines are all there is besides the program:

    #: M1  a device writes memory that holds code
    #: expect 1 2 3 4 5 6
    #: harts 2                 at least so many (default 1); the program then has a `secondary`
    #: option pflash           needed of the machine: words of `OPTIONS`
    #: tier0-only why          or `no-regions why`: no region is expected to be published

`expect` lists the values that the guest reports, in order; `1|2` where the architecture allows more
than one, `1*100` for repetition, `*` for any value. What each program may use (`report`, `ask`,
`warm`, the stacks, the equates) is in `prelude.s`; `MODES` gives its WARM and ROUNDS.

Invariant: what a guest printed alone decides (`judge`). A scenario that reports nothing, or too
little, has failed.

Read next: `prelude.s`, `trial.py`, docs/stale-code.md.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.errors import UserError
from protocol.mutants import MUTANTS

if TYPE_CHECKING:
    from protocol.riscv.assembler import Program

FOLDER = Path(__file__).parent / "scenarios"
PRELUDE = Path(__file__).parent / "prelude.s"
RAM_BASE = 0x8000_0000
OPTIONS = (
    *("pflash", "disk", "boot-remap", "svade", "bigram"),
    *("wrap", "icount", "aged", "small-space"),
)
"""`pflash`: both banks in files. `disk`: a virtio-blk drive (`#: disk` text). `boot-remap`: that
controller. `svade`: no hardware A/D updates. `bigram`: 6 GiB, so that RAM crosses 4 GiB. `wrap`:
counters begin near their maximum. `icount`: time is counted. `aged`: the program has run before on
the same caches, without `icount`. `small-space`: room for 64 KiB of code, in a translator that is
no child of the machine's."""
MAX_HARTS = 4


@dataclass(frozen=True)
class Mode:
    """How code gets to be executed. `warm`: calls before code counts as hot; `rounds`: changes.
    `translator`, `backend`: as in `RunOptions`.
    """

    name: str
    translator: str
    threshold: int
    warm: int
    rounds: int
    backend: str = ""


MODES = {
    mode.name: mode
    for mode in (
        Mode("tier0", "none", 1024, 3, 50),
        Mode("regions", "embedded", 1, 3, 4),
        Mode("mixed", "embedded", 64, 1_000_000, 4),
    )
}


@dataclass(frozen=True)
class Scenario:
    """One guest program and what it must report. `name`: the file's, without suffix."""

    name: str
    mutant: str
    title: str
    text: str
    expect: tuple[frozenset[int] | None, ...]
    harts: int = 1
    options: frozenset[str] = frozenset()
    without_regions: str = ""
    """Why no region is published, where that is so."""
    tier0_only: str = ""
    disk: str = ""
    """What the drive holds: a label of the program from which on, or empty for zeros."""
    one_image: bool = False
    """The program is the same in all modes, by tier 0's constants."""

    def source(self, mode: Mode, rounds: int | None = None) -> str:
        """The whole program for a mode."""
        mode = MODES["tier0"] if self.one_image else mode
        equates = f".equ WARM, {mode.warm}\n.equ ROUNDS, {rounds or mode.rounds}\n"
        kind = {"tier0": 0, "regions": 1, "mixed": 2}[mode.name]
        equates += f".equ MODE, {kind}\n"
        default = "" if re.search(r"^secondary:", self.text, re.M) else DEFAULT_SECONDARY
        return f"{equates}{PRELUDE.read_text(encoding='utf-8')}\n{default}\n{self.text}\n{STACKS}"

    def expected(self, mode: Mode, rounds: int | None = None) -> list[frozenset[int] | None]:
        """The allowed values of each report. The last word's `*ROUNDS` is the mode's number."""
        return list(_expectation(_header(self.text)["expect"], rounds or mode.rounds))

    def assemble(self, mode: Mode, rounds: int | None = None) -> Program:
        """The image, at the start of RAM."""
        from protocol.riscv.assembler import assemble

        return assemble(self.source(mode, rounds), RAM_BASE, name=f"{self.name}.s")

    def judge(self, mode: Mode, values: list[int], rounds: int | None = None) -> str:
        """Empty if the guest saw what it must; else the first value that is wrong."""
        expected = self.expected(mode, rounds)
        for number, allowed in enumerate(expected):
            if number >= len(values):
                return f"report {number + 1} of {len(expected)} is missing"
            if allowed is not None and values[number] not in allowed:
                wanted = " or ".join(map(str, sorted(allowed)))
                return f"report {number + 1}: {values[number]} where {wanted} was expected"
        if len(values) > len(expected):
            return f"{len(values)} reports where {len(expected)} were expected"
        return ""

    def verdict(
        self,
        mode: Mode,
        values: list[int],
        said: list[str],
        *,
        late: bool = False,
        rounds: int | None = None,
    ) -> tuple[str, str]:
        """What a run was, of the values and lines that the guest printed: a kind and its reason.

        `passed`; `stale`: a wrong value, or one too many; `late`; `trap`: an exception that the
        program did not ask for; `ended`: too few values.
        """
        reason = self.judge(mode, values, rounds)
        expected = self.expected(mode, rounds)
        wrong = any(
            allowed is not None and value not in allowed
            for value, allowed in zip(values, expected, strict=False)
        )
        trap = next((line for line in said if line.startswith("trap ")), "")
        if wrong or len(values) > len(expected):
            return "stale", reason
        if late:
            return "late", reason
        if trap:
            return "trap", trap
        return ("ended", reason) if reason else ("passed", "")

    def drive(self, program: Program) -> bytes:
        """What the drive holds that a scenario with the option `disk` asks for."""
        if not self.disk:
            return bytes(1 << 20)
        start, end = (program.symbols[name] - RAM_BASE for name in (self.disk, f"{self.disk}_end"))
        data = program.data[start:end]
        return data + bytes(-len(data) % 512)


# Harts that a scenario has no use for: odd ones spin on shared code, even ones sleep.
DEFAULT_SECONDARY = """
secondary:
    andi t0, a0, 1
    beqz t0, 2f
1:
    addi t1, t1, 1
    j 1b
2:
    wfi
    j 2b
"""
STACKS = """
    .data
    .align 12
    .space 4096 * 8
stacks_end:
"""


@functools.cache
def load_all() -> dict[str, Scenario]:
    """All scenarios by name, in the order of their classes."""
    found = [read(path) for path in FOLDER.glob("*.s")]
    found.sort(key=lambda s: (int(s.mutant[1:]), s.name))
    return {s.name: s for s in found}


def read(path: Path) -> Scenario:
    """The scenario of a file. Raises UserError when its header makes no sense."""
    text = path.read_text(encoding="utf-8")
    head = _header(text)
    match = re.fullmatch(r"(M\d+)\s+(.+)", head.get("title", ""))
    if match is None or match[1] not in MUTANTS or "expect" not in head:
        raise UserError(f"{path}: begins with `#: M<n>  title` and has a line `#: expect VALUES`")
    options = frozenset(head.get("option", "").split())
    if unknown := options - set(OPTIONS):
        raise UserError(f"{path}: unknown option {', '.join(sorted(unknown))}; there are {OPTIONS}")
    return Scenario(
        name=path.stem,
        mutant=match[1],
        title=match[2],
        text=text,
        expect=_expectation(head["expect"], 1),
        harts=int(head.get("harts", "1")),
        options=options,
        without_regions=head.get("no-regions", ""),
        tier0_only=head.get("tier0-only", ""),
        disk=head.get("disk", ""),
    )


def number(symbols: Mapping[str, int], word: str) -> int:
    """A number, or the value of a symbol of the program (`name+4` too)."""
    name, _, more = word.partition("+")
    value = symbols.get(name)
    return (int(name, 0) if value is None else value) + int(more or "0", 0)


def _header(text: str) -> dict[str, str]:
    head: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith("#:"):
            break
        content = line[2:].strip()
        word, _, rest = content.partition(" ")
        if not head:
            head["title"] = content
        elif word in ("expect", "option") and word in head:
            head[word] += " " + rest
        elif word in ("expect", "harts", "option", "no-regions", "tier0-only", "disk"):
            head[word] = rest.strip()
    return head


def _expectation(text: str, rounds: int) -> tuple[frozenset[int] | None, ...]:
    values: list[frozenset[int] | None] = []
    for word in text.split():
        one, _, times = word.partition("*") if word != "*" else (word, "", "")
        allowed = None if one in ("*", "") else frozenset(int(v, 0) for v in one.split("|"))
        values += [allowed] * (rounds if times == "ROUNDS" else int(times or "1"))
    return tuple(values)
