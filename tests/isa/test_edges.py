"""The edges of things, on the reference interpreter and on tier 0: of memory, pages, and steps."""

from __future__ import annotations

import pytest

from protocol.riscv.assembler import assemble
from tests.engine_harness import RAM as ENGINE_RAM
from tests.engine_harness import shared_machine
from tests.isa.engine_hart import EngineHart
from tests.protocol.riscv.reference_machine import (
    DATA,
    MACHINE,
    MPRV,
    RAM,
    RAM_SIZE,
    SUPERVISOR,
    USER,
    A,
    D,
    R,
    ReferenceMachine,
    V,
    W,
    X,
    napot,
)

END = RAM + RAM_SIZE
PAGE = 0x40201000
HANDLER = RAM + 0x6000
MACHINES = [pytest.param(ReferenceMachine, id="reference"), pytest.param(EngineHart, id="engine")]
both = pytest.mark.parametrize("make", MACHINES)


# --- The end of memory ----------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("size", "load", "store"), [(2, "lhu", "sh"), (4, "lwu", "sw"), (8, "ld", "sd")]
)
def test_accesses_up_to_and_over_the_end_of_ram(make, size, load, store):
    machine = make()
    machine.do(f"{store} a0, (a1)", a0=2**64 - 1, a1=END - size)
    machine.do(f"{load} a2, (a1)")
    assert machine.get("a2") == 2 ** (8 * size) - 1
    for over in range(1, size):
        for text, cause in ((f"{load} a2, (a1)", 5), (f"{store} zero, (a1)", 7)):
            machine.pc, machine.mcause = RAM, 0
            machine.do(text, a1=END - size + over)
            assert machine.mtrap == (cause, END)
    assert machine.memory.read(END - size, size) == 2 ** (8 * size) - 1


@both
@pytest.mark.parametrize("address", [END, 0, 2**64 - 8, 1 << 56, RAM - 8, RAM + (1 << 60)])
def test_where_nothing_is(make, address):
    machine = make()
    for text, cause in (("ld a2, (a1)", 5), ("sd a2, (a1)", 7), ("amoadd.d a2, a2, (a1)", 7)):
        machine.pc = RAM
        machine.do(text, a1=address)
        assert machine.mtrap == (cause, address)
        assert machine.mepc == RAM
    machine.pc = address
    machine.step()
    assert machine.mtrap == (1, address)
    assert machine.mepc == address


@both
def test_an_instruction_over_the_end_of_ram(make):
    machine = make()
    machine.memory.write(END - 2, 2, 0x0013)
    machine.pc = END - 2
    machine.step()
    assert machine.mtrap == (1, END)
    assert machine.mepc == END - 2
    machine.memory.write(END - 2, 2, 0x0001)  # c.nop ends with memory
    machine.pc = END - 2
    machine.step()
    assert machine.pc == END


@both
def test_rom_is_read_and_executed_and_refuses_stores(make):
    machine = make()
    rom = machine.memory.add_ram(0x1000, 0x1000, writable=False)
    rom[0:4] = (0x00A00513).to_bytes(4, "little")  # li a0, 10
    machine.pc = 0x1000
    machine.step()
    assert (machine.pc, machine.get("a0")) == (0x1004, 10)
    for text in ("sd a0, (a1)", "amoadd.d a0, a0, (a1)"):
        machine.pc = RAM
        machine.do(text, a1=0x1000)
        assert machine.mtrap == (7, 0x1000)
    machine.pc = RAM
    machine.do("ld a2, (a1)")
    assert machine.get("a2") == 0x00A00513


# --- Traps ----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "text",
    [
        "fadd.s fa0, fa0, fa1",
        "flw fa0, (a1)",
        "fsd fa0, (a1)",
        "fmv.x.d a0, fa0",
        "fclass.s a0, fa0",
    ],
)
def test_floating_point_that_is_off_is_illegal_with_its_bits(make, text):
    machine = make()
    machine.do(text, a1=DATA)
    raw = int.from_bytes(assemble(text).data, "little")
    assert machine.mtrap == (2, raw)


