"""The flash bank as drivers see it: probing, programming, erasing and locking, store by store.

The sequences are those of Linux's ``cfi_cmdset_0001.c``, U-Boot's ``cfi_flash.c`` and edk2's
``VirtNorFlashDxe``.
"""

from __future__ import annotations

import copy

import pytest

from devices.cfi_flash import BANK_SIZE, BLOCK_SIZE, CfiFlash
from protocol.faults import AccessFault
from protocol.riscv.assembler import assemble
from tests.oracle import RAM_BASE, run_in_qemu

READY = 0x0080_0080
BOTH = 0x1_0001  # a command for both chips


class Array:
    """The first blocks of a bank, and what was written to them."""

    def __init__(self, blocks: int = 4) -> None:
        self.data = bytearray(b"\xff") * (blocks * BLOCK_SIZE)
        self.writes: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.writes.append((offset, len(data)))
        self.data[offset : offset + len(data)] = data


class Bank:
    """A bank with a bus of 32 bits."""

    def __init__(self, *, readonly: bool = False) -> None:
        self.array = Array()
        self.maps: list[bool] = []
        self.device = CfiFlash(self.array, self.maps.append, readonly=readonly)

    def command(self, value: int, offset: int = 0) -> None:
        self.device.write(offset, 4, value * BOTH)

    def word(self, offset: int, value: int) -> None:
        self.device.write(offset, 4, value)

    def __getitem__(self, offset: int) -> int:
        return self.device.read(offset, 4)

    def program(self, offset: int, value: int) -> None:
        self.command(0x40, offset)
        self.word(offset, value)

    def fill_buffer(self, offset: int, words: list[int]) -> None:
        self.command(0xE8, offset)
        assert READY == self[offset]
        self.command(len(words) - 1, offset)
        for number, word in enumerate(words):
            self.word(offset + 4 * number, word)

    def erase(self, offset: int) -> None:
        self.command(0x20, offset)
        self.command(0xD0, offset)


@pytest.fixture
def bank() -> Bank:
    return Bank()


class TestModes:
    def test_a_bank_begins_as_its_array(self, bank: Bank):
        bank.array.data[4:8] = b"\x13\x00\x00\x00"
        assert (0xFFFF_FFFF, 0x13) == (bank[0], bank[4])
        assert [] == bank.maps

    def test_only_a_change_of_mode_asks_for_a_map(self, bank: Bank):
        bank.command(0xFF)
        assert [] == bank.maps
        bank.command(0x70)
        assert [False] == bank.maps
        for i in range(1000):
            bank.program(4 * i, i)
            assert READY == bank[0]
        bank.command(0x90)
        bank.command(0x98)
        assert [False] == bank.maps
        bank.command(0xFF)
        bank.command(0xFF)
        assert [False, True] == bank.maps

    @pytest.mark.parametrize("command", [0xFF, 0x00, 0xF0, 0x50, 0xB0, 0xD0, 0xAA])
    def test_what_leads_back_to_the_array(self, bank: Bank, command: int):
        bank.command(0x70)
        bank.command(command)
        assert 0xFFFF_FFFF == bank[0]
        assert [False, True] == bank.maps

    @pytest.mark.parametrize("setup", [0x20, 0x60])
    def test_read_array_gives_up_a_sequence(self, bank: Bank, setup: int):
        bank.command(setup)
        bank.command(0xFF)
        assert [False, True] == bank.maps
        bank.command(0x70)
        assert READY == bank[0]

    def test_a_reset_shows_the_array_and_keeps_contents_and_locks(self, bank: Bank):
        bank.program(0, 0x1234)
        bank.command(0x60, BLOCK_SIZE)
        bank.command(0x01, BLOCK_SIZE)
        bank.command(0x40)  # half a sequence
        bank.device.reset()
        assert True is bank.maps[-1]
        assert 0x1234 == bank[0]
        bank.command(0x90)
        assert (0, BOTH) == (bank[8], bank[BLOCK_SIZE + 8])

    def test_a_saved_state_continues(self, bank: Bank):
        bank.command(0xE8, 64)
        bank.command(1, 64)
        bank.word(64, 0x11)
        other = Bank()
        other.device.restore(copy.deepcopy(bank.device.state))
        assert [False] == other.maps
        other.word(68, 0x22)
        other.command(0xD0, 64)
        other.command(0xFF)
        assert (0x11, 0x22) == (other[64], other[68])


