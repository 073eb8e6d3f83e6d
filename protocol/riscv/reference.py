"""The reference hart: the ISA's description, executed one instruction at a time in plain Python.

The problem: the engine and the regions are generated, cached and patched; something slow and
obvious has to say what a program should do. It runs the same semantics (to_python.py), with the
builtins of the language written out below, and keeps nothing between two instructions that the
architecture does not: no TLB, no records. Decoding is remembered by the instruction's bits, which
cannot go stale.

Invariants: a step is one instruction, one exception or one interrupt; an instruction that traps has
changed nothing else; the exception is raised as `Trap` by whatever finds it and taken in `step`.

Read next: privileged.py (traps, interrupts), mmu.py (translation), language.py (the builtins).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from protocol.riscv import csr, mmu, privileged
from protocol.riscv.isa import decode, load_all
from protocol.riscv.language import BUILTINS, MASK, Function
from protocol.riscv.softfloat import OPERATIONS
from protocol.riscv.to_python import compile_function

ALL_ONES = MASK
FEATURES = csr.FEATURE_SVADU | csr.FEATURE_SSTC
RESERVED_NOTHING = ALL_ONES

LOAD_MISALIGNED = 4
STORE_MISALIGNED = 6


class AccessFault(Exception):
    """Nothing answers at a physical address, or not to such an access."""


class Trap(Exception):
    """A synchronous exception: `cause` as in mcause, `value` for xtval."""

    def __init__(self, cause: int, value: int) -> None:
        super().__init__(f"cause {cause}, value {value:#x}")
        self.cause = cause
        self.value = value


class Device(Protocol):
    """Registers at offsets; either method raises AccessFault for what it does not have."""

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


@dataclass
class Memory:
    """Guest-physical memory: ranges of bytes and of devices. Whatever is in none faults."""

    ram: list[tuple[int, bytearray, bool]] = field(default_factory=list)  # base, bytes, writable
    devices: list[tuple[int, int, Device]] = field(default_factory=list)  # base, size, device

    def add_ram(self, base: int, size: int, writable: bool = True) -> bytearray:
        """Add `size` bytes of zeros at `base`; the bytes are shared with the caller."""
        data = bytearray(size)
        self.ram.append((base, data, writable))
        return data

    def find(self, address: int, size: int, write: bool = False) -> tuple[bytearray, int] | None:
        """The bytes that hold the access whole, and its index in them; None if it is not RAM's."""
        for base, data, writable in self.ram:
            if base <= address and address + size <= base + len(data):
                return (data, address - base) if writable or not write else None
        return None

    def _device(self, address: int, size: int) -> tuple[Device, int]:
        for base, length, device in self.devices:
            if base <= address and address + size <= base + length:
                return device, address - base
        raise AccessFault(f"nothing answers at {address:#x}")

    def read(self, address: int, size: int) -> int:
        """Little-endian; raises AccessFault."""
        found = self.find(address, size)
        if found is None:
            device, offset = self._device(address, size)
            return device.read(offset, size)
        data, index = found
        return int.from_bytes(data[index : index + size], "little")

    def write(self, address: int, size: int, value: int) -> None:
        """Little-endian, the low bytes of `value`; raises AccessFault."""
        value &= (1 << 8 * size) - 1
        found = self.find(address, size, write=True)
        if found is None:
            device, offset = self._device(address, size)
            device.write(offset, size, value)
        else:
            data, index = found
            data[index : index + size] = value.to_bytes(size, "little")


def _signed(value: int, size: int) -> int:
    bits = 8 * size
    return value - (1 << bits) if value >> (bits - 1) else value


AMO_OPERATIONS: dict[str, Callable[[int, int, int], int]] = {
    "swap": lambda old, value, size: value,
    "add": lambda old, value, size: old + value,
    "xor": lambda old, value, size: old ^ value,
    "and": lambda old, value, size: old & value,
    "or": lambda old, value, size: old | value,
    "min": lambda old, value, size: min(old, value, key=lambda v: _signed(v, size)),
    "max": lambda old, value, size: max(old, value, key=lambda v: _signed(v, size)),
    "minu": lambda old, value, size: min(old, value),
    "maxu": lambda old, value, size: max(old, value),
}


