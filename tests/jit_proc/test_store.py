"""The engine's cache: found when it is right, built anew when anything about it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jit_proc.store import EngineStore
from protocol import engine_image
from protocol.engine_image import EngineImageError, engine_key

CODE = bytes(range(256)) * 40
SYMBOLS = {"enter": 0, "decode": 4096}
KEY = "0" * 31 + "1"


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "cache")


def test_what_is_kept_is_found(store: EngineStore) -> None:
    assert store.find(KEY) is None
    kept = store.keep(KEY, CODE, SYMBOLS)
    found = store.find(KEY)
    assert found == kept
    assert found is not None
    assert found.symbols == SYMBOLS
    assert found.code_offset % 4096 == 0
    assert Path(found.path).read_bytes()[found.code_offset :] == CODE
    assert store.find("0" * 32) is None


def test_the_machine_reads_it_where_the_translator_keeps_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = EngineStore().keep(KEY, CODE, SYMBOLS)
    assert (
        kept.path == str(engine_image.engine_path(KEY)) == f"{tmp_path}/coldboot/engine-{KEY}.bin"
    )
    assert engine_image.read(engine_image.engine_path(KEY), KEY).code_size == len(CODE)
    assert os.stat(tmp_path / "coldboot").st_mode & 0o777 == 0o700


def test_the_default_folder_follows_the_xdg_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for value in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert engine_image.cache_folder() == Path("/home/someone/.cache/coldboot")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(st.data())
def test_any_damage_is_noticed(store: EngineStore, data: st.DataObject) -> None:
    path = Path(store.keep(KEY, CODE, SYMBOLS).path)
    content = bytearray(path.read_bytes())
    how = data.draw(st.sampled_from(["flip", "cut", "grow"]))
    if how == "flip":
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content += bytes(data.draw(st.integers(1, 5000)))
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(EngineImageError):
        engine_image.read(path, KEY)
    assert store.find(KEY) is None
    assert not path.exists()


def test_another_keys_file_is_refused(store: EngineStore) -> None:
    path = store.keep(KEY, CODE, SYMBOLS).path
    with pytest.raises(EngineImageError, match="another key"):
        engine_image.read(path, "f" * 32)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_files_that_others_may_write_are_refused(store: EngineStore, mode: int) -> None:
    path = Path(store.keep(KEY, CODE, SYMBOLS).path)
    path.chmod(mode)
    with pytest.raises(EngineImageError, match="written by others"):
        engine_image.read(path, KEY)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")
def test_files_of_other_users_are_refused(store: EngineStore) -> None:
    path = store.keep(KEY, CODE, SYMBOLS).path
    os.chown(path, 12345, 12345)
    with pytest.raises(EngineImageError, match="belongs to user 12345"):
        engine_image.read(path, KEY)


def test_symbols_outside_of_the_code_are_refused(store: EngineStore) -> None:
    with pytest.raises(EngineImageError, match="decode"):
        store.keep(KEY, CODE, {"decode": len(CODE)})


def test_without_a_usable_folder_it_is_handed_over_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = EngineStore(tmp_path / "file" / "cache")
    kept = store.keep(KEY, CODE, SYMBOLS)
    assert kept.path.startswith("/proc/")
    read = f"from protocol.engine_image import read; print(read({kept.path!r}, {KEY!r}).code_size)"
    done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, timeout=240)
    assert done.stdout == f"{len(CODE)}\n", done.stderr
    with pytest.raises(PermissionError):
        os.truncate(kept.path, 0)
    assert store.find(KEY) == kept
    store.close()
    assert store.find(KEY) is None


def test_nothing_half_written_is_left_behind(
    store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        kept = store.keep(KEY, CODE, SYMBOLS)
    assert list(store.folder.iterdir()) == []
    assert kept.path.startswith("/proc/")
    store.close()


def test_a_second_writer_replaces_the_first_one_whole(store: EngineStore) -> None:
    with open(store.keep(KEY, CODE, SYMBOLS).path, "rb") as first:
        store.keep(KEY, CODE[::-1], SYMBOLS)
        assert engine_image.read_descriptor(first.fileno(), KEY).symbols == SYMBOLS
        assert first.read().endswith(CODE)


def test_the_key_covers_what_the_code_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {engine_key("isa", "layout"), engine_key("isb", "layout"), engine_key("isa", "layou2")}
    keys.add(engine_key("isa", "layout", "option"))
    keys.add(engine_key("isalayout", ""))
    for name, value in (
        ("host_cpu", lambda: "another"),
        ("llvmlite_version", lambda: "99"),
        ("source_texts", lambda: ["changed"]),
        ("FORMAT", 99),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(engine_image, name, value)
            keys.add(engine_key("isa", "layout"))
    assert len(keys) == 9
    assert engine_key("isa", "layout") == engine_key("isa", "layout")


def test_the_key_needs_no_llvm() -> None:
    program = (
        "import sys; from protocol.engine_image import engine_key, llvmlite_version;"
        "engine_key('a', 'b'); assert '0.' in llvmlite_version();"
        "print([m for m in sys.modules if m.split('.')[0] in ('llvmlite', 'jit_proc', 'zmq')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