class TestProbing:
    def test_linux_finds_two_chips_of_16_bits(self, bank: Bank):
        """cfi_probe.c: reset, query at 0x55, then Q, R, Y in each chip's lane."""
        bank.command(0xF0)
        bank.command(0xFF)
        bank.command(0x98, 0x55 * 4)
        assert [c * BOTH for c in b"QRY"] == [bank[4 * a] for a in (0x10, 0x11, 0x12)]
        assert [1 * BOTH, 0] == [bank[4 * a] for a in (0x13, 0x14)]
        assert 24 * BOTH == bank[4 * 0x27]  # 16 MiB a chip
        blocks = (bank[4 * 0x2D] & 0xFF) + 1 | (bank[4 * 0x2E] & 0xFF) << 8
        size = (bank[4 * 0x2F] & 0xFF | (bank[4 * 0x30] & 0xFF) << 8) * 256
        assert (128, 128 << 10) == (blocks, size)
        assert BANK_SIZE == 2 * blocks * size
        table = 4 * (bank[4 * 0x15] & 0xFF)
        assert [c * BOTH for c in b"PRI1"] == [bank[table + 4 * i] for i in range(4)]

    def test_the_identity(self, bank: Bank):
        bank.command(0x90)
        assert (0x0089_0089, 0x0018_0018) == (bank[0], bank[4])
        assert (0x89, 0x18) == (bank.device.read(0, 1), bank.device.read(6, 2))
        assert 0x0018_0018_0089_0089 == bank.device.read(0, 8)

    def test_the_query_is_that_of_qemu(self, bank: Bank):
        program = assemble(
            f"""
                li s0, 0x22000000
                li s1, {RAM_BASE + 0x1000}
                li t0, 0x00980098
                sw t0, 0x154(s0)
                addi s2, s1, 0x200
            1:  lw t1, 0(s0)
                sw t1, 0(s1)
                addi s0, s0, 4
                addi s1, s1, 4
                bne s1, s2, 1b
                li t0, 0x5555
                li t1, 0x100000
                sw t0, 0(t1)
            2:  j 2b
            """,
            RAM_BASE,
        )
        theirs = run_in_qemu(program.data).read(RAM_BASE + 0x1000, 0x200)
        bank.command(0x98)
        assert theirs == b"".join(bank[4 * i].to_bytes(4, "little") for i in range(0x80))


