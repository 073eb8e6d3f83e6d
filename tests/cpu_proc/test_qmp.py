"""QMP as its clients see it: the protocol by itself, then a real machine and QEMU's own client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpu_proc import control_socket, qmp
from cpu_proc.options import parse
from protocol.errors import UserError
from tests.oracle import QEMU, require
from tests.system import programs, runner

DEADLINE = 240.0
SOURCE = """
main:
    li s5, 0x1234
1:
    addi s4, s4, 1
    j 1b
"""

# --- the protocol alone ------------------------------------------------------------------------

VALUES = st.none() | st.integers() | st.text(max_size=8) | st.just({"a": [{}, '"}\\']})


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=2), max_size=4),
    st.integers(1, 9),
)
def test_it_does_not_matter_how_input_is_cut(messages: list[dict[str, Any]], size: int):
    stream = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    parser, found = qmp.Parser(), []
    for at in range(0, len(stream), size):
        found += parser.feed(stream[at : at + size])

    assert messages == found


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_after_any_garbage_it_can_start_afresh(garbage: bytes):
    parser = qmp.Parser()
    parser.feed(garbage)
    parser.feed(b"\xff")

    assert [{"execute": "a"}] == parser.feed(b'{"execute": "a"}')


def test_what_never_ends_is_given_up():
    parser = qmp.Parser()
    found = parser.feed(b"{" * 1000 + b'"' + b"x" * (qmp.LONGEST + 1))
    assert all(isinstance(item, qmp.Garbage) for item in found)
    assert found


def session() -> qmp.Session:
    table = {"echo": qmp.Command({"a-b": "string", "n": "integer?"}, lambda a_b, n=0: [a_b, n])}
    made = qmp.Session(table)
    assert {"return": {}} == made.answer({"execute": "qmp_capabilities"})
    return made


@pytest.mark.parametrize(
    ("request_", "kind", "text"),
    [
        ([], "GenericError", "must be a JSON object"),
        ({}, "GenericError", "lacks member 'execute'"),
        ({"execute": 1}, "GenericError", "must be a string"),
        ({"execute": "echo", "more": 1}, "GenericError", "member 'more' is unexpected"),
        ({"execute": "echo", "arguments": []}, "GenericError", "must be an object"),
        ({"execute": "echo"}, "GenericError", "Parameter 'a-b' is missing"),
        ({"execute": "echo", "arguments": {"a-b": 1}}, "GenericError", "expected: string"),
        (
            {"execute": "echo", "arguments": {"a-b": "", "n": True}},
            "GenericError",
            "expected: integer",
        ),
        ({"execute": "echo", "arguments": {"c": 1}}, "GenericError", "'c' is unexpected"),
        ({"execute": "none"}, "CommandNotFound", "none has not been found"),
        ({"execute": "qmp_capabilities"}, "CommandNotFound", "already complete"),
    ],
)
def test_mistakes_are_answered_by_class_and_description(request_: Any, kind: str, text: str):
    reply = session().answer(request_)

    assert kind == reply["error"]["class"]
    assert text in reply["error"]["desc"]


def test_an_id_comes_back_whatever_it_is():
    request = {"execute": "echo", "arguments": {"a-b": "x"}, "id": {"any": [1]}}
    assert {"return": ["x", 0], "id": {"any": [1]}} == session().answer(request)
    assert {"any": 1} == session().answer({"id": {"any": 1}})["id"]


def test_nothing_goes_before_negotiation():
    made = qmp.Session({})
    assert "Expecting capabilities" in made.answer({"execute": "echo"})["error"]["desc"]


def test_the_option_is_spelt_as_qemu_s(tmp_path: Path):
    path = tmp_path / "q"
    for text in (f"unix:{path},server=on,wait=off", f"unix:{path},server,nowait"):
        assert str(path) == parse(["-qmp", text, __file__]).qmp
    assert "none" == parse(["-qmp", "none", __file__]).qmp
    for text, why in (
        ("tcp:1", "unix:PATH"),
        ("unix:x", "server=on is missing"),
        ("unix:x,server=on", "wait=off is missing"),
        ("unix:/nowhere/x,server=on,wait=off", "there is no folder"),
    ):
        with pytest.raises(UserError, match=why):
            parse(["-qmp", text, __file__])


# --- a real machine --------------------------------------------------------------------------


class Plain:
    """A client that sends bytes and reads lines."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rb")
        self.events: list[tuple[str, Any]] = []
        self.greeting = self.read()

    def read(self) -> dict[str, Any]:
        line = self.file.readline()
        assert line, "the machine hung up"
        found: dict[str, Any] = json.loads(line)
        return found

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, name: str, **arguments: Any) -> Any:
        """A command's result; events on the way are kept."""
        given = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.send(json.dumps({"execute": name, "arguments": given, "id": name}).encode())
        reply = self.answer()
        assert reply.get("id") == name, reply
        return reply["return"] if "return" in reply else reply["error"]

    def answer(self) -> dict[str, Any]:
        """The next message that is no event."""
        while "event" in (reply := self.read()):
            self.events.append((reply["event"], reply.get("data")))
        return reply

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def negotiated(path: Path) -> Plain:
    client = Plain(path)
    assert {} == client.ask("qmp_capabilities")
    return client


