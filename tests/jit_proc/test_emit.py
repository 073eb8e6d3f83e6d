"""The language as native code: what LLVM makes of a function is what Python makes of it."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jit_proc.cold import ColdEmitter, operand_bytes
from jit_proc.decoder import SINK, DecodeTree, is_direct, variant
from jit_proc.emit import Emitter, literal
from protocol.layout import HART, PAGE_SIZE
from protocol.riscv import isa
from protocol.riscv.isa import decode
from protocol.riscv.language import Function, routine_from_source
from protocol.riscv.to_python import compile_function
from tests import native_code
from tests.protocol.riscv.random_functions import (
    FIELDS,
    M64,
    PARAMETERS,
    Generator,
    Program,
    State,
    pick,
)

SPECIALS = ("pc", "length", "raw")
# `hart.raw` is a record's address; here the number there stands for the bits themselves.
RAW_BITS = "define internal i64 @r_raw_bits_at(ptr %h, i64 %record) nounwind { ret i64 %record }"


class Hart:
    """A hart's structure with the contents of a `State`."""

    def __init__(self, seed: int) -> None:
        self.view = HART.ctype()
        state = State(seed)
        for i in range(32):
            self.view.x[i], self.view.f[i] = state.x[i], state.f[i]
        for i in range(16):
            self.view.pmpaddr[i] = state.pmpaddr[i]
        for name in (*FIELDS, *SPECIALS):
            setattr(self.view, name, getattr(state, name))

    @property
    def address(self) -> int:
        return ctypes.addressof(self.view)

    def numbers(self) -> list[int]:
        view = self.view
        fields = [getattr(view, name) for name in FIELDS]
        return [*list(view.x)[:32], *view.f, *view.pmpaddr, *fields]


class Folded(ColdEmitter):
    """A function whose parameters are literals, as in a region."""

    def __init__(self, function: Function, arguments: Sequence[int]) -> None:
        super().__init__(function)
        self.arguments = arguments

    def body(self, function: Function, operands: dict[str, str]) -> None:
        folded = {p: literal(v) for p, v in zip(operands, self.arguments, strict=True)}
        super().body(function, folded)


def exported(text: str) -> str:
    return text.replace("define internal", "define", 1)


def build(functions: Sequence[ColdEmitter]) -> native_code.Image:
    return native_code.build(
        "\n".join([native_code.HEAD, RAW_BITS, *(exported(f.define()) for f in functions)])
    )


def call(image: native_code.Image, name: str, hart: Hart, *arguments: int) -> int:
    words = [ctypes.c_uint64] * (1 + len(arguments))
    return int(image.function(f"r_{name}", *words)(hart.address, *arguments))


def programs(seed: int, count: int, stateful: bool) -> list[Program]:
    source = random.Random(seed)
    return [Generator(source, stateful).program(f"f{i}") for i in range(count)]


# --- functions --------------------------------------------------------------------------------


@pytest.mark.parametrize("stateful", [False, True])
def test_a_function_does_natively_what_it_does_in_python(stateful):
    source = random.Random(7)
    made = programs(11, 120, stateful)
    image = build([ColdEmitter(p.function) for p in made])
    for number, program in enumerate(made):
        python = compile_function(program.function)
        for seed in range(8):
            arguments = [pick(source) for _ in PARAMETERS]
            hart, state = Hart(seed), State(seed)
            found = call(image, f"f{number}", hart, *arguments)
            assert found == python(state, *arguments), (program.text, arguments)
            assert hart.numbers() == state.numbers(), (program.text, arguments)


@settings(max_examples=8)
@given(st.lists(st.randoms(use_true_random=False), min_size=8, max_size=8), st.integers(0, M64))
def test_small_functions_that_somebody_else_thought_of(sources, argument):
    made = [Generator(s).program(f"f{i}") for i, s in enumerate(sources)]
    image = build([ColdEmitter(p.function) for p in made])
    for number, program in enumerate(made):
        arguments = (argument, argument >> 7, 5)
        expected = compile_function(program.function)(State(0), *arguments)
        assert call(image, f"f{number}", Hart(0), *arguments) == expected, program.text


