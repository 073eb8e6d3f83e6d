"""The reset ROM holds what QEMU's holds, and the device tree finds its place."""

from __future__ import annotations

import struct

import pytest

from devices.reset_rom import MODE_S, device_tree_address, reset_rom


def test_the_rom_is_that_of_the_virt_board() -> None:
    # Read out of QEMU 7.2: virt, 512 MiB, OpenSBI 1.1, a kernel at 0x80200000.
    assert struct.unpack(
        "<6I8Q",
        reset_rom(0x8000_0000, 0x9FE0_0000, next_address=0x8020_0000, next_mode=MODE_S),
    ) == (
        *(0x00000297, 0x02828613, 0xF1402573, 0x0202B583, 0x0182B283, 0x00028067),
        *(0x8000_0000, 0x9FE0_0000),
        *(0x4942_534F, 2, 0x8020_0000, 1, 0, 0),
    )


def test_a_boot_hart_and_options_can_be_given() -> None:
    rom = reset_rom(0x8000_0000, 0, options=1, boot_hart=(1 << 64) - 1)
    assert struct.unpack_from("<2Q", rom, 0x48) == (1, (1 << 64) - 1)


@pytest.mark.parametrize(
    ("ram_size", "address"),
    [
        (512 << 20, 0x9FE0_0000),
        (1 << 30, 0xBFE0_0000),
        (8 << 30, 0xBFE0_0000),
        (4 << 20, 0x8020_0000),
        (1 << 20, 0x800E_E000),
    ],
)
def test_the_device_tree_lies_near_the_end_of_ram(ram_size: int, address: int) -> None:
    assert device_tree_address(0x8000_0000, ram_size, 5000) == address


def test_ram_too_small_for_a_device_tree_is_an_error() -> None:
    with pytest.raises(ValueError, match="RAM"):
        device_tree_address(0x8000_0000, 64 << 10, 5000)
