"""Virtual memory and physical memory protection: from a guest's address to a physical one.

The problem: every load, store and fetch that misses the TLB asks which physical bytes it means and
whether it may have them. The answer depends on the privilege mode, satp, mstatus.MPRV/SUM/MXR, the
page tables in guest memory and the PMP entries.

Source: RISC-V privileged architecture, sections 3.7 (PMP), 12.3 to 12.6 (Sv39, Sv48, Sv57), and the
extensions Svade and Svadu.

Invariants:

- Nothing here traps. A routine that fails returns NOWHERE and leaves the exception in
  `hart.fault_cause` and `hart.fault_value`, so that the caller can put its own state in order.
- Nothing here caches. What a TLB may keep of an answer is the business of its owner: a
  page, when `hart.fault_page` is 0, for one kind of access, under the TLB set that
  `privileged.update_context` chose.
- A TLB may keep a superpage in parts of 4 KiB. `superpage_near` tells how large a page round an
  address it could hold parts of, because sfence.vma with any address in a superpage is about all of
  it.
- A TLB may tell address spaces apart by satp as a whole, ASID and root. What it found under one
  ASID stays until it is fenced; a space without an ASID (0) is emptied whenever satp is written
  (`csr.write_satp`): software that does not number its spaces may count on that.
- Memory is touched only through the physical builtins, so a page table cannot be a device.

Read next: privileged.py (who takes the exception, and which TLB set is current).
"""

from protocol.riscv.isa import routine
from protocol.riscv.words import *

NOWHERE = (1 << 64) - 1  # no physical address: addresses have 56 bits

# Kinds of access. An AMO reads and writes; its faults are a store's.
FETCH = 0
LOAD = 1
STORE = 2
AMO = 3

USER = 0
SUPERVISOR = 1
MACHINE = 3

MSTATUS_MPRV = 1 << 17
MSTATUS_SUM = 1 << 18
MSTATUS_MXR = 1 << 19
MPP_SHIFT = 11

MENVCFG_ADUE = 1 << 61

PTE_V = 1 << 0
PTE_R = 1 << 1
PTE_W = 1 << 2
PTE_X = 1 << 3
PTE_U = 1 << 4
PTE_A = 1 << 6
PTE_D = 1 << 7
PTE_PPN = (1 << 44) - 1
PTE_RESERVED = 0x3FF << 54  # N and PBMT (no Svnapot, no Svpbmt) and the reserved bits

ASID_SHIFT = 44
ASID_MASK = 0xFFFF
EVERY_SPACE = (1 << 64) - 1  # in place of an ASID

DENIED = 0
ALLOWED = 1
MIXED = 2

# How often a page table entry that other harts keep changing is read again before the update counts
# as refused: memory that cannot be written refuses each time.
UPDATE_ATTEMPTS = 64


@routine(pure=True)
def access_fault(access):
    """The cause of an access fault: 1 instruction, 5 load, 7 store or AMO."""
    return 1 if access == FETCH else (5 if access == LOAD else 7)


@routine(pure=True)
def page_fault(access):
    """The cause of a page fault: 12 instruction, 13 load, 15 store or AMO."""
    return 12 if access == FETCH else (13 if access == LOAD else 15)


@routine(pure=True)
def access_mode(access):
    """The privilege mode whose rights an access has: MPRV lends MPP's to loads and stores."""
    mode = hart.priv
    if access != FETCH and mode == MACHINE and (hart.mstatus & MSTATUS_MPRV) != 0:
        mode = (hart.mstatus >> MPP_SHIFT) & 3
    return mode


@routine(pure=True)
def pmp_verdict(config, access, mode):
    """What an entry that matches all bytes says of an access to them."""
    if mode == MACHINE and (config & 0x80) == 0:
        return ALLOWED
    needed = 4 if access == FETCH else (1 if access == LOAD else 2)
    return ALLOWED if (config & needed) != 0 else DENIED


