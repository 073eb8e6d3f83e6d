"""What F and D do beyond arithmetic: boxing, mstatus.FS, rounding modes, and operations on bits.

The arithmetic itself is test_softfloat.py's. A program is one instruction, executed by the
reference hart with operands in fa1, fa2 and a1.
"""

import struct

import pytest

from protocol.riscv.assembler import assemble
from protocol.riscv.reference import Memory, ReferenceHart, Trap

RAM = 0x8000_0000
BOX = 0xFFFF_FFFF_0000_0000
NAN_S, NAN_D = 0x7FC0_0000, 0x7FF8_0000_0000_0000
SIGNALLING_S, SIGNALLING_D = 0x7F80_0001, 0x7FF0_0000_0000_0001
MINUS_ZERO_S, MINUS_ZERO_D = 0x8000_0000, 0x8000_0000_0000_0000
OFF, INITIAL, CLEAN, DIRTY = (fs << 13 for fs in range(4))
FA0, FA1, FA2, FA3 = 10, 11, 12, 13
NX, NV = 1, 16


def single(value: float) -> int:
    return BOX | int.from_bytes(struct.pack("<f", value), "little")


def double(value: float) -> int:
    return int.from_bytes(struct.pack("<d", value), "little")


@pytest.fixture
def hart() -> ReferenceHart:
    """A hart in M mode with floating point Clean and a page of RAM, a1 pointing at it."""
    memory = Memory()
    memory.add_ram(RAM, 4096)
    made = ReferenceHart(memory, RAM)
    made.mstatus = CLEAN
    made.x[11] = RAM
    return made


def execute(hart: ReferenceHart, text: str) -> None:
    raw = int.from_bytes(assemble(text).data, "little")
    hart.execute(raw)


def run(hart: ReferenceHart, text: str, a: int = 0, b: int = 0) -> tuple[int, int]:
    """The result (fa0 or a0, whichever the text names) and the flags raised."""
    hart.f[FA1], hart.f[FA2] = a, b
    hart.accrued = 0
    execute(hart, text)
    return (hart.f[FA0] if " fa0," in text else hart.x[10]), hart.fflags()


# --- Boxing -------------------------------------------------------------------------------------


def test_an_operand_that_is_not_boxed_is_the_canonical_nan(hart: ReferenceHart) -> None:
    one = single(1.0)
    for bad in (one & ~BOX, one ^ (1 << 32), one ^ (1 << 63)):
        assert run(hart, "fadd.s fa0, fa1, fa2", one, bad) == (BOX | NAN_S, 0)
        assert run(hart, "fsgnj.s fa0, fa1, fa2", bad, single(-1.0)) == (BOX | NAN_S | 1 << 31, 0)
        assert run(hart, "fmax.s fa0, fa1, fa2", one, bad) == (one, 0)
        assert run(hart, "fclass.s a0, fa1", bad) == (1 << 9, 0)
        assert run(hart, "fcvt.d.s fa0, fa1", bad) == (NAN_D, 0)
        assert run(hart, "feq.s a0, fa1, fa2", bad, bad) == (0, 0)


def test_moves_and_stores_take_the_low_half_as_it_is(hart: ReferenceHart) -> None:
    assert run(hart, "fmv.x.w a0, fa1", 0x1234_5678_8000_0001) == (0xFFFF_FFFF_8000_0001, 0)
    hart.x[11] = 0x1234_5678_8000_0001
    assert run(hart, "fmv.w.x fa0, a1") == (BOX | 0x8000_0001, 0)
    hart.x[11] = RAM
    hart.f[FA1] = 0x1234_5678_9ABC_DEF0
    execute(hart, "fsw fa1, 8(a1)")
    assert hart.memory.read(RAM + 8, 8) == 0x9ABC_DEF0
    execute(hart, "flw fa0, 8(a1)")
    assert hart.f[FA0] == BOX | 0x9ABC_DEF0


def test_doubles_move_whole(hart: ReferenceHart) -> None:
    hart.x[2] = RAM + 16
    hart.f[FA0] = SIGNALLING_D
    execute(hart, "c.fsdsp fa0, 8(sp)")
    execute(hart, "c.fld fa2, 24(a1)")
    execute(hart, "c.fsd fa2, 32(a1)")
    execute(hart, "c.fldsp fa3, 16(sp)")
    execute(hart, "fmv.x.d a0, fa3")
    assert hart.x[10] == hart.f[FA2] == hart.memory.read(RAM + 24, 8) == SIGNALLING_D
    assert hart.fflags() == 0


