"""What lands where in RAM, and what is said about files that cannot be loaded."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpu_proc import guests, loader
from cpu_proc.loader import RAM_BASE, Image, LoadPlan, plan
from cpu_proc.run_options import Drive, ExtraImage, RunOptions
from protocol.errors import UserError
from tests.cpu_proc.make_elf import ElfFile, Segment

MIB = 1 << 20
KERNEL = RAM_BASE + 2 * MIB


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class Files:
    """Makes files by name; `fw` and `kernel` are there from the start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.firmware = self.make("fw.bin", b"firmware" * 100)
        self.kernel = self.make("Image", linux_image())

    def make(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        return str(path)


def linux_image(length: int = 4096, memory: int = 1 * MIB) -> bytes:
    """The header of a Linux Image and zeros."""
    image = bytearray(length)
    struct.pack_into("<QQ", image, 8, 0x200000, memory)
    image[0x30:0x35] = b"RISCV"
    image[0x38:0x3C] = b"RSC\x05"
    return bytes(image)


def contents(load_plan: LoadPlan) -> dict[int, bytes]:
    """What `copy` writes, by address, into RAM that is not fresh."""
    written: dict[int, bytes] = {}

    def write(address: int, data: bytes | memoryview) -> None:
        written[address] = bytes(data)

    load_plan.copy(write)
    return written


def test_firmware_kernel_initrd_and_device_tree_stand_where_qemu_puts_them(files):
    initrd = files.make("initrd", b"cpio" * 5000)
    options = RunOptions(bios=files.firmware, kernel=files.kernel, initrd=initrd)

    result = plan(options)

    assert RAM_BASE == result.entry
    assert KERNEL == result.next_address
    assert loader.PRIV_S == result.next_mode
    assert (KERNEL + 128 * MIB, KERNEL + 128 * MIB + 20_000) == result.initrd
    assert RAM_BASE + 510 * MIB == result.dtb_address
    assert [RAM_BASE, KERNEL, KERNEL + 128 * MIB] == [image.address for image in result.images]
    assert b"firmware" * 100 == contents(result)[RAM_BASE]


@pytest.mark.parametrize(
    ("ram", "address"),
    [
        (128 * MIB, 0x87E0_0000),
        (512 * MIB, 0x9FE0_0000),
        (1024 * MIB, 0xBFE0_0000),
        (2048 * MIB, 0xBFE0_0000),  # 32-bit firmware must reach it
        (2 * MIB, 0x801F_0000),  # no room for a megapage
    ],
)
def test_the_device_tree_is_as_high_as_32_bit_firmware_reaches(ram, address):
    assert address == loader.dtb_address(RAM_BASE, ram)


def test_a_small_ram_puts_the_initrd_in_its_middle(files):
    initrd = files.make("initrd", b"cpio")
    options = RunOptions(bios=files.firmware, kernel=files.kernel, initrd=initrd, ram_size=64 * MIB)

    assert (KERNEL + 32 * MIB, KERNEL + 32 * MIB + 4) == plan(options).initrd


def test_an_initrd_too_long_for_its_place_moves_below_the_device_tree(files):
    size = 20 * MIB
    initrd = files.make("initrd", b"")
    with open(initrd, "wb") as file:
        file.truncate(size)
    options = RunOptions(bios=files.firmware, kernel=files.kernel, initrd=initrd, ram_size=32 * MIB)

    result = plan(options)

    assert (result.dtb_address - size, result.dtb_address) == result.initrd


def test_firmware_longer_than_2_mib_moves_the_kernel(files):
    firmware = files.make("big.bin", bytes(3 * MIB))

    assert RAM_BASE + 4 * MIB == plan(RunOptions(bios=firmware, kernel=files.kernel)).next_address


def test_a_raw_program_is_a_kernel_too(files):
    kernel = files.make("u-boot.bin", b"code")

    assert KERNEL == plan(RunOptions(bios=files.firmware, kernel=kernel)).next_address


def test_firmware_alone_starts_nothing(files):
    result = plan(RunOptions(bios=files.firmware))

    assert (RAM_BASE, 0, None) == (result.entry, result.next_address, result.initrd)


def test_default_firmware_is_looked_for_among_the_users_guests_first(files, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(files.folder))
    folder = files.folder / "coldboot" / "guests"
    folder.mkdir(parents=True)
    (folder / "fw_dynamic.bin").write_bytes(b"mine")

    assert b"mine" == contents(plan(RunOptions()))[RAM_BASE]
    assert str(guests.default_folder()) == loader.guests_folder()


def test_no_default_firmware_anywhere_tells_what_to_do(monkeypatch):
    monkeypatch.setattr(loader, "firmware_candidates", lambda: ["/nowhere/fw_dynamic.bin"])

    with pytest.raises(UserError, match=r"^-bios default: .*/nowhere/fw_dynamic.bin.*install"):
        plan(RunOptions())


class TestElf:
    """Programs linked to their place."""

    def test_segments_go_to_physical_addresses_and_bss_is_zeroed(self, files):
        elf = ElfFile([Segment(RAM_BASE, b"text"), Segment(RAM_BASE + 0x3000, b"data", 70_000)])
        result = plan(RunOptions(program=files.make("a.elf", bytes(elf))))

        written = contents(result)
        zeros = {at: data for at, data in written.items() if at > RAM_BASE + 0x3000}

        assert b"text" == written[RAM_BASE]
        assert b"data" == written[RAM_BASE + 0x3000]
        assert 70_000 - 4 == sum(map(len, zeros.values()))
        assert not any(b"".join(zeros.values()))
        assert RAM_BASE + 0x3004 == min(zeros)
        assert RAM_BASE + 0x3000 + 70_000 == max(at + len(data) for at, data in zeros.items())

    def test_fresh_ram_needs_no_zeros(self, files):
        elf = ElfFile([Segment(RAM_BASE, b"text", 1 * MIB)])
        result = plan(RunOptions(program=files.make("a.elf", bytes(elf))))
        written = []

        result.copy(lambda address, data: written.append((address, bytes(data))), fresh=True)

        assert [(RAM_BASE, b"text")] == written

    def test_the_entry_is_the_files(self, files):
        elf = ElfFile([Segment(RAM_BASE + 0x1000, bytes(64))], entry=RAM_BASE + 0x1020)
        path = files.make("a.elf", bytes(elf))

        assert RAM_BASE + 0x1020 == plan(RunOptions(program=path)).entry
        assert RAM_BASE + 0x1020 == plan(RunOptions(bios=path)).entry

    def test_a_kernel_without_firmware_is_entered_in_m_mode(self, files):
        elf = ElfFile([Segment(RAM_BASE, bytes(64))], entry=RAM_BASE + 8)
        path = files.make("kernel.elf", bytes(elf))

        result = plan(RunOptions(bios="none", kernel=path))

        assert (RAM_BASE + 8, 0) == (result.entry, result.next_address)

    def test_a_virtual_entry_is_made_physical(self, files):
        segment = Segment(KERNEL, bytes(64), virtual=0xFFFF_FFFF_8000_0000)
        elf = ElfFile([segment], entry=0xFFFF_FFFF_8000_0010)
        path = files.make("vmlinux", bytes(elf))

        assert KERNEL + 0x10 == plan(RunOptions(bios=files.firmware, kernel=path)).next_address

    def test_position_independent_firmware_moves_to_ram(self, files):
        elf = ElfFile([Segment(0, bytes(64))], entry=4, type=3, symbols={"tohost": 0x20})

        result = plan(RunOptions(bios=files.make("fw.elf", bytes(elf))))

        assert (RAM_BASE + 4, {"tohost": RAM_BASE + 0x20}) == (result.entry, result.symbols)

    def test_the_symbols_a_host_needs_are_found(self, files):
        symbols = {"main": 1, "tohost": 2, "begin_signature": 3, "end_signature": 4}
        elf = ElfFile([Segment(RAM_BASE, b"text")], symbols=symbols)

        result = plan(RunOptions(program=files.make("a.elf", bytes(elf))))

        assert {"tohost": 2, "begin_signature": 3, "end_signature": 4} == result.symbols

    def test_more_programs_are_loaded_beside(self, files):
        more = files.make("more.elf", bytes(ElfFile([Segment(RAM_BASE + MIB, b"more")])))
        raw = files.make("raw", b"raw")
        options = RunOptions(
            bios=files.firmware,
            images=(
                ExtraImage(more),
                ExtraImage(more, RAM_BASE + 2 * MIB, force_raw=True),
                ExtraImage(raw, RAM_BASE + 3 * MIB),
            ),
        )

        written = contents(plan(options))

        assert b"more" == written[RAM_BASE + MIB]
        assert b"\x7fELF" == written[RAM_BASE + 2 * MIB][:4]
        assert b"raw" == written[RAM_BASE + 3 * MIB]

    @settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_damage_is_told_and_never_a_traceback(self, files, data):
        whole = bytearray(
            bytes(ElfFile([Segment(RAM_BASE, b"text" * 9)], symbols={"tohost": RAM_BASE}))
        )
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(4, len(whole) - 1))
            whole[at] = data.draw(st.integers(0, 255))
        whole = whole[: data.draw(st.integers(4, len(whole)))]
        path = files.make("damaged.elf", bytes(whole))

        told = f"program {path}: "
        try:
            plan(RunOptions(program=path))
        except UserError as error:
            told = error.text

        assert told.startswith(f"program {path}: ")