def test_operands_that_are_literals_fold_to_the_same():
    """As in a region: what an instruction's operands decide never reaches LLVM."""
    source = random.Random(13)
    made = programs(17, 120, stateful=True)
    cases = [[pick(source) for _ in PARAMETERS] for _ in made]
    image = build([Folded(p.function, c) for p, c in zip(made, cases, strict=True)])
    for number, (program, arguments) in enumerate(zip(made, cases, strict=True)):
        hart, state = Hart(number), State(number)
        expected = compile_function(program.function)(state, *arguments)
        found = call(image, f"f{number}", hart, 0, 0, 0)
        assert found == expected, (program.text, arguments)
        assert hart.numbers() == state.numbers(), (program.text, arguments)


def test_a_function_of_literals_is_one_return():
    source = random.Random(19)
    expressions = ["a + b * 3", "signed(a) >> (b & 63)", "a if a < b else b", "sext(a, 8)", "~a"]
    expressions += ["word(signed(a) < signed(b) or a == 0)", "mulh(a, b)", "clz(a) - ctz(b)"]
    for text in expressions:
        function = routine_from_source("f", f"def f(a, b):\n return {text}", {})
        arguments = (pick(source), pick(source))
        lines = Folded(function, arguments).define().splitlines()
        value = compile_function(function)(None, *arguments)
        assert lines[1:] == [f"  ret i64 {literal(value)}", "}"], text


def test_a_branch_on_a_literal_leaves_one_side_only():
    text = "def f(a):\n if a == 0:\n  return 1\n else:\n  return divu(7, a)"
    function = routine_from_source("f", text, {})
    assert "udiv" not in Folded(function, [0]).define()
    assert Folded(function, [2]).define().splitlines()[1] == "  ret i64 3"


def test_routines_call_routines_and_traps_come_through():
    trapping = routine_from_source("inner", "def inner(a):\n if a == 0:\n  bad(a)\n return a", {})
    bad = routine_from_source("bad", "def bad(a):\n hart.mtval = a + 5\n trap(2, a)", {})
    trapping.scope["bad"] = bad
    outer = routine_from_source(
        "outer", "def outer(a):\n hart.sepc = 1\n b = inner(a)\n hart.sepc = 2\n return b + 1", {}
    )
    outer.scope["inner"] = trapping
    head = "define internal void @r_enter_trap(ptr %hart, i64 %c, i64 %v) { ret void }\n"
    text = "".join(ColdEmitter(f).define() + "\n" for f in (bad, trapping, outer))
    wrapper = """
define i64 @trapped(ptr %hart, i64 %a) {
  %r = call { i64, i1 } @r_outer(ptr %hart, i64 %a)
  %t = extractvalue { i64, i1 } %r, 1
  %z = zext i1 %t to i64
  ret i64 %z
}
define i64 @result(ptr %hart, i64 %a) {
  %r = call { i64, i1 } @r_outer(ptr %hart, i64 %a)
  %v = extractvalue { i64, i1 } %r, 0
  ret i64 %v
}
"""
    image = native_code.build(native_code.HEAD + head + text + wrapper)
    words = [ctypes.c_uint64] * 2
    hart = Hart(0)
    assert image.function("trapped", *words)(hart.address, 0) == 1
    assert (hart.view.mtval, hart.view.sepc) == (5, 1)
    assert image.function("trapped", *words)(hart.address, 41) == 0
    assert image.function("result", *words)(hart.address, 41) == 42
    assert hart.view.sepc == 2


# --- the pieces that regions and handlers use -----------------------------------------------------


@pytest.mark.parametrize("op", ["add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr"])
def test_folding_two_literals_and_what_is_neutral(op):
    out = Emitter()
    source = random.Random(op)
    if op in ("shl", "lshr", "ashr"):
        pairs = [(pick(source), source.randrange(64)) for _ in range(50)]
    else:
        pairs = [(pick(source), pick(source)) for _ in range(50)]
    folded = [out.binary(op, literal(a), literal(b)) for a, b in pairs]
    assert out.lines == []
    functions = "".join(
        f"define i64 @f{i}() {{\n %r = {op} i64 {literal(a)}, {literal(b)}\n ret i64 %r\n}}\n"
        for i, (a, b) in enumerate(pairs)
    )
    image = native_code.build(functions)
    for number, value in enumerate(folded):
        assert int(value) & M64 == image.function(f"f{number}")(), pairs[number]
    assert out.binary("add", "%x", "0") == "%x"
    assert out.binary("or", "0", "%x") == "%x"
    assert out.binary("sub", "0", "%x") == "%t1"  # not neutral on this side


def test_nothing_is_emitted_behind_a_terminator():
    out = Emitter()
    out.terminate("ret void")
    out.emit("store i64 1, ptr %x")
    out.jump_to("l")
    assert out.lines == ["  ret void"]
    out.label("l")
    out.emit("unreachable")
    assert out.lines[1:] == ["l:", "  unreachable"]


