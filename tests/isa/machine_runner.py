"""A runner that is the real machine: board, console, threads, and a translator if asked for.

Read next: `batch.py`, `test_regions.py`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from cpu_proc import options
from cpu_proc.machine import Machine
from tests.isa.batch import RAM, RAM_MIB

PATIENCE = 240.0  # seconds


class MachineRunner:
    """Runs a batch's image as the machine's firmware, with these further options.

    `regions`: how many translations were published in the last run, in all; `kept`: of these, how
    many came from the content store.
    """

    def __init__(self, *further: str) -> None:
        self._further = further
        self.regions = 0
        self.kept = 0

    def __call__(self, image: bytes) -> bytes:
        with tempfile.TemporaryDirectory(prefix="batch-") as folder:
            path = Path(folder, "image.bin")
            path.write_bytes(image)
            words = ["-m", f"{RAM_MIB}M", "-serial", "null", "-bios", str(path), *self._further]
            machine = Machine(options.parse(words))
        try:
            machine.safe_point.post(lambda: _wait_for_translator(machine))
            machine.power_on()
            code = machine.wait()
            assert code == 0, f"the machine ended with {code}"
            link = machine.translator
            self.regions = link.counts["published"] if link is not None else 0
            self.kept = link.counts["from_store"] if link is not None else 0
            return machine.memory.read(RAM, RAM_MIB << 20)
        finally:
            machine.close()


def _wait_for_translator(machine: Machine) -> None:
    """Hold the hart back until its translator answers: what is hot is asked for from the start."""
    deadline = time.monotonic() + PATIENCE
    link = machine.translator
    while link is not None and not link.incarnation:
        assert time.monotonic() < deadline, "the translator does not come up"
        time.sleep(0.01)
