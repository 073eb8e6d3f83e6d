"""CSRs as a guest sees them: what is there, for whom, and what can be written."""

import pytest

from protocol.riscv import csr
from protocol.riscv.csr import CSRS, FEATURE_SSTC, FEATURE_SVADU, NUMBERS
from protocol.riscv.privileged import MENVCFG_STCE
from tests.protocol.riscv.reference_machine import (
    MACHINE,
    RAM,
    SUPERVISOR,
    USER,
    ReferenceMachine,
)

ALL = 2**64 - 1
FS_INITIAL = 1 << 13
FS_DIRTY = 3 << 13
SD = 1 << 63
XLEN = 2 << 34 | 2 << 32

ILLEGAL = 2


def csrr(number: int, rd: int = 10) -> int:
    return number << 20 | 2 << 12 | rd << 7 | 0x73


def execute(machine: ReferenceMachine, raw: int) -> None:
    machine.memory.write(machine.pc, 4, raw)
    machine.step()


def write(machine: ReferenceMachine, name: str, value: int) -> int:
    """Write and read back."""
    machine.do(f"csrw {name}, a1", a1=value)
    machine.do(f"csrr a0, {name}")
    return machine.get("a0")


def permissive(priv: int) -> ReferenceMachine:
    return ReferenceMachine(
        priv, mstatus=FS_INITIAL, mcounteren=7, scounteren=7, menvcfg=MENVCFG_STCE
    )


@pytest.mark.parametrize("priv", [USER, SUPERVISOR, MACHINE])
def test_every_number_is_there_for_the_modes_it_says_or_is_illegal(priv):
    machine = permissive(priv)
    for number in range(4096):
        machine.pc, machine.priv, machine.mstatus = RAM, priv, FS_INITIAL
        execute(machine, csrr(number))
        row = CSRS.get(number)
        there = row is not None and row.privilege <= priv
        if row is not None and row.name.startswith("hpmcounter") and priv != MACHINE:
            there = False  # no such counter is enabled
        if there:
            assert machine.pc == RAM + 4, row
        else:
            assert machine.mtrap == (ILLEGAL, csrr(number)), hex(number)


def test_writing_a_read_only_number_is_illegal_and_not_writing_is_not():
    machine = ReferenceMachine()
    machine.do("csrrs a0, mhartid, zero")
    machine.do("csrrci a0, mhartid, 0")
    machine.do("csrr a0, cycle")
    assert machine.pc == RAM + 12
    # Whether it writes is in the encoding: a1 = 0 makes no difference.
    machine.do("csrrs a0, mhartid, a1", a1=0)
    assert machine.mtrap == (ILLEGAL, 0xF145A573)
    machine.do("csrrwi zero, cycle, 0")
    assert (machine.mcause, machine.mepc) == (ILLEGAL, machine.mtvec)


def test_csrrw_csrrs_csrrc_and_their_immediate_forms():
    machine = ReferenceMachine(mscratch=0b1100)
    for text, old, new in [
        ("csrrw a0, mscratch, a1", 0b1100, 0b1010),
        ("csrrs a0, mscratch, a1", 0b1010, 0b1010),
        ("csrrwi a0, mscratch, 3", 0b1010, 0b0011),
        ("csrrs a0, mscratch, a1", 0b0011, 0b1011),
        ("csrrc a0, mscratch, a1", 0b1011, 0b0001),
        ("csrrsi a0, mscratch, 31", 0b0001, 0b11111),
        ("csrrci a0, mscratch, 1", 0b11111, 0b11110),
    ]:
        machine.do(text, a1=0b1010)
        assert (machine.get("a0"), machine.mscratch) == (old, new), text


def test_csrrw_with_one_register_swaps():
    machine = ReferenceMachine(mscratch=1)
    machine.do("csrrw a0, mscratch, a0", a0=2)
    assert (machine.get("a0"), machine.mscratch) == (1, 2)


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("misa", 0, csr.MISA),
        ("mtvec", 0x80000003, 0x80000001),
        ("stvec", 0x80000002, 0x80000000),
        ("mepc", ALL, ALL - 1),
        ("sepc", ALL, ALL - 1),
        ("mcause", ALL, ALL),
        ("mtval", ALL, ALL),
        ("sscratch", ALL, ALL),
        ("medeleg", ALL, 0xB3FF),
        ("mideleg", ALL, 0x222),
        ("mie", ALL, 0xAAA),
        ("mip", ALL, 0x222),
        ("mcounteren", ALL, 7),
        ("scounteren", ALL, 7),
        ("mcountinhibit", ALL, 5),
        ("senvcfg", ALL, 1),
        ("menvcfg", ALL, 1 << 63 | 1 << 61 | 1),
        ("mhpmcounter3", ALL, 0),
        ("mhpmevent31", ALL, 0),
        ("pmpaddr15", ALL, 2**54 - 1),
        ("mstatus", ALL, 0x7E79AA | SD | XLEN),
        ("sstatus", ALL, 0xC6122 | SD | 2 << 32),
        ("tselect", ALL, 0),
        ("tdata1", ALL, 0),
    ],
)
def test_what_can_be_written(name, value, stored):
    assert write(ReferenceMachine(), name, value) == stored


