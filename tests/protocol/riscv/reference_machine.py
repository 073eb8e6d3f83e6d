"""A reference hart in a small machine, for tests that say in assembly what a guest does.

RAM lies at RAM, and PMP grants all of memory to every mode unless a test asks otherwise. Code is
written wherever the hart is about to fetch from, so addresses of code must be physical ones (or
mapped one to one). Traps of both kinds lead to handlers in RAM.

Read next: test_privileged.py.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from protocol.riscv.assembler import Program, assemble
from protocol.riscv.operands import X_NUMBERS
from protocol.riscv.reference import Memory, ReferenceHart

RAM = 0x80000000
RAM_SIZE = 0x200000
M_HANDLER = RAM + 0x1000
S_HANDLER = RAM + 0x2000
TABLES = RAM + 0x100000  # page tables are laid out from here
DATA = RAM + 0x8000  # a page for a test's data

USER, SUPERVISOR, MACHINE = 0, 1, 3

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
SV39, SV48, SV57 = 8, 9, 10
MPRV, SUM, MXR = 1 << 17, 1 << 18, 1 << 19

FETCH, LOAD, STORE, AMO = "fetch", "lw a0, (a1)", "sw a0, (a1)", "amoadd.w a0, zero, (a1)"
ACCESS_FAULT = {FETCH: 1, LOAD: 5, STORE: 7, AMO: 7}
PAGE_FAULT = {FETCH: 12, LOAD: 13, STORE: 15, AMO: 15}
ACCESSES = [FETCH, LOAD, STORE, AMO]


class Guest:
    """What a test does with a hart that has `ReferenceHart`'s fields and methods."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def begin(self, priv: int, grant: bool, fields: dict[str, int]) -> None:
        """Put the hart into the state a test begins in."""
        self.next_table = TABLES
        self.mtvec = M_HANDLER
        self.stvec = S_HANDLER
        if grant:
            self.write_csr("pmpaddr0", (1 << 54) - 1)
            self.write_csr("pmpcfg0", 0x1F)
        self.priv = priv
        for name, value in fields.items():
            assert hasattr(self, name), name
            setattr(self, name, value)

    def do(self, text: str, **registers: int) -> None:
        """Execute the instructions of `text`, each of which must be one, from where the hart is."""
        for name, value in registers.items():
            self.x[X_NUMBERS[name]] = value % 2**64
        program = _assembled(text, self.pc)
        for line in program.lines:
            offset = line.address - program.base
            for index, byte in enumerate(program.data[offset : offset + line.size]):
                self.memory.write(self.pc + index, 1, byte)
            self.step()

    def get(self, name: str) -> int:
        """An integer register by name."""
        return int(self.x[X_NUMBERS[name]])

    @property
    def mtrap(self) -> tuple[int, int] | None:
        """(mcause, mtval) when the hart has just entered the machine handler."""
        return (self.mcause, self.mtval) if self.pc == M_HANDLER else None

    @property
    def strap(self) -> tuple[int, int] | None:
        """(scause, stval) when the hart has just entered the supervisor handler."""
        return (self.scause, self.stval) if self.pc == S_HANDLER else None

    def table(self) -> int:
        """The physical address of a fresh, empty page table."""
        self.next_table += 4096
        return self.next_table - 4096

    def translation(self, scheme: int = SV39) -> None:
        """Turn on translation with an empty root table."""
        self.satp = scheme << 60 | self.table() >> 12

    def slot(self, address: int, level: int) -> int:
        """The physical address of the entry for `address` at `level` (0: 4 KiB), made reachable."""
        table = (self.satp & (1 << 44) - 1) << 12
        top = (self.satp >> 60) - 6
        for at in range(top, level, -1):
            entry = table + 8 * (address >> 12 + 9 * at & 511)
            if not self.memory.read(entry, 8) & V:
                self.memory.write(entry, 8, self.table() >> 2 | V)
            table = self.memory.read(entry, 8) >> 10 << 12
        return table + 8 * (address >> 12 + 9 * level & 511)

    def map(self, address: int, physical: int, flags: int, level: int = 0) -> int:
        """Map a page (4 KiB << 9 * level); returns the physical address of its entry."""
        entry = self.slot(address, level)
        self.memory.write(entry, 8, physical >> 2 | flags)
        return entry


class ReferenceMachine(Guest, ReferenceHart):
    """The reference hart with RAM, and page tables on request."""

    def __init__(self, priv: int = MACHINE, grant: bool = True, **fields: int) -> None:
        self.now = 0
        memory = Memory()
        memory.add_ram(RAM, RAM_SIZE)
        super().__init__(memory, RAM, clock=lambda: self.now)
        self.begin(priv, grant, fields)


@functools.lru_cache(4096)
def _assembled(text: str, base: int) -> Program:
    return assemble(text, base)


def attempt(machine: Guest, access: str, address: int, priv: int) -> int | None:
    """Access `address` with the rights of `priv`; the exception's cause or None."""
    machine.mcause, machine.mtval = 0, 0
    if access == FETCH:
        machine.pc, machine.priv = address, priv
        machine.step()
        if machine.mcause in (8, 9, 11):  # what is fetched is an ecall
            return None
    else:
        machine.priv, machine.pc = MACHINE, RAM
        machine.mstatus = machine.mstatus & (SUM | MXR) | MPRV | priv << 11
        machine.do(access, a1=address)
        if machine.pc == RAM + 4:
            return None
    assert machine.mtval == address % 2**64
    return int(machine.mcause)


def napot(base: int, size: int) -> int:
    """The PMP address register of a naturally aligned power of two, 8 bytes or more."""
    return base >> 2 | (size >> 3) - 1