def elf(**fields: object) -> bytes:
    return bytes(ElfFile([Segment(RAM_BASE, bytes(64))], **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.elf", b"#!/bin/sh\n", "is not an ELF"),
        ("notes.txt", b"words", "is not an ELF"),
        ("Image", linux_image(), "is a Linux kernel: use -kernel"),
        ("a.elf", elf(machine=62), "is an ELF for x86-64, not for RISC-V"),
        ("a.elf", elf(machine=4711), "is an ELF for machine 4711"),
        ("a.elf", elf(bits=32), "is a 32-bit ELF"),
        ("a.elf", elf()[:40], "is a truncated ELF"),
        ("a.elf", elf()[:80], "is a truncated ELF"),
        ("a.elf", elf()[:-1], "is a truncated ELF"),
        ("a.elf", elf(symbols={"tohost": 1})[:-1], "is a truncated ELF"),
        ("a.elf", elf(entry=0x1234), "its entry 0x1234 lies in none"),
        ("a.elf", bytes(ElfFile()), "without anything to load"),
        ("a.elf", bytes(ElfFile([Segment(0x1000, b"x")])), "lies outside RAM"),
        ("a.elf", bytes(ElfFile([Segment(RAM_BASE, b"x", 1 << 40)])), "does not fit RAM"),
        ("a.elf", bytes(ElfFile([Segment(RAM_BASE, b"xy", 1)])), "is a damaged ELF"),
        ("a.bin", b"\x1f\x8b\x08\x00", "is packed with gzip"),
        ("a.bin", b"", "is empty"),
    ],
)
def test_programs_that_cannot_run(files, name, data, problem):
    path = files.make(name, data)

    with pytest.raises(UserError) as caught:
        plan(RunOptions(program=path))

    assert caught.value.text.startswith(f"program {path}: ")
    assert problem in caught.value.text


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"MZ\0\0zimg" + bytes(64), "is a compressed EFI kernel"),
        (bytes(0x38) + b"ARM\x64", "is an AArch64 kernel"),
        (bytes(0x202) + b"HdrS", "is an x86 kernel"),
        (linux_image(memory=1 << 30), "does not fit RAM"),
        (bytes(17 * MIB), "does not fit RAM"),
        (bytes(15 * MIB), "lies outside RAM"),
    ],
)
def test_kernels_that_cannot_run(files, data, problem):
    path = files.make("kernel", data)

    with pytest.raises(UserError, match=f"^-kernel .*{problem}"):
        plan(RunOptions(bios=files.firmware, kernel=path, ram_size=16 * MIB))