@routine(pure=True)
def pmp_match(address, size, access, mode):
    """What PMP says of `size` bytes from physical `address`: DENIED, ALLOWED or MIXED.

    MIXED: the first entry that matches any of the bytes does not match all. For one access that
    means denied (section 3.7.1.3); for a page it means that each access has to be asked for.
    Sixteen entries are implemented, so S and U mode have no right where none matches. The last
    entry that matched is remembered with the addresses around where it is the first that does.
    """
    if mode == MACHINE and hart.pmp_active == 0:
        return ALLOWED
    last = address + size - 1
    if address >= hart.pmp_low and last < hart.pmp_end:
        return pmp_verdict(hart.pmp_config, access, mode)
    first = 0
    beyond = 1 << 63
    i = 0
    while i < hart.pmp_active:
        config = hart.pmpcfg[i]
        matching = (config >> 3) & 3
        if matching != 0:
            bound = hart.pmpaddr[i]
            low = bound << 2
            end = low + 4
            if matching == 1:
                end = low
                low = 0
                if i != 0:
                    low = hart.pmpaddr[i - 1] << 2
            if matching == 3:
                span = bound ^ (bound + 1)
                low = (bound & ~span) << 2
                end = low + ((span + 1) << 2)
            if low < end and address < end and last >= low:
                if address < low or last >= end:
                    return MIXED
                hart.pmp_low = low if low > first else first
                hart.pmp_end = end if end < beyond else beyond
                hart.pmp_config = config
                return pmp_verdict(config, access, mode)
            if low < end:
                if end <= address:
                    if end > first:
                        first = end
                elif low < beyond:
                    beyond = low
        i += 1
    return ALLOWED if mode == MACHINE else DENIED


@routine(pure=True)
def pmp_check(address, size, access, mode):
    """Whether PMP lets one access of `size` bytes (1 to 8) at physical `address` through."""
    return pmp_match(address, size, access, mode) == ALLOWED


@routine(pure=True)
def leaf_allows(pte, access, mode):
    """Whether a leaf entry's R, W, X and U bits let `mode` make this access."""
    allowed = (pte & PTE_X) != 0
    if access == LOAD:
        readable = PTE_R
        if (hart.mstatus & MSTATUS_MXR) != 0:
            readable = PTE_R | PTE_X
        allowed = (pte & readable) != 0
    if access >= STORE:
        allowed = (pte & PTE_W) != 0
    if mode == USER:
        allowed = allowed and (pte & PTE_U) != 0
    elif (pte & PTE_U) != 0:
        allowed = allowed and access != FETCH and (hart.mstatus & MSTATUS_SUM) != 0
    return allowed


@routine(pure=True)
def megapage_bit(address):
    """The number, below 1024, of the bit of `hart.megapages` for an address's 2 MiB."""
    number = address >> 21
    return (number ^ (number >> 10) ^ (number >> 20)) & 1023


@routine(pure=True)
def note_superpage(address, shift):
    """Remember that a TLB may come to hold a part of the page of `1 << shift` bytes at `address`.

    2 MiB pages, of which kernels are made, get a filter of 1024 bits; 1 GiB pages one of 64 bits by
    their address; what is larger sets all of these.
    """
    if shift == 21:
        bit = megapage_bit(address)
        hart.megapages[bit >> 6] = hart.megapages[bit >> 6] | (1 << (bit & 63))
    if shift == 30:
        hart.gigapages = hart.gigapages | (1 << ((address >> 30) & 63))
    if shift > 30:
        hart.gigapages = ~0


@routine(pure=True)
def superpage_near(address):
    """The largest page with `address` in it that a TLB may hold parts of, as log2 of its size.

    12 when there is no superpage; more than there really is where addresses share a filter's bit.
    """
    if hart.gigapages == ~0:
        return 63
    if ((hart.gigapages >> ((address >> 30) & 63)) & 1) != 0:
        return 30
    bit = megapage_bit(address)
    return 21 if ((hart.megapages[bit >> 6] >> (bit & 63)) & 1) != 0 else 12


@routine(pure=True)
def no_superpages():
    hart.gigapages = 0
    i = 0
    while i < 16:
        hart.megapages[i] = 0
        i += 1