class TestProgramming:
    def test_a_word(self, bank: Bank):
        bank.program(0x100, 0xDEAD_BEEF)
        assert READY == bank[0x100]
        bank.command(0xFF)
        assert (0xFFFF_FFFF, 0xDEAD_BEEF) == (bank[0xFC], bank[0x100])
        assert [(0x100, 4)] == bank.array.writes

    def test_narrow_and_wide_stores(self, bank: Bank):
        bank.device.write(0x10, 2, 0x10)
        bank.device.write(0x12, 2, 0xABCD)
        bank.device.write(0x20, 1, 0x40)
        bank.device.write(0x21, 1, 0x5A)
        bank.device.write(0x28, 8, 0x7788_99AA_0040_0040)  # two stores: the command and its data
        bank.command(0xFF)
        assert 0xABCD_FFFF == bank[0x10]
        assert 0xFFFF_5AFF == bank[0x20]
        assert 0x7788_99AA == bank[0x2C]

    def test_uboot_and_edk2_program_a_buffer(self, bank: Bank):
        words = [0x0101_0101 * i for i in range(32)]
        bank.fill_buffer(0x80, words)
        assert [] == bank.array.writes  # nothing before it is confirmed
        bank.command(0xD0, 0x80)
        assert READY == bank[0x80]
        bank.command(0xFF)
        assert words == [bank[0x80 + 4 * i] for i in range(32)]
        assert [(0x80, 128)] == bank.array.writes

    def test_a_buffer_in_any_order(self, bank: Bank):
        bank.command(0xE8)
        bank.command(2)
        for offset, value in ((8, 3), (0, 1), (4, 2)):
            bank.word(offset, value)
        bank.command(0xD0)
        bank.command(0xFF)
        assert [1, 2, 3] == [bank[0], bank[4], bank[8]]

    def test_a_buffer_that_is_not_confirmed_is_an_error(self, bank: Bank):
        bank.fill_buffer(0, [1])
        bank.command(0x00)
        assert 0x00B0_00B0 == bank[0]
        bank.command(0xFF)
        assert 0xFFFF_FFFF == bank[0]

    def test_a_buffer_is_1024_words(self, bank: Bank):
        bank.fill_buffer(0, [7] * 1024)
        bank.command(0xD0)
        assert READY == bank[0]
        bank.command(0xE8)
        bank.command(0x400)
        assert 0x00B0_00B0 == bank[0]

    def test_a_buffer_stays_in_its_block(self, bank: Bank):
        bank.command(0xE8, BLOCK_SIZE - 4)
        bank.command(1, BLOCK_SIZE - 4)
        bank.word(BLOCK_SIZE - 4, 1)
        bank.word(BLOCK_SIZE, 2)
        assert 0x00B0_00B0 == bank[0]
        assert [] == bank.array.writes

    def test_a_block_is_erased_when_that_is_confirmed(self, bank: Bank):
        for offset in (BLOCK_SIZE - 4, BLOCK_SIZE, 2 * BLOCK_SIZE - 4, 2 * BLOCK_SIZE):
            bank.program(offset, 0)
        bank.command(0x20, BLOCK_SIZE)
        assert READY == bank[0]
        assert 4 == len(bank.array.writes)
        bank.command(0xD0, BLOCK_SIZE)
        assert READY == bank[0]
        bank.command(0xFF)
        assert (0, 0) == (bank[BLOCK_SIZE - 4], bank[2 * BLOCK_SIZE])
        assert b"\xff" * BLOCK_SIZE == bank.array.read(BLOCK_SIZE, BLOCK_SIZE)

    def test_an_erase_that_is_not_confirmed_is_an_error(self, bank: Bank):
        bank.command(0x20)
        bank.command(0x20)
        assert 0x00B0_00B0 == bank[0]
        bank.command(0x50)
        bank.command(0x70)
        assert READY == bank[0]
        assert [] == bank.array.writes

    def test_errors_stay_until_they_are_cleared(self):
        bank = Bank(readonly=True)
        bank.program(0, 1)
        assert 0x0090_0090 == bank[0]
        bank.erase(0)
        assert 0x00B0_00B0 == bank[0]
        bank.command(0x50)
        bank.command(0x70)
        assert READY == bank[0]
        bank.fill_buffer(0, [1, 2])
        bank.command(0xD0)
        assert 0x0090_0090 == bank[0]
        assert [] == bank.array.writes


class TestLocks:
    def test_a_locked_block_does_not_change(self, bank: Bank):
        bank.command(0x60, BLOCK_SIZE)
        bank.command(0x01, BLOCK_SIZE)
        assert READY == bank[0]
        bank.program(BLOCK_SIZE, 0)
        assert 0x0092_0092 == bank[0]
        bank.command(0x50)
        bank.erase(BLOCK_SIZE)
        assert 0x00A2_00A2 == bank[0]
        bank.command(0x50)
        bank.program(0, 0)
        assert READY == bank[0]
        assert [(0, 4)] == bank.array.writes

    def test_edk2_unlocks_what_the_identity_calls_locked(self, bank: Bank):
        bank.command(0x60, BLOCK_SIZE)
        bank.command(0x01, BLOCK_SIZE)
        bank.command(0x90)
        assert BOTH == bank[BLOCK_SIZE + 8]
        bank.command(0x60, BLOCK_SIZE)
        bank.command(0xD0, BLOCK_SIZE)
        bank.command(0x90)
        assert 0 == bank[BLOCK_SIZE + 8]
        bank.program(BLOCK_SIZE, 5)
        assert READY == bank[0]

    def test_no_other_second_command(self, bank: Bank):
        bank.command(0x60)
        bank.command(0x33)
        assert 0x00B0_00B0 == bank[0]


@pytest.mark.parametrize(("offset", "size"), [(1, 4), (2, 8), (0, 3), (1, 2)])
def test_command_mode_takes_aligned_accesses_only(bank: Bank, offset: int, size: int):
    with pytest.raises(AccessFault):
        bank.device.write(offset, size, 0)
    bank.command(0x70)
    with pytest.raises(AccessFault):
        bank.device.read(offset, size)


def test_the_array_is_read_at_any_alignment(bank: Bank):
    bank.array.data[:8] = bytes(range(8))
    assert 0x0403_0201 == bank.device.read(1, 4)