class ReferenceHart:
    """One hart: its fields are `layout.HART`'s of the same names, its methods the builtins.

    `clock` gives mtime in ticks. Several harts may share a memory when their steps take turns.
    """

    def __init__(
        self,
        memory: Memory,
        pc: int = 0x80000000,
        hartid: int = 0,
        clock: Callable[[], int] = lambda: 0,
        features: int = FEATURES,
    ) -> None:
        load_all()
        self.memory = memory
        self.clock = clock
        self.hartid = hartid
        self.features = features
        self.decoded: dict[int, tuple[Callable[..., Any], tuple[int, ...], int]] = {}
        self.irq = 0
        self.mtimecmp = ALL_ONES
        self.count = 0  # instructions retired
        self.reset(pc)

    def reset(self, pc: int) -> None:
        """Put all that is the hart's own into the state after reset, to begin at `pc`.

        The architecture fixes less (section 3.4); the rest is 0, or never for the timer.
        """
        self.pc = self.next_pc = pc
        self.raw = 0
        self.length = 4
        self.x = [0] * 32
        self.f = [0] * 32
        self.accrued = 0  # fflags
        self.frm = 0
        self.priv = 3
        self.mstatus = self.mie = self.mip = self.medeleg = self.mideleg = 0
        self.mtvec = self.mscratch = self.mepc = self.mcause = self.mtval = 0
        self.stvec = self.sscratch = self.sepc = self.scause = self.stval = 0
        self.mcounteren = self.scounteren = self.mcountinhibit = 0
        self.minstret_offset = self.mcycle_offset = 0
        self.menvcfg = self.senvcfg = self.satp = 0
        self.stimecmp = ALL_ONES
        self.quiet = self.quiet_until = 0
        self.pmpcfg = [0] * csr.PMP_ENTRIES
        self.pmpaddr = [0] * csr.PMP_ENTRIES
        self.pmp_active = 0
        self.pmp_low = self.pmp_end = self.pmp_config = 0
        self.megapages = [0] * 16
        self.gigapages = 0
        self.fault_cause = self.fault_value = self.fault_page = 0
        self.data_set = self.fetch_set = 0
        self.reserved = RESERVED_NOTHING
        self.reserved_value = 0
        self.waiting = False

    # --- Running --------------------------------------------------------------------------------

    def step(self) -> None:
        """Take one interrupt, or execute one instruction, or sleep on in wfi."""
        if self.waiting:
            if not _interrupt_waiting(self):
                return
            self.waiting = False
        cause = _pending_interrupt(self)
        if cause != privileged.NO_INTERRUPT:
            _take_trap(self, cause, 0)
            return
        try:
            self.execute(self.fetch())
        except Trap as trap:
            _take_trap(self, trap.cause, trap.value)

    def run(self, steps: int, until: Callable[[], bool] | None = None) -> int:
        """Make up to `steps` steps; stop when `until` holds or the hart sleeps in wfi.

        Returns the steps made.
        """
        for done in range(steps):
            if until is not None and until():
                return done
            self.step()
            if self.waiting and not _interrupt_waiting(self):
                return done + 1
        return steps

    def fetch(self) -> int:
        """The bits of the instruction at `pc`, 16 or 32. Raises Trap."""
        bits = self._fetch_parcel(self.pc)
        if bits & 3 == 3:
            bits |= self._fetch_parcel((self.pc + 2) & MASK) << 16
        return bits

    def _fetch_parcel(self, address: int) -> int:
        found = self.memory.find(self._physical(address, 2, mmu.FETCH), 2)
        if found is None:
            raise Trap(1, address)
        data, index = found
        return data[index] | data[index + 1] << 8

    def execute(self, raw: int) -> None:
        """Execute these bits as the instruction at `pc`. Raises Trap, with `pc` as it was."""
        self.raw = raw
        entry = self.decoded.get(raw)
        if entry is None:
            found = decode(raw)
            if found is None:
                raise Trap(privileged.ILLEGAL_INSTRUCTION, raw)
            body = compile_function(found.instruction.semantics)
            entry = self.decoded[raw] = (body, found.arguments(), found.length)
        body, arguments, self.length = entry
        self.next_pc = (self.pc + self.length) & MASK
        body(self, *arguments)
        self.pc = self.next_pc
        self.count += 1

    def read_csr(self, name: str) -> int:
        """A CSR by name, as an instruction in the current mode reads it. Raises Trap."""
        _csr_check(self, csr.NUMBERS[name], 0)
        value: int = _csr_read(self, csr.NUMBERS[name])
        return value

    def write_csr(self, name: str, value: int) -> None:
        """Write a CSR by name, as csrrw in the current mode does. Raises Trap."""
        _csr_check(self, csr.NUMBERS[name], 1)
        _csr_read(self, csr.NUMBERS[name])
        _csr_write(self, csr.NUMBERS[name], value & MASK)

    # --- Memory builtins ------------------------------------------------------------------------

    def _physical(self, address: int, size: int, access: int) -> int:
        physical: int = _translate(self, address, size, access)
        if physical == mmu.NOWHERE:
            raise Trap(self.fault_cause, self.fault_value)
        return physical

    def _parts(self, address: int, size: int, access: int) -> list[tuple[int, int, int]]:
        """(virtual, physical, bytes) of an access, in two parts where it crosses a page."""
        first = min(size, 4096 - (address & 0xFFF))
        parts = [(address, self._physical(address, first, access), first)]
        if first < size:
            second = (address + first) & MASK
            parts.append((second, self._physical(second, size - first, access), size - first))
        return parts

    def load(self, address: int, size: int) -> int:
        value = shift = 0
        for virtual, physical, length in self._parts(address, size, mmu.LOAD):
            try:
                value |= self.memory.read(physical, length) << shift
            except AccessFault:
                raise Trap(5, virtual) from None
            shift += 8 * length
        return value

    def store(self, address: int, value: int, size: int) -> None:
        parts = self._parts(address, size, mmu.STORE)
        if len(parts) > 1:
            # No byte of the first page changes when the second refuses.
            for virtual, physical, length in parts:
                if self.memory.find(physical, length, write=True) is None:
                    raise Trap(7, virtual)
        for virtual, physical, length in parts:
            try:
                self.memory.write(physical, length, value)
            except AccessFault:
                raise Trap(7, virtual) from None
            value >>= 8 * length

    def _atomic(self, address: int, size: int, access: int) -> int:
        """The physical address of an aligned access to RAM. Raises Trap."""
        if address % size:
            raise Trap(LOAD_MISALIGNED if access == mmu.LOAD else STORE_MISALIGNED, address)
        physical = self._physical(address, size, access)
        if self.memory.find(physical, size, write=access != mmu.LOAD) is None:
            raise Trap(5 if access == mmu.LOAD else 7, address)
        return physical

    def load_reserved(self, address: int, size: int) -> int:
        physical = self._atomic(address, size, mmu.LOAD)
        self.reserved = physical
        self.reserved_value = self.memory.read(physical, size)
        return self.reserved_value

    def store_conditional(self, address: int, value: int, size: int) -> int:
        physical = self._atomic(address, size, mmu.STORE)
        held = self.reserved == physical
        self.reserved = RESERVED_NOTHING
        # After lr.d a sc.w asks for its own bytes only.
        wanted = self.reserved_value & ((1 << 8 * size) - 1)
        if not held or self.memory.read(physical, size) != wanted:
            return 1
        self.memory.write(physical, size, value)
        return 0

    def amo(self, operation: str, address: int, value: int, size: int) -> int:
        physical = self._atomic(address, size, mmu.AMO)
        old = self.memory.read(physical, size)
        value &= (1 << 8 * size) - 1
        self.memory.write(physical, size, AMO_OPERATIONS[operation](old, value, size))
        return old

    def fence(self) -> None:
        """Nothing: every access is in order."""

    def phys_ok(self, address: int) -> bool:
        return self.memory.find(address, 8) is not None

    def phys_read64(self, address: int) -> int:
        return self.memory.read(address, 8)

    def phys_cas64(self, address: int, old: int, new: int) -> bool:
        if self.memory.find(address, 8, write=True) is None or self.phys_read64(address) != old:
            return False
        self.memory.write(address, 8, new)
        return True

    # --- Control and state builtins -------------------------------------------------------------

    def branch(self, offset: int) -> None:
        self.next_pc = (self.pc + offset) & MASK

    def jump(self, address: int) -> None:
        self.next_pc = address

    def trap(self, cause: int, value: int) -> None:
        raise Trap(cause, value)

    def refetch(self) -> None:
        """Nothing: every instruction is fetched afresh."""

    def resync(self) -> None:
        """Nothing: every instruction is looked up afresh."""

    def wait(self) -> None:
        self.waiting = True

    def time(self) -> int:
        return self.clock() & MASK

    def retired(self) -> int:
        return self.count

    def set_context(self, data: int, fetch: int) -> None:
        self.data_set = data
        self.fetch_set = fetch

    def flush_tlb(self) -> None:
        """Nothing: there is none."""

    def flush_tlb_space(self, asid: int) -> None:
        """Nothing: there is none."""

    def flush_tlb_page(self, address: int, shift: int, asid: int) -> None:
        """Nothing: there is none."""

    # --- Floating point (the operations themselves are added below) -------------------------------

    def raise_flags(self, flags: int) -> None:
        self.accrued |= flags

    def fflags(self) -> int:
        return self.accrued

    def set_fflags(self, flags: int) -> None:
        self.accrued = flags


def _fp_builtin(name: str, operation: Callable[..., tuple[int, int]]) -> Callable[..., int]:
    convert: type[int] = bool if BUILTINS[name][1] == "bool" else int

    def builtin(hart: ReferenceHart, *arguments: int) -> int:
        result, flags = operation(*arguments)
        hart.accrued |= flags
        return convert(result)

    return builtin


for _name, _operation in OPERATIONS.items():
    setattr(ReferenceHart, _name, _fp_builtin(_name, _operation))


def _compiled(routine: Function) -> Callable[..., Any]:
    return compile_function(routine)


_translate = _compiled(mmu.translate)
_take_trap = _compiled(privileged.take_trap)
_pending_interrupt = _compiled(privileged.pending_interrupt)
_interrupt_waiting = _compiled(privileged.interrupt_waiting)
_csr_check = _compiled(csr.csr_check)
_csr_read = _compiled(csr.csr_read)
_csr_write = _compiled(csr.csr_write)