@routine(pure=True)
def forget_translations():
    """Empty every TLB."""
    no_superpages()
    flush_tlb()


@routine(pure=True)
def forget_space(asid):
    """Forget what was translated under an ASID, or (EVERY_SPACE) all that was translated."""
    if asid == EVERY_SPACE:
        no_superpages()
    flush_tlb_space(asid)


@routine(pure=True)
def forget_page(address, asid):
    """Forget the page of any size round an address, in one address space or in all."""
    flush_tlb_page(address, superpage_near(address), asid)


@routine(pure=True)
def walk(address, access, mode):
    """Walk the page tables: the physical address, or NOWHERE with `hart.fault_cause` set.

    satp's mode must be Sv39, Sv48 or Sv57 and `mode` S or U. Page tables are read with S-mode's
    PMP rights; where they cannot be read the exception is an access fault of the original kind.
    A clear A or D bit is a page fault (Svade), unless menvcfg.ADUE asks for the update (Svadu).
    """
    levels = (hart.satp >> 60) - 5
    unused = 52 - levels * 9
    hart.fault_cause = page_fault(access)
    if (signed(address << unused) >> unused) != address:
        return NOWHERE
    table = (hart.satp & PTE_PPN) << 12
    shift = 3 + levels * 9
    attempts = 0
    while True:
        slot = table + (((address >> shift) & 0x1FF) << 3)
        if not pmp_check(slot, 8, LOAD, SUPERVISOR) or not phys_ok(slot):
            hart.fault_cause = access_fault(access)
            return NOWHERE
        pte = phys_read64(slot)
        kind = pte & (PTE_R | PTE_W | PTE_X)
        frame = (pte >> 10) & PTE_PPN
        if (pte & PTE_V) == 0 or (pte & PTE_RESERVED) != 0 or (kind & (PTE_R | PTE_W)) == PTE_W:
            return NOWHERE
        if kind == 0:
            if shift == 12 or (pte & (PTE_A | PTE_D | PTE_U)) != 0:
                return NOWHERE
            table = frame << 12
            shift = shift - 9
        else:
            offset = (1 << shift) - 1
            if ((frame << 12) & offset) != 0 or not leaf_allows(pte, access, mode):
                return NOWHERE
            wanted = pte | PTE_A
            if access >= STORE:
                wanted = wanted | PTE_D
            if wanted == pte:
                note_superpage(address, shift)
                return (frame << 12) | (address & offset)
            if (hart.menvcfg & MENVCFG_ADUE) == 0:
                return NOWHERE
            if not pmp_check(slot, 8, STORE, SUPERVISOR):
                hart.fault_cause = access_fault(access)
                return NOWHERE
            if phys_cas64(slot, pte, wanted):
                note_superpage(address, shift)
                return (frame << 12) | (address & offset)
            # Another hart changed the entry: this level is read and judged again.
            attempts += 1
            if attempts == UPDATE_ATTEMPTS:
                hart.fault_cause = access_fault(access)
                return NOWHERE
    return NOWHERE


@routine(pure=True)
def translate(address, size, access):
    """The physical address of an access of `size` bytes that does not leave its page.

    Returns NOWHERE when it faults, with `hart.fault_cause` and `hart.fault_value` set. Otherwise
    `hart.fault_page` is 0 when the whole page may be accessed likewise, and 1 when the answer holds
    for these bytes alone. Whether anything answers at the physical address is not asked.
    """
    mode = access_mode(access)
    hart.fault_value = address
    hart.fault_cause = access_fault(access)
    hart.fault_page = 0
    physical = address
    if mode != MACHINE and (hart.satp >> 60) != 0:
        physical = walk(address, access, mode)
        if physical == NOWHERE:
            return NOWHERE
        hart.fault_cause = access_fault(access)
    verdict = pmp_match(physical & ~0xFFF, 4096, access, mode)
    if verdict == MIXED:
        hart.fault_page = 1
        verdict = pmp_match(physical, size, access, mode)
    return physical if verdict == ALLOWED else NOWHERE
