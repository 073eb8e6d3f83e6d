"""What a TLB may keep: programs that change page tables, PMP, satp and code under their own feet.

The reference interpreter translates every access afresh; tier 0 keeps what it found. A program that
fences as the architecture asks must not see the difference. Each program is a chain of random acts
in M-mode: change an entry of a page table and fence, access memory with another mode's rights
(MPRV), write code and run it in S or U mode at some virtual address, switch the address space,
PMP, SUM, MXR or the updates of A and D. The handler logs each trap and goes on with the next act.
"""

from __future__ import annotations

import functools
import random

import pytest

from protocol.riscv.assembler import assemble
from protocol.riscv.reference import Memory, ReferenceHart
from tests.engine_harness import FINISHER, EngineMachine
from tests.isa.batch import Runner

RAM = 0x8000_0000
RAM_SIZE = 0x60_0000
HANDLER = RAM + 0x10_0000
LOG = RAM + 0x11_0000
ROUNDS = RAM + 0x10_8000
TABLES = RAM + 0x18_0000  # root57, root48, root39, two tables of 4 KiB pages' pointers, leaves
DATA = (RAM + 0x20_0000, RAM + 0x40_0000)  # two times four pages for data and code
DATA_SIZE = 0x4000
HOLE = 0x1000_0000
STEPS = 20_000
ASIDS = (0, 1, 0x8000, 0xFFFF)

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
MPRV, SUM, MXR = 1 << 17, 1 << 18, 1 << 19
ADUE = 1 << 61
GIGA, MEGA, PAGE = 0x4000_0000, 0x4020_0000, 0x4020_1000
# (index of the table, index of the entry, level): each may be a leaf.
SLOTS = [(2, 0, 2), (2, 1, 2), (2, 2, 2), (3, 1, 1), (3, 2, 1)]
SLOTS += [(4, n, 0) for n in range(1, 5)]
ADDRESSES = [0x20_0000, 0x20_3000, GIGA + 0x40_0000, GIGA + 0x40_1000, RAM + 0x20_0000]
ADDRESSES += [PAGE + 0x1000 * n for n in range(4)] + [0xFFFF_FFC0_0000_0000 + 0x20_0000]
ACCESSES = ["ld a0, ({})", "lw a0, ({})", "lbu a0, ({})", "sd a2, ({})", "sh a2, ({})"]
ACCESSES += ["amoadd.w a0, a2, ({})", "lr.d a0, ({})", "fld fa0, ({})"]


def table(index: int) -> int:
    return TABLES + 0x1000 * index


