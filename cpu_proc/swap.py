"""A swap of backends that was asked for, and how who asked learns what came of it.

Read next: `translator.py` (`swap`), `retirement.py`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cpu_proc.culprit import Who


class Swap:
    """A swap of backends that was asked for. `problem`: why it came to nothing, once `done`."""

    def __init__(self, backend: str, who: Who) -> None:
        self.backend = backend
        self.who = who
        self.problem = ""
        self.done = threading.Event()

    def end(self, problem: str = "") -> None:
        self.problem = problem
        self.done.set()
