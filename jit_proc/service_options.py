"""How a translator is run: what its command line decides, in one place.

Read next: `__main__.py` (the command line), `service.py` (who obeys).
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from jit_proc import content_store
from jit_proc.backends.llvm import DEFAULT_LIFTER
from jit_proc.code_space import DEFAULT_SIZE
from jit_proc.pool import Pool
from jit_proc.worker import DEFAULT_ENGINE, DEFAULT_NICE
from protocol.transport import default_endpoint

DEFAULT_MACHINES = 64
DEFAULT_QUEUE = 1024


@dataclass(frozen=True)
class Options:
    """How a translator is run. `code_space` in bytes, a segment for each machine and epoch;
    `machines`: served at a time; `queue`: requests of one machine that may wait; `store`
    and `store_size` (bytes on disk): where translations are kept; `cache`: the folder for that;
    `worker`: one that was started already.
    """

    endpoint: str = field(default_factory=default_endpoint)
    workers: int = 1
    code_space: int = DEFAULT_SIZE
    machines: int = DEFAULT_MACHINES
    queue: int = DEFAULT_QUEUE
    nice: int = DEFAULT_NICE
    lifter: str = DEFAULT_LIFTER
    engine: str = DEFAULT_ENGINE
    cache: Path | None = None
    store: content_store.Mode = "disk"
    store_size: int = content_store.DEFAULT_DISK
    worker: subprocess.Popen[bytes] | None = None


def make_pool(options: Options) -> Pool:
    """The workers these options ask for, not started yet."""
    return Pool(
        options.workers,
        lifter=options.lifter,
        engine=options.engine,
        nice=options.nice,
        first=options.worker,
    )
