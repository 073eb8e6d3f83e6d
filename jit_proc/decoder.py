"""The engine's decoder: from the ISA's patterns to nested switches in LLVM IR.

The problem: a record is filled on first execution, a few hundred thousand times in a boot, so
decoding must be native; and it must be the same decoding as `isa.decode`. The tree is built from
the patterns: at each level the bits that all remaining candidates fix are switched on; where
candidates share none, the most specific is tried first, with its `where` clause.

`@decode_word(hart, raw, record, offset)` writes the operand word, then the handler, and returns
the number of the handler's kind in n-grams (`fused.py`). `offset` is the
instruction's place in its page (`NO_OFFSET` when it has none): direct transfers that stay in the
page get the `near` handler.

Invariants: the operand word is complete before the handler is stored; a destination of x0 becomes
the hart's sink register, so no handler tests for it.

Read next: `cold.operand_bytes` (the operand word), `engine.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jit_proc.cold import operand_bytes
from jit_proc.emit import Emitter, literal
from protocol.layout import HART, PAGE_SIZE
from protocol.riscv.isa import Encoding, Pattern
from protocol.riscv.language import Return, routine_from_source

SINK = 32  # the register that takes writes to x0


def variant(encoding: Encoding, near: bool = False) -> str:
    """The name of the handler for an encoding."""
    return f"{encoding.instruction.semantics.name}_{encoding.length}{'n' if near else ''}"


def is_direct(encoding: Encoding) -> bool:
    """Whether the instruction has a pc-relative target (and so a near handler)."""
    return "branch" in encoding.instruction.semantics.builtins


class DecodeTree(Emitter):
    """Emits `@decode_word`."""

    def __init__(self, number: Callable[[str], int] = lambda name: 0) -> None:
        """`number` tells what handlers are called in n-grams."""
        super().__init__()
        self._number = number

    def define(self, encodings: Sequence[Encoding]) -> str:
        low = self.binary("and", "%raw", "3")
        wide = self.compare("eq", low, "3")
        long, short = self.new_label(), self.new_label()
        self.branch_if(wide, long, short)
        for label, bits in ((long, 32), (short, 16)):
            self.label(label)
            self.tree([e for e in encodings if e.pattern.bits == bits], 3 if bits == 32 else 0)
        self.label("illegal")
        self.finish("0", "@h_illegal_4")
        self.label("illegal_short")
        self.finish("0", "@h_illegal_2")
        head = "define internal i64 @decode_word(ptr %hart, i64 %raw, ptr %record, i64 %offset)"
        return "\n".join([f"{head} nounwind {{", *self.lines, "}"])

    def tree(self, candidates: list[Encoding], known: int) -> None:
        """Decide among candidates whose bits in `known` are known to match."""
        common = ~known
        for encoding in candidates:
            common &= encoding.pattern.mask
        common &= 0xFFFFFFFF
        if len(candidates) > 1 and common:
            groups: dict[int, list[Encoding]] = {}
            for encoding in candidates:
                groups.setdefault(encoding.pattern.match & common, []).append(encoding)
            value = self.binary("and", "%raw", str(common))
            labels = {match: self.new_label() for match in groups}
            cases = " ".join(f"i64 {match}, label %{label}" for match, label in labels.items())
            illegal = self._illegal(candidates)
            self.terminate(f"switch i64 {value}, label %{illegal} [ {cases} ]")
            for match, group in groups.items():
                self.label(labels[match])
                self.tree(group, known | common)
            return
        ordered = sorted(candidates, key=lambda e: (-e.pattern.mask.bit_count(), not e.where))
        for encoding in ordered:
            self.attempt(encoding, known)
        if not self.done:
            self.jump_to(self._illegal(candidates))

    @staticmethod
    def _illegal(candidates: list[Encoding]) -> str:
        return "illegal" if candidates[0].pattern.bits == 32 else "illegal_short"

    def attempt(self, encoding: Encoding, known: int) -> None:
        """Take the encoding if its other bits and its `where` clause hold, else fall through."""
        if self.done:
            return
        pattern = encoding.pattern
        rest = pattern.mask & ~known
        condition = "true"
        if rest:
            bits = self.binary("and", "%raw", str(rest))
            condition = self.compare("eq", bits, str(pattern.match & rest))
        fields = {name: self.extract(pattern, name) for name in pattern.fields}
        if encoding.where:
            condition = self.logical("&", condition, self.where(encoding, fields))
        if condition == "true":
            self.leaf(encoding, fields)
            return
        yes, no = self.new_label(), self.new_label()
        self.branch_if(condition, yes, no)
        self.label(yes)
        self.leaf(encoding, fields)
        self.label(no)

    def where(self, encoding: Encoding, fields: dict[str, str]) -> str:
        names = {name.replace("'", "_"): value for name, value in fields.items()}
        text = encoding.where.replace("'", "_")
        clause = routine_from_source(
            f"where of {encoding.name}", f"def where({', '.join(names)}):\n return {text}", {}
        )
        self._scope = names
        statement = clause.body[0]
        assert isinstance(statement, Return)
        assert statement.value is not None
        return self.expr(statement.value)

    def extract(self, pattern: Pattern, name: str) -> str:
        """The value of a field as a word."""
        value = "0"
        for piece in pattern.pieces:
            if piece.name != name:
                continue
            part = self.binary("lshr", "%raw", str(piece.shift))
            part = self.binary("and", part, str((1 << piece.width) - 1))
            value = self.binary("or", value, self.binary("shl", part, str(piece.at)))
        if name.endswith("'"):
            return self.binary("add", value, "8")
        if name in ("imm", "nzimm"):
            return self.pure("sext", [value, str(pattern.width(name))])
        return value

    def leaf(self, encoding: Encoding, fields: dict[str, str]) -> None:
        semantics = encoding.instruction.semantics
        destinations = semantics.indices("X", written=True)
        word = "0"
        offset = ""
        for param, byte in operand_bytes(encoding.instruction).items():
            source = encoding.operands[param]
            value = literal(source) if isinstance(source, int) else fields[source]
            if param in destinations:
                if value == "0":
                    value = str(SINK)
                elif value.startswith("%"):
                    value = self.select(self.compare("eq", value, "0"), str(SINK), value)
            if byte == 0:
                offset = value
                value = self.binary("and", value, str(0xFFFFFFFF))
            else:
                value = self.binary("shl", value, str(8 * byte + (5 if param == "rm" else 0)))
            word = self.binary("or", word, value)
        if semantics.builtins & {"branch", "jump"}:
            threshold = self.load_word(self.address("%hart", HART.offset("threshold")))
            word = self.binary("or", word, self.binary("shl", threshold, "48"))
        name = variant(encoding)
        handler, kind = f"@h_{name}", str(self._number(name))
        if is_direct(encoding):
            target = self.binary("add", "%offset", offset)
            near = self.compare("ult", target, str(PAGE_SIZE))
            name = variant(encoding, near=True)
            handler = self.select(near, f"@h_{name}", handler, "ptr")
            kind = self.select(near, str(self._number(name)), kind)
        self.finish(word, handler, kind)

    def finish(self, word: str, handler: str, kind: str = "0") -> None:
        self.store_word(word, self.address("%record", 8))
        self.emit(f"store atomic ptr {handler}, ptr %record release, align 8")
        self.terminate(f"ret i64 {kind}")
