"""Snapshots: a whole machine in a file, and back, in this process or another.

Problem: a saved machine must go on as if nothing had happened, wherever it is loaded, and nothing
made from its old memory may run in its new one. So only what a guest can see is kept - memory, the
devices' state, the harts' architecture - and everything derived (records, regions, lookups,
generations, what the translator knows) is not in the file, and is retired when one is loaded.

The file: `MAGIC`; blocks, each zlib-compressed; the header, JSON in UTF-8; its offset and length;
a CRC-32 of all before it. The header has the format's `version`, the layout's hash, what kind of
machine it is (`_kind`), harts, devices, and where each block belongs in guest memory. What no block
covers is zero.

Invariants:
- Saving writes another file and renames it, so an older snapshot is replaced by a whole one or
  stays. Loading checks the whole file before it changes anything: a `SnapshotError` leaves the
  machine as it was.
- Loading happens at a safe point, in this order: memory, everything retired under a new epoch (what
  was asked for under the old one is dropped, what is asked under the new one is made from the new
  bytes), harts, devices. The devices' remaps are done before a hart runs.
- Time goes on from where it was saved. Disk images are files of their own and not in it; flash is.

Read next: `host_api.py` (`save`, `restore`), `retirement.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from cpu_proc import native
from cpu_proc.hart import NEVER, TICK_NS
from protocol import layout, mutants
from protocol.errors import UserError
from protocol.layout import HART, LAYOUT_HASH

if TYPE_CHECKING:
    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine

MAGIC = b"coldboot snapshot\n"
VERSION = 1
BLOCK = 1 << 20  # bytes
LEVEL = 1  # of zlib: RAM compresses well, and quickly, or not at all
_ZEROS = bytes(BLOCK)
_TAIL = struct.Struct("<QQI")  # offset and length of the header, CRC-32

_HART = (
    *("x", "f", "count", "pc", "data_set", "fetch_set", "priv", *layout.CSRS),
    *("fflags", "mxcsr", "mtimecmp", "pmp_active", "pmpcfg", "pmpaddr", "between"),
)
"""What makes up a hart but for its clock; lines from outside are driven by the devices."""


class SnapshotError(UserError):
    """A file that is no snapshot of this machine, or cannot be written or read."""


# --- saving --------------------------------------------------------------------------------------


def save(machine: Machine, path: str) -> int:
    """Write the machine to `path`, at a safe point; the file's size in bytes."""
    folder, name = os.path.split(os.path.abspath(path))
    temporary = ""
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        with os.fdopen(fd, "wb") as file:
            with machine.lock:
                size = _write(machine, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        return size
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise SnapshotError(f"snapshot {path}: {_reason(error)}") from error


def _write(machine: Machine, file: IO[bytes]) -> int:
    crc = zlib.crc32(MAGIC)
    at = file.write(MAGIC)
    blocks: list[tuple[int, int, int, int]] = []
    memory = _memory(machine)
    for start, end in _extents(machine):
        content = memory[start:end]
        if content == _ZEROS[: end - start]:
            continue
        packed = zlib.compress(content, LEVEL)
        blocks.append((start, end - start, at, len(packed)))
        crc = zlib.crc32(packed, crc)
        at += file.write(packed)
    header = {
        "version": VERSION,
        "layout": LAYOUT_HASH,
        "machine": _kind(machine),
        "harts": [_hart_state(hart) for hart in machine.harts],
        "devices": {name: _encode(d.state) for name, d in machine.board.devices.items()},
        "flash": [bank.filled for bank in machine.board.banks],
        "blocks": blocks,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    tail = _TAIL.pack(at, len(text), zlib.crc32(text, crc))
    return at + file.write(text) + file.write(tail)


def _hart_state(hart: Hart) -> dict[str, Any]:
    state = hart.state
    fields = {name: getattr(state, name) for name in _HART}
    values = {name: v if isinstance(v, int) else list(v) for name, v in fields.items()}
    return {**values, "time": hart.now()}


# --- loading -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A file that has been checked: it can be put in place without a doubt."""

    path: str
    header: dict[str, Any]
    states: dict[str, Any]
    """Devices' states by name."""


def read(machine: Machine, path: str) -> Snapshot:
    """Check a file from its first byte to its last. Raises `SnapshotError`; changes nothing."""
    try:
        with open(path, "rb") as file:
            return _read(machine, path, file)
    except OSError as error:
        raise SnapshotError(f"snapshot {path}: {_reason(error)}") from error
    except (ValueError, KeyError, TypeError, IndexError, zlib.error) as error:
        raise SnapshotError(f"snapshot {path}: is damaged") from error


def _read(machine: Machine, path: str, file: IO[bytes]) -> Snapshot:
    size = os.fstat(file.fileno()).st_size
    if file.read(len(MAGIC)) != MAGIC:
        raise SnapshotError(f"snapshot {path}: is not a snapshot")
    if size < len(MAGIC) + _TAIL.size:
        raise SnapshotError(f"snapshot {path}: is damaged (cut short, or changed)")
    file.seek(size - _TAIL.size)
    at, length, expected = _TAIL.unpack(file.read(_TAIL.size))
    if at + length + _TAIL.size != size or _crc(file, at + length) != expected:
        raise SnapshotError(f"snapshot {path}: is damaged (cut short, or changed)")
    file.seek(at)
    header = json.loads(file.read(length))
    if header["version"] != VERSION:
        problem = f"is of version {header['version']}, this program reads {VERSION}"
        raise SnapshotError(f"snapshot {path}: {problem}")
    if header["layout"] != LAYOUT_HASH:
        raise SnapshotError(f"snapshot {path}: was written by another version of this program")
    _same_kind(path, header["machine"], _kind(machine))
    end = machine.guest.segment.size
    for start, long, place, packed in header["blocks"]:
        if not (start >= 0 and 0 < long <= BLOCK and start + long <= end):
            raise ValueError("a block outside of memory")
        file.seek(place)
        if len(zlib.decompress(file.read(packed))) != long:
            raise ValueError("a block of another length")
    for hart in header["harts"]:
        for name in (*_HART, "time"):
            count = 1 if name == "time" else HART.fields[name].count
            values = hart[name] if count > 1 else [hart[name]]
            if len(values) != count or not all(type(v) is int and 0 <= v < 2**64 for v in values):
                raise ValueError(f"{name} of a hart")
        if hart["data_set"] > 7 or hart["fetch_set"] > 3:
            raise ValueError("a hart's TLB sets")
    states = {
        name: _decode(header["devices"][name], device.state)
        for name, device in machine.board.devices.items()
    }
    return Snapshot(path, header, states)


def _crc(file: IO[bytes], end: int) -> int:
    file.seek(0)
    crc, left = 0, end
    while left > 0 and (piece := file.read(min(BLOCK, left))):
        crc = zlib.crc32(piece, crc)
        left -= len(piece)
    return crc


def apply(machine: Machine, snapshot: Snapshot) -> None:
    """Have the machine be what was saved. At a safe point."""
    header = snapshot.header
    with machine.lock:
        _load_memory(machine, snapshot)
        if not mutants.armed("M4"):  # M4: memory is put back behind everybody's back
            machine.retirement.everything("snapshot_restore")
        for hart, state in zip(machine.harts, header["harts"], strict=True):
            _load_hart(hart, state)
        if machine.htif is not None:
            machine.htif.reset()
        for bank, filled in zip(machine.board.banks, header["flash"], strict=True):
            bank.restored(filled)
        for name, device in machine.board.devices.items():
            device.restore(snapshot.states[name])


def _load_memory(machine: Machine, snapshot: Snapshot) -> None:
    memory = _memory(machine)
    blocks = snapshot.header["blocks"]
    kept = {start for start, *_ in blocks}
    for start, end in list(_extents(machine)):
        if start not in kept and memory[start:end] != _ZEROS[: end - start]:
            memory[start:end] = _ZEROS[: end - start]
    with open(snapshot.path, "rb") as file:
        for start, length, place, packed in blocks:
            file.seek(place)
            memory[start : start + length] = zlib.decompress(file.read(packed))


def _load_hart(hart: Hart, saved: dict[str, Any]) -> None:
    state = hart.state
    hart.reset(0)  # all that is derived goes
    for name in _HART:
        if HART.fields[name].count == 1:
            setattr(state, name, saved[name])
        else:
            getattr(state, name)[:] = saved[name]
    hart.choose_sets(saved["data_set"], saved["fetch_set"])
    passed = state.count * state.icount if state.icount else time.monotonic_ns()
    state.time_offset = saved["time"] - passed // TICK_NS & NEVER
    hart.call()


# --- parts ---------------------------------------------------------------------------------------


def _memory(machine: Machine) -> memoryview:
    segment = machine.guest.segment
    return native.view(segment.address, segment.size)


def _extents(machine: Machine) -> Iterator[tuple[int, int]]:
    """Blocks of guest memory that have pages: the rest was never touched and is zero."""
    segment = machine.guest.segment
    at = 0
    while at < segment.size:
        try:
            at = os.lseek(segment.fd, at, os.SEEK_DATA) // BLOCK * BLOCK
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole
                return
            raise
        end = min(at + BLOCK, segment.size)
        yield at, end
        at = end


def _kind(machine: Machine) -> dict[str, Any]:
    """What two machines must have in common."""
    options = machine.options
    return {
        "RAM": options.ram_size,
        "harts": options.harts,
        "svadu": options.svadu,
        "sstc": options.sstc,
        "icount": options.icount,
        "virtio devices": [device.kind for device in options.virtio],
        "virtio-mmio legacy": options.virtio_legacy,
        "devices": sorted(machine.board.devices),
    }


def _same_kind(path: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for name, value in ours.items():
        if theirs.get(name) != value:
            problem = f"is of another machine ({name}: {theirs.get(name)} there, {value} here)"
            raise SnapshotError(f"snapshot {path}: {problem}")


def _encode(value: Any) -> Any:
    """A device's state as JSON: dataclasses, bytes and tuples are marked."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"=": type(value).__name__, **fields}
    if isinstance(value, bytes | bytearray):
        return {"=": type(value).__name__, "hex": value.hex()}
    if isinstance(value, list | tuple):
        return {"=": type(value).__name__, "of": [_encode(one) for one in value]}
    return value


def _decode(value: Any, like: Any) -> Any:
    """The state that `_encode` was given, of the same dataclasses as in `like`."""
    known = {kind.__name__: kind for kind in _dataclasses(like)}

    def decode(one: Any) -> Any:
        if not isinstance(one, dict):
            return one
        name = one["="]
        if name in ("bytes", "bytearray"):
            content = bytes.fromhex(one["hex"])
            return content if name == "bytes" else bytearray(content)
        if name in ("list", "tuple"):
            return {"list": list, "tuple": tuple}[name](decode(part) for part in one["of"])
        return known[name](**{key: decode(part) for key, part in one.items() if key != "="})

    decoded = decode(value)
    if type(decoded) is not type(like):
        raise ValueError(f"{type(like).__name__} expected")
    return decoded


def _dataclasses(value: Any) -> Iterator[type]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        for field in dataclasses.fields(value):
            yield from _dataclasses(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _dataclasses(one)


def _reason(error: OSError) -> str:
    from cpu_proc.option_values import reason

    return reason(error)
