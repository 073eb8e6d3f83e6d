"""CFI parallel flash: memory that is read and executed in place, and written by command sequences.

Problem: a bank is memory until a guest stores a command in it; then all of its addresses answer
with a status, an identity or a query table, until the guest asks for the array again. Code may have
run from the bank before, may be running from another one, and may be what is written.

A bank is two 28F128J3A chips side by side on a 32-bit bus, 16 MiB each, 128 blocks of 128 KiB a
chip (256 KiB of the bank), with Intel's extended command set (0x0001).

Invariants:
- A command acts on both chips, whatever the width of the store, and is done when the store is: the
  status read after it is ready. There is nothing to suspend.
- `remap(True)` asks that the bank be memory, `remap(False)` that it be nothing but this device.
  Only a change of mode asks, and the bank stays in command mode until told otherwise, as the chips
  do: a driver that programs a thousand words and polls the status of each changes the mode once.
- Until a mode change is carried out the device answers for its new mode in either map.
- Every change of the array goes through `Cells.write`, which retires code made from those bytes.
- As on QEMU, programming stores the data as they are; real cells could only clear bits. Blocks are
  locked one by one and unlocked at power-on; a reset changes neither contents nor locks.

Source: Intel AP-646 (Common Flash Interface and Command Sets); 3 Volt Intel StrataFlash Memory
28F128J3A data sheet, chapter 4 and appendix C; JEDEC JESD68.01 for the query table.
Read next: `cpu_proc/flash_bank.py` for where the array is, and who carries a mode change out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from devices.device import NodeContext, check_access, extract

CHIPS = 2
BLOCK_SIZE = CHIPS * (128 << 10)
BLOCKS = 128
BANK_SIZE = BLOCKS * BLOCK_SIZE
BUS_WIDTH = 4  # bytes
BUFFER_WORDS = 1024
"""Stores of a buffered program: 2 KiB a chip."""

READ_ARRAY, READ_ID, READ_QUERY, READ_STATUS = 0xFF, 0x90, 0x98, 0x70
CLEAR_STATUS = 0x50
PROGRAM, PROGRAM_ALTERNATE, PROGRAM_BUFFER = 0x40, 0x10, 0xE8
ERASE, CONFIRM = 0x20, 0xD0
LOCK, LOCK_SET, LOCK_CLEAR = 0x60, 0x01, 0xD0

READY = 0x80
ERASE_ERROR, PROGRAM_ERROR, LOCK_ERROR = 0x20, 0x10, 0x02
SEQUENCE_ERROR = ERASE_ERROR | PROGRAM_ERROR

MANUFACTURER, DEVICE = 0x89, 0x18

# States between the stores of a buffered program, which begins with PROGRAM_BUFFER (the count is
# awaited); no command has such a number.
BUFFER_DATA, BUFFER_CONFIRM = 0x100, 0x101


def _query_table() -> bytes:
    """What one chip answers to READ_QUERY, a byte an address (the same as QEMU's)."""
    table = bytearray(0x40)
    table[0x10:0x13] = b"QRY"
    table[0x13] = 0x01  # Intel's extended command set
    table[0x15] = 0x31  # where its table is
    table[0x1B:0x1D] = 0x45, 0x55  # supply: 4.5 V to 5.5 V
    table[0x1F:0x22] = 0x07, 0x07, 0x0A  # 2**n us a word, us a buffer, ms a block erase
    table[0x23:0x26] = 0x04, 0x04, 0x04  # at most 2**n times that
    table[0x27] = (BANK_SIZE // CHIPS).bit_length() - 1
    table[0x28] = 0x02  # 8 and 16 bits wide
    table[0x2A] = (BUFFER_WORDS * BUS_WIDTH // CHIPS).bit_length() - 1
    table[0x2C] = 1  # one region: its blocks less one, their size / 256
    table[0x2D:0x2F] = (BLOCKS - 1).to_bytes(2, "little")
    table[0x2F:0x31] = (BLOCK_SIZE // CHIPS // 256).to_bytes(2, "little")
    table[0x31:0x36] = b"PRI10"  # version 1.0, without any optional feature
    table[0x3F] = 1  # protection fields
    return bytes(table)


QUERY = _query_table()


class Cells(Protocol):
    """A bank's memory array. Offsets and lengths are bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """What the array holds."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Change it, and retire code made from those bytes, however the bank is mapped."""
        ...


@dataclass
class CfiFlashState:
    """A bank but for its contents, which are guest memory."""

    mode: int = READ_ARRAY
    """What loads give: READ_ARRAY, READ_STATUS, READ_ID or READ_QUERY."""
    setup: int = 0
    """The command that waits for its next store; 0 for none."""
    status: int = READY
    expected: int = 0
    """Stores of data that a buffered program still waits for."""
    buffer: list[tuple[int, bytes]] = field(default_factory=list)
    """A buffered program's data so far, as (offset, data)."""
    locked: int = 0
    """Bit i: block i is locked."""


class CfiFlash:
    """One bank.

    `banks`: how many banks, one behind the other, the device-tree node of this one is for; 0 when
    another bank's node covers it. `readonly`: programs and erases end with an error.
    """

    name = "cfi-flash"
    size = BANK_SIZE

    def __init__(
        self,
        cells: Cells,
        remap: Callable[[bool], None],
        *,
        readonly: bool = False,
        banks: int = 1,
    ) -> None:
        self.state = CfiFlashState()
        self._cells = cells
        self._remap = remap
        self._readonly = readonly
        self._banks = banks

    def reset(self) -> None:
        """Back to the array; contents and locks stay."""
        self.restore(CfiFlashState(locked=self.state.locked))

    def restore(self, state: CfiFlashState) -> None:
        """Continue from `state`; the mapping follows."""
        self.state = state
        self._remap(state.mode == READ_ARRAY)

    # --- loads ---------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """1, 2, 4 or 8 bytes; aligned, but for the array."""
        if self.state.mode == READ_ARRAY:
            return int.from_bytes(self._cells.read(offset, size), "little")
        check_access(offset, size, (1, 2, 4, 8), write=False)
        word = self._answer(offset // BUS_WIDTH)
        if size > BUS_WIDTH:
            return word | self._answer(offset // BUS_WIDTH + 1) << (8 * BUS_WIDTH)
        return extract(word, offset % BUS_WIDTH, size)

    def _answer(self, address: int) -> int:
        """What both chips say at an address in words of the bus."""
        state = self.state
        value = 0
        if state.mode == READ_STATUS:
            value = state.status
        elif state.mode == READ_QUERY:
            value = QUERY[address] if address < len(QUERY) else 0
        else:
            block = address * BUS_WIDTH // BLOCK_SIZE
            where = address % 256
            value = {0: MANUFACTURER, 1: DEVICE, 2: state.locked >> block & 1}.get(where, 0)
        return value * 0x1_0001

    # --- stores --------------------------------------------------------------------------------

    def write(self, offset: int, size: int, value: int) -> None:
        """1, 2, 4 or 8 bytes, aligned; 8 are two stores on the bus."""
        check_access(offset, size, (1, 2, 4, 8), write=True)
        if size > BUS_WIDTH:
            low, high = value & 0xFFFF_FFFF, value >> 32
            self._store(offset, low.to_bytes(BUS_WIDTH, "little"))
            self._store(offset + BUS_WIDTH, high.to_bytes(BUS_WIDTH, "little"))
        else:
            self._store(offset, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"))

    def _store(self, offset: int, data: bytes) -> None:
        state = self.state
        setup, command = state.setup, data[0]
        if setup == 0:
            self._command(command)
        elif setup in (PROGRAM, PROGRAM_ALTERNATE):
            self._program([(offset, data)])
        elif setup == PROGRAM_BUFFER:
            state.expected = int.from_bytes(data[:2], "little") + 1
            state.buffer = []
            state.setup = BUFFER_DATA
            if state.expected > BUFFER_WORDS:
                self._end(SEQUENCE_ERROR)
        elif setup == BUFFER_DATA:
            state.buffer.append((offset, data))
            state.expected -= 1
            if state.buffer[0][0] // BLOCK_SIZE != offset // BLOCK_SIZE:
                self._end(SEQUENCE_ERROR)
            elif state.expected == 0:
                state.setup = BUFFER_CONFIRM
        elif command == READ_ARRAY:
            self._end()
            self._show(READ_ARRAY)
        elif setup == BUFFER_CONFIRM and command == CONFIRM:
            self._program(_joined(state.buffer))
        elif setup == ERASE and command == CONFIRM:
            self._erase(offset // BLOCK_SIZE)
        elif setup == LOCK and command in (LOCK_SET, LOCK_CLEAR):
            block = 1 << offset // BLOCK_SIZE
            state.locked = state.locked | block if command == LOCK_SET else state.locked & ~block
            self._end()
        else:
            self._end(SEQUENCE_ERROR)

    def _command(self, command: int) -> None:
        """The first store of a sequence. What is no command shows the array."""
        if command in (PROGRAM, PROGRAM_ALTERNATE, PROGRAM_BUFFER, ERASE, LOCK):
            self.state.setup = command
            self._show(READ_STATUS)
        elif command in (READ_STATUS, READ_ID, READ_QUERY):
            self._show(command)
        else:
            if command == CLEAR_STATUS:
                self.state.status = READY
            self._show(READ_ARRAY)

    def _show(self, mode: int) -> None:
        """Change what loads give."""
        before, self.state.mode = self.state.mode, mode
        if (before == READ_ARRAY) != (mode == READ_ARRAY):
            self._remap(mode == READ_ARRAY)

    def _end(self, errors: int = 0) -> None:
        """A sequence is over; loads give the status."""
        state = self.state
        state.setup = state.expected = 0
        state.buffer = []
        state.status |= READY | errors

    def _program(self, pieces: list[tuple[int, bytes]]) -> None:
        if self._readonly:
            self._end(PROGRAM_ERROR)
        elif self.state.locked >> pieces[0][0] // BLOCK_SIZE & 1:
            self._end(PROGRAM_ERROR | LOCK_ERROR)
        else:
            for offset, data in pieces:
                self._cells.write(offset, data)
            self._end()

    def _erase(self, block: int) -> None:
        if self._readonly:
            self._end(ERASE_ERROR)
        elif self.state.locked >> block & 1:
            self._end(ERASE_ERROR | LOCK_ERROR)
        else:
            self._cells.write(block * BLOCK_SIZE, b"\xff" * BLOCK_SIZE)
            self._end()

    # --- the device tree -----------------------------------------------------------------------

    def describe(self, context: NodeContext) -> None:
        """``cfi-flash`` below the root, one node for all banks, as QEMU has it."""
        if not self._banks:
            return
        node = context.root.node(f"flash@{context.base:x}")
        node.string("compatible", "cfi-flash")
        bases = [context.base + i * context.size for i in range(self._banks)]
        node.u64("reg", *(cell for base in bases for cell in (base, context.size)))
        node.u32("bank-width", BUS_WIDTH)


def _joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The same stores in the same order, with those that follow on each other as one."""
    joined: list[tuple[int, bytearray]] = []
    for offset, data in pieces:
        if joined and offset == joined[-1][0] + len(joined[-1][1]):
            joined[-1][1].extend(data)
        else:
            joined.append((offset, bytearray(data)))
    return [(offset, bytes(data)) for offset, data in joined]
