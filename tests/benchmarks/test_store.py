"""A second machine on one translator finds what the first one had made, and the next day too."""

from __future__ import annotations

from pathlib import Path

from benchmarks.boot import machine_words
from benchmarks.store import boot, counted, translator
from jit_proc import store_tool

SETTLE = 'run="sleep 6"'


def test_a_count_is_found_in_the_line_of_stats():
    line = b"from_store 12, instructions 5, published 13"
    assert (12, 13, 0) == tuple(counted(line, n) for n in ("from_store", "published", "store"))


def test_a_second_machine_and_a_second_run_translate_little(guests_folder: Path, tmp_path: Path):
    words = machine_words(guests_folder, "cryptomgr.notests")
    lazy = [word.replace('run="true"', SETTLE) for word in words]
    with translator(tmp_path) as endpoint:
        boot(lazy, endpoint)
        # How much is found hot in a boot depends on the host's load, and so does what the first
        # made: each one adds to it.
        for _ in range(4):
            _, published, kept = boot(words, endpoint)
            if published > 0 and kept >= published / 3:
                break
    assert published > 0
    assert kept >= published / 3
    with translator(tmp_path) as endpoint:
        _, published, kept = boot(words, endpoint)
    assert kept >= published / 3
    assert 0 == store_tool.main(["verify", "--cache", str(tmp_path)])