@pytest.mark.parametrize(("features", "writable"), [(0, 0), (1, 1 << 61), (2, 1 << 63)])
def test_menvcfg_has_the_bits_of_the_extensions_there_are(features, writable):
    assert write(ReferenceMachine(features=features), "menvcfg", ALL) == writable | 1
    assert (FEATURE_SVADU, FEATURE_SSTC) == (1, 2)


@pytest.mark.parametrize(("written", "kept"), [(0, 0), (1, 1), (2, 1), (3, 3)])
def test_mpp_never_holds_the_mode_that_is_not_there(written, kept):
    machine = ReferenceMachine(mstatus=SUPERVISOR << 11)
    assert write(machine, "mstatus", written << 11) >> 11 & 3 == kept


def test_sstatus_is_a_window_on_mstatus():
    machine = ReferenceMachine(mstatus=0x1888)  # MPP, MPIE, MIE
    assert write(machine, "sstatus", 1 << 18) == 1 << 18 | 2 << 32
    assert machine.mstatus == 0x1888 | 1 << 18


def test_sd_is_set_exactly_when_fs_is_dirty():
    machine = ReferenceMachine()
    for fs in range(4):
        assert bool(write(machine, "mstatus", fs << 13) & SD) == (fs == 3)


def test_sie_and_sip_show_and_write_only_delegated_interrupts():
    machine = ReferenceMachine(mie=0x888, mideleg=0x22, mip=0x222)
    assert write(machine, "sie", ALL) == 0x22
    assert machine.mie == 0x888 | 0x22
    machine.do("csrr a0, sip")
    assert machine.get("a0") == 0x22
    machine.do("csrw sip, zero")  # only SSIP is the supervisor's to clear
    assert machine.mip == 0x220
    machine.mideleg = 0
    machine.mip = 0
    assert write(machine, "sip", ALL) == 0
    assert machine.mip == 0


def test_setting_bits_in_mip_does_not_store_the_external_line():
    machine = ReferenceMachine(irq=1 << 9)
    machine.do("csrrsi a0, mip, 2")
    assert (machine.get("a0"), machine.mip) == (1 << 9, 2)
    machine.do("csrrs a0, mip, a1", a1=1 << 9)
    machine.irq = 0
    machine.do("csrr a0, mip")
    assert machine.get("a0") == 1 << 9 | 2
    machine.do("csrrc a0, mip, a1", a1=1 << 9)
    assert machine.mip == 2


@pytest.mark.parametrize("mode", range(16))
def test_satp_ignores_a_write_with_an_unsupported_mode(mode):
    machine = ReferenceMachine(SUPERVISOR)
    before = 0x1234
    machine.do("csrw satp, a1", a1=before)
    machine.priv = MACHINE  # so that code needs no page table
    value = mode << 60 | 0xABCD << 44 | 0x80100
    supported = mode in (0, 8, 9, 10)
    assert write(machine, "satp", value) == (value if supported else before)


def test_tvm_keeps_satp_from_s_mode_alone():
    machine = ReferenceMachine(SUPERVISOR, mstatus=1 << 20)
    machine.do("csrr a0, satp")
    assert machine.mtrap == (ILLEGAL, 0x18002573)
    machine.do("csrr a0, satp")
    assert machine.pc == machine.mtvec + 4


# --- Counters -------------------------------------------------------------------------------------


def test_a_written_counter_reads_back_in_the_next_instruction():
    machine = ReferenceMachine()
    for name in ("mcycle", "minstret"):
        assert write(machine, name, 1000) == 1000
        machine.do("nop; nop")
        machine.do(f"csrr a0, {name}")
        assert machine.get("a0") == 1003


def test_an_inhibited_counter_stands_still_and_goes_on_from_there():
    machine = ReferenceMachine()
    machine.do("csrw minstret, a1", a1=500)
    machine.do("csrwi mcountinhibit, 4")
    stopped = machine.read_csr("minstret")
    machine.do("nop; nop; nop")
    assert machine.read_csr("minstret") == stopped
    assert write(machine, "minstret", 77) == 77
    machine.do("csrwi mcountinhibit, 0")
    machine.do("csrr a0, minstret")
    assert machine.get("a0") == 77
    machine.do("csrr a0, instret")
    assert machine.get("a0") == 78


