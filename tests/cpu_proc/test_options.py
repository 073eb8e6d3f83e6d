"""What users write after `coldboot run`, and what it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpu_proc.options import ICOUNT_SHIFT, MAX_HARTS, parse, usage
from cpu_proc.run_options import Drive, ExtraImage, RunOptions, Serial, VirtioDevice
from protocol.errors import UserError


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "image"
    path.write_bytes(b"image")
    return str(path)


def test_nothing_given_means_the_documented_defaults():
    options = parse([])

    assert RunOptions() == options
    assert 512 << 20 == options.ram_size
    assert 1 == options.harts
    assert "default" == options.bios
    assert Serial("mon") == options.serial
    assert options.reboot
    assert options.icount is None
    assert "embedded" == options.translator
    assert (True, True) == (options.svadu, options.sstc)


def test_a_linux_command_line_for_qemu_is_understood(image):
    options = parse(
        [
            *["-machine", "virt", "-nographic", "-no-reboot", "-m", "512M", "-smp", "2"],
            *f"-kernel {image} -initrd {image} -d int,in_asm -d retire".split(),
            *("-append", "console=ttyS0 panic=-1"),
        ]
    )

    assert (image, image) == (options.kernel, options.initrd)
    assert "console=ttyS0 panic=-1" == options.append
    assert 2 == options.harts
    assert not options.reboot
    assert {"int", "in_asm", "retire"} == options.log_items


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1 << 20),
        ("512", 512 << 20),
        ("128M", 128 << 20),
        ("128m", 128 << 20),
        ("1.5G", 3 << 29),
        ("2G", 2 << 30),
        ("4096K", 4 << 20),
        ("size=64M", 64 << 20),
        ("4097K", (4 << 20) + 4096),  # whole pages
    ],
)
def test_sizes_of_ram(text, size):
    assert size == parse(["-m", text]).ram_size


@pytest.mark.parametrize(
    "text", ["0", "-1", "99T", "64.1G", "1K", "", "M", "1e3", "512MB", "9" * 99]
)
def test_impossible_sizes_of_ram_are_refused(text):
    with pytest.raises(UserError, match=r"^-m"):
        parse(["-m", text])


@pytest.mark.parametrize("text", ["1", str(MAX_HARTS), f"cpus={MAX_HARTS}"])
def test_numbers_of_harts(text):
    assert int(text.removeprefix("cpus=")) == parse(["-smp", text]).harts


@pytest.mark.parametrize("text", ["0", str(MAX_HARTS + 1), "two", "-1", "2,sockets=2", ""])
def test_impossible_numbers_of_harts_are_refused(text):
    with pytest.raises(UserError, match=r"^-smp"):
        parse(["-smp", text])


def test_single_and_double_dashes_are_the_same():
    assert parse(["-threshold", "1", "-cold"]) == parse(["--threshold", "1", "--cold"])


def test_the_last_of_equal_options_wins():
    assert 3 == parse(["-smp", "2", "-smp", "3"]).harts


def test_our_own_options(tmp_path):
    signature = str(tmp_path / "signature")
    options = parse(
        [
            *[
                "--translator",
                "ipc:///run/t.sock",
                "--stats",
                "--log-json",
                "--threshold",
                "1",
            ],
            *f"--signature {signature} --signature-granularity 8".split(),
            *f"--max-instructions 1000000 -D {tmp_path}/log".split(),
        ]
    )

    assert "ipc:///run/t.sock" == options.translator
    assert (False, True, True) == (options.cold, options.stats, options.log_json)
    assert (signature, 8) == (options.signature, options.signature_granularity)
    assert (1, 1_000_000) == (options.threshold, options.max_instructions)
    assert str(tmp_path / "log") == options.log_file


@pytest.mark.parametrize(
    ("text", "shift"), [("shift=4", 4), ("0", 0), ("auto", ICOUNT_SHIFT), ("shift=auto", 3)]
)
def test_counted_time(text, shift):
    assert shift == parse(["-icount", text]).icount


def test_cpu_extensions_are_switches():
    options = parse(["-cpu", "rv64,svadu=off,sstc=off"])

    assert (False, False) == (options.svadu, options.sstc)


@pytest.mark.parametrize(("text", "legacy"), [("on", True), ("off", False)])
def test_the_version_of_virtio_mmio(text, legacy):
    assert legacy == parse(["-global", f"virtio-mmio.force-legacy={text}"]).virtio_legacy


def test_the_serial_port(tmp_path):
    path = str(tmp_path / "out")

    assert Serial("null") == parse(["-serial", "null"]).serial
    assert Serial("stdio") == parse(["-serial", "stdio"]).serial
    assert Serial("mon") == parse(["-serial", "mon:stdio"]).serial
    assert Serial("file", path) == parse(["-serial", f"file:{path}"]).serial


def test_drives_and_devices_stand_in_the_order_of_the_command_line(image):
    options = parse(
        [
            *["-device", "virtio-blk-device,drive=late", "-device", "virtio-rng-device"],
            *f"-drive file={image},format=raw,if=virtio,readonly=on".split(),
            *f"-drive file={image},if=none,id=late".split(),
        ]
    )

    assert (
        VirtioDevice("blk", Drive(image, readonly=False, id="late")),
        VirtioDevice("rng"),
        VirtioDevice("blk", Drive(image, readonly=True)),
    ) == options.virtio


@pytest.fixture
def flash(tmp_path):
    path = tmp_path / "flash.fd"
    with path.open("wb") as file:
        file.truncate(32 << 20)
    return str(path)


def test_flash_banks_are_filled_in_order(flash):
    first = ["-drive", f"if=pflash,format=raw,file={flash},readonly=on"]
    second = ["-drive", f"if=pflash,file={flash}"]
    one = ["-drive", f"if=pflash,file={flash},unit=1"]

    assert (None, None) == parse([]).pflash
    assert (Drive(flash, True), None) == parse(first).pflash
    assert (Drive(flash, True), Drive(flash)) == parse(first + second).pflash
    assert (None, Drive(flash)) == parse(one).pflash
    assert (Drive(flash), Drive(flash)) == parse(one + second).pflash
    assert () == parse(first + second).virtio


def test_flash_banks_that_cannot_be(flash, image):
    one = ["-drive", f"if=pflash,file={flash}"]
    with pytest.raises(UserError, match="the board has two flash banks, both are taken"):
        parse(one * 3)
    with pytest.raises(UserError, match="flash bank 0 is taken by another drive"):
        parse([*one, "-drive", f"if=pflash,file={flash},unit=0"])
    with pytest.raises(UserError, match="unit must be from 0 to 1"):
        parse(["-drive", f"if=pflash,file={flash},unit=2"])
    with pytest.raises(UserError, match=r"a flash bank holds 33554432 bytes, this file \d+ "):
        parse(["-drive", f"if=pflash,file={image}"])
    with pytest.raises(UserError, match="unit= is for if=pflash"):
        parse(["-drive", f"file={flash},unit=0"])
    with pytest.raises(UserError, match="the drive f is in use already"):
        parse([*one[:1], f"{one[1]},id=f", "-device", "virtio-blk-device,drive=f"])


def test_a_doubled_comma_belongs_to_the_value(tmp_path):
    path = tmp_path / "a,b,,c"
    path.write_bytes(b"x")
    doubled = str(path).replace(",", ",,")

    drive = parse(["-drive", f"file={doubled},readonly=on"]).virtio[0].drive

    assert Drive(str(path), readonly=True) == drive


def test_images_to_load(image):
    options = parse(
        [
            *f"-device loader,file={image},addr=0x80400000,force-raw=on".split(),
            *f"-device loader,file={image}".split(),
        ]
    )

    assert (ExtraImage(image, 0x80400000, True), ExtraImage(image)) == options.images


def test_a_program_is_firmware(image):
    options = parse([image, "-m", "16M"])

    assert image == options.program
    assert "default" == options.bios


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["-kernle", "x"], "-kernle: unknown option; did you mean -kernel?"),
        (["-kernel"], "-kernel: a value is expected"),
        (["-machine", "spike"], "-machine spike: the only machine is virt"),
        (["-machine", "virt,usb=on"], "-machine virt,usb=on: unknown key 'usb'"),
        (["-cpu", "rv32"], "-cpu rv32: the only CPU model is rv64"),
        (["-cpu", "rv64,sstc=maybe"], "-cpu rv64,sstc=maybe: on or off expected"),
        (["-initrd", "IMAGE"], "-initrd: only together with -kernel"),
        (["-append", "quiet"], "-append: only together with -kernel"),
        (["-bios", "none"], "-bios none: nothing to run"),
        (["IMAGE", "-bios", "none"], "-bios none: not together with the program"),
        (["IMAGE", "-cold", "-translator", "ipc:///run/t"], "-cold: not together with -translator"),
        (["IMAGE", "IMAGE"], "IMAGE: only one program"),
        (["-drive", "format=raw"], "-drive format=raw: file= is missing"),
        (["-drive", "file=IMAGE,format=qcow2"], "-drive file=IMAGE,format=qcow2: the only format"),
        (["-drive", "file=IMAGE,if=none"], "-drive file=IMAGE,if=none: if=none needs an id="),
        (["-drive", "file=IMAGE,file=IMAGE"], "-drive file=IMAGE,file=IMAGE: file= is given twice"),
        (["-device", "e1000"], "-device e1000: unknown device 'e1000'"),
        (["-device", "virtio-blk-device"], "-device virtio-blk-device: drive=ID is missing"),
        (["-device", "virtio-blk-device,drive=d"], "-device virtio-blk-device: there is no -drive"),
        (["-device", "loader,addr=0"], "-device loader,addr=0: file= is missing"),
        (["-device", "loader,file=IMAGE,addr=x"], "-device loader,file=IMAGE,addr=x: addr=ADDRESS"),
        (["-serial", "tcp::1"], "-serial tcp::1: mon:stdio, stdio, null or file:PATH"),
        (["-serial", "file:/nowhere/x"], "-serial /nowhere/x: there is no folder /nowhere"),
        (["-D", "/"], "-D /: is a directory"),
        (["-d", "int,foo"], "-d int,foo: unknown log item 'foo'"),
        (["-icount", "shift=11"], "-icount shift=11: shift must be from 0 to 10"),
        (["--threshold", "0"], "--threshold 0: number of executions must be from 1"),
        (["--max-instructions", "many"], "--max-instructions many: number of instructions"),
        (["--translator", "localhost"], "--translator localhost: embedded, none, or an endpoint"),
        (["--signature-granularity", "3"], "--signature-granularity 3: 1, 2, 4, 8, 16 or 32"),
    ],
)
def test_mistakes_name_their_option(words, start, image):
    words = [word.replace("IMAGE", image) for word in words]

    with pytest.raises(UserError) as caught:
        parse(words)

    assert caught.value.text.startswith(start.replace("IMAGE", image))


def test_a_drive_is_used_once(image):
    both = ["-drive", f"file={image},if=virtio,id=d", "-device", "virtio-blk-device,drive=d"]

    with pytest.raises(UserError, match="drive d is in use already"):
        parse(both)


def test_there_are_eight_virtio_slots():
    parse(["-device", "virtio-rng-device"] * 8)
    with pytest.raises(UserError, match="8 virtio slots"):
        parse(["-device", "virtio-rng-device"] * 9)


def test_nothing_is_written_while_options_are_read(tmp_path):
    names = [str(tmp_path / name) for name in "abc"]

    parse(["-D", names[0], "--signature", names[1], "-serial", f"file:{names[2]}"])

    assert [] == list(tmp_path.iterdir())


def test_the_help_text_tells_every_option():
    text = usage()

    for name in ("-machine", "-kernel", "-drive", "-icount", "-translator", "-threshold"):
        assert f"\n  {name} " in text
