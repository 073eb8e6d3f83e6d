"""What all tests share: the fetched guests, and the list of what was skipped for want of a tool.

Read next: `tests/oracle.py`.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from tests.oracle import MISSING, do_without

# Two cores are shared by all workers: a slow example says nothing about the program. In continuous
# integration the same examples are tried every time, so that a red run can be had again.
settings.register_profile("coldboot", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "coldboot")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let golden files be written anew."""
    parser.addoption(
        "--update-filetests", action="store_true", help="rewrite what tests/filetests expect"
    )


@pytest.fixture(scope="session")
def guests_folder() -> Path:
    """The folder of Debian's kernel, initramfs and firmware that `coldboot guests fetch` fills."""
    from cpu_proc import guests

    named = os.environ.get("COLDBOOT_GUESTS")
    folder = Path(named) if named else guests.default_folder()
    if not guests.is_complete(folder):
        do_without(f"Debian's guests in {folder} (coldboot guests fetch)")
    return folder


@pytest.fixture(scope="session")
def programs_folder(guests_folder: Path) -> Path:
    """The same folder, with the programs for guests in it."""
    from cpu_proc import guest_programs

    if not guest_programs.is_complete(guests_folder):
        do_without(f"programs for Debian's guests in {guests_folder} (coldboot guests fetch)")
    return guests_folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not tested."""
    missing: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _, found, what = reason.partition(MISSING)
        if found:
            missing[what] += 1
    if missing:
        terminalreporter.section("NOT TESTED: programs or files are missing", sep="!")
        for what, count in sorted(missing.items()):
            terminalreporter.line(f"{count:4} test{'s' if count > 1 else ' '} for want of {what}")
