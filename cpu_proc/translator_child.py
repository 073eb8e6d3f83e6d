"""The embedded translator's process: started, restarted and ended by its machine.

The problem: it needs a while to start, and until then all of the guest is tier 0's work. So it is
started first of all, by the main thread, and again, if it was lost, by the translator's thread.

Invariants: one process at a time, and none is left behind by `end`; it ends by itself when this
process dies (`--parent`; more precisely, the thread that started it, of which both live on).

Read next: `translator.py`, `jit_proc/__main__.py`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from protocol import mutants
from protocol.endpoints import discard_endpoint, private_endpoint
from protocol.logs import get_logger

if TYPE_CHECKING:
    from cpu_proc.run_options import RunOptions

log = get_logger("translator_link")


def early(options: RunOptions) -> TranslatorChild | None:
    """Start the child of a machine that is yet to be made; None if it is to have none."""
    if options.translator != "embedded" or options.dump_dtb is not None:
        return None
    child = TranslatorChild(options)
    child.start()
    return child


class TranslatorChild:
    """The child of one machine; `endpoint` is where it answers."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = private_endpoint()

    @property
    def pid(self) -> int | None:
        """Its process id, if there is one."""
        return self._process.pid if self._process is not None else None

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of its workers, those there are at the moment."""
        pid, found = self.pid, []
        if pid is not None:
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                        found += [int(word) for word in file.read().split()]
        return found

    def start(self) -> None:
        """Start it, or another one."""
        self.end(0)  # of a lost one nothing is expected any more
        command = [sys.executable, "-m", *mutants.translator_module(), "--parent", str(os.getpid())]
        command += ["--endpoint", self.endpoint]
        if self._options.cold:
            command += ["--store", "off"]
        if self._options.log_json:
            command.append("--log-json")
        if log.enabled("info"):
            command += ["--log-level", "info"]
        try:
            # In a process group of its own: Ctrl-C is this process's to answer; it ends the child.
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        except OSError as error:
            log.warning("translator_not_started", error=str(error))
            return
        log.info("translator_started", pid=self._process.pid)

    def close(self, patience: float) -> None:
        """End the child, and remove what it left if it was killed."""
        if self._process is not None:
            self.end(patience)
            discard_endpoint(self.endpoint)

    def end(self, patience: float) -> None:
        """End the child, by a kill after `patience` seconds."""
        child, self._process = self._process, None
        if child is None:
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if patience > 0:
                child.terminate()
                child.wait(patience)
        child.kill()
        child.wait()
