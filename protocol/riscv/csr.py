"""The control and status registers: one row each, and the dispatch that follows from the rows.

The problem: a CSR is a number, a privilege, a condition under which it exists, a storage word, and
rules for what may be written; software probes for all of them. Each stands in one row below, and
`csr_read` and `csr_write` are generated from the rows as routines of the semantics language: a
balanced tree of comparisons over the number, with one leaf for a row or for a run of like rows.

Source: RISC-V privileged architecture, chapter 2 (numbers), 3 (machine level), 12 (supervisor
level); unprivileged, chapters Zicntr and F; the extensions Sstc and Svadu; debug specification,
section 5 (triggers: none).

Invariants:

- `csr_check`, then `csr_read`, go before `csr_write`: they trap for a number that is not there, or
  not for this mode; `csr_write` does not ask again. Reading has no effect, so a read that the
  architecture leaves out (csrrw with rd = x0) does no harm.
- What is stored is legal: the write side legalises (WARL), the read side adds what is derived.
- A row says whether writing disturbs what the engine has looked up (`disturbs`): if so the next
  instruction is found afresh, with pending interrupts taken before it.

Read next: zicsr.py (the instructions), privileged.py (who else changes these).
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.riscv.isa import routine
from protocol.riscv.language import routine_from_source
from protocol.riscv.mmu import (
    ASID_MASK,
    ASID_SHIFT,
    MACHINE,
    MENVCFG_ADUE,
    SUPERVISOR,
    forget_space,
    forget_translations,
)
from protocol.riscv.privileged import (
    ILLEGAL_INSTRUCTION,
    MENVCFG_STCE,
    MSTATUS_MPP,
    MSTATUS_TVM,
    SEIP,
    SSIP,
    STIP,
    pending_bits,  # noqa: F401  (the rows' source calls it)
    update_context,
)
from protocol.riscv.words import *

ALL = (1 << 64) - 1

FEATURE_SVADU = 1 << 0
FEATURE_SSTC = 1 << 1

MSTATUS_FS = 3 << 13
MSTATUS_SD = 1 << 63
MSTATUS_XLEN_64 = 2 << 34 | 2 << 32  # SXL, UXL
MSTATUS_WRITABLE = 0x7E79AA  # TSR TW TVM MXR SUM MPRV FS MPP SPP MPIE SPIE MIE SIE
SSTATUS_WRITABLE = 0xC6122  # MXR SUM FS SPP SPIE SIE
SSTATUS_UXL_64 = 2 << 32

# MXL = 64 bits; A B C D F I M S U
MISA = 2 << 62 | sum(1 << (ord(letter) - ord("A")) for letter in "ABCDFIMSU")

INTERRUPTS = 0xAAA  # MEI SEI MTI STI MSI SSI
DELEGABLE_INTERRUPTS = SEIP | STIP | SSIP
DELEGABLE_EXCEPTIONS = 0xB3FF  # all but ecall from M and the reserved ones

COUNTER_CYCLE = 1 << 0
COUNTER_TIME = 1 << 1
COUNTER_INSTRET = 1 << 2
COUNTERS = COUNTER_CYCLE | COUNTER_TIME | COUNTER_INSTRET

MENVCFG_FIOM = 1 << 0

PMP_ENTRIES = 16
PMP_LOCKED = 0x80
PMP_WRITABLE = 0x9F  # L A X W R
PMP_ADDRESS = (1 << 54) - 1
MIP_NUMBER = 0x344


@dataclass(frozen=True, slots=True)
class Csr:
    """One control and status register.

    `read` and `write` are source in the semantics language, with `number` (and, in `write`,
    `value`) as parameters; `condition` says when the CSR is there at all, beyond what its number's
    privilege bits say. An empty `write` ignores what is written.
    """

    number: int
    name: str
    read: str
    write: str = ""
    condition: str = ""
    disturbs: bool = False

    @property
    def privilege(self) -> int:
        """The least mode that may access it: 0 U, 1 S, 3 M."""
        return self.number >> 8 & 3

    @property
    def read_only(self) -> bool:
        """Whether writing it is illegal (rather than ignored)."""
        return self.number >> 10 == 3


CSRS: dict[int, Csr] = {}


def csr(
    number: int,
    name: str,
    read: str = "0",
    write: str = "",
    field: str = "",
    write_mask: int = ALL,
    condition: str = "",
    disturbs: bool = False,
) -> Csr:
    """Declare a CSR: by `field`, its storage, of which `write_mask` can be written; or by source.

    Raises ValueError for a number that is taken.
    """
    if number in CSRS:
        raise ValueError(f"CSR {number:#x} is declared as {CSRS[number].name} and as {name}")
    if field:
        read = f"hart.{field}"
        write = f"hart.{field} = value"
        if write_mask != ALL:
            write += f" & {write_mask & ALL:#x}"
    CSRS[number] = Csr(number, name, read, write, condition, disturbs)
    return CSRS[number]


# --- Conditions ---------------------------------------------------------------------------------


@routine(pure=True)
def fp_enabled():
    """Whether mstatus.FS lets fflags, frm and fcsr be accessed."""
    return (hart.mstatus & MSTATUS_FS) != 0


@routine(pure=True)
def counter_enabled(index):
    """Whether mcounteren (and in U mode scounteren) lets counter `index` be read."""
    enabled = hart.mcounteren if hart.priv != MACHINE else ALL
    if hart.priv < SUPERVISOR:
        enabled = enabled & hart.scounteren
    return ((enabled >> index) & 1) != 0


@routine(pure=True)
def stimecmp_enabled():
    """Whether Sstc is there, and M mode lets S mode have it (menvcfg.STCE, mcounteren.TM)."""
    lent = (hart.menvcfg & MENVCFG_STCE) != 0 and (hart.mcounteren & COUNTER_TIME) != 0
    return (hart.features & FEATURE_SSTC) != 0 and (hart.priv == MACHINE or lent)


@routine(pure=True)
def satp_enabled():
    """mstatus.TVM keeps satp from S mode."""
    return hart.priv == MACHINE or (hart.mstatus & MSTATUS_TVM) == 0


# --- Status, interrupts, translation --------------------------------------------------------------


@routine(pure=True)
def read_mstatus():
    dirty = MSTATUS_SD if (hart.mstatus & MSTATUS_FS) == MSTATUS_FS else 0
    return hart.mstatus | MSTATUS_XLEN_64 | dirty


@routine(pure=True)
def write_mstatus(value):
    mask = MSTATUS_WRITABLE
    if (value & MSTATUS_MPP) == (2 << 11):  # there is no such mode: MPP stays as it is
        mask = MSTATUS_WRITABLE & ~MSTATUS_MPP
    hart.mstatus = (hart.mstatus & ~mask) | (value & mask)
    update_context()


@routine(pure=True)
def read_sstatus():
    dirty = MSTATUS_SD if (hart.mstatus & MSTATUS_FS) == MSTATUS_FS else 0
    return (hart.mstatus & SSTATUS_WRITABLE) | SSTATUS_UXL_64 | dirty


@routine(pure=True)
def write_sstatus(value):
    hart.mstatus = (hart.mstatus & ~SSTATUS_WRITABLE) | (value & SSTATUS_WRITABLE)
    update_context()


@routine(pure=True)
def write_mip(value):
    mask = SSIP | STIP | SEIP
    if (hart.menvcfg & MENVCFG_STCE) != 0:  # STIP is stimecmp's then
        mask = SSIP | SEIP
    hart.mip = (hart.mip & ~mask) | (value & mask)


@routine(pure=True)
def write_sip(value):
    mask = hart.mideleg & SSIP
    hart.mip = (hart.mip & ~mask) | (value & mask)


@routine(pure=True)
def write_sie(value):
    hart.mie = (hart.mie & ~hart.mideleg) | (value & hart.mideleg)


@routine(pure=True)
def write_stimecmp(value):
    hart.stimecmp = value
    hart.quiet_until = 0


@routine(pure=True)
def write_menvcfg(value):
    mask = MENVCFG_FIOM
    if (hart.features & FEATURE_SVADU) != 0:
        mask = mask | MENVCFG_ADUE
    if (hart.features & FEATURE_SSTC) != 0:
        mask = mask | MENVCFG_STCE
    hart.menvcfg = value & mask
    hart.quiet_until = 0


@routine(pure=True)
def write_satp(value):
    scheme = value >> 60
    supported = scheme == 0 or (scheme >= 8 and scheme <= 10)
    # Any other mode: "the entire write has no effect" (section 12.1.11).
    if supported and value != hart.satp:
        hart.satp = value
        if ((value >> ASID_SHIFT) & ASID_MASK) == 0:
            forget_space(0)
        update_context()


# --- Counters -------------------------------------------------------------------------------------
# A counter is `retired()` plus its offset while it runs, and the offset alone while mcountinhibit
# stops it. What is written is what the next instruction reads: the writing one does not count.


@routine(pure=True)
def read_counter(inhibit, offset):
    return offset if (hart.mcountinhibit & inhibit) != 0 else retired() + offset


@routine(pure=True)
def counter_offset(inhibit, value):
    return value if (hart.mcountinhibit & inhibit) != 0 else value - retired() - 1


@routine(pure=True)
def read_cycle():
    return read_counter(COUNTER_CYCLE, hart.mcycle_offset)


@routine(pure=True)
def write_cycle(value):
    hart.mcycle_offset = counter_offset(COUNTER_CYCLE, value)


@routine(pure=True)
def read_instret():
    return read_counter(COUNTER_INSTRET, hart.minstret_offset)


@routine(pure=True)
def write_instret(value):
    hart.minstret_offset = counter_offset(COUNTER_INSTRET, value)


@routine(pure=True)
def write_mcountinhibit(value):
    cycle = read_cycle()
    instret = read_instret()
    changed = hart.mcountinhibit ^ value
    hart.mcountinhibit = value & (COUNTER_CYCLE | COUNTER_INSTRET)
    if (changed & COUNTER_CYCLE) != 0:
        write_cycle(cycle)
    if (changed & COUNTER_INSTRET) != 0:
        write_instret(instret)


# --- Physical memory protection -------------------------------------------------------------------


@routine(pure=True)
def update_pmp():
    """After any change of PMP: find the last active entry, and forget what TLBs concluded."""
    hart.pmp_active = 0
    hart.pmp_end = 0
    i = 0
    while i < PMP_ENTRIES:
        if ((hart.pmpcfg[i] >> 3) & 3) != 0:
            hart.pmp_active = i + 1
        i += 1
    forget_translations()


@routine(pure=True)
def read_pmpcfg(first):
    value = 0
    i = 8
    while i > 0:
        i -= 1
        value = (value << 8) | hart.pmpcfg[first + i]
    return value


@routine(pure=True)
def write_pmpcfg(first, value):
    i = 0
    while i < 8:
        config = (value >> (i << 3)) & PMP_WRITABLE
        if (config & 3) == 2:  # W without R is reserved: neither
            config = config & ~2
        if (hart.pmpcfg[first + i] & PMP_LOCKED) == 0:
            hart.pmpcfg[first + i] = config
        i += 1
    update_pmp()


@routine(pure=True)
def write_pmpaddr(entry, value):
    locked = (hart.pmpcfg[entry] & PMP_LOCKED) != 0
    if entry + 1 < PMP_ENTRIES:
        # The lower bound of a locked TOR entry is locked with it.
        locked = locked or (hart.pmpcfg[entry + 1] & (PMP_LOCKED | 0x18)) == (PMP_LOCKED | 8)
    if not locked:
        hart.pmpaddr[entry] = value & PMP_ADDRESS
        update_pmp()


# --- Floating point -------------------------------------------------------------------------------


@routine(pure=True)
def write_fflags(value):
    hart.mstatus = hart.mstatus | MSTATUS_FS
    set_fflags(value & 31)


@routine(pure=True)
def write_frm(value):
    hart.mstatus = hart.mstatus | MSTATUS_FS
    hart.frm = value & 7


@routine(pure=True)
def write_fcsr(value):
    hart.mstatus = hart.mstatus | MSTATUS_FS
    set_fflags(value & 31)
    hart.frm = (value >> 5) & 7


# --- The rows -------------------------------------------------------------------------------------
# fmt: off

# User: floating point, and counters to be read (Zicntr)
csr(0x001, "fflags",  "fflags()", "write_fflags(value)", condition="fp_enabled()")
csr(0x002, "frm",     "hart.frm", "write_frm(value)", condition="fp_enabled()", disturbs=True)
csr(0x003, "fcsr",    "fflags() | (hart.frm << 5)", "write_fcsr(value)", condition="fp_enabled()", disturbs=True)  # noqa: E501
csr(0xC00, "cycle",   "read_cycle()", condition="counter_enabled(0)")
csr(0xC01, "time",    "time()", condition="counter_enabled(1)")
csr(0xC02, "instret", "read_instret()", condition="counter_enabled(2)")
for n in range(3, 32):
    csr(0xC00 + n, f"hpmcounter{n}", condition="counter_enabled(number & 31)")

# Supervisor
csr(0x100, "sstatus",    "read_sstatus()", "write_sstatus(value)", disturbs=True)
csr(0x104, "sie",        "hart.mie & hart.mideleg", "write_sie(value)", disturbs=True)
csr(0x105, "stvec",      field="stvec", write_mask=~2)  # direct or vectored
csr(0x106, "scounteren", field="scounteren", write_mask=COUNTERS)
csr(0x10A, "senvcfg",    field="senvcfg", write_mask=MENVCFG_FIOM)
csr(0x140, "sscratch",   field="sscratch")
csr(0x141, "sepc",       field="sepc", write_mask=~1)
csr(0x142, "scause",     field="scause")
csr(0x143, "stval",      field="stval")
csr(0x144, "sip",        "pending_bits() & hart.mideleg", "write_sip(value)", disturbs=True)
csr(0x14D, "stimecmp",   "hart.stimecmp", "write_stimecmp(value)", condition="stimecmp_enabled()", disturbs=True)  # noqa: E501
csr(0x180, "satp",       "hart.satp", "write_satp(value)", condition="satp_enabled()", disturbs=True)  # noqa: E501

# Machine
csr(0xF11, "mvendorid")
csr(0xF12, "marchid")
csr(0xF13, "mimpid")
csr(0xF14, "mhartid",       "hart.hartid")
csr(0xF15, "mconfigptr")
csr(0x300, "mstatus",       "read_mstatus()", "write_mstatus(value)", disturbs=True)
csr(0x301, "misa",          "MISA")
csr(0x302, "medeleg",       field="medeleg", write_mask=DELEGABLE_EXCEPTIONS)
csr(0x303, "mideleg",       field="mideleg", write_mask=DELEGABLE_INTERRUPTS, disturbs=True)
csr(0x304, "mie",           field="mie", write_mask=INTERRUPTS, disturbs=True)
csr(0x305, "mtvec",         field="mtvec", write_mask=~2)
csr(0x306, "mcounteren",    field="mcounteren", write_mask=COUNTERS)
csr(0x30A, "menvcfg",       "hart.menvcfg", "write_menvcfg(value)", disturbs=True)
csr(0x320, "mcountinhibit", "hart.mcountinhibit", "write_mcountinhibit(value)")
csr(0x340, "mscratch",      field="mscratch")
csr(0x341, "mepc",          field="mepc", write_mask=~1)
csr(0x342, "mcause",        field="mcause")
csr(0x343, "mtval",         field="mtval")
csr(0x344, "mip",           "pending_bits()", "write_mip(value)", disturbs=True)
csr(0x3A0, "pmpcfg0",       "read_pmpcfg(0)", "write_pmpcfg(0, value)", disturbs=True)
csr(0x3A2, "pmpcfg2",       "read_pmpcfg(8)", "write_pmpcfg(8, value)", disturbs=True)
for n in range(PMP_ENTRIES):
    csr(0x3B0 + n, f"pmpaddr{n}", "hart.pmpaddr[number & 15]", "write_pmpaddr(number & 15, value)", disturbs=True)  # noqa: E501
csr(0xB00, "mcycle",        "read_cycle()", "write_cycle(value)")
csr(0xB02, "minstret",      "read_instret()", "write_instret(value)")
for n in range(3, 32):
    csr(0xB00 + n, f"mhpmcounter{n}")
    csr(0x320 + n, f"mhpmevent{n}")

# Triggers: none. A debugger that looks for them finds type 0, and `info` 1, and stops looking.
csr(0x7A0, "tselect")
csr(0x7A1, "tdata1")
csr(0x7A2, "tdata2")
csr(0x7A3, "tdata3")
csr(0x7A4, "tinfo", "1")
# fmt: on

NUMBERS = {row.name: row.number for row in CSRS.values()}

# --- The dispatch ---------------------------------------------------------------------------------


def dispatch_source(name: str, parameters: str, leaves: dict[int, list[str]]) -> str:
    """Source of a routine that runs the leaf of `number`: a balanced tree of comparisons.

    Neighbours with the same leaf share it. A number without a leaf falls through to the end, where
    the instruction is illegal.
    """
    runs: list[tuple[int, int, list[str]]] = []
    for number, body in sorted(leaves.items()):
        if runs and runs[-1][1] == number - 1 and runs[-1][2] == body:
            runs[-1] = (runs[-1][0], number, body)
        else:
            runs.append((number, number, body))

    def tree(low: int, high: int, indent: str) -> list[str]:
        if high - low == 1:
            first, last, body = runs[low]
            test = f"number == {first:#x}"
            if first != last:
                test = f"number >= {first:#x} and number <= {last:#x}"
            return [f"{indent}if {test}:", *(f"{indent}    {line}" for line in body)]
        middle = (low + high) // 2
        return [
            f"{indent}if number < {runs[middle][0]:#x}:",
            *tree(low, middle, indent + "    "),
            f"{indent}else:",
            *tree(middle, high, indent + "    "),
        ]

    return "\n".join([f"def {name}({parameters}):", *tree(0, len(runs), "    ")])


def _read_source() -> str:
    leaves = {}
    for row in CSRS.values():
        body = []
        if row.condition:
            body += [f"if not {row.condition}:", "    trap(ILLEGAL_INSTRUCTION, raw)"]
        leaves[row.number] = [*body, f"return {row.read}"]
    source = dispatch_source("csr_read", "number", leaves)
    return f"{source}\n    trap(ILLEGAL_INSTRUCTION, raw)\n    return 0"


def _write_source() -> str:
    leaves = {row.number: [row.write] for row in CSRS.values() if row.write}
    return dispatch_source("csr_write", "number, value", leaves)


def _disturbs_source() -> str:
    leaves = {row.number: ["return True"] for row in CSRS.values() if row.disturbs}
    return f"{dispatch_source('csr_disturbs', 'number', leaves)}\n    return False"


csr_read = routine_from_source("csr_read", _read_source(), globals())
csr_write = routine_from_source("csr_write", _write_source(), globals())
csr_disturbs = routine_from_source("csr_disturbs", _disturbs_source(), globals())


@routine
def csr_check(number, writes):
    """Trap when this mode may not access (or, with `writes` not 0, not write) CSRs so numbered."""
    if ((number >> 8) & 3) > hart.priv or (writes != 0 and (number >> 10) == 3):
        trap(ILLEGAL_INSTRUCTION, raw)


@routine(pure=True)
def csr_modify_base(number, value):
    """What csrrs and csrrc modify, given what they read.

    The same, but for mip: SEIP reads as the software's bit or the controller's line, and only the
    software's takes part (section 3.1.9).
    """
    stored = (value & ~SEIP) | (hart.mip & SEIP)
    return stored if number == MIP_NUMBER else value
