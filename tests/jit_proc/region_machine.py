"""A hart in this process that runs translated regions, beside the reference interpreter.

The problem: a region is right when a guest cannot tell it from the architecture, wherever it is
entered and wherever it is left. So a small guest is run three times from one state: by the
reference, in tier 0, and with a region made of its page by the whole way of the translator (lifter,
LLVM, linker) and published into its records; and stopped at any count, it must stand where the
reference stands after that many instructions.

Invariants: a program ends in `wfi` at STOP or, after a trap, at TRAP; nothing of one run is left to
the next but the page's record array, without what was decoded in it.

Read next: `test_filetests.py`, `tests/engine_harness.py`.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cpu_proc import native
from cpu_proc.records import Region
from jit_proc.job import Job, Translation
from jit_proc.lift import translate
from protocol import layout
from protocol.layout import PAGE_SIZE, SLOTS_PER_PAGE
from protocol.riscv.assembler import Program, assemble
from protocol.riscv.reference import Memory, ReferenceHart
from tests import native_code
from tests.engine_harness import RAM, EngineMachine, Stopped

RAM_SIZE = 1 << 18
CODE = RAM + 0x1000  # the page that regions are made of
STOP = RAM + 0x8000
TRAP = RAM + 0x9000
DATA = RAM + 0x1_0000
SYMBOLS = {"CODE": CODE, "STOP": STOP, "TRAP": TRAP, "DATA": DATA, "RAM": RAM, "HOLE": 0x4000_0000}
PAGE = (CODE - RAM) // PAGE_SIZE
FS = {"off": 0, "initial": 1 << 13, "clean": 2 << 13, "dirty": 3 << 13}
MANY = 100_000


@dataclass(frozen=True)
class Start:
    """A program and the state it begins in. Registers by number, memory by address."""

    program: Program
    pc: int
    x: Mapping[int, int] = field(default_factory=dict)
    f: Mapping[int, int] = field(default_factory=dict)
    memory: Mapping[int, bytes] = field(default_factory=dict)
    fs: str = "dirty"
    frm: int = 0


@dataclass(frozen=True)
class Outcome:
    """All that a guest could see, and the count."""

    pc: int
    count: int
    x: tuple[int, ...]
    f: tuple[int, ...]
    fflags: int
    mcause: int
    mepc: int
    mtval: int
    memory: bytes


def guest(text: str) -> Program:
    """Assemble a guest for `CODE`; the places of this module are known to it by name."""
    known = "".join(f".equ {name}, {value:#x}\n" for name, value in SYMBOLS.items())
    return assemble(known + text, CODE)


def _memory(start: Start) -> Iterable[tuple[int, bytes]]:
    wait = assemble("1: wfi\n j 1b").data
    yield from ((STOP, wait), (TRAP, wait), (CODE, start.program.data), *start.memory.items())


def run_reference(start: Start, count: int = MANY, *, trapped: bool = False) -> Outcome:
    """`count` instructions, or to the end; with `trapped`, one trap more."""
    memory = Memory()
    ram = memory.add_ram(RAM, RAM_SIZE)
    for address, data in _memory(start):
        ram[address - RAM : address - RAM + len(data)] = data
    hart = ReferenceHart(memory, start.pc)
    hart.mtvec, hart.mstatus, hart.frm = TRAP, FS[start.fs], start.frm
    for number, value in start.x.items():
        hart.x[number] = value
    for number, value in start.f.items():
        hart.f[number] = value
    while hart.count < count and not hart.waiting:
        hart.step()
        assert hart.count < MANY, "the program does not end"
    if trapped:
        hart.step()
        assert hart.count == count, "no trap is taken here"
    return Outcome(
        *(hart.pc, hart.count, tuple(hart.x), tuple(hart.f), hart.accrued),
        *(hart.mcause, hart.mepc, hart.mtval, bytes(ram)),
    )


class RegionMachine(EngineMachine):
    """A machine that takes regions for `CODE`'s page."""

    def __init__(self) -> None:
        super().__init__(RAM_SIZE)
        self.retired: list[int] = []  # how many regions each EXIT_RETIRE took back
        self.generations: list[int] = []  # of each page, when a program began
        self.stores = 0  # the hart's stores to tracked lines then

    def begin(self, start: Start) -> None:
        """The state of `start`; records stay, as far as the bytes they stand for do."""
        state = self.state
        wanted = bytearray(RAM_SIZE)
        for address, data in _memory(start):
            wanted[address - RAM : address - RAM + len(data)] = data
        for at in range(0, RAM_SIZE, PAGE_SIZE):
            if self.ram[at : at + PAGE_SIZE] != wanted[at : at + PAGE_SIZE]:
                self.load(RAM + at, bytes(wanted[at : at + PAGE_SIZE]))
        self.hart.reset(start.pc)
        self.fflags = 0
        state.mtvec, state.count, state.attention = TRAP, 0, 0
        state.mstatus |= FS[start.fs]
        state.frm = start.frm
        state.mxcsr = state.mxcsr & ~0x6000 | (0, 3, 1, 2, 0)[start.frm] << 13
        state.time_offset = 0
        for number, value in start.x.items():
            state.x[number] = value
        for number, value in start.f.items():
            state.f[number] = value
        self.retired = []
        self.error = None
        pages = range(RAM_SIZE // PAGE_SIZE)
        self.generations = [self.records.generation(page) for page in pages]
        self.stores = int(state.stat_stores)

    def undecode(self) -> None:
        """Forget what tier 0 decoded in the page, and every region of it."""
        self.records.retire_regions(PAGE, 2**64 - 1)
        records = self.page_records()
        for slot in range(SLOTS_PER_PAGE):
            records[2 * slot] = self.records.decode

    def page_records(self) -> ctypes.Array[ctypes.c_uint64]:
        array = self.control.pages[PAGE * layout.PAGE.size // 8]
        assert array, "the page has no records yet"
        return native.words(array, 2 * SLOTS_PER_PAGE)

    def in_tier_0(self) -> list[int]:
        """Offsets of the page whose records tier 0 filled."""
        handlers = {self.records.decode}
        for region in self.records.regions.get(PAGE, ()):
            handlers |= {address for _, address in region.entries}
        records = self.page_records()
        return [2 * slot for slot in range(SLOTS_PER_PAGE) if records[2 * slot] not in handlers]

    def publish(self, translation: Translation, image: native_code.Image) -> Region:
        """Point the records of the entries at the region; the page is tracked already."""
        self.control.pages[(PAGE * layout.PAGE.size + layout.PAGE.offset("lines")) // 8] |= 1
        self.hart.flush()
        entries = [(slot, image.base + image.symbols[n]) for slot, n in translation.entries.items()]
        region = self.records.publish(PAGE, translation.lines, entries)
        assert region is not None
        return region

    def run(self, instructions: int = MANY) -> int:
        """Run to the end, or until so many instructions are done (and control is transferred)."""
        state = self.state
        state.stop_count = state.count + instructions
        state.limit = 0
        while True:
            reason = self.hart.run()
            if self.error is not None:
                raise Stopped from self.error
            if reason == layout.EXIT_RETIRE:
                self._retire()
            elif reason == layout.EXIT_POOL:
                self.forget()
            elif reason == layout.EXIT_HOT:
                state.hot_count = 0
            elif reason in (layout.EXIT_WAIT, layout.EXIT_STOP):
                if state.exit_lines:
                    self._retire()
                return reason

    def _retire(self) -> None:
        """What the machine does at EXIT_RETIRE."""
        state = self.state
        page = self.records.page_of(state.exit_page)
        pages = list(self.records.regions) if state.exit_page == 0 else [page]
        lines = state.exit_lines if state.exit_page else 2**64 - 1
        self.retired.append(
            sum(self.records.retire_regions(p, lines) for p in pages if p is not None)
        )
        state.exit_lines = 0

    def outcome(self) -> Outcome:
        state = self.state
        return Outcome(
            *(int(state.pc), int(state.count), (*state.x[:32],), (*state.f,), self.fflags),
            *(int(state.mcause), int(state.mepc), int(state.mtval), bytes(self.ram)),
        )


@functools.cache
def machine() -> RegionMachine:
    """One for all tests of a process."""
    return RegionMachine()


def lift(start: Start, entries: Iterable[int], state: int = 0) -> Translation:
    """Translate the page of `CODE` for entries at these addresses."""
    data = start.program.data
    content = data[:PAGE_SIZE] + bytes(max(0, PAGE_SIZE - len(data)))
    slots = tuple(sorted((address - CODE) // 2 for address in entries))
    return translate(Job(PAGE, content, slots, state))


def compile_region(translation: Translation) -> native_code.Image:
    """Native code of a region, mapped."""
    return native_code.build(
        translation.ir, translation.passes, translation.level, translation.isel
    )


def differences(expected: Outcome, found: Outcome) -> list[str]:
    """What is not the same, by name."""
    shown = []
    for name in ("pc", "count", "fflags", "mcause", "mepc", "mtval"):
        a, b = getattr(expected, name), getattr(found, name)
        if a != b:
            shown.append(f"{name}: expected {a:#x}, found {b:#x}")
    for name in ("x", "f"):
        for i, (a, b) in enumerate(zip(getattr(expected, name), getattr(found, name), strict=True)):
            if a != b:
                shown.append(f"{name}{i}: expected {a:#x}, found {b:#x}")
    for at in range(0, RAM_SIZE, 8):
        a, b = expected.memory[at : at + 8], found.memory[at : at + 8]
        if a != b:
            shown.append(f"{RAM + at:#x}: expected {a.hex()}, found {b.hex()}")
    return shown


def run_tier_0(start: Start, count: int = MANY) -> Outcome:
    """By the engine alone, from nothing decoded."""
    here = machine()
    here.forget()
    here.records.regions.clear()
    here.begin(start)
    here.run(count)
    return here.outcome()


def run_region(
    start: Start, translation: Translation, image: native_code.Image, count: int = MANY
) -> Outcome:
    """With the region published, and every TLB empty. `run_tier_0` must have made the records."""
    here = machine()
    here.begin(start)
    here.undecode()
    here.publish(translation, image)
    here.run(count)
    return here.outcome()
