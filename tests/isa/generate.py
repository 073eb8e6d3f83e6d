"""Random instruction sequences, made from the ISA's own declarations.

The problem: every encoding should meet odd operands, odd neighbours, and every way in which control
or a trap can pass through it; yet a sequence must end, must not touch what is not its own, and must
mean the same on every machine. So each encoding is classified by the builtins its semantics use,
and each class is put in with what makes it safe: loads and stores through pointers into the scratch
area, transfers of control to later items only, loops with a counter of their own.

Invariants: a `Generator` is a function of its seed; branches go from item to item, into a loop only
from inside it; registers in `reserved` (pointers, the loop counter) are never written by chance. An
encoding added to the ISA is generated without a line here, if its class is known.

Read next: `batch.py`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.riscv.assembler import assemble
from protocol.riscv.csr import NUMBERS
from protocol.riscv.isa import ENCODINGS, REGISTER_BITS, Encoding, Pattern, decode, load_all
from tests.isa.batch import SCRATCH_SIZE, Sequence
from tests.isa.values import BOX, DOUBLES, M64, SINGLES, WORDS

POINTER_MAX = 192  # pointers point 64 to 192 bytes into the scratch area
OFFSETS = (-64, SCRATCH_SIZE - POINTER_MAX - 16)
NOWHERE = 0x0800_0000  # nothing answers there, on any machine the sequences run on

CSRS = ("fflags", "frm", "fcsr", "sscratch")
MORE_CSRS = ("scause", "stval", "sepc")  # kept otherwise by other machines
NOT_PORTABLE = ("ctzw",)  # QEMU 7.2 counts on into the upper half of the register
_REFUSED = (0x5C0, 0x7C5, 0x9FF)  # no such CSR
_READ_ONLY = (0xF11, 0xC00)  # QEMU 7.2 lets csrrs and csrrc of a register that holds 0 pass

LEFT_OUT = ("mret", "sret", "wfi", "sfence.vma", "ecall", "ebreak")
MEMORY = frozenset(("load", "store"))
ATOMIC = frozenset(("amo", "load_reserved", "store_conditional"))
_REGISTERS = frozenset(("rd", "rs1", "rs2", "rs3"))


@dataclass(frozen=True)
class Profile:
    """What a batch is made of.

    `items`: the range of their number in a sequence. `iterations`: the range of a loop's.
    `loops`: how often a sequence has one. `portable`: only what QEMU does exactly as we do.
    """

    items: tuple[int, int] = (4, 14)
    iterations: tuple[int, int] = (1, 4)
    loops: float = 0.3
    faults: float = 0.15
    patches: float = 0.06
    portable: bool = False


@dataclass
class _Item:
    """`size` bytes, made when it is known where all items are."""

    size: int
    build: Callable[[int, list[int]], bytes]
    loop: int = 0


@dataclass(frozen=True)
class _Classes:
    plain: list[Encoding] = field(default_factory=list)
    floating: list[Encoding] = field(default_factory=list)
    memory: list[Encoding] = field(default_factory=list)
    atomic: list[Encoding] = field(default_factory=list)
    branches: list[Encoding] = field(default_factory=list)
    indirect: list[Encoding] = field(default_factory=list)
    csr: list[Encoding] = field(default_factory=list)


@functools.cache
def classes() -> _Classes:
    """Every encoding by what it does; those that change the mode, stop or trap are left out."""
    load_all()
    found = _Classes()
    for encoding in ENCODINGS.values():
        semantics = encoding.instruction.semantics
        used = semantics.builtins
        if "csr" in encoding.pattern.fields:
            found.csr.append(encoding)
        elif used & MEMORY:
            found.memory.append(encoding)
        elif used & ATOMIC:
            found.atomic.append(encoding)
        elif "branch" in used:
            found.branches.append(encoding)
        elif encoding.instruction.name == "jalr":
            found.indirect.append(encoding)
        elif encoding.instruction.name in LEFT_OUT:
            continue
        elif semantics.indices("F", True) | semantics.indices("F", False):
            found.floating.append(encoding)
        else:
            found.plain.append(encoding)
    return found


def raw_bits(pattern: Pattern, fields: dict[str, int]) -> int:
    """The instruction with these fields, which are known to fit."""
    raw = pattern.match
    for piece in pattern.pieces:
        value = fields.get(piece.name, 0)
        if piece.name.endswith("'"):
            value -= 8
        raw |= ((value >> piece.at) & ((1 << piece.width) - 1)) << piece.shift
    return raw


def _bytes(raw: int, size: int) -> bytes:
    return raw.to_bytes(size, "little")


@functools.cache
def _immediate(pattern: Pattern, name: str) -> tuple[int, int, int]:
    """(lowest, highest, step) of an immediate field."""
    pieces = [p for p in pattern.pieces if p.name == name]
    step = 1 << min(p.at for p in pieces)
    width = max(p.at + p.width for p in pieces)
    if name in ("imm", "nzimm"):
        return -(1 << (width - 1)), (1 << (width - 1)) - step, step
    return 0, (1 << width) - step, step


class Generator:
    """Sequences by `profile` from `seed`."""

    def __init__(self, seed: int, profile: Profile | None = None) -> None:
        self.random = random.Random(seed)
        self.profile = profile or Profile()
        self.generated: set[str] = set()  # names of the encodings used so far
        self._reserved: set[int] = set()
        self._pointers: list[int] = []
        self._csrs = CSRS if self.profile.portable else CSRS + MORE_CSRS

    def sequences(self, count: int) -> list[Sequence]:
        return [self.sequence() for _ in range(count)]

    # --- values -----------------------------------------------------------------------------------

    def word(self) -> int:
        """A word to have in an integer register."""
        pick = self.random
        kind = pick.random()
        if kind < 0.4:
            return pick.choice(WORDS)
        if kind < 0.6:
            return pick.randrange(-2048, 2048) & M64
        if kind < 0.7:
            return 1 << pick.randrange(64)
        value = pick.getrandbits(64)
        return value if kind < 0.9 else (value & 0xFFFFFFFF ^ 1 << 31) - (1 << 31) & M64

    def float_word(self) -> int:
        """A word to have in a floating-point register."""
        pick = self.random
        kind = pick.random()
        if kind < 0.35:
            return BOX | pick.choice(SINGLES)
        if kind < 0.5:
            return BOX | pick.getrandbits(32)
        if kind < 0.55:  # numbers of like size, so that sums are inexact
            return BOX | pick.randrange(0x3E000000, 0x41000000) | pick.getrandbits(1) << 31
        if kind < 0.8:
            return pick.choice(DOUBLES)
        if kind < 0.9:
            return pick.randrange(0x3FB << 52, 0x403 << 52) | pick.getrandbits(1) << 63
        return pick.getrandbits(64)

    # --- operands ---------------------------------------------------------------------------------

    def register(self, field_: str, written: bool) -> int:
        pick = self.random
        while True:
            number = 8 + pick.getrandbits(3) if field_.endswith("'") else pick.getrandbits(5)
            if not (written and number in self._reserved):
                return number

    def rounding_mode(self) -> int:
        pick = self.random
        return 7 if pick.random() < 0.5 else pick.choice((0, 0, 1, 2, 3, 4, 4, 0, 1, 2, 3, 4, 5, 6))

    def fields(self, encoding: Encoding, **given: int) -> dict[str, int]:
        """Random values for every field, `where` holding; `given` by the field's name."""
        semantics = encoding.instruction.semantics
        written = {v for p, v in encoding.operands.items() if p in semantics.indices("X", True)}
        pick = self.random
        while True:
            values = {}
            for name in encoding.pattern.fields:
                if name in given:
                    values[name] = given[name]
                elif name.rstrip("'") in _REGISTERS:
                    values[name] = self.register(name, name in written)
                elif name == "rm":
                    values[name] = self.rounding_mode()
                elif name in REGISTER_BITS:
                    values[name] = pick.getrandbits(REGISTER_BITS[name])
                else:
                    low, high, step = _immediate(encoding.pattern, name)
                    values[name] = self.immediate(low, high, step)
            if encoding.holds(values):
                return values

    def immediate(self, low: int, high: int, step: int) -> int:
        pick = self.random
        kind = pick.random()
        if kind < 0.1:
            return low
        if kind < 0.2:
            return high
        if kind < 0.4:
            return max(low, min(high, pick.choice((0, step, -step, 2 * step))))
        return pick.randrange(low, high + 1, step)

    def encode(self, encoding: Encoding, **given: int) -> bytes:
        self.generated.add(encoding.name)
        fields = self.fields(encoding, **given)
        return _bytes(raw_bits(encoding.pattern, fields), encoding.length)

    # --- items ------------------------------------------------------------------------------------

    def fixed(self, code: bytes) -> _Item:
        return _Item(len(code), lambda at, places: code)

    def ordinary(self) -> _Item:
        """One instruction (or a few that belong together) without a transfer of control."""
        kind = self.random.random()
        found = classes()
        if kind < 0.4:
            return self.fixed(self.plain())
        if kind < 0.62:
            return self.fixed(self.encode(self.random.choice(found.floating)))
        if kind < 0.82:
            return self.fixed(self.memory(self.random.choice(found.memory)))
        if kind < 0.92:
            return self.fixed(self.atomic())
        return self.fixed(self.csr())

    def plain(self) -> bytes:
        encoding = self.random.choice(classes().plain)
        while self.profile.portable and encoding.name in NOT_PORTABLE:
            encoding = self.random.choice(classes().plain)
        code = self.encode(encoding)
        if encoding.operands.get("rd") == 2:  # c.addi16sp: sp comes back to where it was
            moved = encoding.pattern.extract(int.from_bytes(code, "little"))["imm"]
            code += _bytes((-moved & 0xFFF) << 20 | 2 << 15 | 2 << 7 | 0x13, 4)
        return code

    def memory(self, encoding: Encoding) -> bytes:
        """A load or store in the scratch area."""
        operands = encoding.operands
        base = operands["rs1"]
        imm = operands["imm"]
        assert isinstance(imm, str)
        low, high, step = _immediate(encoding.pattern, imm)
        low, high = max(low, -(-OFFSETS[0] // step) * step), min(high, OFFSETS[1])
        given = {imm: self.random.randrange(low, high + 1, step)}
        before = b""
        if base == 2:
            pass  # sp is always a pointer
        elif isinstance(base, str) and not base.endswith("'") and self.random.random() < 0.3:
            # through a copy, which the access itself may overwrite
            copy = self.register("rd", True) or 1
            if copy in self._reserved:
                copy = self._pointers[1]
            else:
                before = _bytes(self.random.choice(self._pointers) << 15 | copy << 7 | 0x13, 4)
                if "rd" in operands and self.random.random() < 0.5 and self._writes_x(encoding):
                    given["rd"] = copy
            given[base] = copy
        else:
            assert isinstance(base, str)
            compact = [p for p in self._pointers if 8 <= p < 16]
            given[base] = self.random.choice(compact if base.endswith("'") else self._pointers)
        return before + self.encode(encoding, **given)

    @staticmethod
    def _writes_x(encoding: Encoding) -> bool:
        return "rd" in encoding.instruction.semantics.indices("X", True)

    def atomic(self) -> bytes:
        """An AMO, or LR and SC, together or alone."""
        found = classes().atomic
        pick = self.random
        pointer = pick.choice(self._pointers)
        if pick.random() < 0.6:
            encoding = pick.choice(found)
            while self.profile.portable and encoding.name[:2] in ("lr", "sc"):
                encoding = pick.choice(found)  # whether an SC of another size succeeds is open
            return self.encode(encoding, rs1=pointer)
        size = pick.choice("wd")
        names = {e.name: e for e in found}
        code = self.encode(names[f"lr.{size}"], rs1=pointer)
        if pick.random() < 0.5:
            code += self.plain()
        if pick.random() < 0.2:
            stores = {e.name: e for e in classes().memory}
            code += self.encode(stores[pick.choice(("sd", "sb"))], rs1=pointer, imm=0)
        other = pick.choice(self._pointers) if pick.random() < 0.1 else pointer
        if pick.random() < 0.1 and not self.profile.portable:
            size = pick.choice("wd")
        return code + self.encode(names[f"sc.{size}"], rs1=other)

    def csr(self) -> bytes:
        number = NUMBERS[self.random.choice(self._csrs)]
        return self.encode(self.random.choice(classes().csr), csr=number)

    def transfer(self) -> _Item:
        """A branch or a jump to a later item."""
        pick = self.random
        found = classes()
        encoding = pick.choice(found.branches + found.indirect)
        while encoding.operands.get("rd") in self._reserved:  # c.jalr
            encoding = pick.choice(found.branches + found.indirect)
        if encoding not in found.branches:
            return self.indirect(encoding)
        imm = encoding.operands["imm"]
        assert isinstance(imm, str)
        fields = self.fields(encoding, **{imm: 0})
        self.generated.add(encoding.name)

        def build(at: int, places: list[int]) -> bytes:
            fields[imm] = places[0] - at
            return _bytes(raw_bits(encoding.pattern, fields), encoding.length)

        return _Item(encoding.length, build)

    def indirect(self, encoding: Encoding) -> _Item:
        """auipc, an addition, and a jump through the register; bit 0 of the sum is ignored."""
        self.generated.add(encoding.name)
        register = 0
        while register == 0 or register in self._reserved:
            register = self.random.getrandbits(5)
        odd = self.random.getrandbits(1)
        split = self.random.randrange(-64, 64) if encoding.length == 4 else 0
        fields = self.fields(encoding, rs1=register)

        def build(at: int, places: list[int]) -> bytes:
            offset = places[0] - at + odd - split
            code = _bytes(register << 7 | 0x17, 4)
            code += _bytes((offset & 0xFFF) << 20 | register << 15 | register << 7 | 0x13, 4)
            if encoding.length == 4:
                fields["imm"] = split
            return code + _bytes(raw_bits(encoding.pattern, fields), encoding.length)

        return _Item(8 + encoding.length, build)

    def patch(self) -> _Item:
        """Code that replaces the instruction behind it, and comes to that at once."""
        first, second = self._two_free()
        choices = [e for e in classes().plain if e.length == 4 and e.name not in NOT_PORTABLE]
        patched, placed = (self.encode(self.random.choice(choices)) for _ in range(2))
        fence = "fence.i" if self.profile.portable or self.random.random() < 0.3 else "nop"
        value = int.from_bytes(patched, "little")
        low = (value & 0xFFF ^ 0x800) - 0x800
        high = (value - low) >> 12 & 0xFFFFF
        text = f"lui x{first}, {high}; addiw x{first}, x{first}, {low}; auipc x{second}, 0"
        text += f"; sw x{first}, 12(x{second}); {fence}"
        return self.fixed(assemble(text).data + placed)

    def _two_free(self) -> list[int]:
        free = [r for r in range(1, 32) if r not in self._reserved]
        return self.random.sample(free, 2)

    def fault(self) -> _Item:
        """Something that traps."""
        pick = self.random
        kind = pick.randrange(6)
        if kind == 0:
            while True:
                raw = pick.getrandbits(32)
                if pick.random() < 0.5:  # near a legal one
                    encoding = pick.choice(list(ENCODINGS.values()))
                    raw = raw_bits(encoding.pattern, self.fields(encoding))
                    raw ^= 1 << pick.randrange(8 * encoding.length)
                size = 4 if raw & 3 == 3 else 2
                if decode(raw) is None and raw & 0x1F != 0x1F:
                    return self.fixed(_bytes(raw & (1 << 8 * size) - 1, size))
        if kind == 1:
            traps = ("73000000",) if self.profile.portable else ("73001000", "0290", "73000000")
            return self.fixed(bytes.fromhex(pick.choice(traps)))
        if kind == 2:
            encoding = pick.choice(classes().csr)
            given = {"csr": pick.choice(_REFUSED + (() if self.profile.portable else _READ_ONLY))}
            for name in ("rs1", "zimm"):
                if name in encoding.pattern.fields:
                    given[name] = 1 + pick.randrange(31)
            return self.fixed(self.encode(encoding, **given))
        if kind == 3 and not self.profile.portable:
            pointer = pick.choice(self._pointers)
            scratch = self._two_free()[0]
            names = [e for e in classes().atomic if e.instruction.name != "sc.w"]
            code = _bytes(pick.choice((1, 2, 3, 4)) << 20 | pointer << 15 | scratch << 7 | 0x13, 4)
            return self.fixed(code + self.encode(pick.choice(names), rs1=scratch))
        if kind == 4:
            first = self._two_free()[0]
            address = pick.choice((NOWHERE >> 12, 0x80000 | pick.getrandbits(18)))
            code = _bytes(address << 12 | first << 7 | 0x37, 4)
            code += self.encode(next(e for e in classes().indirect if e.length == 4), rs1=first)
            return self.fixed(code)
        first = self._two_free()[0]
        address = pick.choice((NOWHERE >> 12, 0x80000 | pick.getrandbits(18)))
        code = _bytes(address << 12 | first << 7 | 0x37, 4)
        if pick.random() < 0.3 and not self.profile.portable:
            choices = [e for e in classes().atomic if not e.name.startswith("sc.")]
            return self.fixed(code + self.encode(pick.choice(choices), rs1=first))
        encoding = pick.choice([e for e in classes().memory if e.length == 4])
        imm = pick.randrange(-2048, 2048, 8 if self.profile.portable else 1)
        return self.fixed(code + self.encode(encoding, rs1=first, imm=imm))

    # --- sequences --------------------------------------------------------------------------------

    def sequence(self) -> Sequence:
        pick = self.random
        profile = self.profile
        compact = pick.randrange(8, 16)
        other = pick.choice([r for r in range(1, 32) if r not in (2, compact)])
        self._pointers = [2, compact, other]
        counter = pick.choice([r for r in range(1, 32) if r not in self._pointers])
        self._reserved = {*self._pointers, counter}
        total = pick.randint(*profile.items)
        loop = range(0)
        if pick.random() < profile.loops and total > 2:
            start = pick.randrange(total - 1)
            loop = range(start, min(total, start + pick.randint(1, 6)))
        items: list[_Item] = []
        jumps: dict[int, _Item] = {}
        fault_at = pick.randrange(total) if pick.random() < profile.faults else -1
        patch_at = pick.randrange(total) if pick.random() < profile.patches else -1
        heads: list[int] = []  # where a loop may be entered, and everything outside of it
        for number in range(total):
            if loop and number == loop.start:
                setup = _bytes(pick.randint(*profile.iterations) << 20 | counter << 7 | 0x13, 4)
                heads.append(len(items))
                items.append(self.fixed(setup))
            inside = number in loop
            if number == fault_at:
                item = self.fault()
            elif number == patch_at:
                item = self.patch()
            elif pick.random() < 0.15:
                item = self.transfer()
                jumps[len(items)] = item
            else:
                item = self.ordinary()
            item.loop = int(inside)
            if not inside:
                heads.append(len(items))
            items.append(item)
            if loop and number == loop.stop - 1:
                items += self.close_loop(counter, len(items) - len(loop))
        heads.append(len(items))
        items.append(self.fixed(b"\x73\0\0\0"))
        return self.finish(items, jumps, heads)

    def close_loop(self, counter: int, first: int) -> list[_Item]:
        """The counter's decrement and the branch back to item `first`."""
        names = {e.name: e for e in classes().branches}
        branch = names["c.bnez" if 8 <= counter < 16 and self.random.random() < 0.5 else "bne"]
        self.generated.add(branch.name)

        def build(at: int, places: list[int]) -> bytes:
            fields = {"rs1": counter, "rs1'": counter, "rs2": 0, "imm": places[1 + first] - at}
            return _bytes(raw_bits(branch.pattern, fields), branch.length)

        down = _bytes(0xFFF << 20 | counter << 15 | counter << 7 | 0x13, 4)
        # Nobody jumps past the decrement: the loop would not end.
        step = self.fixed(down)
        step.loop = 1
        return [step, _Item(branch.length, build)]

    def finish(self, items: list[_Item], jumps: dict[int, _Item], heads: list[int]) -> Sequence:
        pick = self.random
        starts = []
        at = 0
        for item in items:
            starts.append(at)
            at += item.size
        code = b""
        for number, item in enumerate(items):
            target = 0
            if number in jumps:
                later = [h for h in heads if h > number]
                if item.loop:
                    later += [i for i in range(number + 1, len(items)) if items[i].loop]
                near = [h for h in later if starts[h] - starts[number] < 240]
                target = starts[pick.choice(near or later[:1])]
            code += item.build(len(code), [target, *starts])
        x = [self.word() for _ in range(31)]
        f = tuple(self.float_word() for _ in range(32))
        fcsr = pick.choice((0, 0, pick.getrandbits(5))) | pick.choice((0, 0, 1, 2, 3, 4, 5, 7)) << 5
        pointers = {}
        for register in self._pointers:
            align = 8 if self.profile.portable else pick.choice((8, 8, 8, 4, 1))
            pointers[register] = pick.randrange(64, POINTER_MAX, align)
        return Sequence(code, tuple(x), f, fcsr, pick.randbytes(SCRATCH_SIZE), pointers)
