"""Several harts: a thread each, records shared, Debian's kernel on all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.runner import Machine, linux


@pytest.mark.parametrize("harts", [2, 4])
def test_linux_brings_up_every_hart(guests_folder: Path, tmp_path: Path, harts: int) -> None:
    words = linux(
        guests_folder,
        "-smp",
        str(harts),
        append='quiet cryptomgr.notests run="nproc; sha256sum /bin/busybox & md5sum /init; wait"',
    )
    with Machine(words, tmp_path) as machine:
        machine.expect(rf"BOOT-OK\s+{harts}\s")
        machine.expect("RUN-EXIT 0")
        assert 0 == machine.wait()
