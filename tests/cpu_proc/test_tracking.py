"""Stores to code by native code: each form is seen at once, and nothing else is retired.

A program calls a function in the page of `CODE`, stores over it, calls it again. Whatever happens,
the reference interpreter says what the second call returns; what is looked at besides is what the
store cost: generations, tracked lines, regions.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cpu_proc import native
from jit_proc.job import Job
from jit_proc.lift import translate
from protocol import layout
from protocol.layout import PAGE, PAGE_SIZE, TLB_ENTRY
from protocol.riscv.assembler import Program, assemble
from tests import native_code
from tests.engine_harness import RAM
from tests.jit_proc import region_machine
from tests.jit_proc.region_machine import (
    CODE,
    DATA,
    STOP,
    SYMBOLS,
    Outcome,
    RegionMachine,
    Start,
)

MAIN = RAM + 0x4000
HERE = (CODE - RAM) // PAGE_SIZE
EMPTY = Program(b"", CODE, {}, ())  # all bytes of a guest are given as memory
LINE = layout.LINE_SIZE
PLACES = {
    "inside a line": 0x108,
    "first of a line": 0x140,
    "over two lines": 0x17E,
    "first of the page": 0,
    "last of the page": 0xFF8,
}


def word(page: int, name: str) -> int:
    """A word of a page's descriptor."""
    pages = region_machine.machine().control.pages
    return int(pages[(page * PAGE.size + PAGE.offset(name)) // 8])


def bits(text: str) -> bytes:
    return assemble(text).data


def cost(page: int = HERE) -> tuple[int, int]:
    """(bumps of a page's generation, stores to tracked lines) since the program began."""
    here = region_machine.machine()
    return (
        word(page, "generation") - here.generations[page],
        int(here.state.stat_stores) - here.stores,
    )


class Function:
    """`li a0, VALUE; ret` at an offset of the page."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.before = bits("addi a0, zero, 0x123\n ret")
        self.after = bits("addi a0, zero, 0x456\n ret")

    def wanted(self, address: int, size: int) -> int:
        """What a store of `size` bytes at `address` must hold to make the new function.

        Bytes before and behind the function are zeros.
        """
        start = address - CODE - self.offset + 16
        data = bytes(16) + self.after + bytes(24)
        return int.from_bytes(data[start : start + size], "little")


def program(function: Function, store: str, prepare: str = "") -> Start:
    """Call, store, call: s2 and s3 get what the calls return."""
    main = assemble(
        "".join(f".equ {n}, {v:#x}\n" for n, v in SYMBOLS.items())
        + f"""
        li    s0, {CODE + function.offset:#x}
        {prepare}
        jalr  ra, 0(s0)
        mv    s2, a0
        {store}
        jalr  ra, 0(s0)
        mv    s3, a0
        li    t0, STOP
        jr    t0
        """,
        MAIN,
    )
    code = bytes(function.offset) + function.before
    return Start(EMPTY, MAIN, memory={CODE: code, MAIN: main.data})


def store(form: str, address: int, value: int) -> str:
    """Store by an instruction of this form."""
    to, data = f"li t1, {address:#x}", f"li t2, {value:#x}"
    match form:
        case "fsw":
            return f"{to}\n{data}\n fmv.w.x ft0, t2\n fsw ft0, 0(t1)"
        case "fsd":
            return f"{to}\n{data}\n fmv.d.x ft0, t2\n fsd ft0, 0(t1)"
        case "c.sw" | "c.sd":
            return f"li a3, {address:#x}\n li a4, {value:#x}\n {form} a4, 0(a3)"
        case "sc.w" | "sc.d":
            return f"{to}\n{data}\n lr{form[2:]} t3, (t1)\n {form} t3, t2, (t1)"
        case _ if form.startswith("amo"):
            return f"{to}\n{data}\n {form} t3, t2, (t1)"
    return f"{to}\n{data}\n {form} t2, 0(t1)"


SIZES = {"b": 1, "h": 2, "w": 4, "d": 8}
FORMS = ["sb", "sh", "sw", "sd", "fsw", "fsd", "c.sw", "c.sd", "sc.w", "sc.d"]
FORMS += ["amoswap.w", "amoswap.d"]


def run(start: Start) -> tuple[RegionMachine, Outcome]:
    """Run in tier 0, compare with the reference."""
    expected = region_machine.run_reference(start)
    found = region_machine.run_tier_0(start)
    assert region_machine.differences(expected, found) == []
    assert found.x[18] == 0x123
    return region_machine.machine(), found


def run_with_region(start: Start, offset: int) -> tuple[RegionMachine, Outcome]:
    """The same with a region for the function."""
    expected = region_machine.run_reference(start)
    region_machine.run_tier_0(start)
    code = start.memory[CODE]
    translation = translate(Job(HERE, code.ljust(PAGE_SIZE, b"\0"), (offset // 2,), 0))
    image = native_code.build(translation.ir, translation.passes, translation.level)
    found = region_machine.run_region(start, translation, image)
    assert region_machine.differences(expected, found) == []
    return region_machine.machine(), found


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    here = region_machine.machine()
    here.records.regions.clear()
    here.records.region_count = 0
    here.records.watched.clear()
    here.forget()


# --- every form of store ----------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_a_store_to_code_is_seen_by_the_next_instruction(form, place):
    function = Function(PLACES[place])
    size = SIZES[form[-1]]
    last = CODE + function.offset + 3  # the immediate's high bits: all but `sb` change more
    address = CODE + function.offset + (2 if size < 4 else 0) if size > 1 else last
    if form[:2] in ("sc", "am"):
        address = last & -size
    start = program(function, store(form, address, function.wanted(address, size)))
    if address < CODE or address + size > CODE + PAGE_SIZE:
        pytest.skip("the store would leave the page")
    here, end = run(start)
    assert end.x[19] != 0x123
    assert cost() == (1, 1)
    here, end = run_with_region(start, function.offset)
    assert end.x[19] != 0x123
    assert here.retired == [1]
    assert HERE not in here.records.regions


@pytest.mark.parametrize("shift", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("form", ["sh", "sw", "sd"])
def test_a_misaligned_store_that_reaches_code_is_seen(form, shift):
    function = Function(0x180)
    size = SIZES[form[-1]]
    address = CODE + function.offset + 4 - shift if size >= shift else CODE + function.offset + 3
    start = program(function, store(form, address, function.wanted(address, size)))
    _, end = run(start)
    here, again = run_with_region(start, function.offset)
    assert here.retired == [1]
    assert again == end


@pytest.mark.parametrize("shift", range(1, 8))
@pytest.mark.parametrize("side", ["head", "tail"])
def test_a_store_over_a_page_s_edge_retires_on_either_side(side, shift):
    """The head of the store in the code's page, or its tail: 8 - shift bytes before the edge."""
    function = Function(0xFF8 if side == "head" else 0)
    edge = CODE + PAGE_SIZE if side == "head" else CODE
    address = edge - 8 + shift
    start = program(function, store("sd", address, function.wanted(address, 8)))
    _, end = run(start)
    here, again = run_with_region(start, function.offset)
    assert again == end
    assert here.retired == [1]


def test_a_store_over_two_pages_with_code_retires_both():
    function = Function(0xFF8)
    address = CODE + PAGE_SIZE - 4
    value = function.wanted(address, 8)
    other = bits("addi a0, a0, 1\n ret")
    touch = f"li s1, {CODE + PAGE_SIZE:#x}\n jalr ra, 0(s1)"
    start = program(function, store("sd", address, value), touch)
    start.memory[CODE + PAGE_SIZE] = other  # type: ignore[index]
    region_machine.run_tier_0(start)
    here = region_machine.machine()
    here.begin(start)
    here.undecode()
    # Regions that are never entered: the stores are what matters.
    slots = {HERE: 1 << 63, HERE + 1: 1}
    for page, lines in slots.items():
        here.control.pages[(page * layout.PAGE.size + layout.PAGE.offset("lines")) // 8] |= lines
        assert here.records.publish(page, lines, []) is not None
    here.hart.flush()
    here.run()
    assert here.records.regions == {}
    assert sum(here.retired) == 2
    assert region_machine.differences(region_machine.run_reference(start), here.outcome()) == []


# --- what is left alone -----------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_data_beside_code_in_another_line_does_not_retire(form):
    function = Function(0x108)
    size = SIZES[form[-1]]
    stores = "\n".join(store(form, CODE + offset, 0x77) for offset in (0xC0, 0xF8, 0x140, 0x800))
    start = program(function, stores)
    here, end = run(start)
    assert end.x[19] == 0x123
    assert cost() == (0, 0)
    here, _ = run_with_region(start, function.offset)
    assert here.retired == []
    assert len(here.records.regions[HERE]) == 1
    assert cost() == (0, 0)
    assert size


def test_a_store_to_the_region_s_page_but_to_records_alone_leaves_the_region():
    function = Function(0x108)
    stores = store("sd", CODE + 0x200, int.from_bytes(bits("addi a0, zero, 5\n ret"), "little"))
    start = program(function, stores, f"li s1, {CODE + 0x200:#x}\n jalr ra, 0(s1)")
    start.memory[CODE] = start.memory[CODE].ljust(0x200, b"\0") + bits("nop\n ret")  # type: ignore[index]
    here, _ = run_with_region(start, function.offset)
    assert here.retired == []
    assert here.records.regions[HERE][0].lines == 1 << 4
    assert not word(HERE, "lines") & 1 << 8  # begun anew: nothing of it is decoded


def test_pages_without_code_are_not_tracked():
    function = Function(0)
    start = program(function, store("sd", DATA, 5))
    run(start)
    assert word((DATA - RAM) // PAGE_SIZE, "lines") == 0
    assert cost((DATA - RAM) // PAGE_SIZE) == (0, 0)


def test_only_the_lines_of_executed_instructions_are_tracked():
    run(program(Function(0x17E), "nop"))
    assert word(HERE, "lines") == 1 << 5 | 1 << 6  # 0x17e to 0x185
    region_machine.machine().forget()
    run(program(Function(0x140), "nop"))
    assert word(HERE, "lines") == 1 << 5


# --- forgetting a line ------------------------------------------------------------------------


def copy(start: int, size: int) -> str:
    """Store zeros over a range, eight bytes at a time."""
    return f"""
        li    t1, {start:#x}
        li    t2, {start + size:#x}
7:      sd    zero, 0(t1)
        addi  t1, t1, 8
        bne   t1, t2, 7b
    """


def again(function: Function) -> str:
    """Put the function back."""
    value = int.from_bytes(function.after, "little")
    return store("sd", CODE + function.offset, value)


def test_a_line_that_is_written_over_whole_is_not_tracked_any_more():
    function = Function(0x108)
    start = program(function, copy(CODE + 0x100, LINE) + again(function).replace("sd", "nop #"))
    expected = region_machine.run_reference(start)
    found = region_machine.run_tier_0(start)
    assert region_machine.differences(expected, found) == []
    # The second store changes code, with nothing decoded before it: the line is done with. Then an
    # illegal word is executed.
    assert cost() == (2, 2)
    assert found.mepc == CODE + function.offset
    assert word(HERE, "lines") == 1 << 4


def test_after_that_stores_to_it_cost_nothing():
    function = Function(0x108)
    twice = copy(CODE + 0x100, LINE) + copy(CODE + 0x100, LINE).replace("7", "8") + again(function)
    run(program(function, twice))
    assert cost() == (2, 2)
    assert word(HERE, "lines") == 1 << 4  # the second call made it so


def test_a_line_into_which_the_instruction_before_reaches_stays_tracked():
    function = Function(0x17E)  # its first instruction ends in line 6
    rest = copy(CODE + 0x188, 0x1C0 - 0x188)  # behind the function, to the end of its line
    run(program(function, rest))
    assert word(HERE, "lines") == 1 << 5 | 1 << 6


def test_a_line_with_region_code_is_left_to_the_machine():
    function = Function(0x108)
    start = program(function, copy(CODE + 0x100, LINE) + again(function))
    here, _ = run_with_region(start, function.offset)
    assert here.retired == [1]
    assert word(HERE, "region_lines") == 0


# --- the TLB's write tags ---------------------------------------------------------------------


def write_tag(address: int) -> int:
    """The write tag of the data TLB's entry for an address, in the set in use."""
    state = region_machine.machine().state
    number = address >> 12 & layout.DATA_TLB_ENTRIES - 1
    place = int(state.data_tlb) + number * layout.TLB_ENTRY_SIZE
    return int(native.words(place, layout.TLB_ENTRY.size // 8)[TLB_ENTRY.offset("write_tag") // 8])


def test_a_page_with_a_write_tag_loses_it_when_it_begins_to_be_tracked():
    function = Function(0x108)
    prepare = store("sd", CODE + 0x800, 1)
    start = program(function, store("sw", CODE + 0x108, function.wanted(CODE + 0x108, 4)), prepare)
    _, end = run(start)
    assert end.x[19] == 0x456
    assert write_tag(CODE) == CODE | 1


def test_a_page_that_is_not_tracked_keeps_a_plain_tag():
    run(program(Function(0), store("sd", DATA, 1)))
    assert write_tag(DATA) == DATA
    assert write_tag(CODE) == layout.NO_PAGE


def test_a_page_that_is_no_longer_tracked_keeps_its_tag_and_stores_cost_nothing():
    function = Function(0x108)
    body = copy(CODE + 0x100, LINE) + store("sd", CODE + 0x800, 1)
    expected = program(function, body + f"\n li s0, {STOP:#x}")
    region_machine.run_tier_0(expected)
    assert word(HERE, "lines") == 0
    assert write_tag(CODE) == CODE | 1
    assert cost() == (2, 2)


def test_other_addresses_of_the_page_lose_their_tags_too():
    """By a translation under which the page of code has a second address."""
    function = Function(0x108)
    alias = 0x4000_0000 + CODE - RAM
    root = RAM + 0x2_0000
    gigapage = RAM >> 2 | 0xCF
    prepare = f"""
        li    t0, {-1 & 2**64 - 1:#x}
        csrw  pmpaddr0, t0
        li    t0, 0x1f
        csrw  pmpcfg0, t0
        li    t0, {8 << 60 | root >> 12:#x}
        csrw  satp, t0
        li    t0, 0x20800
        csrs  mstatus, t0
        {store("sd", alias + 0x800, 5)}
    """
    patched = int.from_bytes(function.after, "little")
    start = program(function, store("sd", alias + 0x108, patched), prepare)
    start.memory[root] = b"".join(  # type: ignore[index]
        v.to_bytes(8, "little") for v in (0, gigapage, gigapage, 0)
    )
    _, end = run(start)
    assert end.x[19] == 0x456
    assert end.memory[CODE - RAM + 0x800] == 5


# --- implicit stores, DMA ---------------------------------------------------------------------


def _tables_in_code(access: str) -> Start:
    """The page of code is the root table as well; entry 2, at offset 16, maps RAM.

    As an instruction the entry is a fence; once A is set, fnmadd.s ft0, ft0, ft0, ft4; behind it
    there is no instruction, so each call ends in the handler.
    """
    entry = RAM >> 2 | 0x0F
    main = assemble(
        f"""
        la    t0, handler
        csrw  mtvec, t0
        li    t0, {-1 & 2**64 - 1:#x}
        csrw  pmpaddr0, t0
        li    t0, 0x1f
        csrw  pmpcfg0, t0
        li    t0, {1 << 61:#x}
        csrw  menvcfg, t0
        li    t0, {8 << 60 | CODE >> 12:#x}
        csrw  satp, t0
        li    t0, {CODE + 16:#x}
        li    s0, 3
        li    t1, {DATA:#x}
        jr    t0
        .align 2
handler:
        addi  s0, s0, -1
        beqz  s0, end
        li    t2, 0x21800
        csrc  mstatus, t2
        li    t2, 0x20800
        csrs  mstatus, t2
        {access}
        li    t2, 0x20000
        csrc  mstatus, t2
        fcsr_: csrw fcsr, zero
        jr    t0
end:    li    t2, {STOP:#x}
        jr    t2
        """,
        MAIN,
    ).data
    code = bytes(16) + entry.to_bytes(8, "little")
    f = {0: 0xFFFF_FFFF_3F80_0000, 1: 0xFFFF_FFFF_4000_0000, 4: 0xFFFF_FFFF_4040_0000}
    return Start(EMPTY, MAIN, f=f, memory={CODE: code, MAIN: main})


@pytest.mark.parametrize("access", ["ld t3, 0(t1)", "sd t3, 0(t1)", "amoadd.d t3, t3, (t1)"])
def test_the_page_walk_s_update_of_a_and_d_is_a_store_like_any_other(access):
    start = _tables_in_code(access)
    expected = region_machine.run_reference(start)
    found = region_machine.run_tier_0(start)
    assert region_machine.differences(expected, found) == []
    assert found.f[:2] != (start.f[0], start.f[1])  # the new instruction was executed
    assert cost()[0] > 0
    translation = translate(Job(HERE, start.memory[CODE].ljust(PAGE_SIZE, b"\0"), (8,), 0))
    image = native_code.build(translation.ir, translation.passes, translation.level)
    again_ = region_machine.run_region(start, translation, image)
    assert region_machine.differences(expected, again_) == []
    assert region_machine.machine().retired == [1]


def test_a_walk_for_a_fetch_that_changes_the_code_to_be_run_is_seen_by_it():
    """The region begins before the entry that its own first fetch changes."""
    entry = RAM >> 2 | 0x0F
    nops = bits("fence\n fence\n fence\n fence")
    code = nops + entry.to_bytes(8, "little")
    main = assemble(
        f"""
        la    t0, handler
        csrw  mtvec, t0
        li    t0, {-1 & 2**64 - 1:#x}
        csrw  pmpaddr0, t0
        li    t0, 0x1f
        csrw  pmpcfg0, t0
        li    t0, {1 << 61:#x}
        csrw  menvcfg, t0
        li    s0, 2
        li    t0, {CODE:#x}
        jr    t0
        .align 2
handler:
        addi  s0, s0, -1
        beqz  s0, end
        li    t2, {8 << 60 | CODE >> 12:#x}
        csrw  satp, t2
        csrw  mepc, t0
        li    t2, 0x1000
        csrc  mstatus, t2
        li    t2, 0x800
        csrs  mstatus, t2
        mret
end:    li    t2, {STOP:#x}
        jr    t2
        """,
        MAIN,
    ).data
    f = {0: 0xFFFF_FFFF_3F80_0000, 4: 0xFFFF_FFFF_4040_0000}
    start = Start(EMPTY, MAIN, f=f, memory={CODE: code, MAIN: main})
    expected = region_machine.run_reference(start)
    found = region_machine.run_tier_0(start)
    assert region_machine.differences(expected, found) == []
    assert found.f[0] != f[0]
    translation = translate(Job(HERE, code.ljust(PAGE_SIZE, b"\0"), (0,), 0))
    image = native_code.build(translation.ir, translation.passes, translation.level)
    again_ = region_machine.run_region(start, translation, image)
    assert region_machine.differences(expected, again_) == []


def test_a_write_of_the_host_is_seen_and_takes_regions_back():
    function = Function(0x108)
    start = program(function, "nop")
    here, _ = run_with_region(start, function.offset)
    assert here.records.region_count == 1
    here.load(CODE + 0x10A, function.after[2:4])
    assert here.records.region_count == 0
    here.state.pc = MAIN
    here.run()
    assert here.state.x[18] == 0x456