@both
def test_an_illegal_instruction_over_two_pages_gives_all_its_bits(make):
    machine = make()
    machine.memory.write(DATA + 0xFFE, 4, 0xFFFF_FFFF & 0x8000_707F)
    machine.pc = DATA + 0xFFE
    machine.step()
    assert machine.mtrap == (2, 0x8000_707F)
    assert machine.mepc == DATA + 0xFFE


@both
def test_a_jump_to_an_odd_address_ignores_the_bit_and_to_two_modulo_four_is_fine(make):
    machine = make()
    machine.do("jalr a0, 1(a1)", a1=DATA + 2)
    assert (machine.pc, machine.get("a0")) == (DATA + 2, RAM + 4)


@both
def test_ecall_from_a_mode_that_delegates_and_back(make):
    machine = make(USER, medeleg=1 << 8, mstatus=0)
    machine.do("ecall")
    assert machine.strap == (8, 0)
    assert machine.priv == SUPERVISOR
    machine.do("sret")
    assert (machine.pc, machine.priv) == (RAM, USER)


@both
def test_a_fault_of_the_second_access_of_a_pair_keeps_the_first(make):
    machine = make()
    machine.do("sd a0, (a1)", a0=5, a1=DATA)
    machine.do("sd a0, (a1)", a1=END)
    assert machine.mtrap == (7, END)
    assert machine.memory.read(DATA, 8) == 5


# --- PMP inside a page ----------------------------------------------------------------------------


@both
def test_code_in_a_page_of_which_a_part_may_be_executed(make):
    machine = make(grant=False)
    machine.write_csr("pmpaddr0", napot(DATA, 64))
    machine.write_csr("pmpaddr1", 2**54 - 1)
    machine.write_csr("pmpcfg0", 0x1B << 8 | 0x1F)
    for offset in range(0, 128, 4):
        machine.memory.write(DATA + offset, 4, 0x00150513)  # addi a0, a0, 1
    machine.pc, machine.priv = DATA, SUPERVISOR
    for _ in range(17):
        machine.step()
    assert machine.mtrap == (1, DATA + 64)
    assert machine.get("a0") == 16
    machine.memory.write(DATA + 62, 4, 0x00150513)  # over the border: the second half is refused
    machine.pc, machine.priv = DATA + 62, SUPERVISOR
    machine.step()
    assert (machine.mcause, machine.mepc) == (1, DATA + 62)


@both
def test_a_store_over_two_pages_of_which_pmp_splits_the_first(make):
    machine = make(grant=False)
    machine.write_csr("pmpaddr0", napot(DATA + 0xFF8, 8))
    machine.write_csr("pmpaddr1", 2**54 - 1)
    machine.write_csr("pmpcfg0", 0x1F << 8 | 0x1C)
    machine.mstatus = MPRV | USER << 11
    before = machine.memory.read(DATA + 0xFF0, 8)
    machine.do("sd a0, (a1)", a0=2**64 - 1, a1=DATA + 0xFFC)
    assert machine.mtrap == (7, DATA + 0xFFC)
    assert machine.memory.read(DATA + 0xFF0, 8) == before
    assert machine.memory.read(DATA + 0x1000, 8) == 0


@both
def test_a_page_that_is_mapped_twice_is_one_page(make):
    machine = make()
    machine.translation()
    machine.map(PAGE, DATA, V | R | W | X | A | D)
    machine.map(PAGE + 0x1000, DATA, V | R | W | X | A | D)
    machine.mstatus = MPRV | SUPERVISOR << 11
    machine.do("sd a0, (a1)", a0=77, a1=PAGE)
    machine.do("ld a2, (a1)", a1=PAGE + 0x1000)
    assert machine.get("a2") == 77


# --- Code that changes ----------------------------------------------------------------------------


