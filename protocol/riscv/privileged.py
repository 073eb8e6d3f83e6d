"""Traps, returns from them, interrupts, and the instructions only the privileged specification has.

The problem: privilege, translation and interrupt state change together, and whatever was derived
from them must follow in the same step.

Source: RISC-V privileged architecture, sections 3.1.6 to 3.1.9 (mstatus, mtvec, delegation,
interrupts), 3.3 (instructions), 12.1.1 to 12.1.3 (supervisor), and the extension Sstc.

Invariants:

- `update_context` is the only caller of `set_context`, and every routine that changes priv,
  mstatus or satp calls it. The TLB sets it chooses are listed there.
- `take_trap` reads `hart.pc` as the address of the interrupted or faulting instruction and leaves
  the handler's there.
- The timer bits of mip are never stored: they are comparisons with the clock, made when asked for.
- The clock is dear beside a trap, so `pending_interrupt` looks at it only when a timer's interrupt
  could be taken, and then not again for `hart.quiet` instructions (0 with counted time, which must
  be exact): a timer that comes due meanwhile is as late as one that does within a slice. What moves
  a timer or ends a wait begins anew (`quiet_until` 0).

Read next: csr.py (the state itself), mmu.py (what a TLB set stands for).
"""

from protocol.riscv.isa import instruction, routine
from protocol.riscv.mmu import (
    ASID_MASK,
    EVERY_SPACE,
    LOAD,
    MACHINE,
    MPP_SHIFT,
    MSTATUS_MPRV,
    MSTATUS_MXR,
    MSTATUS_SUM,
    SUPERVISOR,
    USER,
    access_mode,
    forget_page,
    forget_space,
)
from protocol.riscv.words import *

ILLEGAL_INSTRUCTION = 2
BREAKPOINT = 3
ECALL_FROM_U = 8  # from S 9, from M 11: this plus the mode

MSTATUS_SIE = 1 << 1
MSTATUS_MIE = 1 << 3
MSTATUS_SPIE = 1 << 5
MSTATUS_MPIE = 1 << 7
MSTATUS_SPP = 1 << 8
MSTATUS_MPP = 3 << MPP_SHIFT
MSTATUS_TVM = 1 << 20
MSTATUS_TW = 1 << 21
MSTATUS_TSR = 1 << 22

SSIP = 1 << 1
MSIP = 1 << 3
STIP = 1 << 5
MTIP = 1 << 7
SEIP = 1 << 9
MEIP = 1 << 11

MENVCFG_STCE = 1 << 63

TIMERS = STIP | MTIP
INTERRUPT = 1 << 63
NO_INTERRUPT = (1 << 64) - 1


@routine(pure=True)
def update_context():
    """Choose the TLB sets that fit priv, mstatus and satp.

    Data sets: 0 machine mode; 7 S or U without translation (apart from 0 because PMP judges them
    otherwise); with translation 1 S, 2 S with SUM, 3 U, and 4, 5, 6 the same with MXR.
    Fetch sets: 0 machine mode, 1 S, 2 U, 3 S or U without translation.
    Which satp they are for the TLB's owner sees for itself.
    """
    translated = (hart.satp >> 60) != 0
    mode = access_mode(LOAD)
    data = 0
    if mode != MACHINE:
        data = 7
        if translated:
            data = 3
            if mode == SUPERVISOR:
                data = 2 if (hart.mstatus & MSTATUS_SUM) != 0 else 1
            if (hart.mstatus & MSTATUS_MXR) != 0:
                data = data + 3
    fetch = 0
    if hart.priv != MACHINE:
        fetch = 3
        if translated:
            fetch = 1 if hart.priv == SUPERVISOR else 2
    set_context(data, fetch)


@routine(pure=True)
def take_trap(cause, value):
    """Enter the handler of an exception or interrupt (mcause layout) with `value` for xtval."""
    code = cause & 63
    interrupt = (cause & INTERRUPT) != 0
    delegated = hart.mideleg if interrupt else hart.medeleg
    status = hart.mstatus
    if hart.priv != MACHINE and ((delegated >> code) & 1) != 0:
        hart.scause = cause
        hart.sepc = hart.pc
        hart.stval = value
        enabled = (status & MSTATUS_SIE) << 4
        previous = hart.priv << 8
        status = status & ~(MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP)
        hart.priv = SUPERVISOR
        vector = hart.stvec
    else:
        hart.mcause = cause
        hart.mepc = hart.pc
        hart.mtval = value
        enabled = (status & MSTATUS_MIE) << 4
        previous = hart.priv << MPP_SHIFT
        status = status & ~(MSTATUS_MIE | MSTATUS_MPIE | MSTATUS_MPP)
        hart.priv = MACHINE
        vector = hart.mtvec
    hart.mstatus = status | enabled | previous
    target = vector & ~3
    if interrupt and (vector & 1) != 0:
        target = target + (code << 2)
    hart.pc = target
    update_context()


@routine(pure=True)
def pending_bits():
    """mip as a guest reads it: its own bits, the lines from outside, and the two timers."""
    bits = hart.mip | hart.irq
    now = time()
    if now >= hart.mtimecmp:
        bits = bits | MTIP
    if (hart.menvcfg & MENVCFG_STCE) != 0:
        bits = bits & ~STIP
        if now >= hart.stimecmp:
            bits = bits | STIP
    return bits