@contextlib.contextmanager
def machine(folder: Path, *words: str, quits: bool = False) -> Iterator[Path]:
    """A machine that counts; its socket. `quits`: it is told to, by whom it is lent."""
    where = folder / "qmp"
    line = runner.command("run", "-m", "1M", "-serial", "null", *words)
    line += ["-qmp", f"unix:{where},server=on,wait=off"]
    process = subprocess.Popen(
        [*line, str(programs.elf(SOURCE, folder))],
        env=runner.environment(),
        stdin=subprocess.DEVNULL,
    )
    try:
        runner.until(lambda: control_socket.is_served(str(where)), "its socket", DEADLINE)
        yield where
        if not quits:
            client = negotiated(where)
            client.ask("quit")
            client.close()
        assert 0 == process.wait(DEADLINE)
        assert not where.exists()
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with machine(tmp_path_factory.mktemp("qmp"), "-smp", "2", "-translator", "none") as path:
        yield path


def test_the_socket_is_its_user_s_alone(served: Path):
    assert 0o600 == stat.S_IMODE(os.stat(served).st_mode)


def test_qemu_s_own_client(served: Path):
    qemu = pytest.importorskip("qemu.qmp")

    async def talk() -> None:
        client = qemu.QMPClient("test")
        with client.listener() as events:
            await client.connect(str(served))
            names = {row["name"] for row in await client.execute("query-commands")}
            assert {"stop", "cont", "quit", "x-swap-backend", "qmp_capabilities"} <= names
            assert (await client.execute("query-status"))["running"]
            await client.execute("stop")
            assert "STOP" == (await events.get())["event"]
            status = await client.execute("query-status")
            assert {"status": "paused", "running": False, "singlestep": False} == status
            await client.execute("cont")
            assert "RESUME" == (await events.get())["event"]
            await client.execute("system_reset")
            reset = await events.get()
            assert "RESET" == reset["event"]
            assert {"guest": False, "reason": "host-qmp-system-reset"} == reset["data"]
            assert reset["timestamp"]["seconds"] > 1e9
            await client.execute("system_powerdown")
            assert "POWERDOWN" == (await events.get())["event"]
            with pytest.raises(qemu.ExecuteError, match="nonsense has not been found"):
                await client.execute("nonsense")
            assert "CPU#1" in await client.execute(
                "human-monitor-command", {"command-line": "info registers"}
            )
            await client.disconnect()

    asyncio.run(asyncio.wait_for(talk(), DEADLINE))


