"""Shared structures, declared once: ctypes views, LLVM offsets and the spec's table follow.

The engine (native code), the machine process (Python) and the translator look at the same bytes.
Each structure below is one `Struct` of fields in order; `offset()` serves the code generators,
`view()` the Python side, `markdown()` the specification, and `LAYOUT_HASH` the handshake: two
processes that disagree about one field refuse each other.

Invariants: every field is made of 64-bit words, so that each is naturally aligned and a single
store is atomic; a word has the one writer that its text names (`hart`: native code on behalf of
the hart's thread, or that thread itself while native code is left; `machine`: any thread of the
machine process under its lock). Unless the text says otherwise, words are read and written with
plain moves, which on x86-64 are acquire loads and release stores.

Read next: `generations.py`, then `cpu_proc/records.py`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from dataclasses import dataclass

PAGE_SIZE = 4096
LINE_SIZE = 64  # bytes; a page has 64 lines, one bit each in a word
SLOTS_PER_PAGE = PAGE_SIZE // 2  # one record a halfword
RECORD_SIZE = 16
# A record array: one record a halfword, two sentinels that leave the page, then the host address of
# the page's bytes and the address of its descriptor. Aligned, so that a record finds its array.
RECORD_ARRAY_STRIDE = 1 << 16
RECORD_ARRAY_HOST = (SLOTS_PER_PAGE + 2) * RECORD_SIZE
RECORD_ARRAY_PAGE = RECORD_ARRAY_HOST + 8
RECORD_ARRAY_USED = RECORD_ARRAY_HOST + 16
DATA_TLB_ENTRIES = 256
# A set of the data TLB has a second level behind the entries that code looks at: as many again, by
# another hash of the page, for what was displaced.
DATA_SECOND_ENTRIES = 256
DATA_SET_ENTRIES = DATA_TLB_ENTRIES + DATA_SECOND_ENTRIES
FETCH_TLB_ENTRIES = 256
TLB_ENTRY_SIZE = 32
# The first two sets of each TLB are machine mode's and that of S and U without translation. Banks
# follow: the sets of one address space, data sets for S, S with SUM and U, fetch sets for S and U.
FIXED_SETS = 2
TLB_BANKS = 8
DATA_BANK_SETS = 3
FETCH_BANK_SETS = 2
DATA_SETS = FIXED_SETS + TLB_BANKS * DATA_BANK_SETS
FETCH_SETS = FIXED_SETS + TLB_BANKS * FETCH_BANK_SETS
NO_PAGE = 2**64 - 1  # a tag that matches no address
WINDOW_MARGIN = 256  # bytes before a map slot's end that are not in the window: as long as a load
MAX_SLOTS = 32
MAX_HARTS = 8
HOT_RING = 64
HOT_ASSUMED = 1  # of a record's address in it: the region there assumes what often does not hold
HEAT_COUNTERS = 256
STATE_EXACT = 1  # bit of the state word: guest time is counted
STATE_LOOKS = 2  # of FS and frm nothing is assumed: they are looked at where they matter
STATE_FLAT = 4  # advice: no hart translates addresses, so loads had better look at the window first


@dataclass(frozen=True)
class Field:
    """`count` 64-bit words at `offset` bytes."""

    name: str
    offset: int
    count: int
    text: str


class Struct:
    """A named sequence of 64-bit fields."""

    def __init__(self, name: str, text: str, *fields: tuple[str, str] | tuple[str, str, int]):
        self.name = name
        self.text = text
        self.fields: dict[str, Field] = {}
        offset = 0
        for field in fields:
            count = field[2] if len(field) == 3 else 1
            self.fields[field[0]] = Field(field[0], offset, count, field[1])
            offset += 8 * count
        self.size = offset

    def offset(self, name: str, index: int = 0) -> int:
        """Bytes from the structure's start to word `index` of a field."""
        return self.fields[name].offset + 8 * index

    @functools.cached_property
    def ctype(self) -> type[ctypes.Structure]:
        members = [
            (f.name, ctypes.c_uint64 if f.count == 1 else ctypes.c_uint64 * f.count)
            for f in self.fields.values()
        ]
        return type(self.name, (ctypes.Structure,), {"_fields_": members})

    def markdown(self) -> str:
        rows = [f"### {self.name} ({self.size} bytes)", "", self.text, ""]
        rows += ["| offset | words | field | meaning |", "| --- | --- | --- | --- |"]
        rows += [
            f"| {f.offset} | {f.count} | `{f.name}` | {f.text} |" for f in self.fields.values()
        ]
        return "\n".join(rows)


