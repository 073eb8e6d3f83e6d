"""Records from the machine's side: their memory, what retires them, and the regions they point to.

The problem: native code fills records and follows them; this module is what Python does to them,
with all harts stopped or by single 8-byte stores that are safe beside a running hart: a write by
DMA or the host makes records undecoded, a publication points a record to a region, a retirement
takes it back.

Invariants:
- **A record is the only thing that points to translated code.** Regions are listed here by page, to
  find the records that point to them; nothing executes from this list.
- A line is tracked (`lines`) before anything made from its bytes can be reached; a line with a
  published region in it (`region_lines`) makes a store leave native code at once.
- `written` is called after the bytes have changed. Native code does what a guest's store does (the
  generation is bumped, records are taken back, under the page's lock); regions are retired here.

Read next: `jit_proc/runtime_tracking.py` (the native side), `retirement.py` (everything at once).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cpu_proc import native
from cpu_proc.segments import ControlSegment
from protocol import mutants
from protocol.layout import (
    LINE_SIZE,
    PAGE,
    RECORD_ARRAY_HOST,
    RECORD_ARRAY_PAGE,
    RECORD_ARRAY_STRIDE,
    RECORD_SIZE,
    SLOTS_PER_PAGE,
)

_WORDS = PAGE.size // 8
_RECORDS = PAGE.offset("records") // 8
_LINES = PAGE.offset("lines") // 8
_REGION_LINES = PAGE.offset("region_lines") // 8
_GENERATION = PAGE.offset("generation") // 8
_DIGITS = b"0" + b"1" * 255  # of a bit, by a byte that is 0 or not


@dataclass(frozen=True, eq=False, slots=True)
class Region:
    """Published code: the page and lines it was made from, and the records that enter it."""

    page: int
    lines: int
    entries: tuple[tuple[int, int], ...]  # slot, address
    id: int = 0  # of the request it answers
    generation: int = 0  # of the page, when it was published


def lines_of(offset: int, length: int) -> int:
    """The bitmap of lines that `length` bytes at `offset` of one page touch."""
    first, last = offset // LINE_SIZE, (offset + length - 1) // LINE_SIZE
    return ((1 << (last - first + 1)) - 1) << first


NoteWrite = Callable[[int, int, int], int]
"""The engine's `note_write`: address of a page descriptor, offset, length -> lines of regions."""


DropArrays = Callable[[int, int, int, int], int]
"""The engine's `drop_arrays`: first array, end, first page descriptor, end."""


def _no_engine(*_: int) -> int:
    raise AssertionError("no engine is mapped yet")