LIKE_QEMU: tuple[Any, ...] = (
    {"execute": "query-status"},  # before negotiation
    {"execute": "qmp_capabilities", "arguments": {"enable": "oob"}},
    {"execute": "qmp_capabilities", "arguments": {"more": 1}, "id": [1]},
    {"execute": "qmp_capabilities"},
    {"execute": "qmp_capabilities", "id": 0},
    [],
    {},
    {"id": "lone"},
    {"execute": 1},
    {"execute": "query-status", "more": 1},
    {"execute": "query-status", "arguments": []},
    {"execute": "query-status", "arguments": {"c": 1}},
    {"execute": "nonsense", "id": {"a": None}},
    {"execute": "human-monitor-command"},
    {"execute": "human-monitor-command", "arguments": {"command-line": 1}},
    {"execute": "human-monitor-command", "arguments": {"command-line": "", "cpu-index": 7}},
    {"execute": "human-monitor-command", "arguments": {"command-line": "", "cpu-index": True}},
    {"execute": "pmemsave", "arguments": {"val": 1 << 31, "size": 8, "filename": "/nowhere/x"}},
    {"execute": "memsave", "arguments": {"val": 0, "size": 8, "filename": "x", "cpu-index": 9}},
    {"execute": "query-status", "id": 7},
    {"execute": "query-name"},
    {"execute": "query-kvm"},
    {"execute": "query-memory-size-summary"},
    {"execute": "query-cpus-fast"},
    {"execute": "stop", "id": 3},
    {"execute": "stop"},
    {"execute": "query-status"},
    {"execute": "system_powerdown"},
    {"execute": "cont"},
    {"execute": "cont"},
    {"execute": "system_reset"},
    {"execute": "human-monitor-command", "arguments": {"command-line": "system_reset"}},
    {"execute": "query-status"},
    {"execute": "quit", "id": "bye"},
)
"""What is asked of QEMU and of us."""


def told(path: Path) -> list[Any]:
    """All answers to `LIKE_QEMU`, with the events that came by then."""
    found = []

    def connected() -> Plain | None:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return Plain(path)
        return None

    client = runner.until(connected, "who answers", DEADLINE)
    for request in LIKE_QEMU:
        client.send(json.dumps(request).encode() + b"\n")
        reply = client.answer()
        if "reset" in json.dumps(request):  # it may be told of after the answer
            while not client.events:
                message = client.read()
                client.events.append((message["event"], message["data"]))
        if isinstance(rows := reply.get("return"), list):
            for row in rows:
                del row["thread-id"]
        found.append((request, reply, client.events))
        client.events = []
    client.close()
    return found


def test_answers_and_events_are_qemu_s(tmp_path: Path):
    program = programs.elf("main:\n    wfi\n    j main\n", tmp_path)
    line = [require(QEMU), "-M", "virt", "-m", "32M", "-smp", "2", "-display", "none"]
    line += ["-bios", str(program), "-qmp", f"unix:{tmp_path}/qemu,server=on,wait=off"]
    qemu = subprocess.Popen(line, stdin=subprocess.DEVNULL)
    try:
        expected = told(tmp_path / "qemu")
        assert 0 == qemu.wait(DEADLINE)
    finally:
        qemu.kill()
        qemu.wait()
    with machine(tmp_path, "-m", "32M", "-smp", "2", "-translator", "none", quits=True) as path:
        actual = told(path)
    for theirs_, ours in zip(expected, actual, strict=True):
        assert theirs_ == ours


def test_what_is_asked_is_told(served: Path, tmp_path: Path):
    client = negotiated(served)

    cpus = client.ask("query-cpus-fast")
    assert ["riscv64", "riscv64"] == [cpu["target"] for cpu in cpus]
    assert all(os.path.exists(f"/proc/{cpu['thread-id']}") for cpu in cpus)
    size = client.ask("query-memory-size-summary")
    assert {"base-memory": 1 << 20} == size
    epoch = client.ask("x-retire")["epoch"]
    assert epoch == client.ask("x-query-jit")["epoch"]
    events = client.ask("x-retirements", count=1)
    assert [("request", epoch)] == [(e["cause"], e["epoch"]) for e in events["events"]]
    assert "no translator" in client.ask("x-swap-backend", backend="reference")["desc"]
    assert "expects one of" in client.ask("x-retire", cause="magic")["desc"]
    for command in ("pmemsave", "memsave"):
        path = tmp_path / command
        client.ask(command, val=0x8000_0000, size=100, filename=str(path))
        assert 100 == path.stat().st_size
    assert "no memory" in client.ask("pmemsave", val=16, size=8, filename=str(path))["desc"]
    assert "Could not open" in client.ask("pmemsave", val=2**31, size=8, filename="/")["desc"]
    client.close()


