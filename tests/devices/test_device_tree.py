"""The machine's device tree says what QEMU's says about the same board; `dtc` has no complaint."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from devices.cfi_flash import CfiFlash
from devices.clint import Clint
from devices.device_tree import MachineDescription, Placed, build_device_tree
from devices.goldfish_rtc import GoldfishRtc
from devices.plic import Plic
from devices.test_finisher import TestFinisher
from devices.uart16550 import Uart16550
from devices.virtio.mmio import VirtioMmio
from tests.devices.guest import Line, Memory
from tests.devices.test_cfi_flash import Array
from tests.devices.test_clint import Harts

RAM_SIZE = 512 << 20

needs_dtc = pytest.mark.skipif(
    shutil.which("dtc") is None, reason="no dtc: install device-tree-compiler to check the tree"
)
needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-riscv64") is None,
    reason="no qemu-system-riscv64: install qemu-system-misc to compare with its device tree",
)


def board(harts: int) -> list[Placed]:
    """QEMU's ``virt``, as far as we have it; the interrupt controller not first, on purpose."""
    return [
        Placed(Uart16550(Line(), lambda _data: None), 0x1000_0000, 10),
        Placed(TestFinisher(lambda _request: None), 0x10_0000),
        Placed(GoldfishRtc(Line(), lambda: 0), 0x10_1000, 11),
        Placed(Plic(harts, lambda _context, _level: None), 0xC00_0000),
        Placed(Clint(harts, Harts()), 0x200_0000),
        *(
            Placed(VirtioMmio(Line(), Memory(0)), 0x1000_1000 + 0x1000 * slot, 1 + slot)
            for slot in range(8)
        ),
        Placed(CfiFlash(Array(), lambda _memory: None, banks=2), 0x2000_0000),
        Placed(CfiFlash(Array(), lambda _memory: None, banks=0), 0x2200_0000),
    ]


def decompile(blob: bytes) -> tuple[dict[str, dict[str, str]], str]:
    """Properties by node path as `dtc` shows them, and its warnings."""
    done = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts"], input=blob, capture_output=True, check=True
    )
    nodes: dict[str, dict[str, str]] = {}
    path: list[str] = []
    for line in done.stdout.decode().splitlines():
        line = line.strip()
        if line.endswith("{"):
            path.append(line[:-1].strip().rstrip("/"))
            nodes["/".join(path) or "/"] = {}
        elif line == "};":
            path.pop()
        elif line.endswith(";") and path:
            name, _, value = line[:-1].partition(" = ")
            nodes["/".join(path) or "/"][name] = value.replace('", "', "\\0")
    return nodes, done.stderr.decode()


def follow_phandles(nodes: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The same with the path of a node where its number stands, and the numbers gone."""
    paths = {
        int(properties["phandle"][1:-1], 16): path
        for path, properties in nodes.items()
        if "phandle" in properties
    }
    widths = {"interrupts-extended": 2, "interrupt-parent": 1, "regmap": 1, "cpu": 1}
    resolved: dict[str, dict[str, str]] = {}
    for path, properties in nodes.items():
        resolved[path] = {}
        for name, value in properties.items():
            if name == "phandle":
                continue
            if name in widths:
                cells = [int(cell, 16) for cell in value[1:-1].split()]
                value = " ".join(
                    paths[cell] if number % widths[name] == 0 else str(cell)
                    for number, cell in enumerate(cells)
                )
            resolved[path][name] = value
    return resolved


@needs_dtc
@needs_qemu
@pytest.mark.parametrize("harts", [1, 4])
def test_the_tree_is_that_of_the_virt_board(tmp_path: Path, harts: int) -> None:
    dump = tmp_path / "virt.dtb"
    subprocess.run(
        [
            *("qemu-system-riscv64", "-machine", f"virt,dumpdtb={dump}", "-display", "none"),
            *("-smp", str(harts), "-m", str(RAM_SIZE >> 20)),
        ],
        check=True,
        capture_output=True,
        timeout=240,
    )
    theirs = follow_phandles(decompile(dump.read_bytes())[0])
    machine = MachineDescription(0x8000_0000, RAM_SIZE, harts)
    ours = follow_phandles(decompile(build_device_tree(board(harts), machine))[0])
    assert ours.keys() - theirs.keys() <= {"/aliases"}
    absent = re.compile(r"/(soc/)?(fw-cfg|pci|platform-bus|pmu)\b")
    assert [path for path in theirs.keys() - ours.keys() if not absent.match(path)] == []
    own = {"model", "riscv,isa", "mmu-type", "rng-seed"}
    for path in ours.keys() & theirs.keys():
        expected = {name: value for name, value in theirs[path].items() if name not in own}
        actual = {name: value for name, value in ours[path].items() if name in expected}
        assert (path, actual) == (path, expected)


@needs_dtc
def test_dtc_has_no_complaint() -> None:
    machine = MachineDescription(
        0x8000_0000,
        RAM_SIZE,
        8,
        bootargs="console=ttyS0",
        initrd=(0x8800_0000, 0x8810_0000),
        rng_seed=bytes(32),
    )
    nodes, warnings = decompile(build_device_tree(board(8), machine))
    assert warnings == ""
    assert nodes["/chosen"] == {
        "bootargs": '"console=ttyS0"',
        "linux,initrd-start": "<0x00 0x88000000>",
        "linux,initrd-end": "<0x00 0x88100000>",
        "rng-seed": "<" + " ".join(["0x00"] * 8) + ">",
        "stdout-path": '"/soc/serial@10000000"',
    }
    # 3,686,400 is 00 38 40 00, which dtc takes for text.
    assert nodes["/soc/serial@10000000"]["clock-frequency"] == '"\\08@"'
    assert nodes["/memory@80000000"]["reg"] == "<0x00 0x80000000 0x00 0x20000000>"


@needs_dtc
def test_harts_say_what_they_can_do() -> None:
    machine = MachineDescription(0x8000_0000, RAM_SIZE, 2, mmu_type="riscv,sv48")
    nodes, _ = decompile(build_device_tree(board(2), machine))
    for hart in ("/cpus/cpu@0", "/cpus/cpu@1"):
        assert (
            nodes[hart]["riscv,isa"] == '"rv64imafdc_zicntr_zicsr_zifencei_zba_zbb_zbs_sstc_svade"'
        )
        assert nodes[hart]["riscv,isa-base"] == '"rv64i"'
        assert nodes[hart]["riscv,isa-extensions"] == (
            '"i\\0m\\0a\\0f\\0d\\0c\\0zicntr\\0zicsr\\0zifencei\\0zba\\0zbb\\0zbs\\0sstc\\0svade"'
        )
        assert nodes[hart]["mmu-type"] == '"riscv,sv48"'
    assert nodes["/cpus"]["timebase-frequency"] == "<0x989680>"


@needs_dtc
def test_without_boot_arguments_and_ramdisk_nothing_is_said() -> None:
    machine = MachineDescription(0x8000_0000, RAM_SIZE)
    nodes, _ = decompile(build_device_tree(board(1), machine))
    assert nodes["/chosen"].keys() == {"stdout-path"}


def test_extensions_can_be_chosen() -> None:
    machine = MachineDescription(0, 0, extensions=("i", "m", "a", "c", "zicsr", "svadu"))
    assert machine.isa == "rv64imac_zicsr_svadu"


def test_an_unknown_translation_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mmu-type"):
        build_device_tree([], MachineDescription(0, 0x1000, mmu_type="sv39"))
