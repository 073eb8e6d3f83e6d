"""A flash bank's array: its bytes in guest memory, its place in the memory map, its file.

Problem: a bank is memory in read-array mode and I/O in every other one. Each change of mode changes
what an address means, under harts that looked it up; each program or erase changes bytes that code
was made from, while the bank is no memory at all.

Invariants:
- The bank is two layers of the map: its registers, and over them the array, switched on and off.
- The map changes at a safe point, before another guest instruction of the hart that asked. What is
  done there is the wish of that moment: asking for command mode and back in one go does nothing.
- Code belongs to the backing, not to the address: going to command mode retires nothing, what was
  made can only no longer be reached; `write` retires, whichever slot is mapped.
- A file's contents are copied at the start, and every write is in the file before the guest's store
  is done; `close` makes them durable.
- Without a file the bank is erased, all ones. As guest memory begins as zeros, and filling 32 MiB
  costs time and memory that most guests have no use for, such a bank stays I/O until its array is
  first read or written by a load or store. (Executing it before is an access fault.)

Read next: `devices/cfi_flash.py` (the commands), `safe_point.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cpu_proc.memory_map import Backing, MemoryMap, Slot, Window
from cpu_proc.placement import Change
from protocol.errors import UserError

PIECE = 1 << 18  # bytes copied at once
_ZEROS = bytes(PIECE)
_ONES = b"\xff" * PIECE


class Store(Protocol):
    """The file: see `devices.virtio.blk.RawDisk`. Methods may raise `OSError`."""

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class FlashBank:
    """One bank's array; `attach` maps it."""

    def __init__(
        self,
        memory: MemoryMap,
        post: Callable[[Callable[[], None]], None],
        backing: Backing,
        *,
        store: Store | None = None,
        path: str = "",
        readonly: bool = False,
    ) -> None:
        """`post` has work done at the next safe point. `store`: the file, `path` to the user,
        `readonly` if it is never written.

        Raises `UserError` if the file cannot be read.
        """
        self._memory = memory
        self._post = post
        self._backing = backing
        self._store = store
        self._path = path
        self._readonly = readonly
        self._filled = store is not None
        self._wanted = True
        if store is not None:
            self._copy(store)

    def attach(self, base: int, device: Window) -> None:
        """Map the bank at `base`; `device` gets the stores, and the loads in command modes."""
        name, size = self._backing.name, len(self._backing.view)
        array = Slot(name, base, size, self._backing, readonly=True, device=device)
        self._mapped = self._memory_wanted
        with self._memory.change() as change:
            window = change.add(Slot(f"{name} registers", base, size, device=device))
            self._array = change.add(array, priority=1, enabled=self._mapped)
        self.placements = (window, self._array)

    @property
    def filled(self) -> bool:
        """Whether the backing holds the array; else it is erased and the backing zero."""
        return self._filled

    def restored(self, filled: bool) -> None:
        """The backing was replaced, by a snapshot's: the file follows, unless it is read-only."""
        self._filled = filled or self._store is not None
        if self._store is not None and not filled:
            self._erase()
        if self._store is not None and not self._readonly:
            try:
                for at in range(0, self.size, PIECE):
                    self._store.write(at, bytes(self._backing.view[at : at + PIECE]))
            except OSError as error:
                raise self._complaint(error) from error
        self.remap(self._wanted)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._backing.view)

    def shown_at(self, change: Change, name: str, base: int) -> None:
        """Show the bank at another address too, in whichever mode it is."""
        for priority, placement in enumerate(self.placements):
            change.alias(name, base, self.size, placement, priority=priority)

    def close(self) -> None:
        """Let go of the file. Raises `UserError` if it may not be complete on the host's disk."""
        store, self._store = self._store, None
        if store is None:
            return
        try:
            store.flush()
        except OSError as error:
            raise self._complaint(error) from error
        finally:
            store.close()

    # --- what the device calls -----------------------------------------------------------------

    def remap(self, memory: bool) -> None:
        """Ask that the bank be memory, or nothing but its device, before the next instruction."""
        self._wanted = memory
        if self._memory_wanted != self._mapped:
            self._post(self._settle)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the array; from now on it can be memory."""
        self._fill()
        return bytes(self._backing.view[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Change the array: bytes, code made from them, the file."""
        self._fill()
        erase = len(data) > 4096 and data.count(0xFF) == len(data)
        did = f"{self._backing.name} {'erase' if erase else 'program'}"
        self._memory.write_backing(self._backing, offset, data, did)
        if self._store is not None:
            try:
                self._store.write(offset, data)
            except OSError as error:
                raise self._complaint(error) from error

    # --- parts ---------------------------------------------------------------------------------

    @property
    def _memory_wanted(self) -> bool:
        """Whether loads should find memory now."""
        return self._wanted and self._filled

    def _settle(self) -> None:
        """At a safe point: have the map follow what was asked last."""
        if self._memory_wanted != self._mapped:
            self._mapped = self._memory_wanted
            with self._memory.change() as change:
                change.enable(self._array, self._mapped)

    def _fill(self) -> None:
        if self._filled:
            return
        self._filled = True
        self._erase()
        self.remap(self._wanted)

    def _erase(self) -> None:
        view = self._backing.view
        for at in range(0, len(view), PIECE):
            view[at : at + PIECE] = _ONES

    def _copy(self, store: Store) -> None:
        view = self._backing.view
        try:
            for at in range(0, len(view), PIECE):
                piece = store.read(at, PIECE)
                if piece != _ZEROS:  # as guest memory is already; not touched, it takes no room
                    view[at : at + PIECE] = piece
        except OSError as error:
            raise self._complaint(error) from error

    def _complaint(self, error: OSError) -> UserError:
        return UserError(f"-drive if=pflash,file={self._path}: {error.strerror}")