class Acts:
    """A random program's text."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        # A fence for one ASID is not about global mappings, so a program has one or the other.
        self.numbered = self.random.random() < 0.5
        self.lines = [
            f"li t0, {HANDLER}",
            "csrw mtvec, t0",
            "li t0, -1",
            "csrw pmpaddr15, t0",
            f"li t0, {0x1F << 56}",
            "csrw pmpcfg2, t0",
            f"li s10, {LOG}",
            f"li t6, {MPRV}",
            f"li t0, {3 << 13}",
            "csrs mstatus, t0",
            "li a2, 0x1234567",
        ]
        # The upper levels, and a first tree under them.
        for index in (0, 1):
            for entry in (0, 511):
                self.put(table(index) + 8 * entry, table(index + 1) >> 2 | V)
        self.put(table(2), RAM >> 2 | V | R | W | X | A | D)
        self.put(table(2) + 8 * 256, RAM >> 2 | V | R | W | X | A | D)
        self.put(table(2) + 8 * 1, table(3) >> 2 | V)
        self.put(table(3) + 8 * 1, table(4) >> 2 | V)

    def put(self, address: int, value: int) -> None:
        self.lines += [f"li t0, {address}", f"li t1, {value}", "sd t1, (t0)"]

    def text(self, acts: int, rounds: int = 1) -> str:
        self.lines += [f"li t0, {rounds}", f"li t1, {ROUNDS}", "sd t0, (t1)", "again:"]
        kinds = [self.entry] * 5 + [self.access] * 8 + [self.run] * 4
        kinds += [self.space] * 2 + [self.protection, self.updates]
        self.space()
        for number in range(acts):
            # A jump of its own: a translator takes what follows for hot in its time.
            self.lines += ["j 1f", f"1: la s11, act{number}"]
            self.random.choice(kinds)()
            self.lines += [f"act{number}:"]
        self.lines += [f"li t1, {ROUNDS}", "ld t0, (t1)", "addi t0, t0, -1", "sd t0, (t1)"]
        self.lines += ["beqz t0, done", "j again", "done:"]
        self.lines += [f"li t0, {FINISHER}", "li t1, 0x5555", "sw t1, (t0)", "1: j 1b"]
        return "\n".join(self.lines)

    def address(self) -> int:
        pick = self.random
        offset = pick.choice((0, 8, 0x7F8, 0xFF8, 0xFFC, 0xFFD, pick.randrange(0xFF8)))
        return (pick.choice(ADDRESSES) + offset) % 2**64

    def flags(self) -> int:
        pick = self.random
        if pick.random() < 0.1:
            return pick.getrandbits(8) & ~(G if self.numbered else 0)
        flags = (
            V
            | (0 if self.numbered else pick.choice((0, 0, G)))
            | pick.choice((R, R | W, R | W | X, R | X, X, R | W | X))
            | pick.choice((0, 0, U))
        )
        return flags | pick.choice((A, A | D, A | D, A | D, 0))

    def entry(self) -> None:
        """Change an entry, and fence for an address it covers."""
        pick = self.random
        index, number, level = pick.choice(SLOTS)
        below = {(2, 1): 3, (3, 1): 4}.get((index, number))
        covered = {2: GIGA * number, 1: GIGA + 0x20_0000 * number, 0: PAGE + 0x1000 * (number - 1)}
        if below is not None and pick.random() < 0.6:
            self.put(table(index) + 8 * number, table(below) >> 2 | pick.choice((V, V, V, 0)))
            self.fence(None)
            return
        target = RAM
        if level == 1:
            target = pick.choice((*DATA, DATA[0] + 0x1000))
        elif level == 0:
            target = pick.choice((*DATA, *DATA, HOLE)) + 0x1000 * pick.randrange(4)
        self.put(table(index) + 8 * number, target >> 2 | self.flags())
        # An address in the page; anywhere in it will do.
        address = covered[level] + pick.randrange(1 << 12 + 9 * level)
        # The one of which there is a table below may have been a pointer.
        self.fence(None if below is not None or pick.random() < 0.5 else address)

    def fence(self, address: int | None) -> None:
        """sfence.vma for an address or for all, in every address space: at once or one by one."""
        at = "zero"
        if address is not None:
            self.lines += [f"li t0, {address}"]
            at = "t0"
        if not self.numbered or self.random.random() < 0.5:
            self.lines += [f"sfence.vma {at}, zero"]
            return
        for asid in ASIDS:
            self.lines += [f"li t1, {asid | 1 << 40}", f"sfence.vma {at}, t1"]

    def status(self) -> bool:
        """Set MPP, SUM and MXR at random; whether MPP is U."""
        pick = self.random
        mode = pick.choice((0, 1, 1))
        value = mode << 11 | pick.choice((0, SUM)) | pick.choice((0, MXR))
        self.lines += [f"li t0, {3 << 11 | SUM | MXR}", "csrc mstatus, t0"]
        self.lines += [f"li t0, {value}", "csrs mstatus, t0"]
        return mode == 0

    def access(self) -> None:
        """Access memory once or a few times with the rights of S or U."""
        pick = self.random
        self.status()
        address = self.address()
        access = pick.choice(ACCESSES)
        if "amo" in access or "lr" in access:
            address &= ~7
        self.lines += [f"li a1, {address}", "csrs mstatus, t6", access.format("a1")]
        if pick.random() < 0.5:
            self.lines += [f"li a1, {self.address() & ~7}", pick.choice(ACCESSES).format("a1")]
        self.lines += ["csrc mstatus, t6", "fmv.x.d t0, fa0", "sd a0, (s10)", "sd t0, 8(s10)"]
        self.lines += ["addi s10, s10, 32"]

    def run(self) -> None:
        """Write a little code at a physical address; run it at a virtual one in S or U mode."""
        pick = self.random
        place = pick.choice(DATA) + 0x1000 * pick.randrange(4)
        offset = pick.choice((0x100, 0x100, 0x140, 0x800, 0xFF4, 0xFF6, 0xFFA, 0xFFE))
        code = [pick.choice(ACCESSES[:5]).format("a1"), f"addi a0, a0, {pick.randrange(100)}"]
        if pick.random() < 0.5:
            code.insert(0, "c.nop")
        if pick.random() < 0.8:
            data = assemble("\n".join([*code, "ecall"])).data
            data += bytes(-len(data) % 8)
            self.lines += [f"li t0, {place + offset}"]
            for at in range(0, len(data), 4):
                word = int.from_bytes(data[at : at + 4], "little")
                self.lines += [f"li t1, {word}", f"sw t1, {at}(t0)"]
            if pick.random() < 0.3:
                self.lines += ["fence.i"]
        target = pick.choice(ADDRESSES) + offset
        user = self.status()
        if pick.random() < 0.6:  # map it where it will run
            number = pick.randrange(4)
            target = PAGE + 0x1000 * number + offset
            flags = V | R | W | X | A | D | (U if user else 0)
            self.put(table(2) + 8 * 1, table(3) >> 2 | V)
            self.put(table(3) + 8 * 1, table(4) >> 2 | V)
            self.put(table(4) + 8 * (number + 1), place >> 2 | flags)
            if offset > 0xFF0 and number < 3:  # the other half may be the next page's
                self.put(table(4) + 8 * (number + 2), place + 0x1000 >> 2 | flags)
            self.fence(None)
        elif pick.random() < 0.3:
            target = place + offset
        self.lines += [f"li t0, {target % 2**64}", "csrw mepc, t0", f"li a1, {self.address()}"]
        self.lines += ["mret"]

    def space(self) -> None:
        """Switch the address space, to one that was there before or to another."""
        scheme = self.random.choice((0, 8, 8, 8, 9, 9, 10, 10))
        root = {0: 0, 8: 2, 9: 1, 10: 0}[scheme]
        value = scheme << 60 | (table(root) >> 12 if scheme else 0)
        value |= self.random.choice(ASIDS) << 44
        self.lines += [f"li t0, {value}", "csrw satp, t0"]
        if self.random.random() < 0.2:
            self.lines += ["sfence.vma"]

    def protection(self) -> None:
        """Let PMP's first entry take rights away from a page, a part of one, or the tables."""
        pick = self.random
        base = pick.choice((DATA[0], DATA[0] + 0x1000, DATA[1], TABLES))
        size = pick.choice((8, 64, 4096, 8192))
        napot = (base | pick.randrange(0, 4096, 64)) & -size
        config = 0x18 | pick.choice((0, 1, 3, 4, 5, 7)) if pick.random() < 0.6 else 0
        self.lines += [f"li t0, {napot >> 2 | (size >> 3) - 1}", "csrw pmpaddr0, t0"]
        self.lines += [f"li t0, {config}", "csrw pmpcfg0, t0", "sfence.vma"]

    def updates(self) -> None:
        """Turn the hardware's updates of A and D on or off."""
        operation = self.random.choice(("csrs", "csrc"))
        self.lines += [f"li t0, {ADUE}", f"{operation} menvcfg, t0", "sfence.vma"]


