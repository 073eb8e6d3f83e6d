"""The machine's end of its translator: the publish rule, the code segment, what a session wants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cpu_proc import translator
from cpu_proc.retirement import Event, Retiring
from protocol import session
from protocol.errors import UserError
from protocol.messages import Rejected, Retired, Segment
from tests.cpu_proc.translator_world import HERE, OFFSET, World


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


def test_wishes_from_before_the_thread_is_ready_are_kept(world):
    world.link.want({})
    world.link.want({HERE: [0]})
    assert world.link._early == [("want", {HERE: [0]})]
