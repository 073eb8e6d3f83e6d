"""The tier-0 engine as a file: how it is named, checked and read, without LLVM.

The problem: a machine must start without waiting for the translator, so the engine, once built,
lies in a disk cache. The machine process maps it from there for execution; it must find the right
file by a key that it can compute in a millisecond, and must never run a file that is truncated,
damaged, made for another CPU or layout, or writable by somebody else.

Invariants:

- `engine_key` covers all the engine's code depends on: this format, the ISA, the shared layout,
  the host CPU's model and flags, llvmlite's version, and the text of the modules that make it.
  One of them differs, the key differs, and the old file is simply not found.
- A file is complete or absent: it is written under another name, synchronised, then renamed; it is
  never changed in place, so a mapping of it stays valid.
- `read` believes nothing: magic, format, key, sizes, digest of every byte, range of every symbol,
  owner and permissions are checked before a path is trusted with execution.
- Code starts on a page boundary of the file, so that it can be mapped PROT_READ | PROT_EXEC.

The file: magic (8 bytes), format (u32), length of the metadata (u32), BLAKE2b-256 digest of all
that follows (32 bytes), metadata (JSON, UTF-8), zeros up to the next page, code up to the end. All
numbers are little endian.

Read next: `jit_proc/store.py` (who writes it), `cpu_proc` (who maps it).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol import mutants
from protocol.errors import UserError

FORMAT: Final = 1
MAGIC: Final = b"CBENGINE"
PAGE: Final = 4096
MAX_SIZE: Final = 256 << 20

_HEADER: Final = struct.Struct("<8sII32s")

_BROKER: Final = frozenset(
    (
        "__init__",
        "__main__",
        "agent",
        "agent_clients",
        "agent_server",
        "agent_session",
        "armed",
        "backend_tool",
        "code_space",
        "comparing",
        "content_store",
        "job",
        "machine_view",
        "outcomes",
        "pool",
        "process",
        "quarantine",
        "random_code",
        "refusals",
        "reproducer",
        "served",
        "service",
        "service_options",
        "states",
        "store",
        "store_disk",
        "store_entry",
        "store_tool",
    )
)
"""Modules of `jit_proc` that carry the engine about and have no part in what it consists of."""


class EngineImageError(Exception):
    """A file is not a usable engine image; the message says why. Build it again."""


@dataclass(frozen=True)
class EngineImage:
    """A checked engine file. `symbols` are byte offsets into the code, which lies at `code_offset`
    of `path`, page-aligned, `code_size` bytes long up to the file's end."""

    path: str
    key: str
    code_offset: int
    code_size: int
    symbols: Mapping[str, int]