RECORD = Struct(
    "Record",
    "One halfword of an executed page. Nothing else in the system points to translated code.",
    ("handler", "address of native code; `decode` in a fresh record. Written by hart and machine"),
    (
        "operands",
        "imm (32 bits), rd, rs1, rs2, rs3 | rm << 5 (a byte each); see `jit_proc/engine.py`",
    ),
)

PAGE = Struct(
    "PageDescriptor",
    "One page of a backing. `generation` is what a translation's validity hangs on.",
    ("records", "address of the page's record array, or 0. Writer: hart"),
    (
        "lines",
        "bit i: line i holds bytes some record was made from. Stores to it retire. Writer: hart",
    ),
    ("region_lines", "bit i: line i holds bytes a published region was made from. Writer: machine"),
    ("generation", "bumped by every write to a tracked line, by whomever. Writer: lock's holder"),
    ("lock", "1 while records, lines or generation change. Writer: who swaps 0 for 1"),
    ("tick", "`tick` of the control page when records were last taken back. Writer: lock's holder"),
    (
        "writers",
        "bit i: hart i may have a plain write tag for the page. Writer: any hart, atomically",
    ),
    ("spare", "a descriptor is a cache line of its own"),
)

SLOT = Struct(
    "MapSlot",
    "One range of guest-physical memory with host memory behind it; what no slot covers is I/O.",
    ("base", "first guest-physical address. Writer: machine, at a safe point"),
    ("size", "bytes"),
    ("host", "host address of its first byte"),
    ("pages", "host address of its first page descriptor"),
    ("writable", "0 for read-only memory: a store goes to the machine"),
)

TLB_ENTRY = Struct(
    "DataTlbEntry",
    "`tag == address & -4096` is a hit. Tags are virtual (physical in bare sets).",
    (
        "read_tag",
        "page whose loads may go ahead; all ones for none. Writer: hart, machine at a safe point",
    ),
    (
        "write_tag",
        "the same for stores; bit 0 is set when the page is tracked, so that the fast path misses",
    ),
    ("addend", "host address minus virtual address"),
    ("page", "address of the page descriptor"),
)

FETCH_ENTRY = Struct(
    "FetchTlbEntry",
    "Where the instructions of a virtual page are.",
    ("tag", "virtual page; all ones for none. Writer: hart, or machine at a safe point"),
    ("records", "address of its record array"),
    ("bias", "virtual page minus (records >> 3), so that pc = (record >> 3) + bias"),
    ("page", "address of the page descriptor"),
)

CSRS = [
    "mstatus",
    "mie",
    "mip",
    "mtvec",
    "mscratch",
    "mepc",
    "mcause",
    "mtval",
    "medeleg",
    "mideleg",
    "mcounteren",
    "mcountinhibit",
    "menvcfg",
    "stvec",
    "sscratch",
    "sepc",
    "scause",
    "stval",
    "satp",
    "scounteren",
    "senvcfg",
    "stimecmp",
    "minstret_offset",
    "mcycle_offset",
    "frm",
]

