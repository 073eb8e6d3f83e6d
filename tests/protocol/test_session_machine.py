"""The machine's side of a session, event by event."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from protocol.codec import CodecError
from protocol.generations import Stamp
from protocol.messages import (
    Attach,
    Attached,
    Bye,
    Cancel,
    Engine,
    EngineReady,
    Entry,
    Error,
    Hello,
    Message,
    Ping,
    Pong,
    Rejected,
    Retire,
    Retired,
    Segment,
    Span,
    Stats,
    StatsReply,
    Swap,
    Swapped,
    Timings,
    Translate,
    Translated,
    Welcome,
)
from protocol.session import (
    AttachCode,
    CodeSpaceFull,
    DropCode,
    Dropped,
    EngineFailed,
    EngineLoaded,
    Incompatible,
    MachineAction,
    Publish,
    Reconnect,
    RequestFailed,
    RequestRefused,
    RetirementDone,
    Send,
    SetTimer,
    StatsArrived,
    SwapFailed,
    SwapReady,
    TranslatorDead,
)
from protocol.session_machine import MachineSession
from tests.protocol.world import DEADLINES, OFFER

CODE = Segment("/proc/200/fd/9", 0x10000)
WELCOME = Welcome(1, "layout", "isa", ("avx2",), ("llvm", "reference"), 77, 200)
STAMP = Stamp(epoch=5, map_generation=1, page=3, page_generation=9, state_word=2)


def sent(actions: list[MachineAction]) -> list[Message]:
    return [action.message for action in actions if isinstance(action, Send)]


def of(kind: Any, actions: list[MachineAction]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def may_run(machine: MachineSession) -> bool:
    """Asked afresh each time (a type checker takes an attribute for constant)."""
    return machine.settled


def greeting() -> MachineSession:
    machine = MachineSession(OFFER, 5, DEADLINES, window=2)
    (hello,) = sent(machine.connect(1))
    assert hello == Hello(1, "layout", "isa", "x86_64", ("avx2",), "", 100)
    return machine


def attached() -> MachineSession:
    machine = greeting()
    (attach,) = sent(machine.receive(WELCOME))
    assert attach == Attach(1, 5, OFFER.ram, OFFER.ram_base, OFFER.ctrl, 100)
    actions = machine.receive(Attached(1, 5, CODE, "llvm", 200))
    assert of(AttachCode, actions) == [AttachCode(CODE, 5)]
    assert may_run(machine)
    return machine


def retired(epoch: int, live_older: int = 0) -> Retired:
    return Retired(1, epoch, 1, 0, 2, 128, live_older, CODE, "llvm", 200)


def translated(asked: Translate, **changes: Any) -> Translated:
    whole = Translated(
        asked.session,
        asked.id,
        asked.epoch,
        asked.map_generation,
        asked.page,
        asked.page_generation,
        asked.state_word,
        bytes(16),
        64,
        64,
        (Entry(asked.entries[0], 64),),
        MASK_ALL,
        (Span(0, 4096),),
        1,
        Timings(0, 0, 0, 0, 0, 0, 0, 0, 0),
    )
    return dataclasses.replace(whole, **changes)


MASK_ALL = 2**64 - 1


def asked(
    machine: MachineSession, stamp: Stamp = STAMP, slots: tuple[int, ...] = (4,)
) -> Translate:
    (message,) = sent(machine.request(stamp, slots, 10))
    assert isinstance(message, Translate)
    return message


def test_a_translation_asked_for_is_published_once():
    machine = attached()
    request = asked(machine, slots=(8, 4, 8))
    assert request == Translate(1, 1, 5, 1, 3, 9, 2, (4, 8), 10)
    answer = translated(request)
    assert machine.receive(answer) == [Publish(answer)]
    assert machine.receive(answer) == [Dropped("TRANSLATED", 1, "not_outstanding")]
    assert machine.outstanding == 0


def test_what_is_asked_for_already_is_not_asked_again():
    machine = attached()
    asked(machine, slots=(4, 8))
    assert machine.request(STAMP, [4, 8], 11) == []
    assert asked(machine, slots=(4, 6)).entries == (6,)
    other_word = dataclasses.replace(STAMP, state_word=3)
    assert machine.request(other_word, [4], 1) == [RequestFailed(3, 3, (4,), "window_full")]


def test_a_request_under_moved_generations_replaces_the_earlier_one():
    machine = attached()
    asked(machine, slots=(4, 8))
    newer = dataclasses.replace(STAMP, page_generation=10)
    actions = machine.request(newer, [4], 10)
    assert sent(actions) == [Cancel(1, 1), Translate(1, 2, 5, 1, 3, 10, 2, (4,), 10)]
    assert of(RequestFailed, actions) == [RequestFailed(3, 2, (8,), "superseded")]
    late = translated(Translate(1, 1, 5, 1, 3, 9, 2, (4, 8), 10))
    assert machine.receive(late) == [Dropped("TRANSLATED", 1, "not_outstanding")]


def test_requests_about_a_page_that_moved_are_cancelled():
    machine = attached()
    asked(machine)
    asked(machine, dataclasses.replace(STAMP, page=4))
    actions = machine.cancel_page(3)
    assert actions == [Send(Cancel(1, 1)), RequestFailed(3, 2, (4,), "superseded")]
    assert machine.cancel_page(3) == []


def test_requests_fail_where_they_cannot_be_made():
    machine = greeting()
    assert machine.request(STAMP, [4], 1) == [RequestFailed(3, 2, (4,), "not_attached")]
    machine = attached()
    old = dataclasses.replace(STAMP, epoch=4)
    assert machine.request(old, [4], 1) == [RequestFailed(3, 2, (4,), "stale_epoch")]
    request = asked(machine)
    assert machine.send_failed(request) == [RequestFailed(3, 2, (4,), "send_queue_full")]
    assert machine.send_failed(request) == []
    assert asked(machine).id == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epoch": 6}, "stale_epoch"),
        ({"session": 2}, "other_session"),
        ({"id": 2}, "not_outstanding"),
        ({"page_generation": 10}, "another_stamp"),
        ({"map_generation": 2}, "another_stamp"),
        ({"page": 4}, "another_stamp"),
        ({"state_word": 3}, "another_stamp"),
        ({"code_offset": 0xFFC0, "code_size": 65}, "outside_of_code_segment"),
    ],
)
def test_an_answer_that_does_not_fit_is_dropped(changes: dict[str, int], reason: str):
    machine = attached()
    actions = machine.receive(translated(asked(machine), **changes))
    assert of(Dropped, actions) == [Dropped("TRANSLATED", changes.get("id", 1), reason)]
    assert not of(Publish, actions)
    assert machine.outstanding == (not of(RequestFailed, actions))


def test_a_refusal_is_told_and_a_full_code_space_once_an_epoch():
    machine = attached()
    full = []
    for page in (1, 2):
        request = asked(machine, dataclasses.replace(STAMP, page=page))
        refusal = Rejected(1, request.id, 5, 1, page, 9, 2, (4,), "code_space_full", "")
        actions = machine.receive(refusal)
        assert of(RequestRefused, actions) == [RequestRefused(refusal)]
        full += of(CodeSpaceFull, actions)
    assert full == [CodeSpaceFull()]


def test_an_error_about_a_request_fails_it():
    machine = attached()
    request = asked(machine)
    error = Error(1, "not_attached", request.id, "")
    assert machine.receive(error) == [RequestFailed(3, 2, (4,), "not_attached")]
    assert machine.receive(error) == [Dropped("ERROR", 1, "not_outstanding")]


def test_retirement_drops_everything_and_waits_for_its_answer():
    machine = attached()
    request = asked(machine)
    actions = machine.retire(6, "system_reset")
    assert actions == [
        Send(Retire(1, 6, "system_reset")),
        SetTimer("retire", DEADLINES.retire),
        DropCode(),
    ]
    assert not may_run(machine)
    assert machine.outstanding == 0
    assert machine.receive(translated(request)) == [Dropped("TRANSLATED", 1, "stale_epoch")]
    stamp = dataclasses.replace(STAMP, epoch=6)
    assert machine.request(stamp, [4], 1) == [RequestFailed(3, 2, (4,), "not_attached")]
    assert machine.receive(retired(5)) == [Dropped("RETIRED", 0, "stale_epoch")]
    actions = machine.receive(retired(6))
    assert of(AttachCode, actions) == [AttachCode(CODE, 6)]
    assert of(RetirementDone, actions) == [RetirementDone(retired(6))]
    assert may_run(machine)
    assert machine.receive(retired(6)) == [Dropped("RETIRED", 0, "duplicate")]
    assert asked(machine, stamp).id == 2


def test_a_retirement_upon_a_retirement_waits_for_the_second_answer():
    machine = attached()
    machine.retire(6, "system_reset")
    assert DropCode() not in machine.retire(7, "overflow")
    assert machine.receive(retired(6)) == [Dropped("RETIRED", 0, "stale_epoch")]
    assert not may_run(machine)
    machine.receive(retired(7))
    assert may_run(machine)
    with pytest.raises(ValueError, match="same epoch"):
        machine.retire(7, "overflow")


def test_a_retirement_before_attached_makes_that_answer_stale():
    machine = greeting()
    machine.receive(WELCOME)
    assert sent(machine.retire(6, "power_on")) == [Retire(1, 6, "power_on")]
    stale = Attached(1, 5, CODE, "llvm", 200)
    assert machine.receive(stale) == [Dropped("ATTACHED", 0, "stale_epoch")]
    assert of(AttachCode, machine.receive(retired(6))) == [AttachCode(CODE, 6)]


def test_a_retirement_without_a_translator_needs_no_answer():
    machine = greeting()
    assert machine.retire(6, "power_on") == []
    assert may_run(machine)
    (attach,) = sent(machine.receive(WELCOME))
    assert isinstance(attach, Attach)
    assert attach.epoch == 6


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(None, "retire_timed_out"), (retired(6, live_older=1), "retired_with_1_older_alive")],
)
def test_a_translator_that_does_not_retire_is_dead(answer: Retired | None, reason: str):
    machine = attached()
    machine.retire(6, "system_reset")
    actions = machine.timer("retire") if answer is None else machine.receive(answer)
    assert of(TranslatorDead, actions) == [TranslatorDead(reason, epoch_needed=True)]
    assert not of(AttachCode, actions)
    assert may_run(machine)


def test_a_new_session_needs_a_new_epoch():
    machine = attached()
    actions = machine.disconnected()
    assert of(TranslatorDead, actions) == [TranslatorDead("connection_lost", epoch_needed=True)]
    assert SetTimer("reconnect", DEADLINES.reconnect) in actions
    assert not of(DropCode, actions)  # harts may be running in it
    assert not of(Reconnect, machine.timer("reconnect"))
    with pytest.raises(ValueError, match="epoch"):
        machine.connect(2)
    assert machine.retire(6, "translator_restart") == [DropCode()]
    assert machine.timer("reconnect") == [Reconnect()]
    machine.connect(2)
    assert machine.receive(WELCOME) == [Dropped("WELCOME", 0, "other_session")]
    (attach,) = sent(machine.receive(dataclasses.replace(WELCOME, session=2)))
    assert isinstance(attach, Attach)
    assert attach.epoch == 6


def test_an_absent_translator_costs_no_epoch_and_is_tried_at_growing_pauses():
    machine = greeting()
    pauses = []
    for session in range(2, 12):
        actions = machine.timer("handshake")
        assert of(TranslatorDead, actions) == [TranslatorDead("handshake_timed_out", False)]
        pauses += [timer.seconds for timer in of(SetTimer, actions)]
        assert machine.timer("reconnect") == [Reconnect()]
        machine.connect(session)
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert pauses[-1] == DEADLINES.reconnect_max


def test_heartbeats_keep_a_translator_alive_or_find_it_dead():
    machine = attached()
    for beat in range(1, 10):
        assert sent(machine.timer("heartbeat")) == [Ping(1, beat)]
        assert machine.receive(Pong(1, beat, 77)) == []
    for _ in range(DEADLINES.missed):
        assert not of(TranslatorDead, machine.timer("heartbeat"))
    assert of(TranslatorDead, machine.timer("heartbeat")) == [TranslatorDead("no_answer", True)]


def test_a_request_without_an_answer_is_given_up():
    machine = attached()
    request = asked(machine)
    for beat in range(1, DEADLINES.request + 1):
        assert not of(RequestFailed, machine.timer("heartbeat"))
        machine.receive(Pong(1, beat, 77))
    actions = machine.timer("heartbeat")
    assert Cancel(1, request.id) in sent(actions)
    assert of(RequestFailed, actions) == [RequestFailed(3, 2, (4,), "timed_out")]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Bye(1, "upgrade"), "said_goodbye: upgrade"),
        (Pong(1, 1, 78), "translator_restarted"),
        (Error(1, "unknown_session", 0, ""), "unknown_session"),
        (Error(0, "malformed", 0, ""), "malformed"),
    ],
)
def test_what_ends_a_session(message: Message, reason: str):
    machine = attached()
    actions = machine.receive(message)
    assert of(TranslatorDead, actions) == [TranslatorDead(reason, epoch_needed=True)]


def test_a_segment_of_another_process_is_not_mapped():
    machine = greeting()
    machine.receive(WELCOME)
    actions = machine.receive(Attached(1, 5, Segment("/proc/1/fd/9", 4096), "llvm", 1))
    assert of(TranslatorDead, actions)
    assert not of(AttachCode, actions)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (dataclasses.replace(WELCOME, layout_hash="other"), "has the layout other"),
        (dataclasses.replace(WELCOME, isa_hash="other"), "has the instruction set other"),
        (Error(1, "layout_mismatch", 0, "the machine's layout"), "the machine's layout"),
        (Error(0, "version_mismatch", 0, "version 2"), "version 2"),
        (CodecError("version_mismatch", "version 2"), "version 2"),
    ],
)
def test_a_mismatch_is_final_and_told(message: Message | CodecError, text: str):
    machine = greeting()
    machine.ask_engine("key")
    if isinstance(message, CodecError):
        actions = machine.garbage(message)
    else:
        actions = machine.receive(message)
    (told,) = of(Incompatible, actions)
    assert text in told.text
    assert of(EngineFailed, actions) == [EngineFailed("key", told.text)]
    assert machine.timer("reconnect") == []


def test_garbage_is_dropped():
    assert attached().garbage(CodecError("malformed", "")) == [Dropped("", 0, "malformed")]


def test_the_engine_is_asked_for_until_it_is_there():
    machine = greeting()
    assert machine.ask_engine("key") == [SetTimer("engine", DEADLINES.engine)]
    assert Engine(1, "key") in sent(machine.receive(WELCOME))
    machine.disconnected()
    machine.retire(6, "translator_restart")
    machine.connect(2)
    assert Engine(2, "key") in sent(machine.receive(dataclasses.replace(WELCOME, session=2)))
    actions = machine.receive(EngineReady(2, "key", "/cache/key"))
    assert of(EngineLoaded, actions) == [EngineLoaded("key", "/cache/key")]
    again = machine.receive(EngineReady(2, "key", "/cache/key"))
    assert again == [Dropped("ENGINE_READY", 0, "not_outstanding")]


def test_an_engine_that_cannot_be_had_is_told():
    machine = attached()
    assert sent(machine.ask_engine("key")) == [Engine(1, "key")]
    error = Error(1, "engine_failed", 0, "no room")
    assert of(EngineFailed, machine.receive(error)) == [EngineFailed("key", "no room")]
    machine.ask_engine("key")
    assert of(EngineFailed, machine.timer("engine"))


def test_a_backend_is_swapped_by_an_epoch_after_it_is_ready():
    machine = attached()
    assert sent(machine.swap("reference")) == [Swap(1, "reference")]
    actions = machine.receive(Swapped(1, "reference"))
    assert of(SwapReady, actions) == [SwapReady("reference")]
    machine.retire(6, "backend_swap")
    machine.receive(dataclasses.replace(retired(6), backend="reference"))
    assert machine.backend == "reference"


def test_a_backend_that_cannot_be_had_is_told():
    assert of(SwapFailed, greeting().swap("llvm"))
    machine = attached()
    (failed,) = machine.swap("other")
    assert isinstance(failed, SwapFailed)
    assert "llvm, reference" in failed.text
    for event in (
        lambda: machine.receive(Error(1, "unknown_backend", 0, "gone")),
        lambda: machine.timer("swap"),
        machine.disconnected,
    ):
        machine.swap("reference")
        assert of(SwapFailed, event())


def test_one_swap_at_a_time():
    machine = attached()
    machine.swap("reference")
    (failed,) = machine.swap("llvm,level=1")
    assert isinstance(failed, SwapFailed)
    assert "reference is still under way" in failed.text
    assert of(SwapReady, machine.receive(Swapped(1, "reference")))
    assert sent(machine.swap("llvm,level=1")) == [Swap(1, "llvm,level=1")]
    stray = machine.receive(Swapped(1, "llvm"))
    assert stray == [Dropped("SWAPPED", 0, "not_outstanding")]


def test_the_next_translator_is_asked_for_the_backend_that_was_swapped_to():
    machine = attached()
    machine.swap("reference")
    machine.receive(Swapped(1, "reference"))
    machine.disconnected()
    machine.retire(6, "backend_swap")
    (hello,) = sent(machine.connect(2))
    assert isinstance(hello, Hello)
    assert hello.backend == "reference"


def test_a_swap_that_was_refused_leaves_the_next_hello_as_it_was():
    machine = attached()
    machine.swap("reference")
    machine.receive(Error(1, "unknown_backend", 0, "gone"))
    machine.disconnected()
    machine.retire(6, "translator_restart")
    (hello,) = sent(machine.connect(2))
    assert isinstance(hello, Hello)
    assert hello.backend == ""


def test_without_a_translator_a_swap_is_a_wish_to_the_next_one():
    machine = attached()
    machine.disconnected()
    machine.retire(6, "translator_restart")
    (failed,) = machine.swap("reference")
    assert isinstance(failed, SwapFailed)
    assert "the next one is asked for it" in failed.text
    (hello,) = sent(machine.connect(2))
    assert isinstance(hello, Hello)
    assert hello.backend == "reference"


def test_a_backend_nobody_has_is_told_to_the_user():
    machine = greeting()
    actions = machine.receive(Error(1, "unknown_backend", 0, "use one of llvm"))
    assert of(Incompatible, actions) == [Incompatible("translator: use one of llvm")]
    assert machine.state == "incompatible"


def test_a_translator_of_another_build_is_done_without_until_one_of_ours_is_back():
    machine = attached()
    machine.receive(Bye(1, "SIGTERM"))
    machine.retire(6, "translator_restart")
    for number in (2, 3):
        machine.connect(number)
        actions = machine.receive(Error(number, "layout_mismatch", 0, "two builds"))
        assert of(Incompatible, actions) == [Incompatible("translator: two builds")]
        assert of(TranslatorDead, actions) == []
        assert of(SetTimer, actions)[-1] == SetTimer("reconnect", 5.0)
        assert machine.settled
        assert machine.timer("reconnect") == [Reconnect()]
    machine.connect(4)
    machine.receive(dataclasses.replace(WELCOME, session=4))
    (action, *_) = machine.receive(Attached(4, 6, CODE, "llvm", 200))
    assert isinstance(action, AttachCode)


def test_counts_are_asked_for_and_arrive():
    machine = attached()
    assert machine.ask_stats() == [Send(Stats(1))]
    reply = StatsReply(1, ())
    assert machine.receive(reply) == [StatsArrived(reply)]
    assert greeting().ask_stats() == []


def test_a_closed_machine_says_goodbye_and_hears_no_more():
    machine = attached()
    assert sent(machine.close("power off")) == [Bye(1, "power off")]
    assert machine.receive(Pong(1, 1, 77)) == [Dropped("PONG", 0, "other_session")]
    assert machine.disconnected() == []


def test_messages_of_the_wrong_direction_are_dropped():
    assert attached().receive(Ping(1, 1)) == [Dropped("PING", 0, "wrong_direction")]


def test_a_message_that_cannot_be_queued_ends_the_session():
    machine = attached()
    (retire, *_) = sent(machine.retire(6, "system_reset"))
    actions = machine.send_failed(retire)
    assert of(TranslatorDead, actions) == [TranslatorDead("send_queue_full", epoch_needed=True)]
    assert may_run(machine)


def test_slots_that_an_answer_leaves_out_are_told():
    machine = attached()
    some = translated(asked(machine, slots=(3, 4, 9, 10)), spans=(Span(8, 12),))
    assert machine.receive(some) == [Publish(some, (3, 10))]
    none = translated(asked(machine, slots=(3, 5)), spans=(Span(8, 2),))
    assert machine.receive(none) == [Publish(none)]  # asked again, it would be answered the same