def engine_key(isa_hash: str, layout_hash: str, options: str = "") -> str:
    """The engine's name in the cache (32 hexadecimal digits).

    `isa_hash` and `layout_hash` as in the handshake; `options`: whatever else the build was told.
    """
    digest = hashlib.blake2b(digest_size=16, person=b"coldboot engine")
    inputs = (isa_hash, layout_hash, options, host_cpu(), llvmlite_version())
    for part in (str(FORMAT), *inputs, mutants.engine_suffix(), *source_texts()):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def host_cpu() -> str:
    """The host CPU's identity and flags: of its first processor, all being alike."""
    wanted = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags"}
    lines = [os.uname().machine]
    # Only the start is read: the kernel makes the text as it is read, and asks every CPU its clock.
    with open("/proc/cpuinfo", "rb", buffering=0) as file:
        text = file.read(8192)
    for line in text.decode("utf-8", "replace").split("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        if name.strip() in wanted:
            lines.append(f"{name.strip()}={value.strip()}")
    return "\n".join(lines)


def llvmlite_version() -> str:
    """What the installed llvmlite says of its version; empty when there is none.

    Read from its `_version.py`: importing it takes 250 ms, `importlib.metadata` 25 ms.
    """
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("llvmlite")
    for folder in (spec and spec.submodule_search_locations) or ():
        with contextlib.suppress(OSError):
            return (Path(folder) / "_version.py").read_text(encoding="utf-8")
    return ""


def llvmlite_library() -> tuple[int, int]:
    """Size and time of change (ns) of the library that is LLVM: it may be built with another one.

    Zeros when there is none.
    """
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("llvmlite")
    for folder in (spec and spec.submodule_search_locations) or ():
        with contextlib.suppress(OSError):
            status = (Path(folder) / "binding" / "libllvmlite.so").stat()
            return status.st_size, status.st_mtime_ns
    return 0, 0


def source_texts() -> Iterable[str]:
    """The text of all that makes the engine, read without importing any of it.

    A machine without the translator installed gets another key by this, never a wrong file.
    """
    folder = Path(__file__).resolve().parent.parent / "jit_proc"
    for path in sorted([*folder.glob("*.py"), *folder.glob("*.txt")]):
        if path.stem not in _BROKER:
            yield path.name + "\n" + path.read_text(encoding="utf-8")


def folder_named(text: str) -> Path:
    """A user's word for another one. Raises UserError."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise UserError(f"--cache {text}: is no folder")
    return path


def cache_folder() -> Path:
    """Where engines are kept: `$XDG_CACHE_HOME/coldboot`, by default `~/.cache/coldboot`.

    Relative values of XDG_CACHE_HOME are ignored (XDG Base Directory Specification, "Basics").
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "coldboot"


def engine_path(key: str) -> Path:
    """Where the engine called `key` lies, or would lie."""
    return cache_folder() / f"engine-{key}.bin"


def encode(key: str, code: bytes, symbols: Mapping[str, int]) -> bytes:
    """The file for `code`. Raises EngineImageError when a symbol lies outside of it."""
    metadata = json.dumps(
        {"key": key, "code_size": len(code), "symbols": dict(sorted(symbols.items()))},
        separators=(",", ":"),
    ).encode()
    _check_symbols(symbols, len(code))
    padding = bytes(-(_HEADER.size + len(metadata)) % PAGE)
    digest = hashlib.blake2b(digest_size=32)
    for part in (metadata, padding, code):
        digest.update(part)
    header = _HEADER.pack(MAGIC, FORMAT, len(metadata), digest.digest())
    return b"".join((header, metadata, padding, code))


def read(path: str | os.PathLike[str], key: str) -> EngineImage:
    """Check the file at `path` and describe it.

    Raises FileNotFoundError when it is not there, EngineImageError when it must not be used.
    """
    with open(path, "rb", buffering=0) as file:
        return read_descriptor(file.fileno(), key, os.fspath(path))


def read_descriptor(fd: int, key: str, path: str = "") -> EngineImage:
    """Check the open file `fd` and describe it. Map the same descriptor: no file comes between."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise EngineImageError(f"{path} is not a file")
    if status.st_uid not in (os.geteuid(), 0):
        raise EngineImageError(f"{path} belongs to user {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineImageError(f"{path} can be written by others (mode {status.st_mode & 0o777:o})")
    if not _HEADER.size < status.st_size <= MAX_SIZE:
        raise EngineImageError(f"{path} has {status.st_size} bytes")
    content = _read_all(fd, status.st_size)
    magic, version, length, expected = _HEADER.unpack_from(content)
    if magic != MAGIC:
        raise EngineImageError(f"{path} is not an engine image")
    if version != FORMAT:
        raise EngineImageError(f"{path} has format {version}, not {FORMAT}")
    if hashlib.blake2b(memoryview(content)[_HEADER.size :], digest_size=32).digest() != expected:
        raise EngineImageError(f"{path} is damaged or truncated: its digest does not match")
    code_offset = -(-(_HEADER.size + length) // PAGE) * PAGE
    try:
        described = json.loads(content[_HEADER.size : _HEADER.size + length])
        stored_key, code_size = described["key"], described["code_size"]
        symbols = {str(name): int(value) for name, value in described["symbols"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineImageError(f"{path} has unreadable metadata: {error}") from error
    if stored_key != key:
        raise EngineImageError(f"{path} was made for another key ({stored_key}, wanted {key})")
    if code_size != status.st_size - code_offset or code_size <= 0:
        raise EngineImageError(f"{path}: {code_size} bytes of code do not fit its length")
    _check_symbols(symbols, code_size)
    return EngineImage(path, key, code_offset, code_size, symbols)


def _read_all(fd: int, size: int) -> bytes:
    parts, offset = [], 0
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        if not part:
            raise EngineImageError(f"the file shrank to {offset} of {size} bytes while it was read")
        parts.append(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _check_symbols(symbols: Mapping[str, int], code_size: int) -> None:
    for name, offset in symbols.items():
        if not 0 <= offset < code_size:
            raise EngineImageError(
                f"symbol {name} at {offset:#x} lies outside of {code_size} bytes"
            )
