"""Device-tree blobs: `dtc` and a reader of our own read back what is written."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.fdt import BEGIN_NODE, END, END_NODE, PROP, DeviceTree, Node

needs_dtc = pytest.mark.skipif(
    shutil.which("dtc") is None,
    reason="no dtc: install device-tree-compiler to check blobs with it",
)


@dataclass
class Parsed:
    """A node as read back from a blob."""

    properties: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, Parsed] = field(default_factory=dict)


def parse(blob: bytes) -> Parsed:
    """Read a blob by the specification's sections 5.2 to 5.5, strictly."""
    magic, total, struct_at, strings_at, rsv_at, version, last, _, strings_size, struct_size = (
        struct.unpack_from(">10I", blob)
    )
    assert (magic, total, version, last) == (0xD00DFEED, len(blob), 17, 16)
    assert rsv_at % 8 == 0
    assert struct_at % 4 == 0
    assert strings_at + strings_size <= total
    top = Parsed()
    stack = [top]
    at = struct_at
    while True:
        (token,) = struct.unpack_from(">I", blob, at)
        at += 4
        if token == BEGIN_NODE:
            end = blob.index(b"\0", at)
            child = Parsed()
            stack[-1].children[blob[at:end].decode()] = child
            stack.append(child)
            at = (end + 4) & ~3
        elif token == PROP:
            assert not stack[-1].children, "a property after a child node"
            length, name_at = struct.unpack_from(">II", blob, at)
            name_end = blob.index(b"\0", strings_at + name_at)
            name = blob[strings_at + name_at : name_end].decode()
            stack[-1].properties[name] = blob[at + 8 : at + 8 + length]
            at = (at + 8 + length + 3) & ~3
        elif token == END_NODE:
            stack.pop()
        else:
            assert token == END
            break
    assert at == struct_at + struct_size
    assert stack == [top]
    return top.children[""]


def decompile(blob: bytes) -> str:
    done = subprocess.run(
        ["dtc", "-q", "-I", "dtb", "-O", "dts"], input=blob, capture_output=True, check=True
    )
    return done.stdout.decode()


def small_tree() -> DeviceTree:
    tree = DeviceTree()
    root = tree.root
    root.u32("#address-cells", 2)
    root.string("compatible", "riscv-virtio", "simple")
    controller = root.node("interrupt-controller")
    controller.empty("interrupt-controller")
    serial = root.node("soc").node("serial@10000000")
    serial.u64("reg", 0x10000000, 0x100)
    serial.u32("interrupt-parent", controller.phandle)
    serial.raw("odd", b"\x01\x02\x03")
    return tree


def test_a_small_tree_reads_back() -> None:
    root = parse(small_tree().to_bytes())
    assert root.properties == {
        "#address-cells": b"\0\0\0\2",
        "compatible": b"riscv-virtio\0simple\0",
    }
    assert root.children["interrupt-controller"].properties == {
        "interrupt-controller": b"",
        "phandle": b"\0\0\0\1",
    }
    assert root.children["soc"].children["serial@10000000"].properties == {
        "reg": bytes.fromhex("00000000100000000000000000000100"),
        "interrupt-parent": b"\0\0\0\1",
        "odd": b"\1\2\3",
    }


@needs_dtc
def test_dtc_reads_a_small_tree() -> None:
    source = decompile(small_tree().to_bytes())
    assert 'compatible = "riscv-virtio\\0simple";' in source.replace('", "', "\\0")
    assert "reg = <0x00 0x10000000 0x00 0x100>;" in source
    assert "odd = [01 02 03];" in source
    assert "phandle = <0x01>;" in source


@needs_dtc
def test_dtc_reads_reservations_and_the_boot_hart() -> None:
    blob = small_tree().to_bytes(boot_hart=3, reserved=[(0x8000_0000, 0x4000)])
    done = subprocess.run(
        ["dtc", "-q", "-I", "dtb", "-O", "dts"], input=blob, capture_output=True, check=True
    )
    source = done.stdout.decode()
    assert "/memreserve/\t0x0000000080000000 0x0000000000004000;" in source
    assert struct.unpack_from(">I", blob, 28) == (3,)


def test_phandles_are_given_once_and_only_when_asked_for() -> None:
    tree = DeviceTree()
    first, second = tree.root.node("first"), tree.root.node("second")
    assert (second.phandle, first.phandle, second.phandle) == (1, 2, 1)
    assert "phandle" not in tree.root.properties
    reserved = tree.reserve_phandle()
    second.u32("phandle", reserved)
    assert (reserved, second.phandle, tree.root.phandle) == (3, 3, 4)


def test_a_child_is_made_once() -> None:
    tree = DeviceTree()
    assert tree.root.node("chosen") is tree.root.node("chosen")
    assert tree.root.path == "/"
    assert tree.root.node("soc").node("rtc@101000").path == "/soc/rtc@101000"


@pytest.mark.parametrize("name", ["", "a/b", "a@", "@1", "a b", "a\0", "é"])
def test_a_bad_node_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="node name"):
        DeviceTree().root.node(name)


@pytest.mark.parametrize("name", ["", "a b", "a@1", "a\0"])
def test_a_bad_property_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="property name"):
        DeviceTree().root.empty(name)


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_a_cell_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="u32"):
        DeviceTree().root.u32("reg", value)


def test_a_string_with_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        DeviceTree().root.string("model", "a\0b")


Shape = tuple[dict[str, bytes], dict[str, "Shape"]]
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789,._+-", min_size=1, max_size=31)
properties = st.dictionaries(names, st.binary(max_size=21), max_size=5)
trees: st.SearchStrategy[Shape] = st.recursive(
    st.tuples(properties, st.just({})),
    lambda child: st.tuples(properties, st.dictionaries(names, child, max_size=3)),
    max_leaves=8,
)


def fill(node: Node, shape: Shape) -> None:
    for name, value in shape[0].items():
        node.raw(name, value)
    for name, child in shape[1].items():
        fill(node.node(name), child)


def shape_of(parsed: Parsed) -> Shape:
    return parsed.properties, {name: shape_of(child) for name, child in parsed.children.items()}


@given(trees)
@settings(max_examples=100, deadline=None)
def test_any_tree_reads_back(shape: Shape) -> None:
    tree = DeviceTree()
    fill(tree.root, shape)
    assert shape_of(parse(tree.to_bytes())) == shape


@needs_dtc
@given(trees)
@settings(max_examples=15, deadline=None)
def test_dtc_copies_any_tree_without_a_change(shape: Shape) -> None:
    tree = DeviceTree()
    fill(tree.root, shape)
    done = subprocess.run(
        ["dtc", "-q", "-f", "-I", "dtb", "-O", "dtb"],
        input=tree.to_bytes(),
        capture_output=True,
        check=True,
    )
    assert shape_of(parse(done.stdout)) == shape
