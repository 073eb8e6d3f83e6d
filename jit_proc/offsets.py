"""Offsets and sizes of the shared structures as plain numbers, for the engine's routines.

A routine in the semantics language knows numbers, not structures; these are `protocol/layout.py`'s
under short names. Read next: `runtime_memory.py`.
"""

from __future__ import annotations

from jit_proc import ngrams
from protocol import layout, mutants
from protocol.layout import CONTROL, FETCH_ENTRY, HART, PAGE, SLOT, TLB_ENTRY

FETCH, LOAD, STORE = 0, 1, 2

SLOTS_AT = HART.offset("slots")
DATA_AT = HART.offset("data_tlbs")
FETCH_AT = HART.offset("fetch_tlbs")
DATA_USED_AT = HART.offset("data_used")
FETCH_USED_AT = HART.offset("fetch_used")
HOT_AT = HART.offset("hot")
SCRATCH_PAGE_AT = HART.offset("scratch_page")
SCRATCH_BYTES_AT = HART.offset("scratch_bytes")
SLOT_BYTES = SLOT.size
ENTRY_BYTES = TLB_ENTRY.size
DATA_SET_BYTES = layout.DATA_SET_ENTRIES * ENTRY_BYTES
DATA_SECOND = layout.DATA_TLB_ENTRIES * ENTRY_BYTES  # of a set: where the second level begins
FETCH_SET_BYTES = layout.FETCH_TLB_ENTRIES * ENTRY_BYTES
DATA_BANK_MASK = (1 << layout.DATA_BANK_SETS) - 1
FETCH_BANK_MASK = (1 << layout.FETCH_BANK_SETS) - 1
DATA_SET_SHIFT = (layout.DATA_SET_ENTRIES - 1).bit_length()
FETCH_SET_SHIFT = (layout.FETCH_TLB_ENTRIES - 1).bit_length()
DATA_SET_WORDS = layout.DATA_SET_ENTRIES // 64  # of `data_used` for one set
FETCH_SET_WORDS = layout.FETCH_TLB_ENTRIES // 64
# The second level's hash: the upper bits of the page's number times this, all of them mixed.
SCATTER = 0x9E3779B97F4A7C15
SCATTER_SHIFT = 65 - layout.DATA_SECOND_ENTRIES.bit_length()
FIXED_SETS = layout.FIXED_SETS
FIXED_MASK = (1 << FIXED_SETS) - 1
TLB_BANKS = layout.TLB_BANKS
DATA_BANK_SETS = layout.DATA_BANK_SETS
FETCH_BANK_SETS = layout.FETCH_BANK_SETS
DATA_FILLED_AT = HART.offset("data_filled")
FETCH_FILLED_AT = HART.offset("fetch_filled")
BANK_KEYS_AT = HART.offset("bank_keys")
DATA_MASK = layout.DATA_TLB_ENTRIES - 1
FETCH_MASK = layout.FETCH_TLB_ENTRIES - 1
NO_PAGE = layout.NO_PAGE
WINDOW_MARGIN = layout.WINDOW_MARGIN
NO_OFFSET = 1 << 32  # of an instruction in no page's records: no jump's target lies in its page
PAGE_BYTES = PAGE.size
LINES = PAGE.offset("lines")
REGION_LINES = PAGE.offset("region_lines")
GENERATION = PAGE.offset("generation")
LOCK = PAGE.offset("lock")
WRITERS = PAGE.offset("writers")
PAGE_TICK = PAGE.offset("tick")
CONTROL_TICK = CONTROL.offset("tick")
CONTROL_STORING = CONTROL.offset("storing")
STORING = HART.offset("storing")
EXIT_LINES = HART.offset("exit_lines")
PEERS_AT = HART.offset("peers")
HARTID = HART.offset("hartid")
LIMIT = HART.offset("limit")
IDLE = HART.offset("idle")
HART_TICK = HART.offset("tick")
WRITE_TAG = TLB_ENTRY.offset("write_tag")
ADDEND = TLB_ENTRY.offset("addend")
ENTRY_PAGE = TLB_ENTRY.offset("page")
F_RECORDS = FETCH_ENTRY.offset("records")
F_BIAS = FETCH_ENTRY.offset("bias")
F_PAGE = FETCH_ENTRY.offset("page")
STRIDE = layout.RECORD_ARRAY_STRIDE
ARRAY_HOST = layout.RECORD_ARRAY_HOST
ARRAY_PAGE = layout.RECORD_ARRAY_PAGE
ARRAY_VIRTUAL = layout.RECORD_ARRAY_USED  # M7 alone keeps something behind what is used
ARRAY_END = layout.SLOTS_PER_PAGE * layout.RECORD_SIZE
SPARE = 64 * layout.RECORD_SIZE  # a record of the scratch array that nothing executes
HOT_RING = layout.HOT_RING
EXIT_ATTENTION = layout.EXIT_ATTENTION
EXIT_WAIT = layout.EXIT_WAIT
EXIT_RETIRE = layout.EXIT_RETIRE
EXIT_POOL = layout.EXIT_POOL
EXIT_STOP = layout.EXIT_STOP
EXIT_HOT = layout.EXIT_HOT
EXIT_TRAP = layout.EXIT_TRAP
EXIT_FATAL = layout.EXIT_FATAL
# The mistakes that stand in the engine's routines (`protocol/mutants.py`), 1 where switched on. As
# constants they leave no trace in native code where they are off.
ALIAS_OWN_RECORDS = int(mutants.armed("M7"))
UNTRACKED_WALK = int(mutants.armed("M8"))
KEPT_FETCH = int(mutants.armed("M10"))
FIRST_BYTES_ONLY = int(mutants.armed("M12"))
ONE_PAGE_ONLY = int(mutants.armed("M11"))
VIRTUAL_PAGE = int(mutants.armed("M13"))
# How far before a store a sequence may begin that reaches it, in whole halfwords.
FUSED_REACH = ngrams.MAX_BYTES - 2
FAULT = 1  # what `resolve` answers for a fault; no host address is 1