@pytest.mark.parametrize(("name", "bit"), [("cycle", 0), ("time", 1), ("instret", 2)])
def test_counters_are_lent_mode_by_mode(name, bit):
    for priv, mcounteren, scounteren, allowed in [
        (SUPERVISOR, 0, 7, False),
        (SUPERVISOR, 1 << bit, 0, True),
        (USER, 1 << bit, 0, False),
        (USER, 0, 1 << bit, False),
        (USER, 1 << bit, 1 << bit, True),
        (USER, 7 ^ 1 << bit, 7, False),
    ]:
        machine = ReferenceMachine(priv, mcounteren=mcounteren, scounteren=scounteren)
        machine.do(f"csrr a0, {name}")
        assert (machine.mtrap is None) == allowed


def test_time_is_the_clock():
    machine = ReferenceMachine()
    machine.now = 123456789
    machine.do("csrr a0, time")
    assert machine.get("a0") == 123456789


# --- Sstc -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("priv", "features", "menvcfg", "mcounteren", "allowed"),
    [
        (MACHINE, FEATURE_SSTC, 0, 0, True),
        (MACHINE, 0, 0, 0, False),
        (SUPERVISOR, FEATURE_SSTC, MENVCFG_STCE, 2, True),
        (SUPERVISOR, FEATURE_SSTC, MENVCFG_STCE, 0, False),
        (SUPERVISOR, FEATURE_SSTC, 0, 2, False),
        (USER, FEATURE_SSTC, MENVCFG_STCE, 2, False),
    ],
)
def test_who_may_use_stimecmp(priv, features, menvcfg, mcounteren, allowed):
    machine = ReferenceMachine(priv, features=features, menvcfg=menvcfg, mcounteren=mcounteren)
    machine.do("csrr a0, stimecmp")
    assert (machine.mtrap is None) == allowed


def test_with_stce_stip_is_the_comparison_and_not_writable():
    machine = ReferenceMachine(menvcfg=MENVCFG_STCE, stimecmp=100)
    assert write(machine, "mip", 1 << 5) == 0
    machine.now = 100
    machine.do("csrr a0, mip")
    assert machine.get("a0") == 1 << 5
    machine.do("csrw stimecmp, a1", a1=101)
    machine.do("csrr a0, mip")
    assert machine.get("a0") == 0


# --- Floating point -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fflags", "frm", "fcsr"])
def test_the_fp_registers_need_fs_and_dirty_it_when_written(name):
    machine = ReferenceMachine()
    machine.do(f"csrr a0, {name}")
    assert machine.mcause == ILLEGAL
    machine.mstatus = FS_INITIAL
    machine.do(f"csrr a0, {name}")
    assert machine.mstatus == FS_INITIAL
    machine.do(f"csrwi {name}, 1")
    assert machine.mstatus == FS_DIRTY


def test_fcsr_is_frm_and_fflags():
    machine = ReferenceMachine(mstatus=FS_INITIAL)
    assert write(machine, "fcsr", ALL) == 0xFF
    assert write(machine, "frm", 2) == 2
    assert write(machine, "fflags", ~0x15) == 0x0A
    machine.do("csrr a0, fcsr")
    assert machine.get("a0") == 2 << 5 | 0x0A


# --- PMP registers --------------------------------------------------------------------------------


def test_pmpcfg_packs_eight_entries_and_refuses_w_without_r():
    machine = ReferenceMachine(grant=False)
    assert write(machine, "pmpcfg0", 0x7F_1F_18_0B_02_03_06_07) == 0x1F_1F_18_0B_00_03_04_07
    assert write(machine, "pmpcfg2", 0x0F << 56) == 0x0F << 56
    assert machine.pmpcfg[15] == 0x0F
    assert machine.pmp_active == 16


def test_a_locked_entry_and_the_bound_below_it_stay():
    machine = ReferenceMachine(grant=False)
    machine.do("csrw pmpaddr1, a1", a1=0x100)
    machine.do("csrw pmpaddr2, a1", a1=0x200)
    machine.do("csrw pmpcfg0, a1", a1=0x88 << 16 | 0x80 << 32)  # entry 2: locked TOR; 4: locked off
    assert write(machine, "pmpaddr1", 0x111) == 0x100
    assert write(machine, "pmpaddr2", 0x111) == 0x200
    assert write(machine, "pmpaddr3", 0x111) == 0x111  # below a locked entry that is not TOR
    assert write(machine, "pmpaddr4", 0x111) == 0
    assert write(machine, "pmpcfg0", 0x1F1F1F1F1F) == 0x801F881F1F


# --- The table itself -----------------------------------------------------------------------------


def test_names_and_numbers_are_unique():
    assert len(NUMBERS) == len(CSRS)
    with pytest.raises(ValueError, match="0x300 is declared as mstatus and as other"):
        csr.csr(0x300, "other")


def test_the_dispatch_is_a_balanced_tree():
    source = csr.dispatch_source("f", "number", {n: ["return 0"] for n in range(0, 512, 2)})
    deepest = max(len(line) - len(line.lstrip()) for line in source.splitlines())
    assert deepest == 4 * 10  # 256 leaves: eight choices, the leaf's test, its body