def run_both(text: str) -> list[int]:
    """Run a program that ends at the handler on both; x of the engine, equal to the reference's."""
    code = assemble(text, ENGINE_RAM).data
    reference = ReferenceMachine()
    for offset in range(0, len(code), 4):
        part = code[offset : offset + 4]
        reference.memory.write(RAM + offset, len(part), int.from_bytes(part, "little"))
    reference.mtvec = HANDLER
    while reference.pc != HANDLER:
        reference.step()
    engine = shared_machine()
    engine.reset()
    engine.load(RAM, code)
    engine.load(HANDLER, assemble("li t6, 0x5555; lui t5, 0x100; sw t6, (t5); j .", HANDLER).data)
    engine.state.mtvec = HANDLER
    engine.run(1_000_000)
    assert engine.finisher.value is not None
    skipped = (30, 31)
    found = [0 if n in skipped else int(engine.state.x[n]) for n in range(32)]
    assert found == [0 if n in skipped else reference.x[n] for n in range(32)]
    assert (engine.state.mcause, engine.state.mepc) == (reference.mcause, reference.mepc)
    return found


@pytest.mark.parametrize("store", ["sb", "sh", "sw", "sd"])
@pytest.mark.parametrize("offset", range(-7, 5))
def test_a_store_of_any_size_to_an_instruction_is_seen_at_once(store, offset):
    """Each turn stores back what is there, then other bytes: whatever they make is executed."""
    run_both(f"""
        la a1, spot
        li a0, 0
        li a3, 0
    turn:
        addi a3, a3, 1
        j spot
        .align 4
        .word 0x13, 0x13
    spot:
        addi a0, a0, 1
        addi a0, a0, 16
        addi a0, a0, 256
        li a4, 3
        beq a3, a4, end
        ld a5, {offset}(a1)
        li a6, 1 << 25
        add a5, a5, a6
        {store} a5, {offset}(a1)
        j turn
    end:
        ecall
    """)


def test_an_instruction_over_two_pages_changes_with_either_half():
    x = run_both(f"""
        la a1, {RAM + 0xFFE}
        li a0, 0
        li a2, 0
        li a3, 3
    turn:
        jal ra, {RAM + 0xFFE}
        lhu a4, 2(a1)
        addi a4, a4, 16
        sh a4, 2(a1)
        addi a3, a3, -1
        bnez a3, turn
        lhu a4, 0(a1)
        xori a4, a4, 0x80
        sh a4, (a1)
        jal ra, {RAM + 0xFFE}
        ecall
        .org 0xffe
        addi a0, a0, 1
        ret
    """)
    assert x[10] == 1 + 2 + 3
    assert x[11] == 6 + 4  # the last time rd is a1


def test_a_loop_that_writes_its_own_next_instruction():
    x = run_both("""
        la a1, spot
        li a0, 0
        li a3, 200
        lw a4, (a1)
        li a5, 1 << 20
    turn:
        add a4, a4, a5
        sw a4, (a1)
    spot:
        addi a0, zero, 0
        addi a3, a3, -1
        bnez a3, turn
        ecall
    """)
    assert x[10] == 200


def test_data_beside_code_may_change_for_ever():
    x = run_both("""
        la a1, counter
        li a3, 5000
    turn:
        lw a0, (a1)
        addi a0, a0, 1
        sw a0, (a1)
        addi a3, a3, -1
        bnez a3, turn
        j end
    counter: .word 0
    end: ecall
    """)
    assert x[10] == 5000


# --- Steps ----------------------------------------------------------------------------------------


def test_a_step_is_one_instruction_whatever_follows():
    machine = shared_machine()
    machine.reset()
    text = "c.li a0, 1; addi a0, a0, 1; beqz zero, 1f; ebreak; 1: jalr ra, 6(a1); ebreak"
    machine.load(RAM, assemble(text, RAM).data)
    machine.state.x[11] = RAM
    places = []
    for _ in range(4):
        machine.step()
        places.append(int(machine.state.pc) - RAM)
    assert places == [2, 6, 14, 6]
    assert machine.state.count == 4
    assert machine.state.priv == MACHINE
