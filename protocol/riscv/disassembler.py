"""Instructions as text, in the style of `objdump -M no-aliases`, from their declarations.

The problem: traces, monitors and test reports show instructions, and a table of their own would
drift from the decoder. So the text is the declaration's, with its operands filled in.

Invariants: what is printed assembles to the same bits again (`assembler.py`; a `target` is an
absolute address, so at the same pc). Bits that are no instruction print as `.half` or `.word`, and
so do encodings that execute but have no text: a fence with its reserved fields set, a reserved
rounding mode.

Read next: `operands.py`.
"""

from __future__ import annotations

from protocol.riscv.isa import Encoding, decode, load_all
from protocol.riscv.operands import (
    F_NAMES,
    ORDERINGS,
    ROUNDING_MODES,
    X_NAMES,
    Operand,
    csr_name,
    default_rounding,
    fence_text,
    operands,
    unwritten,
)

FENCE_TSO = 0x8330000F  # a fence by its encoding: `fm` says that stores need not wait for loads

_ROUNDING_NAMES = {value: name for name, value in ROUNDING_MODES.items()}


def length(raw: int) -> int:
    """Bytes of the instruction that starts with the halfword in `raw`'s low bits: 2 or 4.

    Encodings of 48 bits and more are not RV64GC: they count as 4, as the fetch unit takes them.
    """
    return 4 if raw & 3 == 3 else 2


def disassemble(raw: int, pc: int = 0) -> str:
    """The instruction in the low bits of `raw`, at address `pc`, as one line without address."""
    load_all()
    size = length(raw)
    raw &= (1 << 8 * size) - 1
    decoded = decode(raw)
    text = None if decoded is None else _text(decoded.encoding, raw, pc)
    return text or (f".word {raw:#010x}" if size == 4 else f".half {raw:#06x}")


def _text(encoding: Encoding, raw: int, pc: int) -> str | None:
    fields = encoding.pattern.extract(raw)
    name = encoding.name
    if raw == FENCE_TSO:
        return "fence.tso"
    if any(fields[f] for f in unwritten(encoding)) or fields.get("rm") in (5, 6):
        return None
    if name == "c.nop" and not fields["imm"]:
        return name
    if "aq" in fields:
        name += ORDERINGS[fields["aq"] << 1 | fields["rl"]]
    shown = [_operand(encoding, operand, fields, pc) for operand in operands(encoding)]
    return f"{name} {', '.join(s for s in shown if s)}".rstrip()


def _operand(encoding: Encoding, operand: Operand, fields: dict[str, int], pc: int) -> str:
    """The operand's text; "" when it is left out."""
    value = fields.get(operand.field, 0)
    match operand.kind:
        case "x":
            return X_NAMES[value]
        case "f":
            return F_NAMES[value]
        case "fixed":
            return X_NAMES[int(operand.base)]
        case "memory":
            base = fields[operand.base] if isinstance(operand.base, str) else operand.base
            return f"{value if operand.field else ''}({X_NAMES[base]})"
        case "target":
            return f"{(pc + value) & (1 << 64) - 1:#x}"
        case "upper":
            return f"{value >> 12 & 0xFFFFF:#x}"
        case "csr":
            return csr_name(value)
        case "fence":
            return fence_text(value)
        case "rm":
            return "" if value == default_rounding(encoding) else _ROUNDING_NAMES[value]
    return f"{value:#x}" if operand.field == "shamt" else str(value)
