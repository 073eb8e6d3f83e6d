"""Keys: who has none, or an unknown one, gets nowhere; files are their owner's alone."""

from __future__ import annotations

import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc import cli
from protocol import keys
from protocol.errors import UserError
from protocol.keys import Keys
from protocol.messages import Error, Message, Ping, Pong
from protocol.transport import Client, Server, new_pair

DEADLINE = 240.0


def both(folder: Path) -> tuple[Keys, Keys]:
    """Two sides that know each other."""
    here, there = keys.make(folder / "here", new_pair), keys.make(folder / "there", new_pair)
    keys.authorize(here, there.folder / keys.PUBLIC, "there")
    keys.authorize(there, here.folder / keys.PUBLIC, "here")
    return here, there


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Keys, Keys]:
    return both(tmp_path)


@pytest.fixture
def server(sides: tuple[Keys, Keys]) -> Iterator[Server]:
    one = Server("tcp://127.0.0.1:*", sides[1])
    yield one
    one.close()


def exchange(client: Client, server: Server, until) -> list[Message]:
    """Pings are answered until a condition holds; what the client heard."""
    heard: list[Message] = []
    end = time.monotonic() + DEADLINE
    while not until(heard):
        assert time.monotonic() < end, (heard, client.trouble)
        client.try_again()
        client.send(Ping(1, 5))
        server.poll(0.05)
        for peer, message in server.receive():
            assert isinstance(message, Ping)
            server.send(peer, Pong(1, message.token, 9))
        client.poll(0.05)
        heard += [one for one in client.receive() if isinstance(one, Message)]
    return heard


def test_two_sides_that_know_each_other_talk(sides: tuple[Keys, Keys], server: Server):
    client = Client(server.endpoint, sides[0], sides[0].of("there"))
    assert exchange(client, server, bool)[0] == Pong(1, 5, 9)
    assert client.trouble == ""
    assert server.refused == 0
    client.close()


def test_an_unknown_key_is_refused_until_it_is_entered(
    sides: tuple[Keys, Keys], server: Server, tmp_path: Path
):
    stranger = keys.make(tmp_path / "stranger", new_pair)
    client = Client(server.endpoint, stranger, sides[1].public)
    assert exchange(client, server, lambda _: "not authorized" in client.trouble) == []
    assert server.refused > 0
    keys.authorize(sides[1], stranger.folder / keys.PUBLIC, "stranger")
    assert exchange(client, server, bool)[0] == Pong(1, 5, 9)
    client.close()


def test_a_key_that_is_removed_ends_its_connection_and_no_other(
    sides: tuple[Keys, Keys], server: Server, tmp_path: Path
):
    other = keys.make(tmp_path / "other", new_pair)
    keys.authorize(sides[1], other.folder / keys.PUBLIC, "other")
    client, stays = (Client(server.endpoint, one, sides[1].public) for one in (sides[0], other))
    for one in (client, stays):
        assert exchange(one, server, bool)[0] == Pong(1, 5, 9)
    keys.revoke(sides[1], "here")
    end = time.monotonic() + DEADLINE
    while not (gone := server.revoked()):
        assert time.monotonic() < end
        server.poll(0.05)
        server.receive()
    assert len(gone) == 1
    last = exchange(client, server, lambda heard: heard and isinstance(heard[-1], Error))[-1]
    assert isinstance(last, Error)
    assert last.name == "unknown_session"
    while client.poll(0).messages:
        client.receive()
    client.send(Ping(1, 7))
    heard: list[object] = []
    while not heard:  # on the connection that still stands: nothing is taken from it
        assert time.monotonic() < end
        assert server.poll(0.05) is not None
        assert server.receive() == []
        client.poll(0.05)
        heard = [*client.receive()]
    assert all(isinstance(one, Error) for one in heard)
    assert exchange(stays, server, bool)[0] == Pong(1, 5, 9)
    keys.authorize(sides[1], sides[0].folder / keys.PUBLIC, "here")
    pongs = exchange(client, server, lambda heard: heard and isinstance(heard[-1], Pong))
    assert pongs[-1] == Pong(1, 5, 9)
    client.close()
    stays.close()


def test_another_server_than_the_known_one_is_refused(
    sides: tuple[Keys, Keys], server: Server, tmp_path: Path
):
    other = keys.make(tmp_path / "other", new_pair)
    client = Client(server.endpoint, sides[0], other.public)
    assert exchange(client, server, lambda _: "did not prove" in client.trouble) == []
    client.close()


def test_who_brings_no_key_or_no_zeromq_is_not_heard(sides: tuple[Keys, Keys], server: Server):
    plain = Client(server.endpoint)
    plain.send(Ping(1, 1))
    port = int(server.endpoint.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        client = Client(server.endpoint, sides[0], sides[0].of(""))
        assert exchange(client, server, bool)[0] == Pong(1, 5, 9)
    assert plain.receive() == []
    client.close()
    plain.close()


def test_the_command_makes_and_enters_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    here, there = tmp_path / "here", tmp_path / "there"
    assert cli.main(["keys", str(here)]) == 0
    public = capsys.readouterr().out.split()[3]
    assert cli.main(["keys", str(there), "--authorize", str(here / "public.key")]) == 0
    assert f"{public}  here\n" in capsys.readouterr().out
    assert keys.load(there).of("") == public
    assert repr(keys.load(here).secret) not in repr(keys.load(here))
    for path in there.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert cli.main(["keys", str(here)]) == 0
    assert capsys.readouterr().out.split()[3] == public
    assert cli.main(["keys", str(there), "--revoke", "here"]) == 0
    assert "authorized" not in capsys.readouterr().out
    assert cli.main(["keys", str(there), "--revoke", "here"]) == 2
    assert "no key 'here' is authorized" in capsys.readouterr().err
    assert cli.main(["keys", str(tmp_path / "nowhere"), "--revoke", "here"]) == 2
    assert not (tmp_path / "nowhere").exists()


def test_keys_that_others_can_read_and_what_is_no_key_are_refused(tmp_path: Path):
    here, there = both(tmp_path)
    with pytest.raises(UserError, match=r"no keys in .*coldboot keys"):
        keys.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="lacks the key elsewhere"):
        here.of("elsewhere")
    with pytest.raises(UserError, match="own key"):
        keys.authorize(here, here.folder / keys.PUBLIC, "myself")
    with pytest.raises(UserError, match="no name"):
        keys.authorize(here, there.folder / keys.PUBLIC, "../x")
    with pytest.raises(UserError, match="other things in it"):
        keys.make(tmp_path, new_pair)
    (tmp_path / "junk").write_text("public = short\n")
    with pytest.raises(UserError, match="no key file"):
        keys.authorize(here, tmp_path / "junk", "junk")
    (here.folder / keys.OWN).chmod(0o640)
    with pytest.raises(UserError, match="open to other users"):
        keys.load(here.folder)
