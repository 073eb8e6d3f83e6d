"""The semantics language: functions mean what they say, and nothing else is let in."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.riscv import language
from protocol.riscv.isa import routine
from protocol.riscv.language import BUILTINS, Function, LanguageError, function, routine_from_source
from protocol.riscv.to_python import compile_function
from tests.protocol.riscv.execution import WORDS
from tests.protocol.riscv.random_functions import M64, Generator, State, Word

PAIR = st.tuples(WORDS, WORDS)


def parse(body: str, params: str = "a, b", **scope: Any) -> Function:
    """A function with this body, parsed."""
    lines = "".join(f" {line}\n" for line in body.splitlines())
    found = routine_from_source("f", f"def f({params}):\n{lines}", scope)
    assert found.body is not None
    return found


@functools.cache
def compiled(text: str) -> Any:
    return compile_function(parse(f"return {text}"))


def value(text: str, a: int = 0, b: int = 0, **scope: Any) -> Any:
    """The value of an expression over words `a` and `b`."""
    run = compile_function(parse(f"return {text}", **scope)) if scope else compiled(text)
    return run(None, a, b)


# --- every construct by itself --------------------------------------------------------------------


def signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a * b": lambda a, b: a * b,
    "a & b": lambda a, b: a & b,
    "a | b": lambda a, b: a | b,
    "a ^ b": lambda a, b: a ^ b,
    "~a": lambda a, b: -1 - a,
    "-a": lambda a, b: -a,
    "a << (b & 63)": lambda a, b: a << b % 64,
    "a >> (b & 63)": lambda a, b: a >> b % 64,
    "signed(a) >> (b & 63)": lambda a, b: signed(a) >> b % 64,
    "a if a < b else b": min,
    "a if signed(a) < signed(b) else b": lambda a, b: min(a, b, key=signed),
    "word(a == b)": lambda a, b: a == b,
    "word(a < b and not b == 7)": lambda a, b: a < b and b != 7,
    "word(a < b or b == 7)": lambda a, b: a < b or b == 7,
    "word((a < b) == (b < 9))": lambda a, b: (a < b) == (b < 9),
}


@pytest.mark.parametrize("text", ARITHMETIC)
@settings(max_examples=25)
@given(PAIR)
def test_words_are_unsigned_and_wrap_around(text, pair):
    assert value(text, *pair) == ARITHMETIC[text](*pair) & M64


@pytest.mark.parametrize("sign", ["==", "!=", "<", "<=", ">", ">="])
@settings(max_examples=25)
@given(PAIR)
def test_order_is_unsigned_unless_both_sides_are_signed(sign, pair):
    a, b = pair
    assert value(f"a {sign} b", a, b) is eval(f"{a} {sign} {b}")
    assert value(f"signed(a) {sign} signed(b)", a, b) is eval(f"{signed(a)} {sign} {signed(b)}")


def test_a_literal_may_be_compared_with_a_signed_word():
    assert value("signed(a) < 0", 2**63) is True
    assert value("signed(a) < -1", 2**64 - 2) is True
    assert value("0 <= signed(a)", 2**63) is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-1", M64),
        ("~0", M64),
        ("0 - 1", M64),
        ("1 << 63", 2**63),
        ("3 << 63", 2**63),
        ("NEGATIVE", M64 - 4),
        ("sext(0x80, 8)", M64 - 127),
        ("sext(0x17F, 8)", 0x7F),
        ("zext(0x1FF, 8)", 0xFF),
        ("mulh(~0, ~0)", 0),
        ("mulhu(~0, ~0)", M64 - 1),
        ("mulhsu(~0, ~0)", M64),
        ("divs(-7, 2)", M64 - 2),
        ("rems(-7, 2)", M64),
        ("rems(7, -2)", 1),
        ("divu(-7, 2)", (2**64 - 7) // 2),
        ("remu(-7, 2)", 1),
        ("clz(0)", 64),
        ("ctz(0)", 64),
        ("clz(1)", 63),
        ("ctz(1 << 63)", 63),
        ("cpop(~0)", 64),
        ("bswap(0x0102030405060708)", 0x0807060504030201),
    ],
)
def test_literals_constants_and_builtins(text, expected):
    assert value(text, NEGATIVE=-5) == expected


def test_true_and_false_are_bools():
    assert value("True") is True
    assert value("NO", NO=False) is False


# --- whole functions ------------------------------------------------------------------------------


@settings(max_examples=80)
@given(st.randoms(use_true_random=False), st.booleans(), st.lists(WORDS, min_size=3, max_size=3))
def test_a_function_does_what_it_says(source, stateful, arguments):
    program = Generator(source, stateful).program()
    expected_state, found_state = State(1, Word), State(1)
    expected = program.meaning(tuple(arguments), expected_state)
    found = compile_function(program.function)(found_state, *arguments)
    assert found == expected, program.text
    assert found_state.numbers() == expected_state.numbers(), program.text


def test_long_functions_do_too():
    for seed in range(150):
        source = random.Random(seed)
        program = Generator(source, stateful=True).program()
        for _ in range(4):
            arguments = (source.getrandbits(64), source.getrandbits(6), 1 << source.randrange(64))
            states = State(seed, Word), State(seed)
            expected = program.meaning(arguments, states[0])
            assert compile_function(program.function)(states[1], *arguments) == expected
            assert states[0].numbers() == states[1].numbers(), program.text


def test_x0_takes_no_value_but_its_effects_happen():
    class Hart(State):
        loads = 0

        def load(self, address: int, size: int) -> int:
            self.loads += 1
            return 7

    hart = Hart(0)
    run = compile_function(parse("X[a] = load(b, 8)"))
    run(hart, 0, 0x1000)
    assert (hart.x[0], hart.loads) == (0, 1)
    run(hart, 3, 0x1000)
    assert (hart.x[3], hart.loads) == (7, 2)


def test_a_parameter_may_be_assigned():
    assert compile_function(parse("a += b\nb = a + a\nreturn b"))(State(0), 1, 2) == 6


def test_routines_call_routines():
    inner = parse("return a + 1", "a")
    outer = parse("return inner(inner(a)) * b", inner=inner)
    assert compile_function(outer)(State(0), 1, 10) == 30
    assert outer.callees == (inner,)


# --- what a function is known to do -------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "may_trap", "has_effects"),
    [
        ("return a + b", False, False),
        ("return X[a]", False, False),
        ("return peek(a, 8)", False, False),
        ("X[a] = b", False, True),
        ("hart.mtval = b", False, True),
        ("trap(2, a)", True, True),
        ("return load(a, 8)", True, True),
        ("store(a, b, 8)", True, True),
        ("return amo('add', a, b, 4)", True, True),
        ("return load_reserved(a, 4)", True, True),
        ("return store_conditional(a, b, 4)", True, True),
        ("raise_flags(a)", False, True),
        ("poke(a, b, 8)", False, True),
        ("return callee(a)", True, True),
    ],
)
def test_traps_and_effects_are_found(body, may_trap, has_effects):
    callee = parse("if a == 0:\n trap(2, 0)\nreturn a", "a")
    found = parse(body, callee=callee)
    assert (found.may_trap, found.has_effects) == (may_trap, has_effects)


def test_a_routine_that_says_it_is_pure_must_not_trap():
    found = parse("return load(a, 8)")
    found.must_not_trap = True
    with pytest.raises(LanguageError, match="f: declared pure, but may trap"):
        assert found.may_trap


def test_registers_read_and_written_are_told_apart():
    found = parse("X[a] = X[b] + X[b]\nF[b] = X[5]")
    assert found.indices("X", written=True) == {"a"}
    assert found.indices("X", written=False) == {"b"}
    assert found.indices("F", written=True) == {"b"}


def test_types_of_locals_and_results():
    found = parse("c = a < b\nd = word(c)\nreturn c")
    assert found.locals == {"a": "word", "b": "word", "c": "bool", "d": "word"}
    assert found.result == "bool"
    assert parse("return").result == ""


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("a + b", "an expression alone has no effect"),
        ("for i in a:\n pass", "For is not in the language"),
        ("while a:\n a -= 1", "a condition must be a bool: compare with 0"),
        ("while a < b:\n a += 1\nelse:\n b = 1", "While is not in the language"),
        ("if a:\n return b", "a condition must be a bool: compare with 0"),
        ("return a // b", r"operators are \+ - \* & | \^ << >>"),
        ("return a ** b", r"operators are \+ - \* & | \^ << >>"),
        ("return a in b", "comparisons are == != < <= > >="),
        ("return a < b < 3", "a < b < 3 is not in the language"),
        ("return +a", r"\+a is not in the language"),
        ("return a[b]", r"a\[b\] is not in the language"),
        ("return 1.5", "1.5 is not in the language"),
        ("return lambda: a", "is not in the language"),
        ("a, b = b, a", "is not in the language"),
        ("a = b = 1", "Assign is not in the language"),
        ("return load(a, size=8)", "is not in the language"),
        ("return c", "c is not a local, a constant or a builtin"),
        ("return OTHER", "OTHER is not a local, a constant or a builtin"),
        ("print(a)", "print is neither a builtin nor a routine"),
        ("return signed(a)", "signed is neither a builtin nor a routine"),
        ("return clz(a, b)", "clz takes 1 argument"),
        ("return g(a)", "g takes 2 arguments"),
        ("a = a < b", "a is a word, not a bool"),
        ("c = a < b\nc = 1", "c is a bool, not a word"),
        ("c = nothing(a)", "expected a word or a bool, found nothing"),
        ("X[a] = a < b", r"assign words to locals, X\[i\], F\[i\] or hart.field"),
        ("pc = a", r"assign words to locals, X\[i\], F\[i\] or hart.field"),
        ("return a + (a < b)", "expected a word, found bool"),
        ("return a == (a < b)", "compares a word with a bool"),
        ("return a if a < b else a < b", "both sides of a conditional need one type"),
        ("if a == 0:\n return a\nreturn a < b", "returns both a word and a bool"),
        ("if a == 0:\n return a\nreturn", "returns a word here and nothing there"),
        ("return signed(a) < b", r"compare signed\(a\) with signed\(b\) or a literal"),
        ("return signed(a) < ~b", r"compare signed\(a\) with signed\(b\) or a literal"),
        ("return signed(a, b) < 0", "signed takes 1 argument"),
        ("return word()", "word takes 1 argument"),
        ("return word(a)", "a condition must be a bool: compare with 0"),
        ("return sext(a, b)", "sext: bits must be a literal from 1 to 63"),
        ("return sext(a, 64)", "sext: bits must be a literal from 1 to 63"),
        ("return zext(a, 0)", "zext: bits must be a literal from 1 to 63"),
        ("return load(a, b)", "load: bytes must be 1, 2, 4 or 8"),
        ("return load(a, 3)", "load: bytes must be 1, 2, 4 or 8"),
        ("store(a, b, 16)", "store: bytes must be 1, 2, 4 or 8"),
        ("return load_reserved(a, 2)", "load_reserved: bytes must be 4 or 8"),
        ("return amo('nand', a, b, 8)", "amo: no operation 'nand'; there are add, and, max,"),
        ("return amo(a, a, b, 8)", "amo: the operation must be a string"),
        ("return clz('a')", "clz: a string is not a word"),
        ("return a << 64", "shifts by 64: the amount must be below 64"),
        ("return 1 >> 70", "shifts by 70: the amount must be below 64"),
        ("return c\nc = a", "c is not a local, a constant or a builtin"),
        ("if a == 0:\n c = 1\nreturn c", "c may be read here before it is assigned"),
        ("if a == 0:\n c = 1\nelse:\n d = 1\nreturn c", "c may be read here before it is assigned"),
        ("while a != 0:\n c = a\n a -= 1\nreturn c", "c may be read here before it is assigned"),
        ("if a == 0:\n return b", "ends without the word it returns elsewhere"),
        ("return f(a, b)", "f calls itself"),
    ],
)
def test_what_is_not_the_language_is_refused_with_its_place(body, text):
    nothing = parse("raise_flags(a)", "a")
    scope = {"OTHER": "text", "nothing": nothing, "g": parse("return a")}
    made = routine_from_source(
        "f", f"def f(a, b):\n {body.replace(chr(10), chr(10) + ' ')}\n", scope
    )
    scope["f"] = made
    with pytest.raises(LanguageError, match=rf"^<f> f, line \d+: .*{text}"):
        assert made.body


@pytest.mark.parametrize(
    "operand",
    [
        "load(b, 8) == 0",
        "traps(b) == 0",
        "amo('add', a, b, 8) == 0",
        "effects(b) == 0",
        "divu(a, b) == 0",
    ],
)
@pytest.mark.parametrize("shape", ["a == 0 or {}", "a == 0 and {}", "{} if a == 0 else a == 1"])
def test_effects_are_refused_where_an_operand_is_evaluated_unwanted(operand, shape):
    scope: dict[str, Any] = {
        "traps": parse("if a == 0:\n trap(2, 0)\nreturn a", "a"),
        "effects": parse("hart.mtval = a\nreturn a", "a"),
    }
    with pytest.raises(LanguageError, match="use an if statement"):
        parse(f"return {shape.format(operand)}", **scope)


def test_assignments_on_every_path_are_enough():
    for body in (
        "if a == 0:\n c = 1\nelse:\n c = 2\nreturn c",
        "if a == 0:\n return 5\nelse:\n c = 2\nreturn c",
        "if a == 0:\n trap(2, 0)\nelse:\n c = 2\nreturn c",
        "if a == 0:\n if b == 0:\n  return 1\n c = 1\nelse:\n c = 2\nreturn c",
    ):
        assert parse(body).result == "word"


def test_an_error_names_the_file_and_the_line_in_it():
    @routine
    def wrong(a):
        return a // 2

    with pytest.raises(LanguageError, match=r"^test_language\.py:\d+ wrong, line (\d+): ") as info:
        assert wrong.body
    line = int(str(info.value).split("line ")[1].split(":")[0])
    with open(__file__, encoding="utf-8") as file:
        assert file.readlines()[line - 1].strip() == "return a // 2"


def test_semantics_are_not_called_as_they_stand():
    def plain(a):
        return a

    with pytest.raises(TypeError, match="plain is compiled, not called"):
        function(plain)(1)


def test_names_of_the_language_have_no_meaning_outside_of_it():
    from protocol.riscv import words

    for name in ("load", "trap", "signed", "f64_add"):
        with pytest.raises(TypeError, match=f"'{name}' has a meaning in compiled"):
            getattr(words, name)(1)
    with pytest.raises(TypeError, match="'X' has a meaning in compiled"):
        assert words.X[1]
    assert set(BUILTINS) < set(words.__all__)


def test_walk_gives_every_node_in_source_order():
    found = parse("if a < b:\n X[a] = b + 1\nreturn a")
    kinds = [type(n).__name__ for n in language.walk(found.body)]
    assert kinds == [
        *("If", "Compare", "Local", "Local"),
        *("Assign", "Register", "Local", "Binary", "Local", "Const"),
        *("Return", "Local"),
    ]
