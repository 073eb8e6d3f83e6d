"""The content store: two levels, partial finds, bounds, and what happens when the disk fails."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jit_proc import content_store, store_disk, store_entry
from jit_proc.content_store import ContentStore, Toolchain
from jit_proc.store_disk import FILE, Disk, DiskError
from protocol import engine_image, mutants
from tests.jit_proc.kept_jobs import CONTEXT, asked, made_of, page

TOOLS = Toolchain(b"tools", (("toolchain", "tools"),))
REGION = made_of((4, 100), code=b"code" * 2000)


@contextlib.contextmanager
def opened(folder: Path | None, **options: int) -> Iterator[ContentStore]:
    store = ContentStore(folder, TOOLS, **options)
    try:
        yield store
    finally:
        store.close()


def numbered(number: int):
    """A job unlike that of any other number."""
    return asked(page(at_4=number & 255, at_5=number >> 8))


def fill(folder: Path, count: int = 1, **options: int) -> None:
    with opened(folder, **options) as store:
        for number in range(count):
            store.keep(numbered(number), REGION)


def test_what_is_kept_is_found_in_memory_and_by_the_next_run(tmp_path):
    with opened(tmp_path) as store:
        assert store.find(asked()) is None
        assert not store.is_warm()
        store.keep(asked(), REGION)
        found = store.find(asked(page(at_0=1), page=9))
        assert found == (REGION, ())
        assert (1, 1) == (store.hits, store.misses)
    with opened(tmp_path) as store:
        assert store.is_warm()
        assert store.find(asked(), disk=False) is None
        assert store.find(asked()) == (REGION, ())
        assert store.find(asked(), disk=False) == (REGION, ())
        assert store.find(asked(page(at_4=1))) is None
    assert Disk(tmp_path).rows()[0].hits == 1


def test_some_of_the_slots_may_be_found():
    with opened(None) as store:
        store.keep(asked(entries=(2,)), made_of((4, 8)))
        store.keep(asked(entries=(20,)), made_of((40, 8)))
        found = store.find(asked(entries=(2, 9, 20)))
        assert found is not None
        assert ((2, 0), (20, 64)) == found.region.entries
        assert (9,) == found.left


def test_a_loop_is_not_found_from_its_middle_by_who_has_it():
    loop = made_of((4, 100), entries=((2, 0),))
    with opened(None) as store:
        store.keep(asked(entries=(20,)), loop)
        assert store.find(asked(entries=(20,))) == (loop, ())
        assert store.find(asked(entries=(20,), known=(7,))) == (loop, ())
        assert store.find(asked(entries=(20,), known=(2, 7))) is None
        way_in = made_of((40, 64))
        store.keep(asked(entries=(20,), known=(2, 7)), way_in)
        assert store.find(asked(entries=(20,), known=(2, 7))) == (way_in, ())
        assert store.find(asked(entries=(2,), known=(2, 7))) == (loop, ())


def test_memory_is_bounded_and_lets_the_least_recently_used_go():
    with opened(None, memory=25000) as store:
        for number in range(2):
            store.keep(numbered(number), REGION)
        assert store.find(numbered(0))
        store.keep(numbered(2), REGION)
        assert [True, False, True] == [store.find(numbered(n)) is not None for n in range(3)]
        store.keep(numbered(0), REGION)  # twice is once
        assert 2 == store.counters()["store_regions"]


def test_disk_is_bounded_and_lets_the_least_recently_used_go(tmp_path):
    limit = 400_000
    disk = Disk(tmp_path, limit)
    for number in range(100):
        entry = store_entry.make(CONTEXT, numbered(number), REGION)
        assert limit >= disk.write([(CONTEXT, "{}", entry)])
    assert 20 < disk.count() < 60
    assert limit * 1.2 > os.path.getsize(disk.path)
    latest = store_entry.search_keys(CONTEXT, 2, numbered(99).content)
    first = store_entry.search_keys(CONTEXT, 2, numbered(0).content)
    assert [REGION] == [entry.region for entry in disk.find(CONTEXT, latest)]
    assert [] == list(disk.find(CONTEXT, first))
    assert (disk.count(), 0) == disk.verify()


def test_a_folder_that_cannot_be_used_is_memory_alone(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with opened(tmp_path / "file") as store:
        store.keep(asked(), REGION)
        assert store.find(asked()) == (REGION, ())


def test_a_lock_that_is_never_let_go_is_memory_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(store_disk, "_LOCK_PATIENCE", 0.05)
    with store_disk._only_one(tmp_path), opened(tmp_path) as store:
        store.keep(asked(), REGION)
        assert store.find(asked()) == (REGION, ())
    assert not (tmp_path / FILE).exists()


def test_a_file_of_anybody_is_not_used(tmp_path):
    fill(tmp_path)
    (tmp_path / FILE).chmod(0o666)
    with pytest.raises(DiskError, match="somebody else's"):
        Disk(tmp_path)


def test_a_bad_entry_is_refused_counted_and_replaced(tmp_path):
    fill(tmp_path)
    base = sqlite3.connect(tmp_path / FILE)
    data = bytearray(base.execute("SELECT data FROM body").fetchone()[0])
    data[100] ^= 1
    base.execute("UPDATE body SET data=?", (bytes(data),))
    base.commit()
    base.close()
    with opened(tmp_path) as store:
        assert store.find(asked()) is None
        assert 1 == store.refused
        assert store.find(asked()) is None
        assert 1 == store.refused
        store.keep(asked(), REGION)
    with opened(tmp_path) as store:
        assert store.find(asked()) == (REGION, ())


def sound(found: content_store.Found | None) -> bool:
    return found is None or found.region == REGION


def use_damaged(folder: Path) -> None:
    """Search and write: nothing wrong comes back, nothing is raised, and it works in the end."""
    with opened(folder) as store:
        for number in range(4):
            assert sound(store.find(numbered(number)))
        store.keep(numbered(9), REGION)
    with opened(folder) as store:
        assert sound(store.find(numbered(9)))
    with contextlib.suppress(store_disk.Damaged):
        Disk(folder).verify()


def test_a_file_cut_short_anywhere_is_no_trouble(tmp_path):
    fill(tmp_path / "sound", 4)
    content = (tmp_path / "sound" / FILE).read_bytes()
    for length in [*range(0, 120, 7), *range(120, len(content), len(content) // 40)]:
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / FILE).write_bytes(content[:length])
        (folder / FILE).chmod(0o600)
        use_damaged(folder)


def test_a_byte_changed_anywhere_is_no_trouble(tmp_path):
    fill(tmp_path / "sound", 4)
    content = (tmp_path / "sound" / FILE).read_bytes()
    for place in [*range(0, 120, 3), *range(120, len(content), len(content) // 60 | 1)]:
        folder = tmp_path / str(place)
        folder.mkdir()
        bad = bytearray(content)
        bad[place] ^= 0xFF
        (folder / FILE).write_bytes(bad)
        (folder / FILE).chmod(0o600)
        use_damaged(folder)


def test_a_log_of_another_file_is_no_trouble(tmp_path):
    fill(tmp_path, 4)
    (tmp_path / (FILE + "-wal")).write_bytes(os.urandom(50_000))
    use_damaged(tmp_path)


WRITER = """
import sys
from pathlib import Path
from jit_proc.store_disk import Disk
from jit_proc.store_entry import make
from tests.jit_proc.kept_jobs import CONTEXT, asked, made_of, page
disk = Disk(Path(sys.argv[1]), patience=60)
first, last = int(sys.argv[2]), int(sys.argv[3])
for n in range(first, last):
    job = asked(page(at_4=n & 255, at_5=n >> 8))
    disk.write([(CONTEXT, "{}", make(CONTEXT, job, made_of((4, 100), code=b"code" * 2000)))])
    print(n, flush=True)