class Records:
    """All record arrays of one machine, its page descriptors, and its regions."""

    def __init__(self, control: ControlSegment, arrays: int) -> None:
        """`arrays`: pages that may hold records at once, beyond which everything is retired."""
        self._pages = control.pages
        self._pages_address = control.pages_address
        self._page_count = control.page_count
        self.size = (arrays + 1) * RECORD_ARRAY_STRIDE
        self._mapping = native.map_private(self.size + RECORD_ARRAY_STRIDE)
        self.start = -(-self._mapping // RECORD_ARRAY_STRIDE) * RECORD_ARRAY_STRIDE
        self.end = self.start + self.size
        self.decode = 0  # address of the engine's `h_decode`
        self.note_write: NoteWrite = _no_engine
        self.drop_arrays: DropArrays = _no_engine
        self.regions: dict[int, list[Region]] = {}
        self.watched: dict[int, int] = {}  # page -> lines that must be told of stores
        self.region_count = 0
        self._gone: list[dict[int, list[Region]]] = []  # dropped; freed page by page
        self.gone: list[Region] = []  # what `written` or `retire_regions` took back last

    # --- memory ----------------------------------------------------------------------------

    def make_scratch(self, scratch_end: int, bytes_address: int, page_address: int) -> int:
        """An array for instructions that stand in no page's; returns its address."""
        array = self.start
        self.start += RECORD_ARRAY_STRIDE
        words = native.words(array, RECORD_ARRAY_STRIDE // 8)
        for slot in (1, 2):
            words[slot * 2] = scratch_end
        words[RECORD_ARRAY_HOST // 8] = bytes_address
        words[RECORD_ARRAY_PAGE // 8] = page_address
        native.words(page_address, _WORDS)[_LINES] = 2**64 - 1  # never begins to be tracked
        return array

    def page_of(self, descriptor: int) -> int | None:
        """Index of the page with its descriptor at this address; None for a scratch array's."""
        offset = descriptor - self._pages_address
        page = offset // PAGE.size
        return page if offset >= 0 and page < self._page_count else None

    def record(self, page: int, slot: int) -> int:
        """Address of the record of a slot; 0 while the page has no records."""
        array = int(self._pages[page * _WORDS + _RECORDS])
        return array + slot * RECORD_SIZE if array else 0

    def slot_of(self, record: int) -> int:
        """Slot of a record in its array."""
        return record % RECORD_ARRAY_STRIDE // RECORD_SIZE

    def generation(self, page: int) -> int:
        return int(self._pages[page * _WORDS + _GENERATION])

    def set_generations(self, value: int) -> None:
        """Have every page's generation begin at `value`; before anything is executed."""
        for page in range(self._page_count):
            self._pages[page * _WORDS + _GENERATION] = value

    # --- retirement of what was made from some bytes ------------------------------------------

    def written(self, page: int, offset: int, length: int) -> bool:
        """Bytes of one page have changed; whether anything was made from their lines."""
        self.gone = []
        before = self.generation(page)
        regions = self.note_write(self._pages_address + page * PAGE.size, offset, length)
        if regions:
            self.retire_regions(page, regions)
        return self.generation(page) != before

    def retire_regions(self, page: int, lines: int) -> int:
        """Take back every region made from these lines of a page; how many there were."""
        self.gone = []
        if mutants.armed(
            "M19"
        ):  # M19: tier 0's records are decoded anew, and that is thought to do
            return 0
        keep: list[Region] = []
        gone: list[Region] = []
        for region in self.regions.get(page, ()):
            (gone if region.lines & lines else keep).append(region)
        self.gone = gone
        if gone:
            self._take_back(gone)
            self.regions[page] = keep
            if not keep:
                del self.regions[page]
        left = self.watched.get(page, 0)
        for region in keep:
            left |= region.lines
        self._pages[page * _WORDS + _REGION_LINES] = left
        return len(gone)

    def _take_back(self, regions: Iterable[Region]) -> None:
        for region in regions:
            self.region_count -= 1
            array = self._pages[region.page * _WORDS + _RECORDS]
            for slot, address in region.entries:
                record = native.words(array + slot * RECORD_SIZE, 1)
                if record[0] == address:
                    record[0] = self.decode

    def unwatch_regions(self, page: int, lines: int) -> None:
        """Stores to these lines leave native code no more (only a fault switch does that)."""
        self._pages[page * _WORDS + _REGION_LINES] &= ~lines & (2**64 - 1)

    def watch(self, page: int, offset: int, length: int) -> None:
        """Have stores to these bytes leave native code with EXIT_RETIRE, whatever they hold."""
        lines = lines_of(offset, length)
        self.watched[page] = self.watched.get(page, 0) | lines
        self._pages[page * _WORDS + _LINES] |= lines
        self._pages[page * _WORDS + _REGION_LINES] |= lines

    def seen_slots(self, page: int) -> bytes:
        """A bit for each slot of a page whose record was filled; nothing without records."""
        array = self._pages[page * _WORDS + _RECORDS]
        if not array:
            return b""
        # All records at once, by byte of their handlers' addresses: a list of them takes twice as
        # long, some hundred times a boot, while a hart may want the interpreter.
        records = bytes(native.view(array, SLOTS_PER_PAGE * RECORD_SIZE))
        differ = 0
        for at, byte in enumerate(self.decode.to_bytes(8, "little")):
            same = int.from_bytes(bytes([byte]) * SLOTS_PER_PAGE, "little")
            differ |= int.from_bytes(records[at::RECORD_SIZE], "little") ^ same
        bits = differ.to_bytes(SLOTS_PER_PAGE, "big").translate(_DIGITS)
        return int(bits, 2).to_bytes(SLOTS_PER_PAGE // 8, "little")

    def entry_slots(self, page: int) -> set[int]:
        """Slots of a page that published regions are entered at."""
        return {slot for region in self.regions.get(page, ()) for slot, _ in region.entries}

    # --- publication -----------------------------------------------------------------------

    def publish(
        self, page: int, lines: int, entries: Iterable[tuple[int, int]], number: int = 0
    ) -> Region | None:
        """Point records at published code; the caller has checked generations and bytes.

        `entries`: slot, address; `number`: the request's. All harts are stopped. None when the
        page has no records.
        """
        base = page * _WORDS
        array = self._pages[base + _RECORDS]
        if not array or not self._pages[base + _LINES]:
            return None
        region = Region(page, lines, tuple(entries), number, self.generation(page))
        self._supersede(region)
        self._pages[base + _LINES] |= lines
        self._pages[base + _REGION_LINES] |= lines
        for slot, address in region.entries:
            native.words(array + slot * RECORD_SIZE, 1)[0] = address
        self.regions.setdefault(page, []).append(region)
        self.region_count += 1
        if self._gone:  # one page for one region: what is kept for this never grows
            self._gone[-1].popitem()
            if not self._gone[-1]:
                self._gone.pop()
        return region

    def _supersede(self, new: Region) -> None:
        """Let go of regions that no record will point to when a new one of the page is entered.

        No hart is inside. Their lines stay told of stores: the new one was made from most of them.
        """
        slots = {slot for slot, _ in new.entries}
        old = self.regions.get(new.page, [])
        left = [region for region in old if not slots.issuperset(s for s, _ in region.entries)]
        self.region_count -= len(old) - len(left)
        if old:
            self.regions[new.page] = left

    # --- everything --------------------------------------------------------------------------

    def drop_all(self, used: Iterable[tuple[int, int]]) -> int:
        """Drop every record array; `used`: the (start, end) ranges harts took arrays from.

        Generations stay: what was asked for before is told apart by them and by the epoch. Takes
        no time to speak of, however much there is: the arrays' memory is kept for those to come,
        and what was known of regions is let go of piece by piece, when new ones are published.
        Returns the number of arrays dropped.
        """
        count = 0
        low = self._pages_address
        for start, end in used:
            self.drop_arrays(start, end, low, low + self._page_count * PAGE.size)
            count += (end - start) // RECORD_ARRAY_STRIDE
        for page, lines in self.watched.items():
            self._pages[page * _WORDS + _LINES] = lines
            self._pages[page * _WORDS + _REGION_LINES] = lines
        if self.regions:
            self._gone.append(self.regions)
            self.regions = {}
        self.region_count = 0
        return count

    def forget(self) -> int:
        """The mistake of M46: no region is known any more, and yet records go on pointing to them.

        Returns the number of arrays dropped: none.
        """
        for page in self.regions:
            self._pages[page * _WORDS + _REGION_LINES] = self.watched.get(page, 0)
        self.regions.clear()
        self.region_count = 0
        return 0
