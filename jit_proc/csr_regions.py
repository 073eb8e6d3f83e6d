"""Control and status registers in regions: those that are a stored word and nothing more.

The problem: a kernel's way in and out reads and writes sscratch, sepc, scause and their like. Were
each left to tier 0, a trap would be a dozen ways out of regions and in again.

A register is plain for reading when its row (`protocol/riscv/csr.py`) has no condition and reads a
word, or what a routine derives of stored words; for writing when its row stores the word, and
writing disturbs nothing that was looked up. Whether the mode may access it is checked each time: a
guard that fails leaves the instruction to tier 0, which traps.

Invariants: all a plain access does is in the hart's structure, at once; neither tier looks at
interrupts behind one, so counted time cannot tell which of them executed it.

Read next: `lift.py` (`RegionEmitter.call_routine`), `cold.py` (the other CSRs).
"""

from __future__ import annotations

import functools
import re

from jit_proc.handlers import ValueEmitter
from protocol.riscv import csr
from protocol.riscv.csr import CSRS, Csr
from protocol.riscv.isa import Decoded
from protocol.riscv.language import Function

ROUTINES = frozenset(("csr_check", "csr_read", "csr_write", "csr_modify_base", "csr_disturbs"))
DERIVED = {f"{f.name}()": f for f in (csr.read_sstatus, csr.read_mstatus)}
_STORED = re.compile(r"hart\.(\w+)")
_STORES = re.compile(r"hart\.(\w+) = value(?: & (0x[0-9a-f]+))?")


@functools.cache
def plain_read(number: int) -> bool:
    row = CSRS.get(number)
    return (
        row is not None
        and not row.condition
        and (row.read in DERIVED or _STORED.fullmatch(row.read) is not None)
    )


@functools.cache
def plain_write(number: int) -> bool:
    row = CSRS.get(number)
    return (
        row is not None
        and not (row.condition or row.disturbs or row.read_only)
        and _STORES.fullmatch(row.write) is not None
    )


def is_plain(decoded: Decoded) -> bool:
    """Whether an instruction is an access to a CSR that a region can make."""
    operands = decoded.operands
    if "csr" not in operands:
        return False
    number = operands["csr"]
    always = decoded.instruction.semantics.name in ("csrrw", "csrrwi")
    writes = always or operands.get("rs1", operands.get("zimm", 0)) != 0
    return plain_read(number) and (not writes or plain_write(number))


def emit(out: ValueEmitter, function: Function, args: list[str]) -> str:
    """One of `ROUTINES`, of a plain CSR: its operand or condition."""
    if function.name == "csr_disturbs":
        return "false"
    if function.name == "csr_modify_base":
        return args[1]  # what differs here (mip) is not plain
    row: Csr = CSRS[int(args[0])]
    if function.name == "csr_check":
        if row.privilege:
            mode = out.read_field("priv")
            out.guard(out.compare("uge", mode, str(row.privilege)))
        return ""
    if function.name == "csr_read":
        if row.read in DERIVED:
            return out.value(f"call i64 @r_{DERIVED[row.read].name}(ptr %hart)")
        stored = _STORED.fullmatch(row.read)
        assert stored is not None
        return out.read_field(stored[1])
    stores = _STORES.fullmatch(row.write)
    assert stores is not None
    value = args[1]
    if stores[2] is not None:
        mask = int(stores[2], 16)
        value = out.binary("and", value, str(mask - (1 << 64) if mask >> 63 else mask))
    out.write_field(stores[1], value)
    return ""


def derived(decoded: Decoded) -> list[Function]:
    """The routines that `emit` calls for an instruction."""
    number = decoded.operands.get("csr")
    row = None if number is None else CSRS.get(number)
    return [DERIVED[row.read]] if row is not None and row.read in DERIVED else []