"""


def writer(folder: Path, first: int, last: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WRITER, str(folder), str(first), str(last)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_two_processes_may_write_at_once(tmp_path):
    both = [writer(tmp_path, 0, 60), writer(tmp_path, 30, 90)]
    for one in both:
        said, _ = one.communicate(timeout=240)
        assert (60, 0) == (len(said.split()), one.returncode)
    disk = Disk(tmp_path)
    assert 90 == disk.count()
    assert (90, 0) == disk.verify()


def test_others_that_come_and_go_take_nothing_from_those_who_stay(tmp_path, capfd):
    # A reader and a writer in this process; what another one finds last must not be thrown away.
    others = f"""
from pathlib import Path
from jit_proc.store_disk import Disk
disk = Disk(Path({str(tmp_path)!r}))
print(disk.count())
disk.close()
"""

    def counted_elsewhere() -> int:
        command = [sys.executable, "-c", others]
        return int(subprocess.run(command, capture_output=True, check=True, timeout=240).stdout)

    reader, writer = Disk(tmp_path), Disk(tmp_path)
    for number in range(3):
        job = numbered(number)
        entry = store_entry.make(store_entry.context_of(b"tools", job), job, REGION)
        writer.write([(store_entry.context_of(b"tools", job), "{}", entry)])
        assert number + 1 == counted_elsewhere() == reader.count()
    writer.close()
    assert 3 == reader.count()
    reader.close()
    assert (3, 0) == Disk(tmp_path).verify()
    assert "store_discarded" not in capfd.readouterr().err


def test_a_writer_that_is_killed_leaves_whole_entries(tmp_path):
    one = writer(tmp_path, 0, 5000)
    assert one.stdout is not None
    said = [int(one.stdout.readline()) for _ in range(20)]
    one.send_signal(signal.SIGKILL)
    one.wait(240)
    disk = Disk(tmp_path)
    assert disk.count() >= len(said)
    good, bad = disk.verify()
    assert (disk.count(), 0) == (good, bad)
    last = store_entry.search_keys(CONTEXT, 2, numbered(said[-1]).content)
    assert [REGION] == [entry.region for entry in disk.find(CONTEXT, last)]


FULL = """
import resource, sys
from pathlib import Path
from tests.jit_proc.test_content_store import REGION, numbered, opened
with opened(Path(sys.argv[1])) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    for n in range(60):
        store.keep(numbered(n), REGION)
    assert all(store.find(numbered(n)) for n in range(60))
