"""Fused handlers: one handler that executes two to four instructions that stand in a row.

The problem: half of tier 0's time goes into jumps through records and into registers that are
stored for the next instruction to load. A record whose instruction begins one of the sequences of
`ngrams.txt` gets a handler for the whole of it. It takes the operands of each instruction from
that instruction's own record, keeps in machine registers what the next ones are known to need, and
looks into the TLB once for accesses by one base register that stay in one page.

Invariants:
- **A sequence lies in one 64-byte line**, and all its instructions stand decoded in their records
  while a fused handler stands in the first one's. So a store to a byte of it is a store to a
  tracked line; `note_write` takes back each record of that line, up to `MAX_BYTES` before the
  store, that holds a fused handler, and whatever takes back a whole line takes back all of the
  sequence. A record whose region is taken back keeps its operands, all that is used of it here.
- Fused handlers lie between `h_fused_first` and `h_fused_end`, so that they are known by address.
- Exactness: instructions are executed in order, each as its own handler does it. What a fast
  handler leaves to a cold function is left to *its own plain handler*, with the effects of those
  before it complete and counted. So faults, device accesses, stores to code and foreign rounding
  modes find the state of plain execution; only the last instruction, or a branch on its way out,
  looks at the limit, as in straight code.
- A jump into the midst meets the record there, which has a handler of its own.
- Instructions in the scratch array (single steps, over a page's edge) are never fused.

Read next: `ngrams.py`, `runtime_fetch.py` (`decode_run`), `runtime_tracking.py` (`note_write`).
"""

from __future__ import annotations

from collections.abc import Sequence

from jit_proc.cold import operand_bytes
from jit_proc.decoder import is_direct, variant
from jit_proc.emit import Emitter
from jit_proc.handlers import MEMORY, HotEmitter, is_hot
from jit_proc.ngrams import MAX_KINDS, Item, Ngram
from protocol.layout import TLB_ENTRY
from protocol.riscv import isa
from protocol.riscv.isa import Instruction
from protocol.riscv.language import If, While

_APART = (MEMORY - {"load", "store"}) | {"fence", "refetch"}
_SLOTS = {"s": "rs1", "t": "rs2"}


class Kinds:
    """What may be part of an n-gram: fast handlers by name, and the numbers of those that are."""

    def __init__(self, ngrams: Sequence[Ngram]) -> None:
        isa.load_all()
        self.handlers: dict[str, tuple[Instruction, int, bool]] = {}
        for encoding in isa.ENCODINGS.values():
            if not fusible(encoding.instruction):
                continue
            instruction, length = encoding.instruction, encoding.length
            self.handlers[variant(encoding)] = (instruction, length, False)
            if is_direct(encoding):
                self.handlers[variant(encoding, near=True)] = (instruction, length, True)
        names = dict.fromkeys(item.kind for ngram in ngrams for item in ngram.items)
        unknown = [name for name in names if name not in self.handlers]
        if unknown:
            raise ValueError(f"n-grams name what has no fast handler: {', '.join(unknown)}")
        self.numbers = {name: number for number, name in enumerate(names, 1)}
        if len(self.numbers) > MAX_KINDS:
            raise ValueError(f"n-grams of {len(self.numbers)} kinds; {MAX_KINDS} is the most")

    def number(self, name: str) -> int:
        """0: part of no n-gram."""
        return self.numbers.get(name, 0)


def fusible(instruction: Instruction) -> bool:
    """Whether an instruction may be part of an n-gram at all: values, loads, stores, transfers."""
    function = instruction.semantics
    if not is_hot(function) or function.builtins & _APART:
        return False
    # A register that is read or written on one way alone is not known on the other.
    return "branch" in function.builtins or not any(
        isinstance(n, If | While) for n in function.nodes
    )


def name_of(number: int) -> str:
    return f"fused_{number}"


