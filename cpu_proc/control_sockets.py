"""Where machines listen for their user: a folder with a socket for each.

Invariants: the folder is the user's alone (0700), and so is each socket in it (0600). A socket that
a killed machine left behind is removed by whoever finds that nobody answers.

Read next: `qmp_server.py` (who listens), `ctl.py` (who connects).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.endpoints import runtime_folder, secure_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX = ".qmp"


def own() -> str:
    """The path of this process's socket. Raises UserError if the folder is not safe."""
    folder = runtime_folder()
    secure_folder(folder)
    return str(folder / f"machine-{os.getpid()}{SUFFIX}")


def all_of_this_user() -> Iterator[Path]:
    """The sockets of the machines that run, oldest first."""
    from cpu_proc.qmp_server import is_served

    folder = runtime_folder()
    if not folder.is_dir():
        return
    for path in sorted(folder.glob(f"machine-*{SUFFIX}"), key=_process):
        if is_served(str(path)):
            yield path
        elif not os.path.exists(f"/proc/{_process(path)}"):
            path.unlink(missing_ok=True)


def _process(path: Path) -> int:
    number = path.name.removeprefix("machine-").removesuffix(SUFFIX)
    return int(number) if number.isdecimal() else 0