def test_an_initrd_that_does_not_fit_is_told(files):
    initrd = files.make("initrd", bytes(13 * MIB))
    options = RunOptions(bios=files.firmware, kernel=files.kernel, initrd=initrd, ram_size=16 * MIB)

    with pytest.raises(UserError, match=r"^-initrd .* overlaps -kernel"):
        plan(options)


def test_images_must_not_overlap(files):
    options = RunOptions(bios=files.firmware, images=(ExtraImage(files.kernel, RAM_BASE + 16),))

    with pytest.raises(UserError, match=r"^-device loader,file=.* overlaps -bios"):
        plan(options)


def test_a_raw_image_needs_an_address(files):
    options = RunOptions(bios=files.firmware, images=(ExtraImage(files.kernel),))

    with pytest.raises(UserError, match="needs addr="):
        plan(options)


def test_a_file_that_vanished_since_is_told():
    with pytest.raises(UserError, match=r"^-bios /nowhere/fw.bin: "):
        plan(RunOptions(bios="/nowhere/fw.bin"))


def test_a_plan_can_be_copied_again_after_the_file_was_replaced(files):
    result = plan(RunOptions(bios=files.firmware))
    replacement = files.make("new", b"new")
    Path(replacement).replace(files.firmware)

    assert contents(result) == {RAM_BASE: b"firmware" * 100}


def test_image_ends_after_its_zeros():
    assert 0x1000 + 4 + 6 == Image("x", 0x1000, memoryview(b"text"), 6).end


class TestFlash:
    """A file in flash bank 0 is what is started; the kernel is its business."""

    @pytest.fixture
    def bank(self, files) -> tuple[Drive | None, ...]:
        return (Drive(files.make("code.fd", b"flash"), True), None)

    def test_the_firmware_starts_flash(self, files, bank):
        result = plan(RunOptions(bios=files.firmware, pflash=bank))

        assert (RAM_BASE, loader.FLASH_BASE) == (result.entry, result.next_address)
        assert loader.PRIV_S == result.next_mode
        assert loader.Payload(memoryview(b""), memoryview(b"")) == result.payload

    def test_kernel_and_initrd_are_handed_over_not_loaded(self, files, bank):
        initrd = files.make("initrd", b"cpio")
        options = RunOptions(
            bios=files.firmware, pflash=bank, kernel=files.kernel, initrd=initrd, append="quiet"
        )
        result = plan(options)

        assert [RAM_BASE] == [image.address for image in result.images]
        assert None is result.initrd
        assert loader.FLASH_BASE == result.next_address
        handed = result.payload
        assert (linux_image(), b"cpio") == (bytes(handed.kernel), bytes(handed.initrd))
        assert "quiet" == handed.command_line

    def test_without_firmware_harts_begin_in_flash(self, bank):
        result = plan(RunOptions(bios="none", pflash=bank))

        assert (loader.FLASH_BASE, 0) == (result.entry, result.next_address)

    def test_bank_1_starts_nothing(self, files, bank):
        options = RunOptions(bios=files.firmware, kernel=files.kernel, pflash=bank[::-1])
        result = plan(options)

        assert KERNEL == result.next_address
        assert loader.Payload() == result.payload
