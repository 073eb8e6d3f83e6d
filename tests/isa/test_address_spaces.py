"""Lookups of address spaces that are not in use: programs that go from one to another and back.

More spaces than a TLB has banks for, each with page tables of its own, share ten ASIDs. While one
is in use the tables of another change, and the fence that the architecture asks for - by address or
not, by ASID or for all - has to reach what was looked up in it before. Pages are loaded from,
stored to and run. The reference interpreter keeps no lookups; what it sees is right.
"""

from __future__ import annotations

import random

import pytest

from protocol.riscv.assembler import assemble
from tests.engine_harness import FINISHER
from tests.isa.test_translation import (
    DATA,
    GIGA,
    HANDLER,
    LOG,
    MPRV,
    PAGE,
    TABLES,
    A,
    D,
    G,
    R,
    V,
    W,
    X,
    compare,
    run_engine,
)

TREES = 12
ASIDS = 10
TREE_SIZE = 0x3000  # root, table of 2 MiB pages, table of 4 KiB pages
BIG = GIGA + 0x40_0000
FRAMES = [at + 0x1000 * n for at in DATA for n in range(4)]
FLAGS = V | R | W | X | A | D
CODE = 0x100  # offset in each page of code that tells which one it is
SPARE = 0x800  # offset of what is stored to


class Spaces:
    """A random program's text."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.tree = 0
        self.owners: dict[int, int] = {}  # ASID -> the tree it was last used for
        self.lines = [f"li s10, {LOG}", f"li t6, {MPRV}", f"li t0, {HANDLER}", "csrw mtvec, t0"]
        self.lines += [
            "li t0, -1",
            "csrw pmpaddr15, t0",
            f"li t0, {0x1F << 56}",
            "csrw pmpcfg2, t0",
        ]
        self.lines += [f"li t0, {1 << 11}", "csrs mstatus, t0"]
        for number, frame in enumerate(FRAMES):
            self.put(frame, number)
            code = assemble(f"li a0, {100 + number}\necall").data
            self.put(frame + CODE, int.from_bytes(code, "little"))
        for tree in range(TREES):
            root = TABLES + TREE_SIZE * tree
            self.put(root + 8, root + 0x1000 >> 2 | V)
            self.put(root + 0x1000 + 8, root + 0x2000 >> 2 | V)
            self.put(root + 0x1000 + 16, DATA[tree % 2] >> 2 | FLAGS)
            for page in range(4):
                self.put(root + 0x2008 + 8 * page, self.frame() >> 2 | FLAGS)

    def put(self, address: int, value: int) -> None:
        self.lines += [f"li t0, {address}", f"li t1, {value}", "sd t1, (t0)"]

    def frame(self) -> int:
        return self.random.choice(FRAMES)

    def address(self) -> int:
        """Of a page: one of four small ones, or one of the first four frames of the large one."""
        page = self.random.randrange(4)
        return (BIG if self.random.random() < 0.3 else PAGE) + 0x1000 * page

    def text(self, acts: int) -> str:
        kinds = [self.switch] * 4 + [self.load] * 8 + [self.run] * 3 + [self.store] * 2
        kinds += [self.change] * 4
        self.switch()
        for number in range(acts):
            self.lines += [f"la s11, act{number}"]
            self.random.choice(kinds)()
            self.lines += [f"act{number}:"]
        self.lines += [f"li t0, {FINISHER}", "li t1, 0x5555", "sw t1, (t0)", "1: j 1b"]
        return "\n".join(self.lines)

    def asid(self, tree: int) -> int:
        return tree % ASIDS * 0x3333 % 0x10000  # 0 is one of them

    def switch(self) -> None:
        """To another space; an ASID that was another's is fenced."""
        self.tree = tree = self.random.randrange(TREES)
        asid, root = self.asid(tree), TABLES + TREE_SIZE * tree
        self.lines += [f"li t0, {8 << 60 | asid << 44 | root >> 12}", "csrw satp, t0"]
        if self.owners.setdefault(asid, tree) != tree:
            self.lines += [f"li t1, {asid}", "sfence.vma zero, t1"]
        self.owners[asid] = tree

    def change(self) -> None:
        """An entry of any tree, fenced as far as is needed or further."""
        pick = self.random
        tree = self.tree if pick.random() < 0.3 else pick.randrange(TREES)
        table = TABLES + TREE_SIZE * tree
        shared = 0
        if pick.random() < 0.3:
            address = BIG + pick.randrange(1 << 21)
            self.put(table + 0x1000 + 16, pick.choice(DATA) >> 2 | FLAGS)
        else:
            page = pick.randrange(4)
            address = PAGE + 0x1000 * page + pick.randrange(4096)
            # An entry that is, or was, of a global page is fenced in every space.
            shared = pick.choice((0, 0, G))
            flags = pick.choice((FLAGS, FLAGS, FLAGS, FLAGS & ~X, FLAGS & ~W, 0))
            self.put(table + 0x2008 + 8 * page, self.frame() >> 2 | flags | shared)
        at, space = "zero", "zero"
        if pick.random() < 0.7:
            self.lines += [f"li t0, {address}"]
            at = "t0"
        if not shared and pick.random() < 0.7:
            self.lines += [f"li t1, {self.asid(tree)}"]
            space = "t1"
        self.lines += [f"sfence.vma {at}, {space}"]
        if shared:  # and is not global for long
            self.put(table + 0x2008 + 8 * page, self.frame() >> 2 | FLAGS)
            self.lines += [f"li t0, {address}", "sfence.vma t0, zero"]

    def load(self) -> None:
        self.lines += [f"li a1, {self.address()}", "csrs mstatus, t6", "ld a0, (a1)"]
        self.lines += ["csrc mstatus, t6", "sd a0, (s10)", "addi s10, s10, 32"]

    def store(self) -> None:
        value = self.random.getrandbits(30)
        self.lines += [f"li a1, {self.address() + SPARE}", f"li a2, {value}"]
        self.lines += ["csrs mstatus, t6", "sd a2, (a1)", "csrc mstatus, t6"]

    def run(self) -> None:
        self.lines += [f"li t0, {1 << 11}", "csrs mstatus, t0", f"li t0, {2 << 11}"]
        self.lines += ["csrc mstatus, t0", f"li t0, {self.address() + CODE}", "csrw mepc, t0"]
        self.lines += ["mret"]