# --- mstatus.FS ---------------------------------------------------------------------------------

CHANGES = [
    "fadd.d fa0, fa1, fa2",
    "fsgnj.s fa0, fa1, fa2",
    "fmin.d fa0, fa1, fa2",
    "fmv.d.x fa0, a1",
    "flw fa0, 0(a1)",
    "c.fld fa0, 0(a1)",
    "feq.d a0, fa1, fa2",
    "fcvt.l.d a0, fa1",
]
KEEPS = ["fsw fa0, 0(a1)", "fsd fa0, 0(a1)", "fmv.x.w a0, fa1", "fclass.d a0, fa1"]


@pytest.mark.parametrize("text", CHANGES + KEEPS)
def test_floating_point_that_is_off_traps(hart: ReferenceHart, text: str) -> None:
    hart.mstatus = OFF
    registers = list(hart.f), list(hart.x)
    raw = int.from_bytes(assemble(text).data, "little")
    with pytest.raises(Trap) as caught:
        hart.execute(raw)
    assert (caught.value.cause, caught.value.value) == (2, raw)
    assert (hart.f, hart.x) == registers
    assert hart.mstatus == OFF


@pytest.mark.parametrize("state", [INITIAL, CLEAN, DIRTY])
@pytest.mark.parametrize("text", CHANGES + KEEPS)
def test_what_may_change_floating_point_makes_it_dirty(
    hart: ReferenceHart, text: str, state: int
) -> None:
    hart.mstatus = state
    execute(hart, text)
    assert hart.mstatus == (state if text in KEEPS else DIRTY)


def test_a_load_that_faults_changes_nothing(hart: ReferenceHart) -> None:
    hart.x[11] = RAM + 4096
    hart.f[FA0] = 5
    for text, width in (("flw fa0, 0(a1)", 4), ("fld fa0, 0(a1)", 8)):
        with pytest.raises(Trap) as caught:
            execute(hart, text)
        assert (caught.value.cause, caught.value.value) == (5, RAM + 4096), width
    assert (hart.f[FA0], hart.mstatus) == (5, CLEAN)


# --- Rounding modes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "positive", "negative"),
    [("rne", 2, -2), ("rtz", 2, -2), ("rdn", 2, -3), ("rup", 3, -2), ("rmm", 3, -3)],
)
def test_static_and_dynamic_rounding(
    hart: ReferenceHart, mode: str, positive: int, negative: int
) -> None:
    for value, rounded in ((2.5, positive), (-2.5, negative)):
        expected = (rounded & (1 << 64) - 1, NX)
        hart.frm = 7
        assert run(hart, f"fcvt.w.d a0, fa1, {mode}", double(value)) == expected
        hart.frm = ["rne", "rtz", "rdn", "rup", "rmm"].index(mode)
        assert run(hart, "fcvt.w.d a0, fa1, dyn", double(value)) == expected


@pytest.mark.parametrize("text", ["fmul.s fa0, fa1, fa2, dyn", "fcvt.d.s fa0, fa1, dyn"])
@pytest.mark.parametrize("mode", [5, 6, 7])
def test_reserved_rounding_modes_trap(hart: ReferenceHart, text: str, mode: int) -> None:
    dynamic = int.from_bytes(assemble(text).data, "little")
    static = dynamic & ~(7 << 12) | mode << 12
    hart.frm = mode
    for raw in (static, dynamic):
        with pytest.raises(Trap) as caught:
            hart.execute(raw)
        assert (caught.value.cause, caught.value.value) == (2, raw)
    assert hart.mstatus == CLEAN


def test_what_does_not_round_ignores_frm(hart: ReferenceHart) -> None:
    hart.frm = 7
    assert run(hart, "flt.d a0, fa1, fa2", double(1.0), double(2.0)) == (1, 0)
    assert run(hart, "fmax.d fa0, fa1, fa2", double(1.0), double(2.0)) == (double(2.0), 0)