"""


def test_a_full_disk_costs_only_what_was_not_written(tmp_path):
    fill(tmp_path, 1)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert (0, True) == (done.returncode, "store_not_written" in done.stderr), done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    good, bad = Disk(tmp_path).verify()
    assert good >= 1
    assert 0 == bad


def test_the_toolchain_is_named_and_hashed():
    tools = content_store.toolchain()
    assert 16 == len(tools.digest)
    assert {"isa", "layout", "llvmlite", "cpu", "toolchain"} == set(dict(tools.text))


@pytest.mark.parametrize("what", ["host_cpu", "llvmlite_version", "llvmlite_library"])
def test_another_host_or_compiler_is_another_toolchain(what, monkeypatch):
    before = content_store.toolchain.__wrapped__().digest
    answer = (1, 2) if what == "llvmlite_library" else 'x\n"9.9"'
    monkeypatch.setattr(engine_image, what, lambda: answer)
    assert before != content_store.toolchain.__wrapped__().digest


def test_mistakes_are_not_kept(tmp_path):
    try:
        assert content_store.made(tmp_path, "off") is None
        for names, there in (("M7", False), ("M43", True), ("M45", True), ("M7,M25", True)):
            mutants.arm(names.split(","))
            content_store.toolchain.cache_clear()
            store = content_store.made(tmp_path, "disk")
            assert there == (store is not None)
            if store is not None:
                store.close()
    finally:
        mutants.arm(())
        content_store.toolchain.cache_clear()


def test_nothing_waits_for_another_writer(tmp_path):
    with opened(tmp_path) as store:
        blocker = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        store.keep(asked(), REGION)
        assert store.find(asked()) == (REGION, ())
        assert store.find(numbered(5)) is None
        blocker.execute("ROLLBACK")
        blocker.close()
    assert 1 == Disk(tmp_path).count()


def test_what_other_packages_make_is_not_kept():
    with opened(None) as store:
        job = asked(backend="example,level=2")
        store.keep(job, REGION)
        assert store.find(job) is None
        assert 0 == store.counters()["store_regions"]
