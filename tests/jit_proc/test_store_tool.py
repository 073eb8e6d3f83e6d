"""`coldboot store`: what it says, what it removes, how it ends."""

from __future__ import annotations

import sqlite3

import pytest

from jit_proc import store_tool
from jit_proc.store_disk import FILE, Disk
from tests.jit_proc.test_content_store import fill


def run(capsys, verb: str, folder) -> tuple[int, str]:
    status = store_tool.main([verb, "--cache", str(folder)])
    return status, capsys.readouterr().out


def test_nothing_is_kept_yet(tmp_path, capsys):
    assert (0, "nothing is kept\n") == run(capsys, "verify", tmp_path)
    assert (0, "nothing is kept\n") == run(capsys, "clear", tmp_path)
    status, said = run(capsys, "info", tmp_path)
    assert (0, True) == (status, "none yet" in said)


def test_info_tells_sizes_by_what_made_them(tmp_path, capsys):
    fill(tmp_path, 3)
    status, said = run(capsys, "info", tmp_path)
    assert 0 == status
    assert "toolchain tools: 3 regions" in said
    assert "backend llvm, state 0" in said


def test_verify_removes_what_is_bad(tmp_path, capsys):
    fill(tmp_path, 3)
    assert (0, "3 regions are sound\n") == run(capsys, "verify", tmp_path)
    base = sqlite3.connect(tmp_path / FILE)
    base.execute("UPDATE body SET data=zeroblob(100) WHERE region=2")
    base.commit()
    base.close()
    expected = "2 regions are sound, 1 were damaged and are removed\n"
    assert (1, expected) == run(capsys, "verify", tmp_path)
    assert (0, "2 regions are sound\n") == run(capsys, "verify", tmp_path)


def test_verify_removes_a_damaged_file(tmp_path, capsys):
    (tmp_path / FILE).write_bytes(b"SQLite format 3\0" + bytes(5000))
    (tmp_path / FILE).chmod(0o600)
    status, said = run(capsys, "verify", tmp_path)
    assert (1, True) == (status, "damaged" in said)
    assert not (tmp_path / FILE).exists()


def test_clear_removes_all_beside_those_who_use_it(tmp_path, capsys):
    fill(tmp_path, 3)
    beside = Disk(tmp_path)
    assert (0, "3 regions removed\n") == run(capsys, "clear", tmp_path)
    assert 0 == beside.count()


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path, capsys):
    (tmp_path / FILE).mkdir()
    assert 2 == store_tool.main(["info", "--cache", str(tmp_path)])
    assert capsys.readouterr().err.startswith("coldboot: store info: ")


@pytest.mark.parametrize("words", [[], ["nonsense"], ["verify", "--store", "x"]], ids=str)
def test_what_is_not_understood_is_one_line(words: list[str], capsys):
    assert 2 == store_tool.main(words)
    assert capsys.readouterr().err.startswith("coldboot: store: ")
