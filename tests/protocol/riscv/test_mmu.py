"""Translation and PMP, as a guest sees them: what an access reaches, or which exception it gets."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.riscv.csr import NUMBERS
from tests.protocol.riscv.reference_machine import (
    ACCESS_FAULT,
    ACCESSES,
    AMO,
    DATA,
    FETCH,
    LOAD,
    MACHINE,
    MPRV,
    MXR,
    PAGE_FAULT,
    RAM,
    STORE,
    SUM,
    SUPERVISOR,
    SV39,
    SV48,
    SV57,
    TABLES,
    USER,
    A,
    D,
    G,
    R,
    ReferenceMachine,
    U,
    V,
    W,
    X,
    attempt,
    napot,
)

PAGE = 0x40201000  # a virtual page that is nowhere physically
ADUE = 1 << 61


def translated(scheme: int = SV39, **fields: int) -> ReferenceMachine:
    machine = ReferenceMachine(MACHINE, True, **fields)
    machine.translation(scheme)
    for offset in range(0, 0x2000, 4):
        machine.memory.write(DATA + offset, 4, 0x73)  # ecall
    return machine


# --- The page table entry -------------------------------------------------------------------------


@pytest.mark.parametrize("priv", [USER, SUPERVISOR])
@pytest.mark.parametrize("status", [0, SUM, MXR, SUM | MXR])
@pytest.mark.parametrize("access", ACCESSES)
def test_every_combination_of_permission_bits(priv, status, access):
    for bits in range(32):
        flags = bits  # V R W X U
        machine = translated(mstatus=status)
        machine.map(PAGE, DATA, flags | A | D)
        legal = bool(flags & V) and bool(flags & (R | X)) and not (flags & W and not flags & R)
        if access == FETCH:
            legal = legal and bool(flags & X)
        elif access == LOAD:
            legal = legal and bool(flags & (R | X if status & MXR else R))
        else:
            legal = legal and bool(flags & W)
        if priv == USER:
            legal = legal and bool(flags & U)
        elif flags & U:
            legal = legal and access != FETCH and bool(status & SUM)
        expected = None if legal else PAGE_FAULT[access]
        assert attempt(machine, access, PAGE, priv) == expected, f"{flags:#b}"


@pytest.mark.parametrize("bit", range(54, 64))
def test_reserved_bits_fault(bit):
    machine = translated()
    machine.map(PAGE, DATA, V | R | A | D | 1 << bit)
    assert attempt(machine, LOAD, PAGE, SUPERVISOR) == 13


def test_the_bits_for_software_and_g_do_not_matter():
    machine = translated()
    machine.map(PAGE, DATA, V | R | A | D | G | 3 << 8)
    assert attempt(machine, LOAD, PAGE, SUPERVISOR) is None


@pytest.mark.parametrize("bit", [A, D, U])
def test_a_pointer_with_a_d_or_u_set_faults(bit):
    machine = translated()
    machine.map(PAGE, DATA, V | R | A | D)
    pointer = machine.slot(PAGE, 1)
    machine.memory.write(pointer, 8, machine.memory.read(pointer, 8) | bit)
    assert attempt(machine, LOAD, PAGE, SUPERVISOR) == 13


def test_a_pointer_at_the_last_level_faults():
    machine = translated()
    machine.map(PAGE, DATA, V)
    assert attempt(machine, LOAD, PAGE, SUPERVISOR) == 13


# --- Levels, superpages, addresses ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "levels"), [(SV39, 3), (SV48, 4), (SV57, 5)], ids=["sv39", "sv48", "sv57"]
)
def test_pages_of_every_size(scheme, levels):
    for level in range(levels):
        for high in (False, True):
            machine = translated(scheme)
            size = 4096 << 9 * level
            address = 5 * size % (1 << 8 + 9 * levels)
            if high:
                address += 2**64 - (1 << 11 + 9 * levels)
            base = DATA - DATA % size
            machine.map(address, base, V | R | W | A | D, level)
            assert attempt(machine, LOAD, address + DATA - base, SUPERVISOR) is None
            assert machine.get("a0") == 0x73


@pytest.mark.parametrize("level", [1, 2])
def test_a_superpage_that_is_not_aligned_faults(level):
    machine = translated()
    machine.map(0, RAM + 0x1000, V | R | A | D, level)
    assert attempt(machine, LOAD, 0, SUPERVISOR) == 13


@pytest.mark.parametrize("scheme", [SV39, SV48, SV57])
@pytest.mark.parametrize("access", [FETCH, LOAD, STORE])
def test_an_address_whose_top_bits_are_not_the_sign_faults(scheme, access):
    bits = 12 + 9 * (scheme - 5)
    machine = translated(scheme)
    for address in (1 << bits - 1, 2**64 - (1 << bits), 2**63, 1 << bits):
        assert attempt(machine, access, address, SUPERVISOR) == PAGE_FAULT[access]


def test_the_walk_stays_out_of_machine_mode():
    machine = translated()
    assert attempt(machine, LOAD, DATA, MACHINE) is None
    assert attempt(machine, FETCH, DATA, MACHINE) is None


def test_mprv_does_not_concern_fetches():
    machine = translated(mstatus=MPRV | USER << 11)
    machine.do("nop")
    assert machine.pc == RAM + 4


def test_code_runs_where_it_is_mapped():
    machine = translated()
    machine.map(PAGE, DATA, V | X | A)
    machine.pc, machine.priv = PAGE + 8, SUPERVISOR
    machine.step()
    assert (machine.mcause, machine.mepc) == (9, PAGE + 8)


# --- A and D --------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("bits", [0, A, D, A | D])
def test_svade_faults_and_svadu_updates(access, bits):
    flags = V | R | W | X | bits
    needed = A if access in (FETCH, LOAD) else A | D
    for menvcfg in (0, ADUE):
        machine = translated(menvcfg=menvcfg)
        entry = machine.map(PAGE, DATA, flags)
        before = machine.memory.read(entry, 8)
        legal = bits & needed == needed or menvcfg == ADUE
        assert attempt(machine, access, PAGE, SUPERVISOR) == (None if legal else PAGE_FAULT[access])
        assert machine.memory.read(entry, 8) == (before | needed if legal else before)


def test_svadu_updates_nothing_for_an_access_that_may_not_be():
    machine = translated(menvcfg=ADUE)
    entry = machine.map(PAGE, DATA, V | R)
    before = machine.memory.read(entry, 8)
    assert attempt(machine, STORE, PAGE, SUPERVISOR) == 15
    assert attempt(machine, LOAD, PAGE, USER) == 13
    assert machine.memory.read(entry, 8) == before


def test_svadu_on_a_page_table_in_read_only_memory_is_an_access_fault():
    machine = translated(menvcfg=ADUE)
    rom = machine.memory.add_ram(0x1000, 0x1000, writable=False)
    rom[0:8] = (DATA >> 2 & ~0xFFFFF | V | R).to_bytes(8, "little")
    machine.satp = SV39 << 60 | machine.table() >> 12
    machine.memory.write(machine.slot(PAGE, 1), 8, 0x1000 >> 2 | V)
    rom[8:16] = (DATA >> 2 | V | R).to_bytes(8, "little")
    assert attempt(machine, LOAD, PAGE, SUPERVISOR) == 5
    rom[8:16] = (DATA >> 2 | V | R | A).to_bytes(8, "little")
    assert attempt(machine, LOAD, PAGE, SUPERVISOR) is None


def test_another_hart_that_changes_the_entry_meanwhile_is_obeyed():
    machine = translated(menvcfg=ADUE)
    entry = machine.map(PAGE, DATA, V | R)
    swap = machine.phys_cas64

    def interfere(address, old, new):
        machine.memory.write(address, 8, 0)
        return swap(address, old, new)

    machine.phys_cas64 = interfere  # type: ignore[method-assign]
    assert attempt(machine, LOAD, PAGE, SUPERVISOR) == 13
    assert machine.memory.read(entry, 8) == 0


# --- What is not memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("access", ACCESSES)
def test_a_page_table_or_page_that_is_not_there_is_an_access_fault(access):
    machine = translated()
    pointer = machine.slot(PAGE, 1)
    machine.memory.write(pointer, 8, 0x10000000 >> 2 | V)
    assert attempt(machine, access, PAGE, SUPERVISOR) == ACCESS_FAULT[access]
    machine.memory.write(pointer, 8, 0)
    machine.map(PAGE, 0x10000000, V | R | W | X | A | D)
    assert attempt(machine, access, PAGE, SUPERVISOR) == ACCESS_FAULT[access]


# --- Accesses across two pages --------------------------------------------------------------------


def test_a_misaligned_access_may_span_two_pages_anywhere():
    machine = translated()
    machine.map(PAGE, DATA + 0x1000, V | R | W | A | D)
    machine.map(PAGE + 0x1000, DATA, V | R | W | A | D)
    value = 0x1122334455667788
    assert attempt(machine, "sd a0, (a1)", PAGE + 0xFFD, SUPERVISOR) is None
    machine.x[10] = value
    machine.pc = RAM
    machine.do("sd a0, (a1)", a1=PAGE + 0xFFD)
    assert machine.memory.read(DATA + 0x1FFD, 3) == value & 0xFFFFFF
    assert machine.memory.read(DATA, 5) == value >> 24
    machine.do("ld a2, (a1)")
    assert machine.get("a2") == value


def test_a_store_that_cannot_finish_changes_nothing_and_names_the_second_page():
    machine = translated(mstatus=MPRV | SUPERVISOR << 11)
    machine.map(PAGE, DATA, V | R | W | A | D)
    before = machine.memory.read(DATA + 0xFF8, 8)
    for _ in range(2):
        machine.pc = RAM
        machine.do("sd a0, (a1)", a0=2**64 - 1, a1=PAGE + 0xFFC)
        cause = machine.mcause
        assert (cause, machine.mtval) in [(15, PAGE + 0x1000), (7, PAGE + 0x1000)]
        assert machine.memory.read(DATA + 0xFF8, 8) == before
        machine.priv, machine.mstatus = MACHINE, MPRV | SUPERVISOR << 11
        machine.map(PAGE + 0x1000, 0x10000000, V | R | W | A | D)  # mapped now, but to nothing
    assert cause == 7


def test_an_instruction_across_two_pages_faults_at_the_second():
    machine = translated()
    machine.map(PAGE, DATA, V | X | A)
    machine.memory.write(DATA + 0xFFE, 2, 0x0013)  # the first half of a nop
    machine.pc, machine.priv = PAGE + 0xFFE, SUPERVISOR
    machine.step()
    assert machine.mtrap == (12, PAGE + 0x1000)
    assert machine.mepc == PAGE + 0xFFE
    machine.map(PAGE + 0x1000, DATA + 0x1000, V | X | A)
    machine.memory.write(DATA + 0x1000, 2, 0)
    machine.pc, machine.priv = PAGE + 0xFFE, SUPERVISOR
    machine.step()
    assert machine.pc == PAGE + 0x1002


# --- PMP ------------------------------------------------------------------------------------------

PMP_R, PMP_W, PMP_X = 1, 2, 4
OFF, TOR, NA4, NAPOT = 0, 8, 16, 24
LOCKED = 0x80


def protected(*entries: tuple[int, int]) -> ReferenceMachine:
    """A machine with these (address register, configuration) entries, from entry 0."""
    machine = ReferenceMachine(grant=False)
    set_entries(machine, entries)
    for offset in range(0, 0x2000, 4):
        machine.memory.write(DATA + offset, 4, 0x73)
    return machine


def set_entries(machine: ReferenceMachine, entries: Sequence[tuple[int, int]]) -> None:
    """Give entries from 0 on other addresses and configurations."""
    for number, (address, _) in enumerate(entries):
        machine.write_csr(f"pmpaddr{number}", address)
    for first, name in ((0, "pmpcfg0"), (8, "pmpcfg2")):
        packed = 0
        for number, (_, config) in enumerate(entries[first : first + 8]):
            packed |= config << 8 * number
        machine.write_csr(name, packed)


EVERYTHING = (2**54 - 1, NAPOT | PMP_R | PMP_W | PMP_X)


@pytest.mark.parametrize("access", ACCESSES)
def test_without_entries_only_machine_mode_has_memory(access):
    machine = protected()
    assert attempt(machine, access, DATA, MACHINE) is None
    assert attempt(machine, access, DATA, SUPERVISOR) == ACCESS_FAULT[access]
    assert attempt(machine, access, DATA, USER) == ACCESS_FAULT[access]


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("config", [0, 1, 3, 4, 5, 7])
@pytest.mark.parametrize("locked", [0, LOCKED])
def test_permissions_and_the_lock(access, config, locked):
    machine = protected((napot(DATA, 4096), NAPOT | config | locked))
    needed = {FETCH: PMP_X, LOAD: PMP_R, STORE: PMP_W, AMO: PMP_W}[access]
    fault = None if config & needed else ACCESS_FAULT[access]
    assert attempt(machine, access, DATA, SUPERVISOR) == fault
    assert attempt(machine, access, DATA, USER) == fault
    assert attempt(machine, access, DATA, MACHINE) == (fault if locked else None)


@pytest.mark.parametrize(
    ("address", "config", "inside"),
    [
        (DATA + 64 >> 2, NA4, range(DATA + 64, DATA + 68)),
        (napot(DATA + 64, 8), NAPOT, range(DATA + 64, DATA + 72)),
        (napot(DATA, 256), NAPOT, range(DATA, DATA + 256)),
        (DATA + 64 >> 2, TOR, range(0, DATA + 64)),
        (2**54 - 1, NAPOT, range(0, 2**56)),
    ],
    ids=["na4", "napot8", "napot256", "tor", "all"],
)
def test_what_an_entry_matches(address, config, inside):
    machine = protected((address, config | PMP_R))
    for at in range(DATA - 4, DATA + 320, 4):
        fault = None if at in inside else 5
        assert attempt(machine, "lbu a0, (a1)", at, USER) == fault, hex(at)


def test_tor_reaches_from_the_register_below_even_if_that_entry_is_off():
    machine = protected((DATA + 8 >> 2, OFF), (DATA + 16 >> 2, TOR | PMP_R))
    faults = [attempt(machine, LOAD, DATA + at, USER) for at in (4, 8, 12, 16)]
    assert faults == [5, None, None, 5]


def test_tor_with_the_bounds_crossed_matches_nothing():
    machine = protected((DATA + 16 >> 2, OFF), (DATA + 8 >> 2, TOR), EVERYTHING)
    assert attempt(machine, LOAD, DATA + 8, USER) is None


def test_the_lowest_entry_that_matches_decides():
    allow, deny = (napot(DATA, 64), NAPOT | PMP_R), (napot(DATA, 4096), NAPOT)
    assert attempt(protected(allow, deny, EVERYTHING), LOAD, DATA, USER) is None
    assert attempt(protected(deny, allow, EVERYTHING), LOAD, DATA, USER) == 5
    sixteen = [(0, OFF)] * 14 + [deny, EVERYTHING]
    assert attempt(protected(*sixteen), LOAD, DATA, USER) == 5
    assert attempt(protected(*sixteen), LOAD, DATA - 4, USER) is None


@pytest.mark.parametrize("priv", [USER, SUPERVISOR, MACHINE])
def test_an_access_of_which_an_entry_matches_a_part_fails(priv):
    machine = protected((DATA + 8 >> 2, NA4 | PMP_R | PMP_W | PMP_X), EVERYTHING)
    assert attempt(machine, "ld a0, (a1)", DATA + 8, priv) == 5
    assert attempt(machine, "ld a0, (a1)", DATA + 4, priv) == 5
    assert attempt(machine, "lw a0, (a1)", DATA + 8, priv) is None
    assert attempt(machine, "ld a0, (a1)", DATA + 16, priv) is None


def test_pmp_judges_reads_of_page_tables_as_s_mode():
    for access in ACCESSES:
        for permission in (0, PMP_R):
            machine = translated()
            machine.map(PAGE, DATA, V | R | W | X | U | A | D)
            machine.write_csr("pmpaddr1", 2**54 - 1)
            machine.write_csr("pmpaddr0", napot(TABLES, 0x10000))
            machine.write_csr("pmpcfg0", 0x1F << 8 | NAPOT | permission)
            expected = None if permission else ACCESS_FAULT[access]
            assert attempt(machine, access, PAGE, USER) == expected


def test_svadu_needs_the_right_to_write_the_page_table():
    machine = translated(menvcfg=ADUE)
    entry = machine.map(PAGE, DATA, V | R)
    machine.write_csr("pmpaddr1", 2**54 - 1)
    machine.write_csr("pmpaddr0", napot(TABLES, 0x10000))
    machine.write_csr("pmpcfg0", 0x1F << 8 | NAPOT | PMP_R)
    assert attempt(machine, LOAD, PAGE, SUPERVISOR) == 5
    assert not machine.memory.read(entry, 8) & A


def test_an_answer_says_whether_it_holds_for_the_page():
    machine = protected((napot(DATA + 64, 64), NAPOT), EVERYTHING)
    assert attempt(machine, LOAD, DATA, USER) is None
    assert machine.fault_page == 1
    assert attempt(machine, LOAD, DATA + 0x1000, USER) is None
    assert machine.fault_page == 0


PMP_TABLES = st.lists(
    st.tuples(st.integers(DATA >> 2, DATA + 64 >> 2), st.integers(0, 31)), min_size=1, max_size=4
)
PMP_LOADS = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=6
)


@given(st.lists(st.tuples(PMP_TABLES, PMP_LOADS), min_size=1, max_size=3))
def test_loads_agree_with_pmp_by_the_byte(rounds):
    """Section 3.7.1.3 said again, byte by byte: the first entry with any byte must have all.

    Of several loads in turn, and after the entries were changed.
    """
    machine = protected()
    for entries, loads in rounds:
        set_entries(machine, [*entries, *[(0, 0)] * (4 - len(entries))])
        for offset, size in loads:
            load = {1: "lbu", 2: "lhu", 4: "lwu", 8: "ld"}[size]
            expected = None if pmp_allows(entries, DATA + offset, size) else 5
            assert attempt(machine, f"{load} a0, (a1)", DATA + offset, USER) == expected


def pmp_allows(entries: list[tuple[int, int]], start: int, size: int) -> bool:
    """Whether U-mode may load from there, by these entries."""
    config = {n: c & ~2 if c & 3 == 2 else c for n, (_, c) in enumerate(entries)}
    wanted = set(range(start, start + size))
    for number, (address, _) in enumerate(entries):
        kind = config[number] & NAPOT
        below = entries[number - 1][0] << 2 if number else 0
        length = 8 << (~address & address + 1).bit_length() - 1
        low, high = {
            OFF: (0, 0),
            TOR: (below, address << 2),
            NA4: (address << 2, (address << 2) + 4),
            NAPOT: (address << 2 & -length, (address << 2 & -length) + length),
        }[kind]
        matched = {at for at in wanted if low <= at < high}
        if matched:
            return matched == wanted and bool(config[number] & PMP_R)
    return False


def test_there_are_sixteen_entries():
    assert "pmpaddr15" in NUMBERS
    assert "pmpaddr16" not in NUMBERS
