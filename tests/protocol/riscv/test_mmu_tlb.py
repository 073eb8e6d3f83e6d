"""What a TLB may keep: a hart with one, held against the hart that has none.

Stale translations are the quietest of mistakes, so this is the engine's contract with mmu.py and
privileged.py, tried on a small model of its TLB: which sets there are, and when they are emptied.
"""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.riscv.reference_machine import (
    DATA,
    LOAD,
    MACHINE,
    MPRV,
    RAM,
    SUPERVISOR,
    SV39,
    SV48,
    A,
    D,
    R,
    ReferenceMachine,
    U,
    V,
    W,
    X,
    attempt,
    napot,
)

PAGE = 0x40201000
NA4, TOR, NAPOT, LOCKED, PMP_R = 16, 8, 24, 0x80, 1


EVERY_SPACE = 2**64 - 1
Key = tuple[str, int, int, int]  # access, set, virtual page, satp (0 without translation)


class CachingMachine(ReferenceMachine):
    """Keeps what the architecture and the routines' promises let a TLB keep, as the engine does."""

    def __init__(self, **fields: int) -> None:
        self.kept: dict[Key, int] = {}
        self.full_flushes = 0
        super().__init__(MACHINE, True, **fields)

    def _physical(self, address: int, size: int, access: int) -> int:
        kind = ("fetch", "load", "store", "store")[access]
        tlb_set = self.data_set if access else self.fetch_set
        space = self.satp if tlb_set not in ((0, 7) if access else (0, 3)) else 0
        key = (kind, tlb_set, address >> 12, space)
        if key not in self.kept:
            physical = super()._physical(address, size, access)
            if self.fault_page:
                return physical
            self.kept[key] = physical & -4096
        return self.kept[key] | address & 4095

    def flush_tlb(self) -> None:
        self.kept.clear()
        self.full_flushes += 1

    def flush_tlb_space(self, asid: int) -> None:
        self.forget(lambda key: True, asid)
        self.full_flushes += asid == EVERY_SPACE

    def flush_tlb_page(self, address: int, shift: int, asid: int) -> None:
        self.forget(lambda key: key[2] >> shift - 12 == address >> shift, asid)

    def forget(self, chosen: Callable[[Key], bool], asid: int) -> None:
        """What is chosen of the lookups of one address space, or of every one."""
        self.kept = {
            key: page
            for key, page in self.kept.items()
            if not (key[3] and chosen(key) and asid in (EVERY_SPACE, key[3] >> 44 & 0xFFFF))
        }


@pytest.mark.parametrize(("scheme", "level"), [(SV39, 0), (SV39, 1), (SV39, 2), (SV48, 3)])
def test_one_sfence_is_enough_for_a_page_of_any_size(scheme, level):
    machine = CachingMachine(satp=0)
    machine.translation(scheme)
    machine.write_csr("mstatus", MPRV | SUPERVISOR << 11)
    size = 4096 << 9 * level
    address = 3 * size % (1 << 8 + 9 * (scheme - 5))
    machine.map(address, RAM - RAM % size, V | R | W | A | D, level)
    offsets = (0, 0x800) if level == 0 else (DATA % size, DATA % size + 0x1000)
    for offset in offsets:
        assert attempt(machine, LOAD, address + offset, SUPERVISOR) is None
    machine.memory.write(machine.slot(address, level), 8, 0)
    assert attempt(machine, LOAD, address + offsets[0], SUPERVISOR) is None  # still kept
    machine.pc, machine.priv = RAM, MACHINE
    machine.do("sfence.vma a0", a0=address + offsets[1])
    for offset in offsets:
        assert attempt(machine, LOAD, address + offset, SUPERVISOR) == 13


