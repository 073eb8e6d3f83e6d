"""Sockets: messages cross, and a bad peer, a full queue or a bad endpoint harms nobody else."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq

from protocol.codec import CodecError, decode
from protocol.errors import UserError
from protocol.messages import MAX_MESSAGE, PROTOCOL_VERSION, Bye, Error, Message, Ping, Pong
from protocol.transport import (
    HARD_LIMIT,
    Client,
    Mailbox,
    Server,
    Timers,
    default_endpoint,
    discard_endpoint,
    private_endpoint,
)

DEADLINE = 240.0
PING = b"\x93\xa4PING" + bytes([PROTOCOL_VERSION]) + b"\x80"


@pytest.fixture(autouse=True)
def runtime(monkeypatch) -> Iterator[str]:
    """A runtime folder of the test's own, its path short enough for a socket."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield folder


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server(private_endpoint())
    yield one
    one.close()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    one = Client(server.endpoint)
    yield one
    one.close()


def served(server: Server, count: int = 1) -> list[tuple[bytes, Message]]:
    """The next messages, within the deadline."""
    found: list[tuple[bytes, Message]] = []
    end = time.monotonic() + DEADLINE
    while len(found) < count and time.monotonic() < end:
        server.poll(1.0)
        found += server.receive()
    return found


def received(client: Client, count: int = 1) -> list[Message | CodecError]:
    found: list[Message | CodecError] = []
    end = time.monotonic() + DEADLINE
    while len(found) < count and time.monotonic() < end:
        client.poll(1.0)
        found += client.receive()
    return found


def disconnected(client: Client) -> bool:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if client.poll(1.0).disconnected:
            return True
    return False


def test_messages_cross_both_ways_in_order(server: Server, client: Client):
    for token in range(100):
        assert client.send(Ping(1, token))
    found = served(server, 100)
    assert [message for _, message in found] == [Ping(1, token) for token in range(100)]
    peer = found[0][0]
    assert server.send(peer, Pong(1, 7, 8))
    assert received(client) == [Pong(1, 7, 8)]


def test_each_peer_gets_its_own_answers(server: Server, client: Client):
    with_two = Client(server.endpoint)
    client.send(Ping(1, 1))
    with_two.send(Ping(2, 2))
    for peer, message in served(server, 2):
        server.send(peer, Pong(message.session, 0, 0))
    assert received(client) == [Pong(1, 0, 0)]
    assert received(with_two) == [Pong(2, 0, 0)]
    with_two.close()


@pytest.mark.parametrize(
    ("frames", "name"),
    [
        ([b"garbage"], "malformed"),
        ([b""], "malformed"),
        ([PING, b""], "malformed"),
        ([PING], "missing_field"),
        ([b"\x93\xa4PING\x7f\x80"], "version_mismatch"),
        ([b"x" * (MAX_MESSAGE + 1)], "oversize"),
    ],
)
def test_garbage_is_answered_by_an_error_and_others_are_served(
    server: Server, client: Client, frames: list[bytes], name: str
):
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        stranger.connect(server.endpoint)
        stranger.send_multipart(frames)
        client.send(Ping(1, 1))
        ((peer, message),) = served(server)
        assert message == Ping(1, 1)
        server.send(peer, Pong(1, 1, 0))
        assert received(client) == [Pong(1, 1, 0)]
        end = time.monotonic() + DEADLINE
        while not stranger.poll(100) and time.monotonic() < end:
            assert server.receive() == []
        error = decode(stranger.recv())
        assert isinstance(error, Error)
        assert (error.session, error.name, error.id) == (0, name, 0)


def test_a_monstrous_message_costs_its_sender_the_connection_alone(server: Server, client: Client):
    monster = Client(server.endpoint)
    assert monster._socket is not None
    monster._socket.send(b"x" * (HARD_LIMIT + 1))
    assert disconnected(monster)
    client.send(Ping(1, 1))
    assert [message for _, message in served(server)] == [Ping(1, 1)]
    monster.close()


def test_garbage_from_a_server_is_an_error_in_place_of_a_message(runtime: str):
    endpoint = f"ipc://{runtime}/fake"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as fake:
        fake.linger = 0
        fake.bind(endpoint)
        client = Client(endpoint)
        client.send(Ping(1, 1))
        peer, _ = fake.recv_multipart()
        fake.send_multipart([peer, b"garbage"])
        (found,) = received(client)
        assert isinstance(found, CodecError)
        assert found.name == "malformed"
        client.close()


def test_a_lost_connection_is_noticed(server: Server, client: Client):
    client.send(Ping(1, 1))
    served(server)
    server.close()
    assert disconnected(client)


def test_a_client_may_come_before_its_server():
    endpoint = private_endpoint()
    client = Client(endpoint)
    assert client.send(Ping(1, 1))
    server = Server(endpoint)
    assert [message for _, message in served(server)] == [Ping(1, 1)]
    client.close()
    server.close()


def test_a_full_queue_is_reported():
    client = Client(private_endpoint())  # nobody is there
    sent = 0
    while client.send(Ping(1, sent)):
        sent += 1
        assert sent < 100_000
    assert sent >= 1000
    client._socket.linger = 0  # type: ignore[union-attr]
    client.close()


def test_sending_to_a_peer_that_is_gone_is_reported(server: Server, client: Client):
    client.send(Bye(1, ""))
    ((peer, _),) = served(server)
    client.close()
    end = time.monotonic() + DEADLINE
    while server.send(peer, Pong(1, 1, 1)) and time.monotonic() < end:
        server.poll(0.01)
    assert not server.send(peer, Pong(1, 1, 1))
    assert not server.send(b"nobody", Pong(1, 1, 1))