def test_two_clients_hear_of_each_other_s_doings(served: Path):
    first, second = negotiated(served), negotiated(served)
    first.ask("stop")

    assert [("STOP", None)] == first.events, "before the answer, as QEMU"
    assert "STOP" == second.read()["event"]
    assert not second.ask("query-status")["running"]
    second.ask("cont")
    assert [("RESUME", None)] == second.events
    first.close()
    second.close()


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01 not json\n", b"]]]\n", b'{"execute" 1}\n', b'{"a": "\xff', b"[1]\n"]
)
def test_garbage_is_answered_and_the_session_goes_on(served: Path, garbage: bytes):
    client = negotiated(served)
    client.send(garbage)

    assert "GenericError" == client.read()["error"]["class"]
    client.send(b"\xff")
    client.send(b'{"execute": "query-status", "id": 7}')
    while (reply := client.read()).get("id") != 7:
        assert "error" in reply
    client.close()


def test_half_a_line_harms_nobody(served: Path):
    half = negotiated(served)
    half.send(b'{"execute": "sto')
    other = negotiated(served)
    assert other.ask("query-status")["running"]
    half.close()
    assert other.ask("query-status")["running"]
    other.close()


def test_a_client_that_never_reads_holds_nobody_up(served: Path):
    deaf, other = negotiated(served), negotiated(served)
    deaf.socket.setblocking(False)
    ask, sent = b'{"execute": "human-monitor-command", "arguments": {"command-line": "help"}}', 0
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while sent < 1 << 22:
            sent += deaf.socket.send(ask)
    before = other.ask("x-query-jit")["harts"][0]["instructions"]
    end = time.monotonic() + DEADLINE
    while other.ask("x-query-jit")["harts"][0]["instructions"] == before:
        assert time.monotonic() < end
    other.ask("stop")
    other.ask("cont")
    deaf.close()
    other.close()


def test_backends_are_swapped_and_the_end_is_told(tmp_path: Path):
    with machine(tmp_path, "-cold", quits=True) as path:
        client = negotiated(path)
        for backend in ("none", "llvm"):
            swapped = client.ask("x-swap-backend", backend=backend)
            assert backend == swapped.get("backend"), swapped
            assert backend == client.ask("x-query-jit")["backend"]
        counts = client.ask("x-retirements")["counts"]
        assert 2 == counts["backend_swap"]
        assert "use one of" in client.ask("x-swap-backend", backend="magic")["desc"]
        client.ask("quit")
        assert ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"}) == client.events[-1]
        client.close()


def test_a_socket_at_which_many_wait_is_in_use(tmp_path: Path):
    path = str(tmp_path / "busy")
    listener = control_socket.listen(path)
    listener.listen(0)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(path)

    assert control_socket.is_served(path)
    for one in [*waiting, listener]:
        one.close()


def test_machines_of_one_process_id_have_sockets_of_their_own(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first = control_socket.default_path()
    listener = control_socket.listen(first)
    second = control_socket.default_path()

    assert second != first
    assert [first] == [str(path) for path in control_socket.all_of_this_user()]
    listener.close()


def test_a_socket_left_behind_is_taken_over_and_one_in_use_is_not(tmp_path: Path):
    path = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    listener = control_socket.listen(str(path))
    with pytest.raises(UserError, match="another machine"):
        control_socket.listen(str(path))
    listener.close()
    path.unlink()
    path.write_text("a file")
    with pytest.raises(UserError, match="something else"):
        control_socket.listen(str(path))
