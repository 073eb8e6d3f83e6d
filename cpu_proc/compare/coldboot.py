"""This project's own columns: tier 0 alone, and regions.

A trial of the stress tool, in a process of its own; what came of it is taken as it is.

Read next: `cpu_proc/stress/job.py`.
"""

from __future__ import annotations

from cpu_proc.compare.peer import Cell, Guest, Peer
from cpu_proc.stress import job


class Coldboot(Peer):
    """One of the stress tool's modes."""

    def __init__(self, mode: str) -> None:
        self.name = mode
        self._mode = mode

    def missing(self) -> str:
        """Never."""
        return ""

    def version(self) -> str:
        """The mode, for a column's head."""
        return {"tier0": "coldboot, tier 0", "regions": "coldboot, regions"}[self._mode]

    def run(self, guest: Guest) -> Cell:
        """A trial; in the mode of this column, whatever mode the guest is for."""
        asked: job.Job = {
            "file": str(guest.path),
            "mode": self._mode,
            "harts": guest.harts,
            "patience": guest.patience,
        }
        result = job.run_job(asked)
        return Cell(
            result["kind"], result["verdict"], tuple(result["values"]), result.get("seconds", 0.0)
        )