@pytest.mark.parametrize("seed", range(30))
def test_fences_reach_the_spaces_not_in_use(seed):
    compare(Spaces(seed).text(250), run_engine)


FAR = PAGE + 0x10_0000  # of the same index in a TLB of 256 entries
ASID = 5


def displaced() -> str:
    """Two pages of one index by turns: what is displaced must not outlive a fence, or code."""
    spaces = Spaces(0)
    lines, leaf = spaces.lines, TABLES + 0x2008
    spaces.put(leaf + 8 * 256, FRAMES[7] >> 2 | FLAGS)
    lines += [f"li t0, {8 << 60 | ASID << 44 | TABLES >> 12}", "csrw satp, t0", "sfence.vma"]
    acts = 0

    def act(*text: str) -> None:
        nonlocal acts
        lines.extend(["csrs mstatus, t6", f"la s11, act{acts}", *text, f"act{acts}:"])
        lines.extend(["csrc mstatus, t6", "sd a0, (s10)", "addi s10, s10, 32"])
        acts += 1

    def load(address: int) -> None:
        act(f"li a1, {address}", "ld a0, (a1)")

    def store(address: int) -> None:
        act(f"li a1, {address + SPARE}", f"li a2, {acts}", "sd a2, (a1)")

    for fence in ("t0, zero", "t0, t1", "zero, t1", "zero, zero"):
        for access in (load, store):
            for flags in (FLAGS, 0, FLAGS & ~W):
                spaces.put(leaf, FRAMES[acts % 2] >> 2 | FLAGS)
                lines.append("sfence.vma")
                for page in (PAGE, FAR, PAGE, FAR):
                    access(page)
                spaces.put(leaf, FRAMES[2 + acts % 2] >> 2 | flags)
                lines.extend([f"li t0, {PAGE + SPARE}", f"li t1, {ASID}", f"sfence.vma {fence}"])
                for page in (PAGE, FAR, PAGE):
                    access(page)
                    load(page + SPARE)
    # The page displaced may be stored to, then becomes code's.
    spaces.put(leaf, FRAMES[0] >> 2 | FLAGS)
    lines.append("sfence.vma")
    code = [int.from_bytes(assemble(f"li a0, {n}\necall").data, "little") for n in (61, 62)]
    for again in range(6):
        store(PAGE)
        store(FAR)
        store(PAGE)  # its tag comes back; the next store finds it
        act(f"li a1, {PAGE + CODE}", f"li a2, {code[again % 2]}", "sd a2, (a1)")
        store(FAR)
        lines.extend([f"la s11, ran{again}", f"li t0, {2 << 11}", "fence.i"])
        lines.extend(["csrc mstatus, t0", f"li t0, {1 << 11}", "csrs mstatus, t0"])
        lines.extend([f"li t0, {PAGE + CODE}", "csrw mepc, t0", "mret", f"ran{again}:"])
        lines.extend([f"li t0, {1 << 11}", "csrs mstatus, t0"])
    lines += [f"li t0, {FINISHER}", "li t1, 0x5555", "sw t1, (t0)", "1: j 1b"]
    return "\n".join(lines)


def test_what_another_page_displaced_is_forgotten_too():
    compare(displaced(), run_engine)
