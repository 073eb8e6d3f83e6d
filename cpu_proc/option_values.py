"""How the value of one option is read, and how a wrong one is refused.

Problem: every option of `coldboot run` has a value in one of a few notations, and each mistake
shall name the option, the value and what was expected, in one line.

Invariant: a function either returns what was meant or raises `UserError`; files are looked at,
never changed.

Read next: `options`, where the notations are used.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence

from protocol.errors import UserError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_UNITS = {"B": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1 << 40}


def complain(option: str, value: str, problem: str) -> UserError:
    """The error for `option` with `value`."""
    return UserError(f"{option} {value}: {problem}" if value else f"{option}: {problem}")


def keys(option: str, text: str, implied: str = "") -> dict[str, str]:
    """`a=1,b=2` as a dict. A first word without `=` is the value of the key `implied`."""
    found: dict[str, str] = {}
    for index, part in enumerate(text.replace(",,", "\0").split(",")):
        key, equals, value = part.replace("\0", ",").partition("=")
        if not equals and index == 0 and implied:
            key, value = implied, key
        elif not equals or not key:
            raise complain(option, text, f"key=value expected, not {key!r}")
        if key in found:
            raise complain(option, text, f"{key}= is given twice")
        found[key] = value
    return found


def only(option: str, text: str, found: dict[str, str], allowed: Sequence[str]) -> None:
    """Refuse keys in `found` that are not `allowed`."""
    for key in found:
        if key not in allowed:
            known = ", ".join(allowed)
            raise complain(option, text, f"unknown key {key!r} (known: {known})")


def on_off(option: str, text: str, value: str) -> bool:
    """A switch: on or off."""
    if value not in ("on", "off"):
        raise complain(option, text, f"on or off expected, not {value!r}")
    return value == "on"


def integer(option: str, text: str, value: str, low: int, high: int, what: str) -> int:
    """A number in Python's notation (0x for hexadecimal), from `low` to `high`; `what` it is."""
    try:
        number = int(value, 0)
    except ValueError:
        raise complain(option, text, f"{what} expected, not {value!r}") from None
    if not low <= number <= high:
        raise complain(option, text, f"{what} must be from {low} to {high}")
    return number


def size(option: str, text: str, value: str) -> int:
    """A size in bytes from QEMU's notation: MiB unless it ends with B, K, M, G or T."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)([BKMGT]?)", value.upper())
    if not match:
        raise complain(option, text, "a size such as 512M or 2G is expected")
    return int(float(match[1]) * _UNITS[match[2] or "M"])


def readable(option: str, path: str, *, block_device: bool = False) -> str:
    """`path`, once it is known to be a file that can be read and is not empty."""
    if not path:
        raise UserError(f"{option}: a file name is expected")
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise complain(option, path, "is a directory")
        is_block = block_device and stat.S_ISBLK(status.st_mode)
        if not stat.S_ISREG(status.st_mode) and not is_block:
            raise complain(option, path, "is not a regular file")
        if status.st_size == 0 and not is_block:
            raise complain(option, path, "is empty")
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise complain(option, path, reason(error)) from None
    return path


def writable(option: str, path: str) -> str:
    """`path`, once it is known that a file can be made or replaced there; nothing is made yet."""
    if not path:
        raise UserError(f"{option}: a file name is expected")
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise complain(option, path, "is a directory")
    if not os.path.isdir(folder):
        raise complain(option, path, f"there is no folder {folder}")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise complain(option, path, "is not writable")
    return path


def reason(error: OSError) -> str:
    """What the system says, as the end of a sentence."""
    return {"No such file or directory": "no such file"}.get(
        error.strerror or "", (error.strerror or str(error)).lower()
    )


def server_socket(option: str, text: str) -> str:
    """The path in `unix:PATH,server=on,wait=off`; "none" as it stands. Raises UserError."""
    if text == "none":
        return text
    old = f"{text},".replace(",server,", ",server=on,").replace(",nowait,", ",wait=off,")
    found = keys(option, old[:-1], "path")
    only(option, text, found, ("path", "server", "wait"))
    path = found["path"].removeprefix("unix:")
    if path == found["path"] or not path:
        raise complain(option, text, "unix:PATH,server=on,wait=off or none is expected")
    if not on_off(option, text, found.get("server", "off")):
        raise complain(option, text, "server=on is missing: this is the end that listens")
    if on_off(option, text, found.get("wait", "on")):
        raise complain(option, text, "wait=off is missing: a machine waits for nobody")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise complain(option, text, f"there is no folder {folder}")
    return path
