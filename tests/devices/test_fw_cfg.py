"""fw_cfg as firmware reads it: by the data register, and by DMA.

The sequences are those of edk2's ``QemuFwCfgLib`` and Linux's ``qemu_fw_cfg.c``; the
oracle is QEMU.
"""

from __future__ import annotations

import struct

import pytest

from devices.device import AccessFault
from devices.fw_cfg import (
    COMMAND_LINE_DATA,
    COMMAND_LINE_SIZE,
    DATA,
    DIRECTORY,
    DMA,
    ERROR,
    IDENTITY,
    INITRD_SIZE,
    KERNEL_DATA,
    KERNEL_SIZE,
    READ,
    SELECT,
    SELECTOR,
    SIGNATURE,
    SKIP,
    WRITE,
    FwCfg,
    items,
)
from tests.devices.guest import RAM, Memory
from tests.oracle import run_in_qemu
from tests.system import programs

DESCRIPTOR, TARGET = RAM + 0x100, RAM + 0x1000
KERNEL = bytes(range(256)) * 16 + b"end"


class Firmware:
    """Whoever reads the device."""

    def __init__(self, device: FwCfg, memory: Memory) -> None:
        self.device = device
        self.memory = memory

    def select(self, item: int) -> None:
        self.device.write(SELECTOR, 2, int.from_bytes(struct.pack(">H", item), "little"))

    def data(self, length: int, size: int = 1) -> bytes:
        return b"".join(
            self.device.read(DATA, size).to_bytes(size, "little") for _ in range(length // size)
        )

    def dma(self, control: int, length: int, target: int = TARGET) -> int:
        """The control word that is left."""
        self.memory.write(DESCRIPTOR, struct.pack(">IIQ", control, length, target))
        high, low = (int.from_bytes(DESCRIPTOR.to_bytes(8, "big")[i : i + 4]) for i in (0, 4))
        for offset, half in ((DMA, high), (DMA + 4, low)):
            self.device.write(offset, 4, int.from_bytes(half.to_bytes(4, "big"), "little"))
        return int.from_bytes(self.memory.read(DESCRIPTOR, 4))


@pytest.fixture
def firmware() -> Firmware:
    memory = Memory()
    numbered = items(4, kernel=memoryview(KERNEL), command_line="console=ttyS0")
    return Firmware(FwCfg(memory, numbered, {"opt/b": b"bee", "etc/a": b"ay"}), memory)


def test_who_looks_for_it_finds_it(firmware):
    firmware.select(SIGNATURE)
    assert b"QEMU" == firmware.data(4)
    firmware.select(IDENTITY)
    assert (3,) == struct.unpack("<I", firmware.data(4))
    assert b"QEMU CFG" == firmware.device.read(DMA, 8).to_bytes(8, "little")
    assert b" CFG" == firmware.device.read(DMA + 4, 4).to_bytes(4, "little")


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_data_come_in_the_order_of_memory_whatever_the_width(firmware, size):
    firmware.select(KERNEL_DATA)

    assert KERNEL[:64] == firmware.data(64, size)


def test_sizes_come_with_the_data(firmware):
    for item, size in ((KERNEL_SIZE, len(KERNEL)), (INITRD_SIZE, 0), (COMMAND_LINE_SIZE, 14)):
        firmware.select(item)
        assert (size,) == struct.unpack("<I", firmware.data(4))
    firmware.select(COMMAND_LINE_DATA)
    assert b"console=ttyS0\0" == firmware.data(14)


def test_behind_an_item_and_in_place_of_one_there_is_zero(firmware):
    firmware.select(SIGNATURE)
    assert b"QEMU" + bytes(4) == firmware.data(8, 8)
    firmware.select(0x1234)
    assert bytes(8) == firmware.data(8)


def test_files_stand_in_a_directory(firmware):
    firmware.select(DIRECTORY)
    (count,) = struct.unpack(">I", firmware.data(4))
    found = {}
    entries = [struct.unpack(">IHH56s", firmware.data(64)) for _ in range(count)]
    for size, item, _, name in entries:
        firmware.select(item)
        found[name.rstrip(b"\0").decode()] = firmware.data(size)
    assert {"etc/a": b"ay", "opt/b": b"bee"} == found


def test_dma_selects_skips_and_reads(firmware):
    assert 0 == firmware.dma(KERNEL_DATA << 16 | SELECT | READ, 16)
    assert KERNEL[:16] == firmware.memory.read(TARGET, 16)
    assert 0 == firmware.dma(SKIP, 100)
    assert 0 == firmware.dma(READ, len(KERNEL))  # goes on from there, and over the end
    expected = (KERNEL[116:] + bytes(len(KERNEL)))[: len(KERNEL)]
    assert expected == firmware.memory.read(TARGET, len(KERNEL))


def test_dma_in_one_store_of_64_bits(firmware):
    firmware.memory.write(DESCRIPTOR, struct.pack(">IIQ", SIGNATURE << 16 | 10, 4, TARGET))
    firmware.device.write(DMA, 8, int.from_bytes(DESCRIPTOR.to_bytes(8, "big"), "little"))

    assert b"QEMU" == firmware.memory.read(TARGET, 4)


def test_dma_that_cannot_be_done_says_so(firmware):
    assert ERROR == firmware.dma(SIGNATURE << 16 | SELECT | READ, 4, target=0x1000)
    assert ERROR == firmware.dma(SIGNATURE << 16 | SELECT | WRITE, 4)
    before = bytes(firmware.memory.ram)
    firmware.device.write(DMA, 8, 0)  # a descriptor that is not memory
    assert before == bytes(firmware.memory.ram)


def test_what_is_not_decoded_faults(firmware):
    for offset, size in ((SELECTOR, 2), (DATA + 1, 2), (DMA + 4, 8)):
        with pytest.raises(AccessFault):
            firmware.device.read(offset, size)
    for offset, size in ((SELECTOR, 1), (SELECTOR + 2, 2), (DMA, 1), (DMA + 2, 2)):
        with pytest.raises(AccessFault):
            firmware.device.write(offset, size, 0)
    firmware.device.write(DATA, 1, 0)  # read-only, and forgiving
    assert b"QEMU" == firmware.data(4)


def test_a_reset_begins_anew_and_a_snapshot_goes_on(firmware):
    firmware.select(KERNEL_DATA)
    firmware.data(8)
    saved = firmware.device.state
    firmware.device.reset()
    assert b"QEMU" == firmware.data(4)
    firmware.device.restore(saved)
    assert KERNEL[8:16] == firmware.data(8)


GUEST = """
    .equ FW_CFG, 0x10100000
    .equ TARGET, 0x80800000
main:
    li s0, FW_CFG
    li s1, UART
    ld t0, 16(s0)               # DMA's signature
    li s2, 8
    call print
    sh zero, 8(s0)              # the machine's signature, and nothing behind it
    ld t0, 0(s0)
    li s2, 5
    call print
    li t0, 0x0100               # the identity: registers and DMA
    sh t0, 8(s0)
    lbu t0, 0(s0)
    addi t0, t0, 48
    li s2, 1
    call print
    la t0, descriptor           # the signature by DMA
    sw zero, 16(s0)
    li t1, 4
    li t2, 0
1:                              # the address, turned round
    slli t2, t2, 8
    andi t3, t0, 255
    or t2, t2, t3
    srli t0, t0, 8
    addi t1, t1, -1
    bnez t1, 1b
    sw t2, 20(s0)
    la t0, descriptor
    lw s11, 0(t0)
    bnez s11, FAIL
    li t0, TARGET
    ld t0, 0(t0)
    li s2, 4
    call print
    j PASS
print:                          # s2 bytes of t0
    sb t0, 0(s1)
    srli t0, t0, 8
    addi s2, s2, -1
    bnez s2, print
    ret
    .data
    .align 3
descriptor:
    .byte 0, 0, 0, 10           # item 0: select and read
    .byte 0, 0, 0, 4
    .byte 0, 0, 0, 0, 0x80, 0x80, 0, 0
"""


def test_a_guest_finds_what_it_finds_in_qemu(tmp_path):
    ours = programs.run(GUEST, tmp_path, "--translator", "none")
    assert (b"QEMU CFGQEMU\x003QEMU", 0) == (ours.stdout, ours.returncode), ours.stderr
    theirs = run_in_qemu(programs.program(GUEST).data)
    assert (ours.stdout, 0) == (theirs.console, theirs.code)