HART = Struct(
    "Hart",
    "All of one hart: architectural state, its TLBs, and its conversation with the machine.",
    (
        "x",
        "integer registers; x[0] stays 0, x[32] takes writes to x0. Writer: hart, if not said",
        34,
    ),
    ("f", "floating-point registers, raw", 32),
    (
        "limit",
        "`count` at which the hart looks up from its work; any thread may store 0 to call it",
    ),
    ("count", "instructions retired since the machine was made"),
    ("pc", "address of the next instruction, while native code is left"),
    ("data_tlb", "address of the data TLB set in use"),
    ("window_last", "the window's first address, minus 1; see `runtime_memory.note_window`"),
    ("window_limit", "2^64 - 1 less the window's bytes: all ones for none"),
    ("window_addend", "host address minus virtual address, in the window"),
    ("fetch_tlb", "address of the fetch TLB set in use"),
    ("data_set", "which it is, by privilege and mode: see `privileged.update_context`"),
    ("fetch_set", "the same"),
    ("bank", "number of the bank last chosen"),
    ("bank_clock", "counts the times that another bank was chosen"),
    ("bank_keys", "satp of the space whose lookups a bank holds, bit 62 for MXR; or 0", TLB_BANKS),
    ("bank_times", "`bank_clock` when it was last chosen", TLB_BANKS),
    ("priv", "0 U, 1 S, 3 M"),
    ("raw", "address of the record that a cold handler executes"),
    ("length", "its length in bytes"),
    ("next_pc", "address of the instruction after it"),
    *((name, f"CSR {name}, or its storage") for name in CSRS),
    (
        "fflags",
        "accrued FP exceptions raised in software; the host unit's come on top while running",
    ),
    ("mxcsr", "MXCSR for guest code: rounding mode of `frm`, all exceptions masked"),
    ("irq", "interrupt lines driven from outside (MSIP, SEIP, MEIP). Writer: machine, atomically"),
    ("mtimecmp", "the CLINT's compare register. Writer: machine"),
    ("hartid", "mhartid. Writer: machine"),
    ("features", "bit 0 Svadu, bit 1 Sstc. Writer: machine"),
    ("pmp_active", "number of the highest active PMP entry plus 1"),
    ("pmp_low", "the PMP entry that matched last: from where on it does, see `mmu.pmp_match`"),
    ("pmp_end", "the same: where that ends; 0 when none is remembered"),
    ("pmp_config", "the same: its configuration byte"),
    (
        "megapages",
        "filter: where the TLBs may hold parts of 2 MiB pages; see `mmu.note_superpage`",
        16,
    ),
    ("gigapages", "the same for larger pages"),
    ("pmpcfg", "one configuration byte a word", 16),
    ("pmpaddr", "PMP address registers", 16),
    ("fault_cause", "scratch of the page walk: the exception's cause"),
    ("fault_value", "scratch of the page walk"),
    (
        "fault_page",
        "scratch: of the walk, 1 when its answer holds for one access; then the descriptor",
    ),
    ("clock", "scratch of the clock: seconds, nanoseconds", 2),
    ("reserved", "physical address of the LR reservation; all ones for none"),
    ("reserved_value", "the value loaded by it"),
    ("waiting", "1 while the hart sleeps in wfi"),
    ("attention", "requests to leave native code at the next safe point. Writer: machine"),
    ("between", "1: settling between two instructions where counted time takes no interrupt"),
    ("exit_reason", "why native code was left: `EXIT_*`"),
    ("exit_page", "EXIT_RETIRE: address of the page descriptor"),
    ("exit_lines", "EXIT_RETIRE: the lines written"),
    ("trace", "1: leave after every trap, with EXIT_TRAP. Writer: machine"),
    ("trap_pc", "trace: where the trap was taken; all ones for none since the last look"),
    ("trap_cause", "trace: its cause, as in mcause"),
    ("trap_value", "trace: its xtval"),
    ("fatal", "1: leave after a trap that cannot be taken, with EXIT_FATAL. Writer: machine"),
    ("stuck", "1: such a trap was taken since the last look"),
    ("control", "address of the control page. Writer: machine"),
    ("peer_count", "how many other harts. Writer: machine"),
    ("peers", "addresses of the other harts' structures. Writer: machine", MAX_HARTS - 1),
    ("storing", "1 while new bytes of code may be visible whose records are not taken back yet"),
    ("tick", "`tick` of the control page when this hart last held no handler's address"),
    ("idle", "1 while the hart is out of native code"),
    ("poll", "nanoseconds to look for an interrupt before a sleep. Writers: hart, machine"),
    ("polled", "how often such a look was not in vain"),
    ("slice", "instructions between two looks at the clock. Writer: machine"),
    ("stop_count", "`count` at which to leave for good; all ones for never. Writer: machine"),
    (
        "quiet",
        "instructions for which timers found quiet are not looked at; 0 when time is counted. "
        "Writer: machine",
    ),
    ("quiet_until", "`count` before which they are not; 0 for a look. Writers: hart, machine"),
    ("time_offset", "mtime = time_offset + ticks of the time source. Writer: machine"),
    ("icount", "0: host clock; else guest nanoseconds per instruction. Writer: machine"),
    ("threshold", "taken jumps of a record before its target is called hot. Writer: machine"),
    ("hot_count", "entries in `hot`"),
    (
        "hot_limit",
        "entries at which the hart leaves at once; fewer wait for its slice to end. 0: no ring",
    ),
    ("hot_least", "entries at which it leaves at the end of a slice. Writer: machine"),
    ("fetch_bias", "scratch of the fetch path: bias of the page found"),
    (
        "hot",
        "records found hot: address of the record, and HOT_*; address of the page descriptor",
        2 * HOT_RING,
    ),
    ("pool_next", "address of the next free record array"),
    ("pool_end", "end of the record arrays' memory. Writer: machine"),
    ("slots", "the memory map: copies of MapSlot. Writer: machine, at a safe point", 5 * MAX_SLOTS),
    ("slot_count", "how many of them. Writer: machine"),
    ("clock_gettime", "address of libc's clock_gettime. Writer: machine"),
    ("host_read", "Python callable: word read(physical address, size, 0, 0, 0). Writer: machine"),
    ("host_write", "Python callable: write(physical address, size, value, 0, 0), returns 0"),
    ("host_fp", "Python callable: word fp(operation, a, b, c, rm) for what the host's unit lacks"),
    ("python", "addresses of CPython's C API, in the order of `PYTHON_API`. Writer: machine", 6),
    ("host_status", "set by a callback: 0 done, 1 access fault"),
    ("far_jump", "address of the engine's jump by pc, for regions"),
    ("execute_one", "address of the engine's one-instruction interpreter, for regions"),
    ("way_out", "address of the engine's arrival at a record of tier 0, for regions"),
    ("crossing", "address of the engine's way from a region to another one of its page"),
    ("assumed", "address of the engine's way on where what a region assumes does not hold"),
    ("engine", "address of the engine's code. Writer: machine"),
    ("engine_size", "bytes of it: a handler outside belongs to a region. Writer: machine"),
    (
        "heat",
        "regions' ways out into tier 0, counted by a hash of the record; signed",
        HEAT_COUNTERS,
    ),
    ("crossings", "the same of ways from region to region inside a page", HEAT_COUNTERS),
    ("failures", "the same of regions whose assumptions did not hold", HEAT_COUNTERS),
    ("tlb_load", "address of the engine's load slow path, for regions"),
    ("tlb_store", "address of the engine's store slow path, for regions"),
    (
        "scratch",
        "address of a record array for instructions that stand in no page's. Writer: machine",
    ),
    ("scratch_bytes", "their bytes"),
    ("scratch_page", "their page descriptor", 4),
    ("scratch_bias", "bias that goes with `scratch`"),
    ("stat_leaves", "times native code was left, by exit reason", 8),
    ("stat_traps", "exceptions and interrupts taken"),
    ("stat_decodes", "records filled"),
    ("stat_walks", "TLB misses that walked"),
    ("stat_stores", "stores to tracked lines"),
    ("stat_mmio", "accesses to devices"),
    ("stat_assumed", "times that what a region assumes did not hold"),
    ("data_filled", "bit i: set i of `data_tlbs` has bits in `data_used`"),
    ("fetch_filled", "the same of `fetch_tlbs`"),
    (
        "data_used",
        "bit j of word i: entry 64 i + j of `data_tlbs` was filled since it was last emptied",
        DATA_SETS * DATA_SET_ENTRIES // 64,
    ),
    (
        "fetch_used",
        "the same of `fetch_tlbs`",
        FETCH_SETS * FETCH_TLB_ENTRIES // 64,
    ),
    (
        "data_tlbs",
        "data TLB sets: in each `DATA_TLB_ENTRIES` by the page's number, then the displaced ones",
        4 * DATA_SET_ENTRIES * DATA_SETS,
    ),
    ("fetch_tlbs", "fetch TLB sets", 4 * FETCH_TLB_ENTRIES * FETCH_SETS),
)

