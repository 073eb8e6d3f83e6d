"""The machine's end of its translator: the publish rule, the code segment, what is asked when."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpu_proc import asking, native, translator
from cpu_proc.asking import MOST_MERGES
from cpu_proc.records import Records
from cpu_proc.retirement import Event, Retiring
from cpu_proc.segments import ControlSegment, GuestMemory
from cpu_proc.translator import Backlog, TranslatorLink
from protocol import session
from protocol.backlog import AGAIN
from protocol.errors import UserError
from protocol.generations import identity_of
from protocol.layout import PAGE, PAGE_SIZE, RECORD_ARRAY_PAGE, RECORD_ARRAY_STRIDE
from protocol.messages import Rejected, Retired, Segment, Timings, Translated

PAGES = 8
HERE = 3
DECODE = 0x1000
OFFSET = 0x240  # of the region in the code segment


class SafePoint:
    """Work is kept until the test says that the harts are out."""

    def __init__(self) -> None:
        self.work: list[Any] = []

    def post(self, work: Any) -> None:
        self.work.append(work)

    def reach(self) -> None:
        while self.work:
            self.work.pop(0)()


class World:
    """A machine with one page that has been executed, and a link whose thread never runs."""

    def __init__(self, **options: Any) -> None:
        self.lock = threading.RLock()
        self.guest = GuestMemory({"ram": PAGES * PAGE_SIZE})
        self.control = ControlSegment(1, self.guest.page_count)
        self.control.words.epoch = 5
        self.control.words.map_generation = 2
        self.records = Records(self.control, arrays=4)
        self.records.decode = DECODE
        self.safe_point = SafePoint()
        self.retirement = SimpleNamespace(epoch=5, everything=self._retired)
        self.retirements: list[str] = []
        self.failures: list[BaseException] = []
        self.fail = self.failures.append
        self.harts = [SimpleNamespace(state=SimpleNamespace(satp=8 << 60))]  # Sv39
        self.jitdump = None
        self.trace = None
        words = native.words(self.records.start, RECORD_ARRAY_STRIDE // 8)
        words[RECORD_ARRAY_PAGE // 8] = self.control.pages_address + HERE * PAGE.size
        self.set("records", self.records.start)
        self.set("lines", 0b1)
        self.set("generation", 9)
        self.guest.page_bytes(HERE)[:8] = bytes.fromhex("1305150067800000")  # addi a0, a0, 1; ret
        settings = {"translator": "ipc://nowhere", "threshold": 64, "log_items": (), "icount": None}
        self.options = SimpleNamespace(**(settings | options))
        self.link = TranslatorLink(self, self.options)  # type: ignore[arg-type]
        self.link._session = SimpleNamespace(  # type: ignore[assignment]
            incarnation=7, translator_pid=1, backend="llvm", epoch=5
        )
        self.segment = native.SharedSegment("code", 1 << 16)
        self.attach(5)
        assert self.link._code.mapped is not None
        self.address = self.link._code.mapped[0]

    def _retired(self, cause: str) -> None:
        self.retirement.epoch += 1
        self.retirements.append(cause)

    def set(self, name: str, value: int) -> None:
        self.control.pages[(HERE * PAGE.size + PAGE.offset(name)) // 8] = value

    def word(self, name: str) -> int:
        return int(self.control.pages[(HERE * PAGE.size + PAGE.offset(name)) // 8])

    def attach(self, epoch: int) -> None:
        self.act(session.AttachCode(Segment(self.segment.path, self.segment.size), epoch))

    def act(self, *actions: Any) -> None:
        self.link._act(list(actions))

    def mappings(self) -> list[int]:
        """Where the code segment is mapped, wherever that is."""
        inode = f" {os.fstat(self.segment.fd).st_ino} "
        maps = Path("/proc/self/maps").read_text().splitlines()
        return [int(m.split("-")[0], 16) for m in maps if "r-xs" in m and inode in m]

    def code_is_mapped(self) -> bool:
        """Whether it is where records may point."""
        return self.address in self.mappings()

    def message(self, **changes: Any) -> Translated:
        """A translation of the page as it is now."""
        spans = ((0, 8),)
        fields: dict[str, Any] = {
            "session": 11,
            "id": 1,
            "epoch": 5,
            "map_generation": 2,
            "page": HERE,
            "page_generation": 9,
            "state_word": 0,
            "identity": identity_of(self.guest.page_bytes(HERE), spans),
            "code_offset": OFFSET,
            "code_size": 64,
            "entries": ((0, OFFSET), (2, OFFSET + 16)),
            "lines": 0b1,
            "spans": spans,
            "instructions": 2,
            "timings": Timings(1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000),
        }
        return Translated(**(fields | changes))

    def deliver(self, message: Translated) -> None:
        """The reply comes in, then the harts come out."""
        self.act(session.Publish(message))
        assert self.handler(0) == 0, "nothing is published but at a safe point"
        self.safe_point.reach()

    def handler(self, slot: int) -> int:
        return int(native.words(self.records.start, 4096)[2 * slot])


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.link._code.drop()


# --- the publish rule -------------------------------------------------------------------------


def test_a_current_translation_is_published_at_the_safe_point(world):
    world.deliver(world.message())
    code = world.link._code.mapped
    assert code is not None
    assert (world.handler(0), world.handler(2)) == (code[0] + OFFSET, code[0] + OFFSET + 16)
    assert world.link.counts == {"translated": 1, "published": 1, "instructions": 2}
    assert world.word("region_lines") == 1


def test_where_a_regions_time_went_is_told(world):
    assert world.link.summary() == ["translator: nothing"]
    world.deliver(world.message())
    counts, phases, speed = world.link.summary()
    assert "published 1" in counts
    assert phases.startswith("  mean milliseconds a region: queue 1.00, select 2.00, lift 3.00")
    # 27 ms of a worker for two guest instructions, 9 of its processor.
    assert speed == (
        "  37.0 regions a second of a worker's time,"
        " 13500 microseconds a guest instruction (4500 of its processor)"
    )


def _bump(name: str) -> Any:
    return lambda world: setattr(world.control.words, name, getattr(world.control.words, name) + 1)


def _store(world: World) -> None:
    world.set("generation", world.word("generation") + 1)


def _silent_store(world: World) -> None:
    """Bytes change in a line that nobody tracked: no generation tells of it."""
    world.guest.page_bytes(HERE)[3] ^= 1


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (_bump("epoch"), "late_epoch"),
        (_bump("map_generation"), "late_map_generation"),
        (_store, "late_page_generation"),
        (_silent_store, "late_bytes"),
        (lambda world: world.link._code.drop(), "late_segment"),
        (lambda world: world.attach(6), "late_segment"),
        (lambda world: world.set("records", 0), "late_records"),
        (lambda world: world.set("lines", 0), "late_records"),
    ],
)
@pytest.mark.parametrize("when", ["before the reply", "between reply and safe point"])
def test_when_anything_moved_the_reply_is_dropped(world, event, why, when):
    message = world.message()
    if when == "before the reply":
        event(world)
    world.act(session.Publish(message))
    if when != "before the reply":
        event(world)
    world.safe_point.reach()
    assert world.link.counts == {"translated": 1, why: 1}
    assert (world.handler(0), world.handler(2)) == (0, 0)
    assert world.records.region_count == 0
    assert world.word("region_lines") == 0


@pytest.mark.parametrize(
    "old", [{"epoch": 4}, {"map_generation": 1}, {"page_generation": 8}, {"identity": bytes(16)}]
)
def test_a_reply_with_another_stamp_is_dropped(world, old):
    world.deliver(world.message(**old))
    assert world.records.region_count == 0
    assert world.link.counts["published"] == 0


def test_a_wrapped_counter_is_not_the_old_one(world):
    world.set("generation", 2**64 - 1)
    message = world.message(page_generation=2**64 - 1)
    world.set("generation", 0)
    world.deliver(message)
    assert world.link.counts["late_page_generation"] == 1


def test_two_replies_for_one_page_are_judged_each_by_itself(world):
    world.act(session.Publish(world.message()))
    world.act(session.Publish(world.message(id=2, map_generation=1)))
    world.safe_point.reach()
    assert world.link.counts["published"] == 1
    assert world.link.counts["late_map_generation"] == 1


# --- the code segment -------------------------------------------------------------------------


def test_the_segment_is_mapped_for_reading_and_executing(world):
    assert world.code_is_mapped()
    assert world.link.incarnation == 7


def retire(world: Any) -> list[dict[str, Any]]:
    """Retire everything before epoch 6: what the book is told when it has ended."""
    told: list[dict[str, Any]] = []
    retiring = Retiring(lambda event, dropped: told.append(dropped))
    world.link.retire(6, "system_reset", retiring)
    retiring.harts_go_on(Event(0.0, "system_reset", 6, 0.0))
    return told


def test_a_segment_that_comes_after_its_epoch_is_not_mapped(world):
    retire(world)
    world.attach(5)
    assert world.link._code.mapped is None
    world.attach(6)
    assert world.link._code.mapped is not None


def test_retirement_unmaps_it_even_when_nobody_answers(world):
    """The thread is not there: the link is as good as dead."""
    told = retire(world)
    assert not world.code_is_mapped()
    world.link.await_retirement()
    assert told == [{}]
    assert world.mappings() == []
    world.deliver(world.message(epoch=6))
    assert world.link.counts["published"] == 0


def test_retirement_waits_for_the_answer_but_not_for_ever(world, monkeypatch):
    monkeypatch.setattr(translator, "RETIRE_PATIENCE", 0.05)
    asked = threading.Event()
    over = threading.Event()

    def busy() -> None:
        asked.set()
        over.wait(240)

    monkeypatch.setattr(world.link, "_main", busy)
    world.link._thread = threading.Thread(target=world.link._main, daemon=True)
    world.link.start()
    assert asked.wait(240)
    told = retire(world)
    assert not world.code_is_mapped()
    assert told == []
    world.link.await_retirement()
    assert told == [{}]
    over.set()


def test_what_the_translator_dropped_is_told(world, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(world.link, "_main", lambda: over.wait(240))
    world.link._thread = threading.Thread(target=world.link._main, daemon=True)
    world.link.start()
    put = world.link._put
    assert world.link._code.mapped is not None

    def answer(wish: tuple[Any, ...]) -> None:
        put(wish)
        assert wish[:3] == ("retire", 6, "system_reset")
        segment = Segment(world.segment.path, world.segment.size)
        counts = {"queued": 1, "running": 2, "modules": 3, "bytes": 4096, "live_older": 0}
        done = Retired(11, epoch=6, **counts, code=segment, backend="llvm", pid=1)
        world.act(session.RetirementDone(done))
        wish[3].answered(world.link._retired)

    monkeypatch.setattr(world.link, "_put", answer)
    told = retire(world)
    assert told == [{"queued": 1, "running": 2, "modules": 3, "live_older": 0}]
    assert not world.code_is_mapped()
    over.set()


def test_a_segment_that_is_not_sealed_is_refused(world, tmp_path):
    world.link._code.drop()
    path = tmp_path / "code"
    path.write_bytes(bytes(4096))
    world.act(session.AttachCode(Segment(str(path), 4096), 5))
    assert world.link._code.mapped is None
    world.deliver(world.message())
    assert world.link.counts["late_segment"] == 1


# --- what a session wants done -------------------------------------------------------------------


def test_a_full_code_space_and_a_lost_translator_retire_everything_once(world):
    world.act(session.CodeSpaceFull())
    world.act(session.TranslatorDead("no answer", epoch_needed=True))
    assert world.retirements == []
    world.safe_point.reach()
    # The second was asked for in the epoch that the first one ended.
    assert world.retirements == ["code_space_full"]
    world.act(session.TranslatorDead("no answer", epoch_needed=False))
    world.safe_point.reach()
    assert world.retirements == ["code_space_full"]
    assert world.link.counts["lost"] == 2


def test_a_request_that_was_not_heard_is_asked_again(world):
    world.act(session.RequestFailed(HERE, 0, (0, 4), "timed_out"))
    world.act(session.RequestFailed(HERE, 0, (8,), "stale_epoch"))
    assert world.link._backlog.take() == (HERE, [0, 4], 2)
    assert not world.link._backlog
    world.act(session.RequestRefused(Rejected(**_rejected("unsupported"))))
    assert world.link.counts == {
        "failed_timed_out": 1,
        "failed_stale_epoch": 1,
        "refused_unsupported": 1,
    }


def _rejected(reason: str) -> dict[str, Any]:
    stamp = {"epoch": 5, "map_generation": 2, "page": HERE, "page_generation": 9, "state_word": 0}
    return {"session": 11, "id": 1, **stamp, "entries": (0,), "reason": reason, "text": ""}


def test_a_translator_that_does_not_fit_is_an_error_for_the_user(world):
    world.link.incarnation = 0
    with pytest.raises(UserError, match="speaks another version"):
        world.act(session.Incompatible("speaks another version"))


def test_a_stamp_is_the_counters_as_they_are(world):
    stamp = world.link._asker._stamp(HERE)
    assert (stamp.epoch, stamp.map_generation, stamp.page_generation) == (5, 2, 9)
    assert (stamp.page, stamp.state_word) == (HERE, 0)
    assert World(icount=3).link._asker._stamp(HERE).state_word == 1  # counted time: exact code


def test_an_error_in_the_thread_stops_the_machine_and_frees_who_waits(world, monkeypatch):
    def wrong() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(world.link, "_serve", wrong)
    quiet = threading.Event()
    world.link._quiet.append(quiet)
    world.link._main()
    assert [str(e) for e in world.failures] == ["a bug"]
    assert quiet.is_set()


# --- what is asked for ------------------------------------------------------------------------


def test_the_hottest_page_is_asked_for_first():
    backlog = Backlog()
    assert not backlog
    backlog.add({1: [5], 2: [7, 9]})
    backlog.add({1: [5, 3], 3: []})
    assert len(backlog) == 3
    assert backlog.take() == (1, [3, 5], 2 + AGAIN)
    assert backlog.take() == (2, [7, 9], 2)
    backlog.clear()
    assert not backlog


def test_wishes_from_before_the_thread_is_ready_are_kept(world):
    world.link.want({})
    world.link.want({HERE: [0]})
    assert world.link._early == [("want", {HERE: [0]})]


def test_slots_that_a_region_covers_already_are_not_asked_for(world):
    asked: list[Any] = []

    def request(stamp: Any, slots: list[int], heat: int, *advice: Any) -> list[Any]:
        asked.append((stamp.page, slots, heat, *advice))
        return []

    world.link._session = SimpleNamespace(
        state="attached",
        outstanding=0,
        request=request,
        is_asked=lambda _: False,
        asks_about=lambda _: False,
        asks_of_old=lambda *_: False,
    )
    world.records.publish(HERE, 1, [(0, 0x7000_0000)])
    world.link._backlog.add({HERE: [0, 4], 5: [1]})
    world.link._feed()
    seen = world.records.seen_slots(HERE)
    assert seen[0] & 1, "the region's record"
    assert asked == [(HERE, [4], 2, 0, (0,), seen), (5, [1], 1, 0, (), b"")]


def test_regions_of_one_page_that_are_found_hot_are_asked_for_as_one_some_times(world):
    asked: list[Any] = []

    def request(stamp: Any, slots: tuple[int, ...], heat: int, level: int, *_: Any) -> list[Any]:
        asked.append((stamp.page, slots, level))
        return []

    world.link._session = SimpleNamespace(
        state="attached",
        outstanding=0,
        request=request,
        is_asked=lambda _: False,
        asks_about=lambda _: False,
        asks_of_old=lambda *_: False,
    )
    world.records.publish(HERE, 1, [(0, 0x7000_0000)])
    world.link._backlog.add({HERE: [0]})
    world.link._feed()
    assert asked == [], "it is one"
    world.records.publish(HERE, 1, [(4, 0x7000_0100)])
    for _ in range(2 * MOST_MERGES):
        world.link._backlog.add({HERE: [4]})
        world.link._feed()
    assert asked == [(HERE, (0, 4), 1)] * MOST_MERGES


def _asking(asked: list[Any], withdrawn: list[int]) -> Any:
    """A session that two more requests may be made of, and that keeps what was asked."""

    class Session:
        state = "attached"
        outstanding = asking.WINDOW - 2

        def request(self, stamp: Any, slots: list[int], heat: int, *advice: Any) -> list[Any]:
            asked.append((stamp.page, slots, heat))
            self.outstanding += 1
            return []

        def is_asked(self, number: int) -> bool:
            return False

        def asks_about(self, page: int) -> bool:
            return any(page == earlier for earlier, _, _ in asked)

        def asks_of_old(self, page: int, _stamp: Any) -> bool:
            return False

        def cancel_page(self, page: int) -> list[Any]:
            withdrawn.append(page)
            self.outstanding -= 1
            return [session.RequestFailed(page, 0, (0,), "superseded")]

    return Session()


def test_no_more_than_the_window_is_under_way(world):
    asked: list[Any] = []
    world.link._session = _asking(asked, [])
    for page in range(6):
        world.link._backlog.add({page: list(range(page + 1))})
    world.link._feed()
    assert asked[:2] == [(5, [0, 1, 2, 3, 4, 5], 6), (4, [0, 1, 2, 3, 4], 5)]
    assert [heat for _, _, heat in asked[2:]] == [0] * 4, "what only the store is to answer"
    assert len(world.link._backlog) == 4


def test_what_the_store_knows_does_not_wait_for_what_it_does_not_know(world):
    asked: list[Any] = []
    withdrawn: list[int] = []
    world.link._session = _asking(asked, withdrawn)
    for page in range(6):
        world.link._backlog.add({page: list(range(page + 1))})
    world.link._feed()
    assert [page for page, _, _ in asked] == [5, 4, 3, 2, 1, 0]
    # Page 2 is answered from the store: so page 3, asked for earlier, is not there.
    world.act(session.Publish(world.message(page=2, timings=Timings(*[0] * 9)), ()))
    assert withdrawn == [3]
    assert len(world.link._backlog) == 3, "without page 2"
    # A request with heat is done: the hottest that is left is next, be it probed.
    world.link._session.outstanding = asking.WINDOW - 1 + 2
    world.link._feed()
    assert asked[6:] == [(3, [0, 1, 2, 3], 4)]
    world.link._session.outstanding = asking.WINDOW - 1 + 2
    world.link._feed()
    assert withdrawn == [3, 1], "its probe, before it is asked for with its heat"
    assert asked[7:] == [(1, [0, 1], 2)]
    assert world.link.counts == {"translated": 1}, "nothing failed"


def test_an_empty_store_is_not_asked_for_ever(world):
    asked: list[Any] = []
    world.link._session = _asking(asked, [])
    world.link._session.outstanding = asking.WINDOW
    world.link._session.asks_about = lambda page: False
    for number in range(3 * asking.CREDIT):
        world.link._backlog.add({number % PAGES: [number]})
        world.link._feed()
        for page in range(PAGES):
            world.act(session.RequestFailed(page, 0, (0,), "superseded"))
    assert len(asked) == asking.CREDIT
    assert len(world.link._backlog) == PAGES


def test_what_the_store_knows_is_found_behind_what_it_does_not_know(world, monkeypatch):
    asked: list[Any] = []
    withdrawn: list[int] = []
    now = [0.0]
    monkeypatch.setattr(asking, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(asking, "PROBES", 2)
    world.link._session = _asking(asked, withdrawn)
    world.link._session.asks_about = lambda page: False

    def probed() -> list[int]:
        """Pages that go out, while workers have as much to do as they may."""
        before = len(asked)
        world.link._session.outstanding = asking.WINDOW + len(world.link._asker._probes)
        world.link._feed()
        return [page for page, _, heat in asked[before:] if heat == 0]

    for page in (1, 3, 5, 2):
        world.link._backlog.add({page: [1]})
    assert probed() == [2, 5]
    world.act(session.Publish(world.message(page=2, timings=Timings(*[0] * 9)), ()))
    assert probed() == [3]
    assert probed() == [], "the store may be about to answer"
    now[0] += 10 * asking.UNKNOWN
    assert probed() == [1]
    assert withdrawn == [5]
    assert len(world.link._backlog) == 3, "they are asked for with their heat some time"
