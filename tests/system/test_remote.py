"""A guest whose code another host makes: the same results, over a bad line too."""

from __future__ import annotations

import re
from pathlib import Path

from protocol import keys
from protocol.transport import new_pair
from tests.jit_proc.test_other_backends import TEXT
from tests.system import programs, runner
from tests.system.far_host import far_host

PORT = 7713


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Two folders of keys that know each other: the guest's host's, and the other one's."""
    here, far = (keys.make(folder / name, new_pair) for name in ("here", "far"))
    keys.authorize(here, far.folder / keys.PUBLIC, "far")
    keys.authorize(far, here.folder / keys.PUBLIC, "here")
    return here.folder, far.folder


def test_a_guest_runs_on_code_that_comes_over_a_bad_line(tmp_path: Path):
    with far_host(delay=0.02, loss=0.05) as host:
        local_keys, far_keys = make_keys(Path(runner.socket_folder()))
        listen = f"tcp://{host.address}:{PORT}"
        words: list[str | Path] = [
            "--listen",
            listen,
            "--keys",
            far_keys,
            "--store",
            "off",
            "--workers",
            "1",
        ]
        with runner.Translator(tmp_path, *words, prefix=host.prefix) as remote:
            backend = f"remote,host={host.address},port={PORT},keys={local_keys}"
            done = programs.run(TEXT, tmp_path, "-backend", backend, "-threshold", "1", "-stats")
            made = remote.events("job_done")
    expected = programs.run(TEXT, tmp_path, "-translator", "none")
    assert expected.returncode == done.returncode, done.stderr
    published = re.search(rb"published (\d+)", done.stderr)
    assert published is not None, done.stderr
    assert 0 < int(published[1]) <= len(made)