# --- Operations on bits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "least", "greatest", "flags"),
    [
        (1.0, 2.0, 1.0, 2.0, 0),
        (-1.0, -2.0, -2.0, -1.0, 0),
        (0.0, -0.0, -0.0, 0.0, 0),
        (-0.0, 0.0, -0.0, 0.0, 0),
        (float("-inf"), 1e-40, float("-inf"), 1e-40, 0),
        ("quiet", -1.0, -1.0, -1.0, 0),
        (3.0, "quiet", 3.0, 3.0, 0),
        ("quiet", "quiet", "canonical", "canonical", 0),
        ("signalling", 5.0, 5.0, 5.0, NV),
        (5.0, "signalling", 5.0, 5.0, NV),
        ("quiet", "signalling", "canonical", "canonical", NV),
    ],
)
def test_minimum_and_maximum(
    hart: ReferenceHart,
    a: float | str,
    b: float | str,
    least: float | str,
    greatest: float | str,
    flags: int,
) -> None:
    def s(value: float | str) -> int:
        names = {"quiet": 0xFFC0_1234, "signalling": SIGNALLING_S, "canonical": NAN_S}
        return BOX | names[value] if isinstance(value, str) else single(value)

    def d(value: float | str) -> int:
        names = {"quiet": 0xFFF8 << 48 | 1, "signalling": SIGNALLING_D, "canonical": NAN_D}
        return names[value] if isinstance(value, str) else double(value)

    assert run(hart, "fmin.s fa0, fa1, fa2", s(a), s(b)) == (s(least), flags)
    assert run(hart, "fmax.s fa0, fa1, fa2", s(a), s(b)) == (s(greatest), flags)
    assert run(hart, "fmin.d fa0, fa1, fa2", d(a), d(b)) == (d(least), flags)
    assert run(hart, "fmax.d fa0, fa1, fa2", d(a), d(b)) == (d(greatest), flags)


@pytest.mark.parametrize(
    ("bit", "s", "d"),
    [
        (0, 0xFF80_0000, double(float("-inf"))),
        (1, 0x8080_0000, double(-1.5)),
        (2, 0x807F_FFFF, 0x800F_FFFF_FFFF_FFFF),
        (3, MINUS_ZERO_S, MINUS_ZERO_D),
        (4, 0, 0),
        (5, 1, 1),
        (6, 0x7F7F_FFFF, 0x0010_0000_0000_0000),
        (7, 0x7F80_0000, double(float("inf"))),
        (8, 0xFFBF_FFFF, SIGNALLING_D),
        (9, 0xFFFF_FFFF, NAN_D),
    ],
)
def test_classes(hart: ReferenceHart, bit: int, s: int, d: int) -> None:
    assert run(hart, "fclass.s a0, fa1", BOX | s) == (1 << bit, 0)
    assert run(hart, "fclass.d a0, fa1", d) == (1 << bit, 0)


def test_sign_injection_leaves_nans_as_they_are(hart: ReferenceHart) -> None:
    nan, minus = BOX | SIGNALLING_S, single(-1.0)
    assert run(hart, "fsgnj.s fa0, fa1, fa2", nan, minus) == (nan | 1 << 31, 0)
    assert run(hart, "fsgnjn.s fa0, fa1, fa2", minus, minus) == (single(1.0), 0)
    assert run(hart, "fsgnjx.s fa0, fa1, fa2", minus, minus) == (single(1.0), 0)
    assert run(hart, "fsgnjn.d fa0, fa1, fa2", SIGNALLING_D, 0) == (SIGNALLING_D | 1 << 63, 0)
    assert run(hart, "fsgnj.d fa0, fa1, fa2", MINUS_ZERO_D, 0) == (0, 0)
    assert run(hart, "fsgnjx.d fa0, fa1, fa2", 0, MINUS_ZERO_D) == (MINUS_ZERO_D, 0)


@pytest.mark.parametrize(
    ("name", "product_sign", "addend_sign"),
    [("fmadd", 1, 1), ("fmsub", 1, -1), ("fnmsub", -1, 1), ("fnmadd", -1, -1)],
)
def test_fused_signs(hart: ReferenceHart, name: str, product_sign: int, addend_sign: int) -> None:
    hart.f[FA3] = single(7.0)
    expected = single(product_sign * 15.0 + addend_sign * 7.0)
    assert run(hart, f"{name}.s fa0, fa1, fa2, fa3", single(3.0), single(5.0)) == (expected, 0)
    hart.f[FA3] = double(7.0)
    expected = double(product_sign * 15.0 + addend_sign * 7.0)
    assert run(hart, f"{name}.d fa0, fa1, fa2, fa3", double(3.0), double(5.0)) == (expected, 0)
