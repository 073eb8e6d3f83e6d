"""A simulated machine: harts, records and counters around the real session.

It mirrors `cpu_proc`: harts execute through lookups and records, work is done at safe points, a
retirement of everything waits for the one before until the translator has answered or is given up,
and an I/O thread carries the session. What is checked, is checked where it would show: when a hart
runs something, when something is published, and what is mapped when harts run at all.

Simplifications: a page is one line of four halfwords, all of the same value; tier 0 is never wrong;
DMA is one step; a hart does one thing a step.

Read next: `cpu_proc/translator.py`, of which `_act`, `_obey` and `_feed` are mirrors.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from protocol.backlog import Backlog
from protocol.generations import Now, Stamp, bump, burst
from protocol.messages import (
    Attach,
    Message,
    RetireCause,
    Segment,
    Translate,
    Translated,
)
from protocol.mutants import armed
from protocol.publication import Shortcuts, why_late
from protocol.session import (
    AttachCode,
    CancelTimer,
    CodeSpaceFull,
    DropCode,
    Dropped,
    MachineAction,
    Publish,
    Reconnect,
    RequestFailed,
    RequestRefused,
    RetirementDone,
    Send,
    SetTimer,
    SwapReady,
    TranslatorDead,
)
from protocol.session_machine import Deadlines, MachineSession, Offer
from protocol.simulate.image import ILLEGAL, SLOTS, CodeSegment, content_of
from protocol.simulate.network import Connection, Timers, Violation

if TYPE_CHECKING:
    from protocol.simulate.world import World

WINDOW = 6
RETIRE_PATIENCE = 5.0
VALUES = 5  # different contents of a page; the first is no instruction
_ASK_AGAIN = frozenset(("not_attached", "window_full", "send_queue_full", "timed_out"))
DEADLINES = Deadlines()


class Entry(NamedTuple):
    """What a record points to. No segment: the handler of an illegal instruction."""

    segment: CodeSegment | None
    offset: int
    stamp: Stamp


class Hart:
    """One hart: in native code or out, what it looked up, and a store that is half done."""

    def __init__(self) -> None:
        self.running = False
        self.attention = False
        self.lookups: dict[int, int] = {}  # address: page
        self.storing: int | None = None  # the bytes are new, their page's records not yet gone


class Work(NamedTuple):
    """Something to do at a safe point. `retires`: it may retire everything."""

    do: Callable[[], None]
    retires: bool


class Machine:
    """One machine; every method but those of the I/O thread is a hart's or a device's step."""

    def __init__(self, world: World, index: int) -> None:
        shape = world.shape
        self.world = world
        self.index = index
        self.pid = 100 + index
        self.state_word = index
        self.epoch = shape.first_epoch
        self.map_generation = shape.first_generation
        self.generations = [shape.first_generation] * shape.pages
        self.content = [content_of(1 + n % (VALUES - 1)) for n in range(shape.pages)]
        self.mapping = list(range(shape.addresses))  # address: backing page
        self.harts = [Hart() for _ in range(shape.harts)]
        self.running = 0
        self.works: deque[Work] = deque()
        self.waiting: float | None = None  # since when a retirement of everything is not answered
        self.tracked: set[int] = set()  # pages with records
        self.records: dict[tuple[int, int], Entry] = {}
        self.asked: set[tuple[int, int]] = set()  # page, slot: answers that are owed
        self.attached_epochs: set[int] = set()
        self.counts: Counter[str] = Counter()
        # --- the I/O thread's
        self.wishes: deque[tuple[str, object, object]] = deque()
        self.inbox: deque[Message] = deque()
        self.timers = Timers()
        self.backlog = Backlog()
        self.shortcuts = Shortcuts.made()
        self.code: CodeSegment | None = None
        self.kept: CodeSegment | None = None  # M46 alone keeps it
        self.retire_sent = 0.0
        size = 4096 * shape.pages
        offer = Offer(
            "layout",
            "isa",
            "x86_64",
            (),
            self.pid,
            Segment(f"/proc/{self.pid}/fd/3", size),
            0x80000000,
            Segment(f"/proc/{self.pid}/fd/4", 4096),
        )
        self.session = MachineSession(offer, self.epoch, DEADLINES)
        self.connection: Connection = world.connect(index)
        self.act(self.session.connect(world.draw_session()))

    def say(self, text: str) -> None:
        self.world.say(f"machine {self.index}: {text}")

    # --- counters and memory ---------------------------------------------------------------------

    def now(self, page: int) -> Now:
        """The counters, as the translator reads them too."""
        return Now(self.epoch, self.map_generation, self.generations[page])

    def written(self, page: int) -> None:
        """A page's bytes have changed: its generation moves, its records and regions go."""
        if page not in self.tracked:
            return
        self.generations[page], wrapped = bump(self.generations[page])
        for slot in range(SLOTS):
            self.records.pop((page, slot), None)
        if wrapped:
            self.post_retirement("counter_wrap")

    def dma(self, page: int, count: int, value: int) -> None:
        """A device writes some pages, one behind the other."""
        pages = range(page, min(page + count, len(self.content)))
        for one in pages:
            self.content[one] = content_of(value)
        for one in burst(pages):
            self.written(one)
        if self.world.telling and pages:
            self.say(f"a device writes {value} to pages {pages[0]} to {pages[-1]}")

    def patch(self, number: int, page: int, times: int, value: int) -> bool:
        """A hart stores to a page again and again, if it may."""
        hart = self.harts[number]
        if not hart.running or hart.attention or hart.storing is not None:
            return False
        for turn in range(times):
            self.content[page] = content_of((value + turn) % VALUES)
            self.written(page)
        if self.world.telling:
            self.say(f"hart {number} stores {times} times to page {page}")
        return True

    # --- work at safe points ---------------------------------------------------------------------

    def post(self, do: Callable[[], None], retires: bool = False) -> None:
        """Have work done with all harts out of native code."""
        self.works.append(Work(do, retires))
        for hart in self.harts:
            hart.attention = True

    def post_retirement(self, cause: RetireCause) -> None:
        """Retire everything, if nobody else has by then."""
        epoch = self.epoch

        def retire() -> None:
            if self.epoch == epoch:
                self.everything(cause)

        self.post(retire, retires=True)

    def everything(self, cause: RetireCause) -> None:
        """Retire every translation; harts go on in tier 0 while the translator is told."""
        self.epoch, _ = bump(self.epoch)
        if cause == "backend_swap" and armed("M46"):
            self.kept = self.code
        else:
            self.records.clear()
            self.tracked.clear()
        self.code = None
        for hart in self.harts:
            hart.lookups.clear()
        self.counts[cause] += 1
        if self.world.telling:
            self.say(f"retires everything, epoch {self.epoch}: {cause}")
        self.waiting = self.world.now
        self.wishes.append(("retire", self.epoch, cause))

    def load(self, value: int) -> None:
        """Copy the images, as at reset."""
        for page in range(0, len(self.content), 2):
            self.content[page] = content_of(1 + (page + value) % (VALUES - 1))
            self.written(page)

    def remap(self, one: int, other: int) -> None:
        """Swap what stands at two addresses."""
        mapping = self.mapping
        mapping[one], mapping[other] = mapping[other], mapping[one]
        self.map_generation, wrapped = bump(self.map_generation)
        for hart in self.harts:
            hart.lookups.clear()
        if self.world.telling:
            self.say(f"swaps addresses {one} and {other}: map generation {self.map_generation:#x}")
        if wrapped:
            self.everything("counter_wrap")

    # --- harts -----------------------------------------------------------------------------------

    def gate(self, hart: Hart) -> bool:
        """`SafePoint.enter` and `leave`; whether anything happened."""
        if hart.running:
            hart.running = False
            self.running -= 1
            return True
        hart.attention = False
        if self.works:
            if self.running:
                return False
            done = False
            while self.works:
                if self.works[0].retires and self.waiting is not None:
                    if self.world.now <= self.waiting + RETIRE_PATIENCE:
                        return done
                    self.waiting = None  # the I/O thread does not come to it
                self.works.popleft().do()
                done = True
            return True
        hart.running = True
        self.running += 1
        return True

    def step(self, number: int, arg: int) -> bool:
        """A hart does one thing, if it may."""
        hart = self.harts[number]
        if not hart.running:
            if self.world.telling:
                self.say(f"hart {number} is at the gate of native code")
            return self.gate(hart)
        if hart.storing is not None:
            page, hart.storing = hart.storing, None
            if self.world.telling:
                self.say(f"the store of hart {number} retires what was made from page {page}")
            self.written(page)
            return True
        if hart.attention:
            if self.world.telling:
                self.say(f"hart {number} is called and leaves native code")
            return self.gate(hart)
        if self.code is not None and self.code.epoch != self.epoch:
            raise Violation("older_code_mapped", f"hart {number} of machine {self.index} runs")
        address = (arg >> 4) % len(self.mapping)
        page = self.look_up(hart, address)
        if arg & 0x7F0000 == 0:
            value = (arg >> 8) % VALUES
            self.content[page] = content_of(value)
            hart.storing = page
            if self.world.telling:
                self.say(f"hart {number} stores {value} to page {page}")
            return True
        self.execute(hart, number, page, (arg >> 8) % SLOTS, arg >> 12)
        return True

    def look_up(self, hart: Hart, address: int) -> int:
        page = hart.lookups.get(address)
        if page is None:
            page = hart.lookups[address] = self.mapping[address]
            self.tracked.add(page)
        elif page != self.mapping[address]:
            raise Violation("stale_lookup", f"address {address} still means page {page}")
        return page

    def execute(self, hart: Hart, number: int, page: int, slot: int, heat: int) -> None:
        """Jump to a record."""
        entry = self.records.get((page, slot))
        if entry is None:
            if self.world.telling:
                self.say(f"hart {number} interprets page {page} slot {slot}")
            if heat & 3 == 0:  # it is hot: the hart leaves to ask for it
                self.world.say(f"    hot: hart {number} leaves native code to ask for it")
                hart.running = False
                self.running -= 1
                self.wishes.append(("want", page, slot))
            return
        world = self.world
        world.mix(entry.offset)
        where = f"hart {number} of machine {self.index}, page {page} slot {slot}"
        if any(other.storing == page for other in self.harts):
            return  # old and new are both allowed, and so is neither of them any more
        content = self.content[page]
        if entry.segment is None:
            if content != content_of(ILLEGAL):
                raise Violation("stale_execution", f"{where}: an instruction trapped as illegal")
            return
        self.counts["executed"] += 1
        if world.telling:
            self.say(f"hart {number} runs code of page {page} slot {slot}")
        if entry.segment is not self.code and entry.segment is not self.kept:
            raise Violation("unmapped_code", f"{where}: its segment is not mapped any more")
        image = entry.segment.run(entry.offset)
        if image is None:
            raise Violation("incomplete_code", f"{where}: no whole image at {entry.offset:#x}")
        if image.page != page or image.content != content:
            raise Violation(
                "stale_execution",
                f"{where}: ran code made from page {image.page} holding {image.content[0]}, "
                f"the page holds {content[0]}",
            )
        if world.backends[image.backend] != self.session.backend:
            raise Violation("stale_backend", f"{where}: code of {world.backends[image.backend]}")

    # --- the I/O thread --------------------------------------------------------------------------

    def serve(self) -> bool:
        """One round of the I/O thread; whether there was anything to do."""
        wishes, inbox, session = self.wishes, self.inbox, self.session
        busy = bool(wishes or inbox)
        while wishes:
            self.obey(*wishes.popleft())
        while inbox:
            message = inbox.popleft()
            if self.world.telling:
                self.say(f"takes in {type(message).__name__}")
            self.act(session.receive(message))
        connection = self.connection
        if connection.hung and not connection.down:
            connection.hung = False
            busy = True
            self.act(session.disconnected())
        for name in self.timers.due(self.world.now):
            busy = True
            self.act(session.timer(name))
        self.feed()
        if session.settled:
            if self.waiting is not None and session.epoch == self.epoch:
                self.waiting = None
                busy = True
        elif self.world.now > self.retire_sent + DEADLINES.retire:
            raise Violation("retirement_late", f"machine {self.index}: no end by its deadline")
        if session.outstanding > WINDOW:
            raise Violation("window", f"{session.outstanding} requests are outstanding")
        return busy

    def obey(self, kind: str, first: object, second: object) -> None:
        match kind, first, second:
            case "want", int(page), int(slot):
                self.backlog.add({page: [slot]})
            case "retire", int(epoch), str(cause):
                self.backlog.clear()
                self.asked.clear()
                self.retire_sent = self.world.now
                self.act(self.session.retire(epoch, cause))  # type: ignore[arg-type]
            case "again", int(epoch), (int(page), tuple(slots)):
                if epoch == self.epoch:
                    self.backlog.again(page, slots)
            case "leftovers", _, _ if self.shortcuts is not None:
                for message in self.shortcuts.leftovers(self.session.session):
                    self.act(self.session.receive(message))
            case "swap", str(backend), _:
                self.act(self.session.swap(backend))
            case "engine", str(key), _:
                self.act(self.session.ask_engine(key))
            case "stats", _, _:
                self.act(self.session.ask_stats())
            case "cancel", int(page), _:
                self.act(self.session.cancel_page(page))

    def feed(self) -> None:
        """Ask for the hottest pages, as many as may be under way."""
        session = self.session
        while session.state == "attached" and session.outstanding < WINDOW and self.backlog:
            page, slots, heat = self.backlog.take()
            wanted = [slot for slot in slots if (page, slot) not in self.records]
            if self.shortcuts is not None:
                wanted = self.shorten(self.shortcuts, page, wanted)
            if wanted:
                now = self.now(page)
                stamp = Stamp(
                    now.epoch, now.map_generation, page, now.page_generation, self.state_word
                )
                self.asked.update((page, slot) for slot in wanted)
                self.act(session.request(stamp, wanted, heat))

    def shorten(self, shortcuts: Shortcuts, page: int, wanted: list[int]) -> list[int]:
        places = dict(shortcuts.places(self.session.epoch, page, wanted, self.content[page]))
        refused = [slot for slot in wanted if shortcuts.is_refused(page, slot)]

        def install() -> None:
            stamp = Stamp(self.epoch, self.map_generation, page, self.generations[page], 0)
            for slot in refused:
                self.records[page, slot] = Entry(None, 0, stamp)
            for slot, offset in places.items():
                if self.code is not None:
                    self.records[page, slot] = Entry(self.code, offset, stamp)

        self.post(install)
        return [slot for slot in wanted if slot not in places and slot not in refused]

    def act(self, actions: list[MachineAction]) -> None:
        """Carry out what the session decided."""
        for action in actions:
            match action:
                case Send(message):
                    self.send(message)
                case SetTimer(name, seconds):
                    self.timers.set(name, self.world.now + seconds)
                case CancelTimer(name):
                    self.timers.cancel(name)
                case Publish(message):
                    self.ended(message.page, tuple(slot for slot, _ in message.entries))
                    self.post(lambda message=message: self.publish(message))  # type: ignore[misc]
                case AttachCode(code, epoch):
                    self.attach(code, epoch)
                case DropCode():
                    self.code = None
                case RequestRefused(message):
                    self.ended(message.page, message.entries)
                    self.counts[f"refused_{message.reason}"] += 1
                    if message.reason == "bytes_moved":
                        self.backlog.again(message.page, message.entries)
                    if self.shortcuts is not None:
                        self.shortcuts.refused(message, self.content[message.page])
                case RequestFailed(page, _, entries, reason):
                    self.ended(page, entries)
                    self.counts[f"failed_{reason}"] += 1
                    if reason in _ASK_AGAIN:
                        self.backlog.add({page: entries})
                case RetirementDone(message):
                    self.counts["acknowledged"] += 1
                    if message.live_older:
                        raise Violation("older_alive", f"RETIRED says {message.live_older}")
                case CodeSpaceFull():
                    self.post_retirement("code_space_full")
                case SwapReady():
                    self.post(lambda: self.everything("backend_swap"), retires=True)
                case TranslatorDead(reason, epoch_needed):
                    self.counts["lost"] += 1
                    if self.world.telling:
                        self.say(f"gives its translator up: {reason}")
                    if epoch_needed:
                        self.post_retirement("translator_restart")
                case Reconnect():
                    self.reconnect()
                case Dropped(reason=reason):
                    self.counts[f"dropped_{reason}"] += 1
                case _:
                    self.counts[type(action).__name__] += 1

    def send(self, message: Message) -> None:
        if isinstance(message, Attach):
            if message.epoch in self.attached_epochs:
                raise Violation("epoch_used_twice", f"two ATTACH under epoch {message.epoch}")
            self.attached_epochs.add(message.epoch)
        if self.world.telling:
            what = f" for page {message.page}" if isinstance(message, Translate) else ""
            self.say(f"sends {type(message).__name__}{what}")
        if not self.connection.send_up(message):
            self.act(self.session.send_failed(message))

    def ended(self, page: int, slots: tuple[int, ...]) -> None:
        """Slots got their answer: exactly one."""
        for slot in slots:
            if (page, slot) not in self.asked:
                raise Violation("answer_unasked", f"page {page} slot {slot} was not asked for")
            self.asked.discard((page, slot))

    def reconnect(self) -> None:
        self.world.give_up(self.connection)
        self.inbox.clear()
        self.connection = self.world.connect(self.index)
        self.act(self.session.connect(self.world.draw_session()))

    def attach(self, code: Segment, epoch: int) -> None:
        segment = self.world.segment(code)
        if segment is None or segment.closed:
            self.counts["segment_gone"] += 1
            return
        segment.epoch = epoch
        if epoch != self.epoch:
            self.counts["segment_late"] += 1  # RETIRE of another one is on its way
            return
        self.code = segment
        if self.world.telling:
            self.say(f"maps a code segment for epoch {epoch}")

    def publish(self, message: Translated) -> None:
        """Check and store, at a safe point."""
        page = message.page
        now = self.now(page)
        code = self.code
        why = why_late(message, now, None if code is None else code.epoch, self.content[page])
        if why is None and page not in self.tracked:
            why = "records"
        if why is not None:
            self.counts[f"late_{why}"] += 1
            slots = tuple(slot for slot, _ in message.entries)
            self.wishes.append(("again", message.epoch, (page, slots)))
            return
        assert code is not None
        for slot, offset in message.entries:
            self.records[page, slot] = Entry(code, offset, message.stamp)
        self.counts["published"] += 1
        self.backlog.served(page)
        if self.shortcuts is not None:
            self.shortcuts.published(message)
            self.wishes.append(("leftovers", None, None))
        if self.world.telling:
            self.say(f"publishes page {page} slots {[slot for slot, _ in message.entries]}")
        self.world.mix(message.code_offset + page)
        if message.epoch != self.epoch or message.page_generation != self.generations[page]:
            raise Violation(
                "stale_publication",
                f"page {page}: epoch {message.epoch:#x}, generation {message.page_generation:#x}; "
                f"present {self.epoch:#x}, {self.generations[page]:#x}",
            )
        if message.map_generation != self.map_generation:
            raise Violation("stale_publication", f"page {page}: the memory map has changed")

    def sweep(self) -> None:
        """Look at every record: nothing older than its page or epoch."""
        for (page, slot), entry in self.records.items():
            stamp, generation = entry.stamp, self.generations[page]
            if stamp.epoch != self.epoch or stamp.page_generation != generation:
                raise Violation("stale_record", f"page {page} slot {slot}: {stamp}")