def test_what_breaks_the_protocol_is_not_sent(server: Server, client: Client):
    with pytest.raises(CodecError):
        client.send(Ping(1, -1))
    with pytest.raises(CodecError):
        server.send(b"peer", Ping(1, -1))


@pytest.mark.parametrize("timeout", [-1, math.inf, math.nan, 1e9])
def test_every_wait_has_a_deadline(client: Client, timeout: float):
    with pytest.raises(ValueError, match="deadline"):
        client.poll(timeout)


def test_a_wait_ends_without_anything(client: Client):
    ready = client.poll(0.01)
    assert not ready
    assert ready.fds == frozenset()


def test_another_thread_wakes_the_loop(client: Client):
    box: Mailbox[int] = Mailbox()
    client.watch(box.fileno())

    def put_all() -> None:
        for n in range(1000):
            box.put(n)

    thread = threading.Thread(target=put_all)
    thread.start()
    found: list[int] = []
    end = time.monotonic() + DEADLINE
    while len(found) < 1000 and time.monotonic() < end:
        if box.fileno() in client.poll(1.0).fds:
            found += box.take_all()
    thread.join(DEADLINE)
    assert found == list(range(1000))
    assert not client.poll(0)
    client.unwatch(box.fileno())
    box.put(1)
    assert not client.poll(0)
    box.close()


def test_an_endpoint_in_use_is_refused(server: Server):
    with pytest.raises(UserError, match="is in use"):
        Server(server.endpoint)
    server.close()
    again = Server(server.endpoint)
    again.close()
    again.close()


def test_a_successor_waits_for_one_that_ends(server: Server):
    server.announce_end()
    with ThreadPoolExecutor() as executor:
        coming = executor.submit(Server, server.endpoint)
        with pytest.raises(TimeoutError):
            coming.result(0.1)
        server.close()
        second = coming.result(DEADLINE)
    with pytest.raises(UserError, match="is in use"):  # it has not announced anything
        Server(second.endpoint)
    second.close()


def test_a_tcp_port_in_use_is_refused():
    server = Server("tcp://127.0.0.1:*")
    with pytest.raises(UserError, match="in use"):
        Server(server.endpoint)
    client = Client(server.endpoint)
    client.send(Ping(1, 1))
    assert len(served(server)) == 1
    client.close()
    server.close()


def test_what_a_killed_server_left_is_no_obstacle():
    endpoint = private_endpoint()
    program = f"from protocol.transport import Server\nimport os\nServer({endpoint!r})\nos._exit(9)"
    subprocess.run([sys.executable, "-c", program], timeout=240, check=False)
    path = endpoint.removeprefix("ipc://")
    assert os.path.exists(path)
    server = Server(endpoint)
    server.close()
    assert not os.path.exists(path)
    subprocess.run([sys.executable, "-c", program], timeout=240, check=False)
    discard_endpoint(endpoint)
    assert os.listdir(os.path.dirname(path)) == []


@pytest.mark.parametrize("side", [Server, Client])
@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("tcp://0.0.0.0:5555", "needs keys"),
        ("tcp://192.0.2.1:5555", "needs keys"),
        ("tcp://127.0.0.1.example.org:5555", "needs keys"),
        ("udp://127.0.0.1:5555", "not of the form"),
        ("ipc://relative/path", "not of the form"),
        ("ipc://", "not of the form"),
        ("ipc:///tmp/" + "x" * 110, "longer than 107"),
        ("ipc:///no/such/folder", "No such file"),
        ("ipc:///dev/null/translator", "is not a folder"),
    ],
)
def test_a_bad_endpoint_is_a_users_error(side: type, endpoint: str, text: str):
    with pytest.raises(UserError, match=text):
        side(endpoint)


@pytest.mark.parametrize("side", [Server, Client])
def test_a_folder_open_to_others_is_refused(side: type, tmp_path):
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o750)
    with pytest.raises(UserError, match="open to other users"):
        side(f"ipc://{folder}/translator")
    link = tmp_path / "link"
    folder.chmod(0o700)
    link.symlink_to(folder)
    with pytest.raises(UserError, match="not a folder"):
        side(f"ipc://{link}/translator")


def test_the_default_endpoint_lies_in_the_users_runtime_folder(runtime, monkeypatch):
    assert default_endpoint() == f"ipc://{runtime}/coldboot/translator"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", "/somewhere")
    assert default_endpoint() == f"ipc:///somewhere/coldboot-{os.getuid()}/translator"
    assert private_endpoint() != private_endpoint()


def test_the_folder_is_made_for_its_owner_only(server: Server):
    folder = os.path.dirname(server.endpoint.removeprefix("ipc://"))
    assert os.stat(folder).st_mode & 0o777 == 0o700


def test_timers_are_due_once_in_order_and_can_be_moved_or_cancelled():
    now = 100.0
    timers = Timers(lambda: now)
    assert timers.wait(5.0) == 5.0
    timers.set("late", 3.0)
    timers.set("soon", 1.0)
    timers.set("never", 2.0)
    timers.cancel("never")
    timers.cancel("unknown")
    assert timers.wait(5.0) == 1.0
    assert timers.due() == []
    timers.set("late", 0.5)
    now = 101.0
    assert timers.wait(5.0) == 0.0
    assert timers.due() == ["late", "soon"]
    assert timers.due() == []


def test_importing_the_transport_does_not_load_zmq():
    program = "import sys, protocol.transport; assert 'zmq' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], timeout=240, check=True)