@routine(pure=True)
def interrupt_waiting():
    """Whether wfi ends: some interrupt is pending and enabled in mie, whatever mstatus says."""
    return (pending_bits() & hart.mie) != 0


@routine(pure=True)
def highest_interrupt(bits):
    """The cause of the interrupt of `bits` that goes first: MEI, MSI, MTI, SEI, SSI, STI."""
    cause = NO_INTERRUPT
    if (bits & STIP) != 0:
        cause = INTERRUPT | 5
    if (bits & SSIP) != 0:
        cause = INTERRUPT | 1
    if (bits & SEIP) != 0:
        cause = INTERRUPT | 9
    if (bits & MTIP) != 0:
        cause = INTERRUPT | 7
    if (bits & MSIP) != 0:
        cause = INTERRUPT | 3
    if (bits & MEIP) != 0:
        cause = INTERRUPT | 11
    return cause


@routine(pure=True)
def takeable_interrupts():
    """The interrupts that would be taken now if they were pending: by mie, the mode, mstatus."""
    machine = hart.mie & ~hart.mideleg
    if hart.priv == MACHINE and (hart.mstatus & MSTATUS_MIE) == 0:
        machine = 0
    supervisor = hart.mie & hart.mideleg
    masked = hart.priv == SUPERVISOR and (hart.mstatus & MSTATUS_SIE) == 0
    if hart.priv == MACHINE or masked:
        supervisor = 0
    return machine | supervisor


@routine(pure=True)
def bits_to_take(wanted):
    """`pending_bits` as far as they are `wanted`; without the clock where that can be done."""
    bits = hart.mip | hart.irq
    if (wanted & TIMERS) != 0:
        if retired() >= hart.quiet_until:
            bits = pending_bits()
            if (bits & TIMERS) == 0:
                hart.quiet_until = retired() + hart.quiet
        elif (hart.menvcfg & MENVCFG_STCE) != 0:
            bits = bits & ~STIP
    return bits & wanted


@routine(pure=True)
def pending_interrupt():
    """The cause of the interrupt to take now, for `take_trap`; NO_INTERRUPT when there is none."""
    wanted = takeable_interrupts()
    if wanted == 0:
        return NO_INTERRUPT
    ready = bits_to_take(wanted)
    if ready == 0:
        return NO_INTERRUPT
    machine = ready & ~hart.mideleg
    return highest_interrupt(machine if machine != 0 else ready)


@instruction("000000000000 00000 000 00000 1110011", "ecall")
def ecall():
    trap(ECALL_FROM_U + hart.priv, 0)


@instruction("000000000001 00000 000 00000 1110011", "ebreak")
def ebreak():
    trap(BREAKPOINT, pc)


@instruction("0011000 00010 00000 000 00000 1110011", "mret")
def mret():
    if hart.priv != MACHINE:
        trap(ILLEGAL_INSTRUCTION, raw)
    status = hart.mstatus
    mode = (status & MSTATUS_MPP) >> MPP_SHIFT
    enabled = (status & MSTATUS_MPIE) >> 4
    status = (status & ~(MSTATUS_MIE | MSTATUS_MPP)) | enabled | MSTATUS_MPIE
    if mode != MACHINE:
        status = status & ~MSTATUS_MPRV
    hart.mstatus = status
    hart.priv = mode
    update_context()
    jump(hart.mepc)
    resync()


@instruction("0001000 00010 00000 000 00000 1110011", "sret")
def sret():
    trapped = hart.priv == SUPERVISOR and (hart.mstatus & MSTATUS_TSR) != 0
    if hart.priv == USER or trapped:
        trap(ILLEGAL_INSTRUCTION, raw)
    status = hart.mstatus
    enabled = (status & MSTATUS_SPIE) >> 4
    hart.priv = word((status & MSTATUS_SPP) != 0)
    hart.mstatus = (status & ~(MSTATUS_SIE | MSTATUS_SPP | MSTATUS_MPRV)) | enabled | MSTATUS_SPIE
    update_context()
    jump(hart.sepc)
    resync()


@instruction("0001000 00101 00000 000 00000 1110011", "wfi")
def wfi():
    trapped = hart.priv == SUPERVISOR and (hart.mstatus & MSTATUS_TW) != 0
    if hart.priv == USER or trapped:
        trap(ILLEGAL_INSTRUCTION, raw)
    wait()


@instruction("0001001 rs2 rs1 000 00000 1110011", "sfence.vma rs1, rs2")
def sfence_vma(rs1, rs2):
    trapped = hart.priv == SUPERVISOR and (hart.mstatus & MSTATUS_TVM) != 0
    if hart.priv == USER or trapped:
        trap(ILLEGAL_INSTRUCTION, raw)
    asid = EVERY_SPACE
    if rs2 != 0:
        asid = X[rs2] & ASID_MASK
    if rs1 == 0:
        forget_space(asid)
    else:
        forget_page(X[rs1], asid)
    resync()


@instruction("imm[11:0] rs1 001 rd 0001111", "fence.i")
def fence_i():
    # A hart sees its own stores to code at once; what other harts stored is seen when the next
    # instruction is looked up. The fields are reserved for finer fences and ignored.
    refetch()
