"""`coldboot store info|verify|clear`: what is kept of translations on disk.

The problem: a cache that nobody can look into is distrusted, and deleted by hand at the wrong
moment. These may be run at any time, beside translators at work.

Read next: `store_disk.py`, `docs/store.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import NoReturn

from jit_proc.store_disk import FILE, Damaged, Disk, DiskError
from protocol.engine_image import cache_folder, folder_named
from protocol.errors import USER_ERROR_EXIT, UserError
from protocol.logs import configure


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"store: {message}; see `coldboot store --help`")


def _info(folder: Path) -> int:
    """Sizes, entries and hits, by what made them."""
    path = folder / FILE
    engines = sorted(folder.glob("engine-*.bin"))
    size = sum(path.stat().st_size for path in engines)
    print(f"engines:       {len(engines)}, {_bytes(size)} in {folder}")
    if not path.exists():
        print(f"translations:  none yet; they will be in {path}")
        return 0
    disk = Disk(folder)
    rows = disk.rows()
    disk_size = disk.size
    disk.close()
    regions, hits = sum(row.regions for row in rows), sum(row.hits for row in rows)
    print(f"translations:  {regions} regions, {_bytes(disk_size)}, {hits} hits, in {path}")
    for row in rows:
        parts = json.loads(row.text)
        made_by = parts.pop("toolchain", "?")
        print(f"\ntoolchain {made_by}: {row.regions} regions, {_bytes(row.size)}, {row.hits} hits,")
        print(f"  last used {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(row.used))}")
        print("  " + ", ".join(f"{name} {value}" for name, value in parts.items()))
    return 0


def _verify(folder: Path) -> int:
    """Every byte is looked at; what is bad is removed."""
    if not (folder / FILE).exists():
        print("nothing is kept")
        return 0
    try:
        disk = Disk(folder)
        good, bad = disk.verify()
        disk.close()
    except Damaged as error:
        print(f"the file was damaged ({error}): it is removed, and will be made anew")
        return 1
    print(f"{good} regions are sound" + (f", {bad} were damaged and are removed" if bad else ""))
    return int(bad > 0)


def _clear(folder: Path) -> int:
    """Remove all translations. Engines stay: without one no machine starts at once."""
    if not (folder / FILE).exists():
        print("nothing is kept")
        return 0
    disk = Disk(folder)
    count = disk.clear()
    disk.close()
    print(f"{count} regions removed")
    return 0


_VERBS = {"info": _info, "verify": _verify, "clear": _clear}


def main(arguments: list[str] | None = None) -> int:
    """Entry point: the exit status. 1 if `verify` found something bad."""
    parser = _Parser(
        prog="coldboot store",
        description="Look after translations kept on disk.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "verb",
        choices=list(_VERBS),
        help="info: what there is; verify: rehash all, remove what is bad (exit status 1 then);"
        " clear: remove all",
    )
    parser.add_argument("--cache", type=folder_named, metavar="FOLDER", help="where it is kept")
    configure(level="error")
    try:
        asked = parser.parse_args(arguments)
    except UserError as error:
        print(f"coldboot: {error.text}", file=sys.stderr)
        return USER_ERROR_EXIT
    try:
        return _VERBS[asked.verb](asked.cache or cache_folder())
    except (DiskError, OSError) as error:
        print(f"coldboot: {UserError(f'store {asked.verb}: {error}').text}", file=sys.stderr)
        return USER_ERROR_EXIT


def _bytes(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / 1024:.1f} KiB"


if __name__ == "__main__":
    sys.exit(main())