def test_a_small_page_is_flushed_alone():
    machine = CachingMachine(satp=0)
    machine.translation()
    for page in range(2):
        machine.map(PAGE + 0x1000 * page, DATA, V | R | A)
    machine.map(PAGE + (1 << 21), RAM, V | R | A, 1)
    machine.write_csr("mstatus", MPRV | SUPERVISOR << 11)
    for address in (PAGE, PAGE + 0x1000, PAGE + (1 << 21)):
        assert attempt(machine, LOAD, address, SUPERVISOR) is None
    flushes, kept = machine.full_flushes, len(machine.kept)
    machine.pc, machine.priv = RAM, MACHINE
    machine.do("sfence.vma a0", a0=PAGE)
    assert (machine.full_flushes, len(machine.kept)) == (flushes, kept - 1)


def test_another_address_space_needs_no_fence():
    machine = CachingMachine(satp=0)
    spaces = []
    for page in (DATA, DATA + 0x1000):
        machine.translation()
        machine.map(PAGE, page, V | R | A)
        machine.memory.write(page, 4, page)
        spaces.append(machine.satp)
    for space, page in zip(spaces * 2, (DATA, DATA + 0x1000) * 2, strict=True):
        machine.pc, machine.priv = RAM, MACHINE
        machine.do("csrw satp, a0", a0=space)
        assert attempt(machine, LOAD, PAGE, SUPERVISOR) is None
        assert machine.get("a0") % 2**32 == page


PROGRAM_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("satp"), st.integers(0, 2)),
        st.tuples(st.just("mstatus"), st.integers(0, 15)),
        st.tuples(st.just("pmpaddr0"), st.sampled_from([DATA + 64 >> 2, napot(DATA, 4096), 0])),
        st.tuples(
            st.just("pmpcfg0"), st.sampled_from([0, NA4, NAPOT, NAPOT | PMP_R, TOR | LOCKED])
        ),
        st.tuples(
            st.just("load"), st.sampled_from([PAGE, PAGE + 64, PAGE + 0x1000, DATA, DATA + 64])
        ),
        st.tuples(st.just("store"), st.sampled_from([PAGE, PAGE + 0x1000, DATA + 64])),
        st.tuples(st.just("call"), st.sampled_from([PAGE, PAGE + 0x1000, DATA])),
    ),
    max_size=20,
)


@given(PROGRAM_STEPS)
def test_no_change_of_state_but_of_page_tables_needs_a_fence(steps):
    """A hart with a TLB and one without go through the same program alike."""
    histories = []
    for machine in (CachingMachine(), ReferenceMachine()):
        history = []
        roots = [0]
        for flags, other in ((V | R | W | X | A | D, 0), (V | R | X | U | A, 0x1000)):
            machine.translation()
            roots.append(machine.satp)
            machine.map(PAGE, DATA + other, flags)
            machine.map(PAGE + 0x1000, DATA + 0x1000 - other, flags ^ U ^ W)
        for offset in range(0, 0x2000, 4):
            machine.memory.write(DATA + offset, 4, 0x73)
        machine.satp = 0
        machine.write_csr("pmpaddr15", 2**54 - 1)
        machine.write_csr("pmpcfg2", 0x1F << 56)
        machine.write_csr("mstatus", MPRV | SUPERVISOR << 11)
        for name, value in steps:
            machine.priv, machine.pc = MACHINE, RAM
            if name == "satp":
                machine.do("csrw satp, a1", a1=roots[value])
            elif name == "mstatus":
                status = (value & 1) << 11 | (~value >> 1 & 1) << 17 | (value >> 2) << 18
                machine.do("csrw mstatus, a1", a1=status)
            elif name in ("load", "store"):
                machine.do("lw a0, (a1)" if name == "load" else "sw zero, 2044(a1)", a1=value)
            elif name == "call":
                machine.mepc = value
                machine.do("mret")
                machine.step()
            else:
                machine.do(f"csrw {name}, a1", a1=value)
            history.append((machine.pc, machine.mcause, machine.mtval, machine.mepc, *machine.x))
            # The next step begins without a trap into machine mode, so it chooses the sets itself.
            machine.priv = MACHINE
            machine.write_csr("mstatus", machine.mstatus & ~(3 << 11) | value % 2 << 11)
        histories.append(history)
    assert histories[0] == histories[1]