class FusedEmitter(HotEmitter):
    """Emits the handler of an n-gram."""

    def __init__(self, ngram: Ngram, kinds: Kinds) -> None:
        instruction, length, near = kinds.handlers[ngram.items[0].kind]
        super().__init__(instruction, length, near)
        self._kinds = kinds
        self._ngram = ngram
        self._item = ngram.items[0]
        self._known: dict[tuple[int, str], str] = {}  # instruction, slot -> a register's value
        self._slots: dict[str, str] = {}  # index operand -> slot, of the instruction at hand
        self._pages: dict[str, tuple[str, str, set[str]]] = {}  # base value -> page, entry, tags
        self._failures: list[tuple[str, str, str, str]] = []

    def fused(self, name: str) -> str:
        at = 0
        for number, item in enumerate(self._ngram.items):
            self._begin(number, item, at)
            self.body(self.function, self._operands())
            at += self.length
        if not self.done:
            self.dispatch(self.address("%record", 8 * at), self.counted())
        for label, record, count, plain in self._failures:
            self.label(label)
            self.tail(f"@h_{plain}", record, count)
        return self.text(name)

    def _begin(self, number: int, item: Item, at: int) -> None:
        self.instruction, self.length, self.near = self._kinds.handlers[item.kind]
        self.function = self.instruction.semantics
        self.before = number
        self.record = self.address("%record", 8 * at) if at else "%record"
        self._item = item
        self._slow = ""

    def _operands(self) -> dict[str, str]:
        operands = self.operands()
        self._slots = {}
        for slot, param in slots(self.instruction).items():
            self._slots[operands[param]] = slot
        return operands

    def slow_label(self) -> str:
        """Whatever goes wrong: the instruction's own handler sees to it."""
        if not self._slow:
            self._slow = self.new_label()
            count = f"%before{self.before}"
            if self.before:
                self.allocas.append(f"  {count} = add i64 %count, {self.before}")
            else:
                count = "%count"
            self._failures.append((self._slow, self.record, count, self._item.kind))
        return self._slow

    # --- registers -------------------------------------------------------------------------

    def read_register(self, file: str, index: str) -> str:
        slot = self._slots.get(index, "") if file == "X" else ""
        if not slot:
            return super().read_register(file, index)
        source = dict(self._item.facts).get(slot, "")
        if source == "0":
            return "0"
        here = (self.before, slot)
        if source and (int(source[1:]), _SLOTS.get(source[0], "rd")) in self._known:
            self._known[here] = self._known[int(source[1:]), _SLOTS.get(source[0], "rd")]
        if here not in self._known:
            self._known[here] = super().read_register(file, index)
        return self._known[here]

    def write_register(self, file: str, index: str, value: str) -> None:
        super().write_register(file, index, value)
        if file == "X" and self._slots.get(index) == "rd":
            self._known[self.before, "rd"] = value

    # --- memory ----------------------------------------------------------------------------

    def _base(self) -> str:
        """The value of the base register of the access at hand; "" if it was not read."""
        return self._known.get((self.before, "rs1"), "")

    def _place(self, address: str, size: int, tag_field: str) -> str:
        """Host pointer for an access; by the TLB entry of an earlier one by the same base."""
        base = self._base()
        if base and base in self._pages:
            page, entry, tags = self._pages[base]
            offset = self.binary("sub", address, page)
            self.guard(self.compare("ule", offset, str(4096 - size)))
            if tag_field not in tags:
                tag = self.load_word(self.address(entry, TLB_ENTRY.offset(tag_field)))
                self.guard(self.compare("eq", tag, page))
                tags.add(tag_field)
        else:
            entry = self.entry(address)
            tag = self.load_word(self.address(entry, TLB_ENTRY.offset(tag_field)))
            last = self.binary("add", address, str(size - 1))
            page = self.binary("and", last, "-4096")
            self.guard(self.compare("eq", tag, page))
            if base:
                self._pages[base] = (page, entry, {tag_field})
        return self.host_address(address, entry)

    def b_load(self, address: str, size: str) -> str:
        return self.load_bytes(self._place(address, int(size), "read_tag"), int(size))

    def b_store(self, address: str, value: str, size: str) -> None:
        """Only to pages without code: data beside it is the plain handler's."""
        self.store_bytes(value, self._place(address, int(size), "write_tag"), int(size))


