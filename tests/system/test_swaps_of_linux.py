"""Debian goes on printing right checksums, whatever is done to its translator: the short version of
`python -m tests.system.workloads swaps`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.system.workloads import swaps


def test_swaps_a_kill_and_an_upgrade_show_in_no_line(guests_folder: Path, tmp_path: Path):
    guest = swaps.Guest(guests_folder, tmp_path, "llvm")
    try:
        swaps.disturbed(guest, swaps=3, kills=1, upgrades=1, lines=2)
        book = guest.finish()
    finally:
        guest.close()

    assert [] == swaps.wrong_lines(guest.lines[:-1])
    done = Counter(disturbance.what.split()[0] for disturbance in guest.disturbances)
    assert {"swap": 3, "kill": 1, "upgrade": 1} == done
    causes = Counter(event["cause"] for event in book)
    assert 3 == causes["backend_swap"]
    assert causes["translator_restart"] >= 2
