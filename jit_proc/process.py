"""Small debts to the operating system: ending with one's parent, and importable children.

The problem: a translator or worker that outlives the machine it was started for burns a core for
nobody. The kernel can tell a child of its parent's death, even one that LLVM keeps busy (prctl(2),
PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send `with_signal` to this process when its parent, process `parent`, ends.

    Sends it at once if that has already happened. Raises OSError when the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the call above
        os.kill(os.getpid(), with_signal)


def child_environment() -> dict[str, str]:
    """This process's environment, with which a child Python finds these packages too."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