def slots(instruction: Instruction) -> dict[str, str]:
    """Slot -> parameter of the integer registers that an instruction names: rd, rs1, rs2."""
    semantics = instruction.semantics
    found = {}
    for param in instruction.params:
        if param in semantics.indices("X", written=True):
            found["rd"] = param
        elif param in semantics.indices("X", written=False):
            found["rs2" if isa.SLOT.get(param) == "rs2" else "rs1"] = param
    return found


class Chooser(Emitter):
    """Emits `@fuse(record, kinds)`: give a record the handler of the best n-gram that begins there.

    `kinds` has the number of the record's instruction in its lowest byte, then those that follow.
    """

    def __init__(self, ngrams: Sequence[Ngram], kinds: Kinds) -> None:
        super().__init__()
        self._ngrams = ngrams
        self._kinds = kinds

    def define(self) -> str:
        groups: dict[int, list[tuple[int, Ngram]]] = {}
        for number, ngram in enumerate(self._ngrams):
            first = sum(self._kinds.number(k.kind) << 8 * i for i, k in enumerate(ngram.items[:2]))
            groups.setdefault(first, []).append((number, ngram))
        labels = {first: self.new_label() for first in groups}
        cases = " ".join(f"i64 {first}, label %{label}" for first, label in labels.items())
        first_two = self.binary("and", "%kinds", "65535")
        self.terminate(f"switch i64 {first_two}, label %none [ {cases} ]")
        for first, group in groups.items():
            self.label(labels[first])
            for number, ngram in sorted(group, key=lambda g: (-len(g[1].items), -g[1].facts, g[0])):
                self._attempt(number, ngram)
            if not self.done:
                self.jump_to("none")
        self.label("none")
        self.terminate("ret void")
        head = "define internal void @fuse(ptr %record, i64 %kinds) nounwind {"
        return "\n".join([head, *self.lines, "}"])

    def _attempt(self, number: int, ngram: Ngram) -> None:
        """Take the n-gram if it fits, else fall through."""
        if self.done:
            return
        refused = self.new_label()
        conditions = 0
        if len(ngram.items) > 2:
            wanted = sum(self._kinds.number(k.kind) << 8 * i for i, k in enumerate(ngram.items))
            seen = self.binary("and", "%kinds", str((1 << 8 * len(ngram.items)) - 1))
            conditions += self._require(self.compare("eq", seen, str(wanted)), refused)
        for item_number, item in enumerate(ngram.items):
            for slot, source in item.facts:
                index = self._index(ngram, item_number, slot)
                wanted_index = "0"
                if source != "0":
                    origin, written = int(source[1:]), source[0] == "d"
                    wanted_index = self._index(ngram, origin, _SLOTS.get(source[0], "rd"))
                    for between in range(origin + written, item_number):
                        if "rd" in slots(self._kinds.handlers[ngram.items[between].kind][0]):
                            other = self._index(ngram, between, "rd")
                            kept = self.compare("ne", index, other, "i8")
                            conditions += self._require(kept, refused)
                same = self.compare("eq", index, wanted_index, "i8")
                conditions += self._require(same, refused)
        handler = f"@h_{name_of(number)}"
        self.emit(f"store atomic ptr {handler}, ptr %record release, align 8")
        self.terminate("ret void")
        if conditions:
            self.label(refused)

    def _require(self, condition: str, refused: str) -> int:
        good = self.new_label()
        self.branch_if(condition, good, refused)
        self.label(good)
        return 1

    def _index(self, ngram: Ngram, number: int, slot: str) -> str:
        """The number of a register, from the record of an instruction of the sequence."""
        instruction, _, _ = self._kinds.handlers[ngram.items[number].kind]
        byte = operand_bytes(instruction)[slots(instruction)[slot]]
        before = sum(item.length for item in ngram.items[:number])
        return self.value(f"load i8, ptr {self.address('%record', 8 * before + 8 + byte)}")
