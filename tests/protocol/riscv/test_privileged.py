"""Traps, their return, interrupts and the privileged instructions, as a guest sees them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.riscv import privileged
from tests.protocol.riscv.reference_machine import (
    DATA,
    M_HANDLER,
    MACHINE,
    RAM,
    S_HANDLER,
    SUPERVISOR,
    SV39,
    USER,
    ReferenceMachine,
)

SIE, MIE, SPIE, MPIE, SPP = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8
MPRV, SUM, MXR, TVM, TW, TSR = (1 << bit for bit in range(17, 23))
INTERRUPT = 1 << 63
SSI, MSI, STI, MTI, SEI, MEI = 1, 3, 5, 7, 9, 11
MODES = [USER, SUPERVISOR, MACHINE]


# --- Exceptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("priv", "cause"), [(USER, 8), (SUPERVISOR, 9), (MACHINE, 11)])
def test_ecall_names_the_mode_it_came_from(priv, cause):
    machine = ReferenceMachine(priv, mstatus=MIE)
    machine.do("nop; ecall")
    assert machine.mtrap == (cause, 0)
    assert machine.mepc == RAM + 4
    assert machine.priv == MACHINE
    assert machine.mstatus == MPIE | priv << 11
    assert machine.count == 1  # the ecall itself does not retire


@pytest.mark.parametrize("text", ["ebreak", "c.ebreak"])
def test_ebreak_gives_its_address(text):
    machine = ReferenceMachine()
    machine.do(f"nop; {text}")
    assert machine.mtrap == (3, RAM + 4)


@pytest.mark.parametrize(
    ("raw", "value"),
    [(0x0, 0), (0xFFFF0000, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x12348000, 0x8000), (0x7B, 0x7B)],
)
def test_an_illegal_instruction_gives_its_bits(raw, value):
    machine = ReferenceMachine(mtval=1)
    machine.memory.write(RAM, 4, raw)
    machine.step()
    assert machine.mtrap == (2, value)


@pytest.mark.parametrize("priv", MODES)
def test_delegation_is_for_modes_below_machine(priv):
    machine = ReferenceMachine(priv, medeleg=1 << 3, mstatus=SIE | MIE)
    machine.do("ebreak")
    if priv == MACHINE:
        assert machine.mtrap == (3, RAM)
        assert machine.mstatus == SIE | MPIE | MACHINE << 11
    else:
        assert machine.strap == (3, RAM)
        assert machine.priv == SUPERVISOR
        assert machine.sepc == RAM
        assert machine.mstatus == MIE | SPIE | priv << 8


def test_exceptions_never_go_to_a_vector():
    machine = ReferenceMachine(mtvec=M_HANDLER | 1)
    machine.do("ebreak")
    assert machine.pc == M_HANDLER


# --- Returns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("enabled", [0, MPIE])
def test_mret_goes_back_where_mpp_says(mode, enabled):
    machine = ReferenceMachine(mstatus=mode << 11 | enabled | MPRV, mepc=DATA)
    machine.do("mret")
    assert (machine.pc, machine.priv) == (DATA, mode)
    kept = MPRV if mode == MACHINE else 0
    assert machine.mstatus == MPIE | enabled >> 4 | kept


@pytest.mark.parametrize("mode", [USER, SUPERVISOR])
@pytest.mark.parametrize("priv", [SUPERVISOR, MACHINE])
@pytest.mark.parametrize("enabled", [0, SPIE])
def test_sret_goes_back_where_spp_says(mode, priv, enabled):
    machine = ReferenceMachine(priv, mstatus=mode << 8 | enabled | MPRV, sepc=DATA)
    machine.do("sret")
    assert (machine.pc, machine.priv) == (DATA, mode)
    assert machine.mstatus == SPIE | enabled >> 4


@given(
    priv=st.sampled_from(MODES),
    delegated=st.booleans(),
    status=st.sampled_from([0, SIE, MIE, SIE | MIE]),
)
def test_trap_and_return_restore_mode_and_enables(priv, delegated, status):
    machine = ReferenceMachine(priv, mstatus=status, medeleg=8 * delegated)
    machine.do("ebreak")
    machine.do("sret" if machine.pc == S_HANDLER else "mret")
    assert (machine.pc, machine.priv) == (RAM, priv)
    assert machine.mstatus & (SIE | MIE) == status


@pytest.mark.parametrize(
    ("text", "priv", "status", "legal"),
    [
        ("mret", USER, 0, False),
        ("mret", SUPERVISOR, 0, False),
        ("sret", USER, 0, False),
        ("sret", SUPERVISOR, 0, True),
        ("sret", SUPERVISOR, TSR, False),
        ("sret", MACHINE, TSR, True),
        ("wfi", USER, 0, False),
        ("wfi", SUPERVISOR, 0, True),
        ("wfi", SUPERVISOR, TW, False),
        ("wfi", MACHINE, TW, True),
        ("sfence.vma", USER, 0, False),
        ("sfence.vma a0, a1", SUPERVISOR, 0, True),
        ("sfence.vma", SUPERVISOR, TVM, False),
        ("sfence.vma", MACHINE, TVM, True),
        ("fence.i", USER, 0, True),
    ],
)
def test_who_may_execute_what(text, priv, status, legal):
    machine = ReferenceMachine(priv, mstatus=status)
    machine.do(text)
    if legal:
        assert machine.mtrap is None
    else:
        assert machine.mtrap == (2, machine.raw)
        assert machine.raw & 0x7F == 0x73


# --- Interrupts -----------------------------------------------------------------------------------


def raise_interrupt(machine: ReferenceMachine, code: int) -> None:
    """Make an interrupt pending the way the machine round the hart does."""
    if code == MTI:
        machine.mtimecmp = machine.now
    elif code in (SSI, STI):
        machine.mip |= 1 << code
    else:
        machine.irq |= 1 << code


@pytest.mark.parametrize("code", [SSI, MSI, STI, MTI, SEI, MEI])
def test_an_enabled_interrupt_is_taken_before_the_next_instruction(code):
    machine = ReferenceMachine(mstatus=MIE, mie=1 << code)
    machine.do("li a0, 1")
    raise_interrupt(machine, code)
    machine.do("li a0, 2")
    assert machine.mtrap == (INTERRUPT | code, 0)
    assert machine.mepc == RAM + 4
    assert machine.get("a0") == 1


def test_the_order_of_simultaneous_interrupts():
    machine = ReferenceMachine(mstatus=MIE, mie=0xAAA)
    machine.irq = 1 << MEI | 1 << MSI | 1 << SEI
    machine.mip = 1 << SSI | 1 << STI
    machine.mtimecmp = 0
    taken = []
    for code in (MEI, MSI, MTI, SEI, SSI, STI):
        machine.step()
        taken.append(machine.mcause ^ INTERRUPT)
        machine.mstatus = MIE
        machine.mie &= ~(1 << code)
    assert taken == [MEI, MSI, MTI, SEI, SSI, STI]


@pytest.mark.parametrize(
    ("priv", "status", "delegated", "taken"),
    [
        # To machine mode: in lower modes whatever MIE says.
        (MACHINE, 0, False, ""),
        (MACHINE, MIE, False, "M"),
        (SUPERVISOR, 0, False, "M"),
        (USER, 0, False, "M"),
        # To supervisor mode: never in machine mode, in S by SIE, in U always.
        (MACHINE, MIE | SIE, True, ""),
        (SUPERVISOR, MIE, True, ""),
        (SUPERVISOR, SIE, True, "S"),
        (USER, 0, True, "S"),
    ],
)
def test_global_enables_and_delegation(priv, status, delegated, taken):
    mideleg = 1 << SEI if delegated else 0
    machine = ReferenceMachine(priv, mstatus=status, mie=1 << SEI, mideleg=mideleg, irq=1 << SEI)
    machine.do("nop")
    assert {RAM + 4: "", M_HANDLER: "M", S_HANDLER: "S"}[machine.pc] == taken


def test_a_machine_interrupt_goes_before_a_delegated_one_of_higher_rank():
    machine = ReferenceMachine(USER, mie=0xAAA, mideleg=1 << SEI)
    machine.irq = 1 << SEI
    machine.mip = 1 << STI
    machine.step()
    assert machine.mcause == INTERRUPT | STI


@pytest.mark.parametrize("delegated", [False, True])
def test_interrupts_go_to_their_vector(delegated):
    machine = ReferenceMachine(USER, mie=1 << SEI, irq=1 << SEI)
    machine.mideleg = 1 << SEI if delegated else 0
    machine.mtvec |= 1
    machine.stvec |= 1
    machine.step()
    assert machine.pc == (S_HANDLER if delegated else M_HANDLER) + 4 * SEI


def test_enabling_an_interrupt_that_waits_takes_it_at_once():
    machine = ReferenceMachine(mie=1 << MSI, irq=1 << MSI)
    machine.do("csrsi mstatus, 8")
    assert machine.pc == RAM + 4
    machine.step()
    assert machine.mtrap == (INTERRUPT | MSI, 0)
    assert machine.mepc == RAM + 4


def test_sstc_delivers_the_supervisors_timer():
    machine = ReferenceMachine(
        USER, menvcfg=privileged.MENVCFG_STCE, mie=1 << STI, mideleg=1 << STI, stimecmp=10
    )
    machine.do("nop")
    assert machine.pc == RAM + 4
    machine.now = 10
    machine.step()
    assert machine.strap == (INTERRUPT | STI, 0)


# --- wfi ------------------------------------------------------------------------------------------


def test_wfi_sleeps_until_an_interrupt_is_pending_and_enabled():
    machine = ReferenceMachine(mie=1 << MTI, mtimecmp=50, irq=1 << MEI)
    machine.do("wfi")
    assert machine.pc == RAM + 4
    for _ in range(3):
        machine.do("li a0, 1")
    assert machine.get("a0") == 0
    machine.now = 50
    machine.do("li a0, 1")  # mstatus.MIE is clear: it goes on behind the wfi
    assert machine.get("a0") == 1
    assert machine.pc == RAM + 8


def test_an_interrupt_that_wakes_wfi_returns_behind_it():
    machine = ReferenceMachine(mstatus=MIE, mie=1 << MSI)
    machine.do("wfi")
    machine.irq = 1 << MSI
    machine.step()
    assert machine.mtrap == (INTERRUPT | MSI, 0)
    assert machine.mepc == RAM + 4


# --- TLB sets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("priv", "status", "translated", "data", "fetch"),
    [
        (MACHINE, 0, True, 0, 0),
        (MACHINE, SUM | MXR | SUPERVISOR << 11, True, 0, 0),
        (SUPERVISOR, 0, False, 7, 3),
        (USER, MXR, False, 7, 3),
        (SUPERVISOR, 0, True, 1, 1),
        (SUPERVISOR, SUM, True, 2, 1),
        (USER, SUM, True, 3, 2),
        (SUPERVISOR, MXR, True, 4, 1),
        (SUPERVISOR, SUM | MXR, True, 5, 1),
        (USER, MXR, True, 6, 2),
        (MACHINE, MPRV | SUPERVISOR << 11 | SUM, True, 2, 0),
        (MACHINE, MPRV | USER << 11, True, 3, 0),
        (MACHINE, MPRV | USER << 11, False, 7, 0),
        (MACHINE, MPRV | MACHINE << 11, True, 0, 0),
    ],
)
def test_every_state_has_its_tlb_sets(priv, status, translated, data, fetch):
    machine = ReferenceMachine()
    machine.write_csr("satp", SV39 << 60 if translated else 0)
    machine.write_csr("mstatus", status if priv == MACHINE else status | priv << 11)
    if priv != MACHINE:
        machine.mepc = DATA
        machine.do("mret")
    assert (machine.data_set, machine.fetch_set) == (data, fetch)


def test_a_trap_chooses_the_sets_of_the_mode_it_enters():
    machine = ReferenceMachine(SUPERVISOR, data_set=7, fetch_set=3)
    machine.do("ecall")
    assert (machine.data_set, machine.fetch_set) == (0, 0)


def test_no_interrupt_is_not_a_cause():
    assert privileged.NO_INTERRUPT == 2**64 - 1