# --- the decoder ------------------------------------------------------------------------------


class NativeDecoder:
    """`@decode_word` as in the engine, with a handler of one byte for each name."""

    def __init__(self) -> None:
        isa.load_all()
        self.encodings = list(isa.ENCODINGS.values())
        names = {variant(e) for e in self.encodings}
        names |= {variant(e, near=True) for e in self.encodings if is_direct(e)}
        names |= {"illegal_2", "illegal_4"}
        text = exported(DecodeTree().define(self.encodings))
        # Each returns a number of its own, so that none can be taken for another.
        stubs = [
            f"define hidden i64 @h_{name}() {{\n ret i64 {i}\n}}"
            for i, name in enumerate(sorted(names))
        ]
        image = native_code.build("\n".join([native_code.HEAD, text, *stubs]))
        self.names = {image.base + image.symbols[f"h_{n}"]: n for n in names}
        assert len(self.names) == len(names)
        words = [ctypes.c_uint64] * 4
        self._decode = image.function("decode_word", *words, result=None)
        self.hart = HART.ctype()
        self.hart.threshold = 0x1234
        self.record = (ctypes.c_uint64 * 2)()

    def __call__(self, raw: int, offset: int = 1 << 20) -> tuple[str, int]:
        """(handler's name, operand word)."""
        self._decode(ctypes.addressof(self.hart), raw, ctypes.addressof(self.record), offset)
        return self.names[self.record[0]], self.record[1]


@pytest.fixture(scope="module")
def decoder() -> NativeDecoder:
    return NativeDecoder()


def expectation(raw: int, offset: int = 1 << 20) -> tuple[str, int]:
    """What `isa.decode` and the record's format ask for."""
    found = decode(raw)
    if found is None:
        return f"illegal_{4 if raw & 3 == 3 else 2}", 0
    semantics = found.instruction.semantics
    word = 0
    for param, byte in operand_bytes(found.instruction).items():
        value = found.operands[param]
        if byte == 0:
            word |= value & 0xFFFF_FFFF
        elif param in semantics.indices("X", written=True) and value == 0:
            word |= SINK << 8 * byte
        else:
            word |= value << 8 * byte + (5 if param == "rm" else 0)
    if semantics.builtins & {"branch", "jump"}:
        word |= 0x1234 << 48
    near = is_direct(found.encoding) and 0 <= offset + found.operands["imm"] < PAGE_SIZE
    return variant(found.encoding, near=near), word


def test_every_compressed_word_is_decoded_as_the_isa_says(decoder):
    for raw in range(1 << 16):
        if raw & 3 != 3:
            assert decoder(raw) == expectation(raw), hex(raw)


def test_words_of_every_encoding_are_decoded_as_the_isa_says(decoder):
    source = random.Random(23)
    for encoding in decoder.encodings:
        if encoding.length == 4:
            for _ in range(30):
                noise = source.getrandbits(32) & ~encoding.pattern.mask
                raw = noise | encoding.pattern.match
                assert decoder(raw) == expectation(raw), hex(raw)


def test_random_words_are_decoded_as_the_isa_says(decoder):
    source = random.Random(29)
    for _ in range(8000):
        raw = source.getrandbits(32) | 3
        assert decoder(raw) == expectation(raw), hex(raw)
        raw ^= 1 << source.randrange(2, 32)
        assert decoder(raw) == expectation(raw), hex(raw)


def test_bits_above_a_compressed_instruction_do_not_matter(decoder):
    for raw in (0x0001, 0x4501, 0x8082, 0x9002, 0):
        assert decoder(raw | 0xABCD_0000) == decoder(raw)


@pytest.mark.parametrize("text", ["beq", "jal", "c.j", "c.bnez"])
def test_a_transfer_that_stays_in_the_page_gets_the_near_handler(decoder, text):
    pattern = isa.ENCODINGS[text].pattern
    for distance in (-256, -2, 0, 2, 254):
        raw = pattern.insert({"imm": distance})
        for offset in (0, 2, 254, 256, 2048, PAGE_SIZE - 256, PAGE_SIZE - 254, PAGE_SIZE - 2):
            found, word = decoder(raw, offset)
            assert (found, word) == expectation(raw, offset)
            assert found.endswith("n") == (0 <= offset + distance < PAGE_SIZE)
        assert not decoder(raw)[0].endswith("n")  # no place in a page
