"""The translator's side of its sessions, event by event."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from protocol.messages import (
    Attach,
    Attached,
    Bye,
    Cancel,
    Engine,
    EngineReady,
    Entry,
    Error,
    ErrorName,
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
    Abandon,
    BuildEngine,
    Discard,
    Dropped,
    ForgetOlder,
    ForgetSession,
    Job,
    MapMachine,
    PrepareBackend,
    Reply,
    SetTimer,
)
from protocol.session_requests import Jobs
from protocol.session_translator import Region, Service, TranslatorSessions

SERVICE = Service(
    77, 200, "layout", "isa", ("x86_64",), ("llvm", "reference"), max_sessions=2, max_queue=3
)
HELLO = Hello(1, "layout", "isa", "x86_64", ("avx2", "sha"), "", 100)
RAM = Segment("/proc/100/fd/3", 0x1000000)
CTRL = Segment("/proc/100/fd/4", 4096)
CODE = Segment("/proc/200/fd/9", 0x10000)
NEXT = Segment("/proc/200/fd/10", 0x10000)
TIMINGS = Timings(1, 2, 3, 4, 5, 6, 7, 8, 9)
REGION = Region(bytes(16), 64, 128, (Entry(4, 64),), 1, (Span(8, 4),), 1, TIMINGS)
A, B = b"peer a", b"peer b"


def welcomed(sessions: TranslatorSessions, number: int = 1, peer: bytes = A) -> None:
    hello = dataclasses.replace(HELLO, session=number)
    (reply,) = sessions.receive(peer, hello)
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, Welcome)


def attach(number: int = 1, epoch: int = 5) -> Attach:
    return Attach(number, epoch, RAM, 0x80000000, CTRL, 100)


def attached(sessions: TranslatorSessions, number: int = 1, peer: bytes = A) -> None:
    welcomed(sessions, number, peer)
    asked = attach(number)
    assert sessions.receive(peer, asked) == [MapMachine(number, asked, "x86_64", ("avx2", "sha"))]
    reply = Reply(peer, Attached(number, 5, CODE, "llvm", 200))
    assert sessions.attached(number, 5, CODE) == [reply]


def translate(id: int, epoch: int = 5, heat: int = 1, number: int = 1) -> Translate:
    return Translate(number, id, epoch, 1, 3, 9, 2, (4,), heat)


def take(sessions: TranslatorSessions) -> Job:
    job = sessions.take()
    assert job is not None
    return job


def start() -> TranslatorSessions:
    sessions = TranslatorSessions(SERVICE)
    assert sessions.start() == [SetTimer("sweep", 10.0)]
    attached(sessions)
    return sessions


def test_hello_is_welcomed_with_what_both_know():
    sessions = TranslatorSessions(dataclasses.replace(SERVICE, known_features=frozenset({"avx2"})))
    (reply,) = sessions.receive(A, dataclasses.replace(HELLO, backend="reference"))
    welcome = Welcome(1, "layout", "isa", ("avx2",), ("reference", "llvm"), 77, 200)
    assert reply == Reply(A, welcome)
    assert sessions.receive(A, dataclasses.replace(HELLO, backend="reference")) == [reply]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"layout_hash": "other"}, "layout_mismatch"),
        ({"isa_hash": "other"}, "isa_mismatch"),
        ({"host": "riscv64"}, "unsupported_host"),
        ({"backend": "other"}, "unknown_backend"),
    ],
)
def test_a_machine_that_cannot_be_served_is_told_why(changes: dict[str, Any], name: str):
    sessions = TranslatorSessions(SERVICE)
    (reply,) = sessions.receive(A, dataclasses.replace(HELLO, **changes))
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, Error)
    assert reply.message.name == name
    assert reply.message.text
    assert isinstance(error(sessions.receive(A, attach())), Error)


def error(actions: list[Any]) -> Error:
    (reply,) = actions
    assert isinstance(reply.message, Error)
    return reply.message


def test_a_session_belongs_to_its_peer():
    sessions = start()
    assert error(sessions.receive(B, HELLO)).name == "session_in_use"
    asking: list[Message] = [translate(1), Retire(1, 6, "request"), Ping(1, 1), Swap(1, "llvm")]
    for message in asking:
        assert error(sessions.receive(B, message)).name == "unknown_session"
    telling: list[Message] = [Bye(1, ""), Cancel(1, 1)]
    for message in telling:
        assert isinstance(sessions.receive(B, message)[0], Dropped)
    assert sessions.take() is None


def test_there_is_room_for_so_many_sessions_only():
    sessions = start()
    attached(sessions, 2, B)
    third = dataclasses.replace(HELLO, session=3)
    assert error(sessions.receive(b"c", third)).name == "too_many_sessions"
    assert sessions.peer_lost(B) == [ForgetSession(2, "peer_lost")]
    welcomed(sessions, 3, b"c")


def test_a_new_hello_of_a_peer_replaces_its_session():
    sessions = start()
    sessions.receive(A, translate(1))
    job = take(sessions)
    actions = sessions.receive(A, dataclasses.replace(HELLO, session=2))
    assert actions[:2] == [Abandon(job), ForgetSession(1, "replaced")]
    assert error(sessions.receive(A, Ping(1, 1))).name == "unknown_session"


def test_a_translation_is_made_and_answered():
    sessions = start()
    assert sessions.receive(A, translate(1)) == []
    job = take(sessions)
    assert job == Job(1, translate(1), "llvm")
    assert sessions.is_live(job)
    (reply,) = sessions.translated(job, REGION)
    expected = Translated(
        1, 1, 5, 1, 3, 9, 2, bytes(16), 64, 128, REGION.entries, 1, REGION.spans, 1, REGION.timings
    )
    assert reply == Reply(A, expected)
    assert not sessions.is_live(job)
    assert sessions.translated(job, REGION) == [Discard(job)]


def test_the_hottest_comes_first_and_sessions_take_turns():
    sessions = start()
    attached(sessions, 2, B)
    for id, heat in ((1, 5), (2, 9), (3, 9)):
        sessions.receive(A, translate(id, heat=heat))
    sessions.receive(B, translate(1, number=2))
    order = [(job.session, job.request.id) for job in iter(sessions.take, None)]
    assert order == [(1, 2), (2, 1), (1, 3), (1, 1)]


def test_a_request_that_comes_twice_is_served_once():
    sessions = start()
    sessions.receive(A, translate(1))
    assert sessions.receive(A, translate(1)) == [Dropped("TRANSLATE", 1, "duplicate")]
    sessions.translated(take(sessions), REGION)
    assert sessions.receive(A, translate(1)) == [Dropped("TRANSLATE", 1, "duplicate")]
    assert sessions.take() is None


def rejection(actions: list[Any]) -> str:
    (reply,) = actions
    assert isinstance(reply.message, Rejected)
    assert reply.message.stamp == translate(1, epoch=reply.message.epoch).stamp
    assert reply.message.entries == (4,)
    return reply.message.reason


def test_requests_that_cannot_be_served_are_rejected():
    sessions = start()
    assert rejection(sessions.receive(A, translate(1, epoch=4))) == "stale_epoch"
    assert rejection(sessions.receive(A, translate(2, epoch=6))) == "stale_epoch"
    for id in (3, 4, 5):
        assert sessions.receive(A, translate(id)) == []
    assert rejection(sessions.receive(A, translate(6))) == "queue_full"
    job = take(sessions)
    assert rejection(sessions.rejected(job, "unsupported", "why")) == "unsupported"
    assert sessions.rejected(job, "unsupported") == [Discard(job)]


def test_a_job_that_kills_its_worker_is_tried_once_more_only():
    sessions = start()
    sessions.receive(A, translate(1))
    first = take(sessions)
    assert sessions.crashed(first) == []
    assert not sessions.is_live(first)
    assert sessions.translated(first, REGION) == [Discard(first)]
    second = take(sessions)
    assert second.attempts == 1
    assert rejection(sessions.crashed(second)) == "compiler_crashed"
    assert sessions.crashed(second) == [Discard(second)]
    assert sessions.take() is None


def test_cancelled_requests_are_not_made():
    sessions = start()
    for id in (1, 2, 3):
        sessions.receive(A, translate(id))
    running = take(sessions)
    assert sessions.receive(A, Cancel(1, 2)) == []
    assert sessions.receive(A, Cancel(1, 1)) == [Abandon(running)]
    assert sessions.receive(A, Cancel(1, 9)) == [Dropped("CANCEL", 9, "not_outstanding")]
    assert sessions.translated(running, REGION) == [Discard(running)]
    assert take(sessions).request.id == 3
    assert sessions.take() is None


def test_a_flood_of_requests_and_cancellations_stays_bounded():
    jobs = Jobs()
    for id in range(10_000):
        jobs.add(Job(1, translate(id), "llvm"))
        if id >= 2:
            jobs.cancel(id - 2)
    assert len(jobs._heap) < 200
    assert [job.request.id for job in iter(jobs.take, None)] == [9998, 9999]


def test_retirement_empties_everything_and_counts_it():
    sessions = start()
    for id in (1, 2, 3):
        sessions.receive(A, translate(id))
    done, running = take(sessions), take(sessions)
    sessions.translated(done, REGION)
    actions = sessions.receive(A, Retire(1, 6, "system_reset"))
    assert actions == [Abandon(running), ForgetOlder(1, 6, "system_reset")]
    assert sessions.take() is None
    assert sessions.live_older(1) == 0
    assert sessions.translated(running, REGION) == [Discard(running)]
    assert rejection(sessions.receive(A, translate(4, epoch=5))) == "stale_epoch"
    assert sessions.receive(A, translate(5, epoch=6)) == []
    assert sessions.take() is None  # there is no code segment to put it into yet
    reply = Reply(A, Retired(1, 6, 1, 1, 1, 128, 0, NEXT, "llvm", 200))
    assert sessions.retired(1, 6, 1, 128, 0, NEXT) == [reply]
    assert take(sessions).request.id == 5
    assert sessions.receive(A, Retire(1, 6, "system_reset")) == [reply]
    assert sessions.receive(A, Retire(1, 5, "system_reset")) == [
        Dropped("RETIRE", 0, "stale_epoch")
    ]


def test_what_the_service_still_holds_is_told():
    sessions = start()
    sessions.receive(A, Retire(1, 6, "request"))
    (reply,) = sessions.retired(1, 6, 0, 0, 3, NEXT)
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, Retired)
    assert reply.message.live_older == 3


def test_only_the_latest_retirement_is_answered():
    sessions = start()
    sessions.receive(A, translate(1))
    sessions.receive(A, Retire(1, 6, "request"))
    sessions.receive(A, translate(2, epoch=6))
    sessions.receive(A, Retire(1, 7, "request"))
    assert sessions.retired(1, 6, 0, 0, 0, NEXT) == []
    (reply,) = sessions.retired(1, 7, 0, 0, 0, NEXT)
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, Retired)
    assert (reply.message.epoch, reply.message.queued) == (7, 2)


def test_a_retirement_while_the_segments_are_mapped_waits_for_that():
    sessions = TranslatorSessions(SERVICE)
    welcomed(sessions)
    sessions.receive(A, attach())
    assert sessions.receive(A, attach()) == [Dropped("ATTACH", 0, "duplicate")]
    assert sessions.receive(A, Retire(1, 6, "power_on")) == []
    assert sessions.attached(1, 5, CODE) == [ForgetOlder(1, 6, "power_on")]
    reply = Reply(A, Retired(1, 6, 0, 0, 0, 0, 0, NEXT, "llvm", 200))
    assert sessions.retired(1, 6, 0, 0, 0, NEXT) == [reply]


def test_a_retirement_through_a_wrap_of_the_epoch():
    sessions = TranslatorSessions(SERVICE)
    welcomed(sessions)
    sessions.receive(A, attach(epoch=2**64 - 1))
    sessions.attached(1, 2**64 - 1, CODE)
    assert sessions.receive(A, Retire(1, 0, "counter_wrap")) == [ForgetOlder(1, 0, "counter_wrap")]


def test_an_attach_that_comes_twice_is_answered_twice():
    sessions = start()
    reply = Reply(A, Attached(1, 5, CODE, "llvm", 200))
    assert sessions.receive(A, attach()) == [reply]
    assert sessions.attached(1, 5, CODE) == []
    assert sessions.receive(A, attach(epoch=6)) == [Dropped("ATTACH", 0, "duplicate")]


def test_what_comes_before_its_time_is_refused():
    sessions = TranslatorSessions(SERVICE)
    welcomed(sessions)
    assert error(sessions.receive(A, translate(1))).id == 1
    assert error(sessions.receive(A, Retire(1, 6, "request"))).name == "not_attached"


@pytest.mark.parametrize("what", ["attach_failed", "retire_failed"])
def test_a_service_that_cannot_go_on_says_so_and_ends_the_session(what: ErrorName):
    sessions = start()
    fail = getattr(sessions, what)
    reply, end = fail(1, "out of memory")
    assert reply == Reply(A, Error(1, what, 0, "out of memory"))
    assert end == ForgetSession(1, what)
    assert fail(1, "again") == []


def test_an_engine_is_built_once_for_all_who_wait():
    sessions = start()
    attached(sessions, 2, B)
    assert sessions.receive(A, Engine(1, "key")) == [BuildEngine("key", 1)]
    assert sessions.receive(B, Engine(2, "key")) == []
    assert sessions.receive(A, Engine(1, "key")) == [Dropped("ENGINE", 0, "duplicate")]
    assert error(sessions.receive(A, Engine(1, "other"))).name == "engine_failed"
    assert sessions.engine_ready("key", "/cache/key") == [
        Reply(A, EngineReady(1, "key", "/cache/key")),
        Reply(B, EngineReady(2, "key", "/cache/key")),
    ]
    assert sessions.engine_ready("key", "/cache/key") == []
    sessions.receive(A, Engine(1, "key"))
    sessions.peer_lost(B)
    assert sessions.engine_failed("key", "no") == [Reply(A, Error(1, "engine_failed", 0, "no"))]


def test_a_backend_comes_into_force_with_the_next_epoch():
    sessions = start()
    assert sessions.receive(A, Swap(1, "reference")) == [PrepareBackend(1, "reference")]
    assert sessions.backend_ready(1, "reference") == [Reply(A, Swapped(1, "reference"))]
    sessions.receive(A, translate(1))
    assert take(sessions).backend == "llvm"
    sessions.receive(A, Retire(1, 6, "backend_swap"))
    (reply,) = sessions.retired(1, 6, 0, 0, 0, NEXT)
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, Retired)
    assert reply.message.backend == "reference"
    sessions.receive(A, translate(2, epoch=6))
    assert take(sessions).backend == "reference"


def test_an_unknown_backend_is_refused():
    sessions = start()
    refusal = error(sessions.receive(A, Swap(1, "other")))
    assert (refusal.name, "llvm, reference" in refusal.text) == ("unknown_backend", True)
    assert error(sessions.backend_failed(1, "reference", "no")).text == "backend reference: no"


def test_options_of_a_backend_are_judged_by_the_service():
    def complaint(backend: str) -> str:
        return "level 9 is no level" if "level=9" in backend else ""

    sessions = TranslatorSessions(dataclasses.replace(SERVICE, complaint=complaint))
    hello = dataclasses.replace(HELLO, backend="llvm,level=9")
    refused = error(sessions.receive(A, hello))
    assert (refused.name, refused.text) == ("unknown_backend", "level 9 is no level")
    (reply,) = sessions.receive(A, dataclasses.replace(HELLO, backend="llvm,level=1"))
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, Welcome)
    assert reply.message.backends == ("llvm", "reference")
    asked = sessions.receive(A, Swap(1, "llvm,level=2"))
    assert asked == [PrepareBackend(1, "llvm,level=2")]
    assert error(sessions.receive(A, Swap(1, "llvm,level=9"))).text == "level 9 is no level"


def test_a_silent_machine_is_forgotten_a_pinging_one_is_not():
    sessions = start()
    attached(sessions, 2, B)
    for token in range(6):
        assert sessions.timer("sweep") == [SetTimer("sweep", 10.0)]
        assert sessions.receive(B, Ping(2, token)) == [Reply(B, Pong(2, token, 77))]
    _, bye, end = sessions.timer("sweep")
    assert isinstance(bye, Reply)
    assert isinstance(bye.message, Bye)
    assert end == ForgetSession(1, "silent")


def test_counts_of_a_session_and_of_all():
    sessions = start()
    attached(sessions, 2, B)
    for id in (1, 2):
        sessions.receive(A, translate(id))
    sessions.receive(B, translate(1, number=2))
    sessions.translated(take(sessions), REGION)
    sessions.extra["workers"] = 4

    def counts(number: int) -> dict[str, int]:
        (reply,) = sessions.receive(A, Stats(number))
        assert isinstance(reply, Reply)
        assert isinstance(reply.message, StatsReply)
        return dict(reply.message.counters)

    everything, mine = counts(0), counts(1)
    assert (everything["sessions"], everything["queued"], everything["workers"]) == (2, 2, 4)
    assert (mine["queued"], mine["modules"], mine["code_bytes"]) == (1, 1, 128)
    assert "workers" not in mine
    assert (mine["instructions"], mine["queue_us"], mine["codegen_us"], mine["cpu_us"]) == (
        REGION.instructions,
        TIMINGS.queue,
        TIMINGS.codegen,
        TIMINGS.cpu,
    )
    sessions.receive(A, Bye(1, "power off"))
    after = dict(sessions.counters())
    assert (after["sessions"], after["translated"], after["codegen_us"]) == (1, 1, TIMINGS.codegen)


def test_anybody_may_ping():
    assert TranslatorSessions(SERVICE).receive(A, Ping(0, 9)) == [Reply(A, Pong(0, 9, 77))]


def test_goodbyes():
    sessions = start()
    attached(sessions, 2, B)
    assert sessions.receive(A, Bye(1, "power off")) == [ForgetSession(1, "power off")]
    assert sessions.close("upgrade") == [
        Reply(B, Bye(2, "upgrade")),
        ForgetSession(2, "closed"),
    ]
    assert sessions.take() is None


@pytest.mark.parametrize("message", [Pong(1, 1, 1), Error(1, "malformed", 0, "")])
def test_messages_of_the_wrong_direction_are_dropped(message: Message):
    (dropped,) = start().receive(A, message)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "wrong_direction"