CONTROL = Struct(
    "Control",
    "The first page of the ctrl segment. Writer: machine, with all harts stopped.",
    ("epoch", "every translation made under another one is dead"),
    ("map_generation", "bumped by every commit to the memory map"),
    ("pages", "offset of the first page descriptor in the segment"),
    ("page_count", "pages of all backings: the ram segment's size in pages"),
    ("harts", "offset of the first Hart in the segment"),
    ("hart_stride", "bytes from one Hart to the next"),
    ("hart_count", "how many harts"),
    ("storing", "writes by devices and the host that are under way, as in Hart. Writer: machine"),
    ("tick", "counts the times that records were taken back. Writer: any hart, atomically"),
)

PYTHON_API = (
    *("PyGILState_Ensure", "PyGILState_Release", "PyObject_CallFunction"),
    *("PyLong_AsUnsignedLongLong", "Py_DecRef", "PyErr_Clear"),
)
"""What native code calls to call Python. ctypes' own callbacks would need a page that is writable
and executable, which this project does not have."""

STRUCTS = (CONTROL, RECORD, PAGE, SLOT, TLB_ENTRY, FETCH_ENTRY, HART)

EXIT_ATTENTION = 1  # `attention` is set
EXIT_WAIT = 2  # wfi, and nothing is pending
EXIT_RETIRE = 3  # a store hit a region's line
EXIT_POOL = 4  # no memory for another record array
EXIT_STOP = 5  # stop_count is reached
EXIT_TRAP = 7  # a trap was taken, and traps are traced
EXIT_FATAL = 8  # a trap that cannot be taken, and `fatal` is set
EXIT_HOT = 6  # the ring of hot records wants emptying


def markdown() -> str:
    """The layout's tables for the specification."""
    return "\n\n".join(struct.markdown() for struct in STRUCTS)


HANDLER_PARAMETERS = "ptr %hart, ptr %record, i64 %bias, i64 %count, ptr %tlb"
"""What handlers and regions pass each other, in this order, as `preserve_nonecc` has it."""

CALLS = (
    f"preserve_nonecc void ({HANDLER_PARAMETERS})",
    "preserve_mostcc i64 (ptr %hart, i64 %address, i64 %size)",  # the slow paths
    "llvmlite 0.50",  # which registers that are: LLVM promises nothing from version to version
)
"""How regions and the engine call each other: a region is for an engine that agrees."""

LAYOUT_HASH = hashlib.sha256(
    repr(
        (
            [(s.name, [(f.name, f.offset, f.count) for f in s.fields.values()]) for s in STRUCTS],
            CALLS,
        )
    ).encode()
).hexdigest()[:16]