HANDLER_TEXT = """
    csrc mstatus, t6
    csrr t0, mcause
    sd t0, 0(s10)
    csrr t0, mepc
    sd t0, 8(s10)
    csrr t0, mtval
    sd t0, 16(s10)
    sd a0, 24(s10)
    addi s10, s10, 32
    jr s11
"""


class _Finisher:
    done = False

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.done = True


@functools.cache
def machine() -> EngineMachine:
    return EngineMachine(RAM_SIZE)


def visible(ram: bytes | bytearray | memoryview) -> dict[str, bytes]:
    """The parts of memory that tell what happened."""
    parts = {"log": (LOG, 0x8000), "tables": (TABLES, 0x6000)}
    parts |= {f"data {n}": (at, DATA_SIZE) for n, at in enumerate(DATA)}
    return {name: bytes(ram[at - RAM : at - RAM + size]) for name, (at, size) in parts.items()}


def run_reference(image: bytes) -> dict[str, bytes]:
    memory = Memory()
    ram = memory.add_ram(RAM, RAM_SIZE)
    ram[: len(image)] = image
    finisher = _Finisher()
    memory.devices.append((FINISHER, 4096, finisher))
    hart = ReferenceHart(memory, RAM)
    hart.run(STEPS, until=lambda: finisher.done)
    assert finisher.done
    return visible(ram)


def run_engine(image: bytes) -> bytes:
    """A runner, as in `batch.py`."""
    engine = machine()
    engine.reset()
    engine.load(RAM, image)
    engine.run(STEPS)
    assert engine.finisher.value is not None
    return bytes(engine.ram)


def check(seed: int, acts: int, runner: Runner, rounds: int = 1) -> None:
    """Run a random program on both."""
    compare(Acts(seed).text(acts, rounds), runner)


def compare(text: str, runner: Runner) -> None:
    """Run a program's text on the reference and on a runner, and compare all that can be seen."""
    code = assemble(text, RAM).data
    assert len(code) < HANDLER - RAM
    image = code + bytes(HANDLER - RAM - len(code)) + assemble(HANDLER_TEXT, HANDLER).data
    expected, found = run_reference(image), visible(runner(image))
    assert any(expected["log"])
    for name, a in expected.items():
        wrong = [i for i in range(0, len(a), 8) if a[i : i + 8] != found[name][i : i + 8]]
        assert wrong == [], f"{name}: words at {[hex(w) for w in wrong[:8]]}"


@pytest.mark.parametrize("seed", range(60))
def test_a_program_that_fences_sees_no_tlb(seed):
    check(seed, 40, run_engine)
