"""Flattened device trees: the form in which a machine is described to its firmware and its kernel.

Problem: guests find their hardware through a device-tree blob in memory. It is written here,
without a compiler and without a library, from nodes that devices fill in.

Invariants:
- What `DeviceTree.to_bytes` gives is a blob of version 17 (readable by version 16): header, memory
  reservation block, structure block and strings block in this order, each aligned as the
  specification asks.
- A node's properties stand before its children; both keep the order in which they were made.
- A phandle is given out once, from 1 upwards. A node that nobody refers to has none.
- A mistake in a name or a value is a `ValueError` when the property is set, never a blob that a
  guest refuses.

Source: Devicetree Specification, release v0.4, chapter 5 "Flattened Devicetree (DTB) Format".
Read next: `devices.device_tree`, which puts a machine's tree together.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator

MAGIC = 0xD00DFEED
VERSION = 17
LAST_COMPATIBLE_VERSION = 16

BEGIN_NODE, END_NODE, PROP, NOP, END = 1, 2, 3, 4, 9
"""Tokens of the structure block (section 5.4.1)."""

_HEADER = struct.Struct(">10I")
_NODE_NAME = re.compile(r"[0-9A-Za-z,._+-]+(@[0-9A-Za-z,._+-]+)?")
_PROPERTY_NAME = re.compile(r"[0-9A-Za-z,._+?#-]+")


class Node:
    """One node. Made by `DeviceTree` and by `node`; the last setting of a property wins."""

    def __init__(self, name: str, parent: Node | None, phandles: Iterator[int]) -> None:
        self.name = name
        self.properties: dict[str, bytes] = {}
        self.children: dict[str, Node] = {}
        self._parent = parent
        self._phandles = phandles

    @property
    def path(self) -> str:
        """The full path, such as ``/soc/serial@10000000``; the root's is ``/``."""
        if self._parent is None:
            return "/"
        return f"{self._parent.path.rstrip('/')}/{self.name}"

    @property
    def phandle(self) -> int:
        """The number by which other nodes refer to this one; given to it when first asked for."""
        if "phandle" not in self.properties:
            self.u32("phandle", next(self._phandles))
        return int.from_bytes(self.properties["phandle"], "big")

    def node(self, name: str) -> Node:
        """The child called `name` (``serial@10000000``), made if there is none yet."""
        if not _NODE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no device-tree node name (below {self.path})")
        if name not in self.children:
            self.children[name] = Node(name, self, self._phandles)
        return self.children[name]

    def raw(self, name: str, value: bytes) -> None:
        """A property of arbitrary bytes."""
        if not _PROPERTY_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no device-tree property name (in {self.path})")
        self.properties[name] = bytes(value)

    def empty(self, name: str) -> None:
        """A property that says what it says by being there."""
        self.raw(name, b"")

    def u32(self, name: str, *values: int) -> None:
        """One or more 32-bit cells: numbers, phandles, interrupt specifiers."""
        self.raw(name, b"".join(self._cell(name, value, 4) for value in values))

    def u64(self, name: str, *values: int) -> None:
        """64-bit numbers, two cells each: addresses and sizes where ``#address-cells`` is 2."""
        self.raw(name, b"".join(self._cell(name, value, 8) for value in values))

    def string(self, name: str, *values: str) -> None:
        """A string, or a list of strings such as ``compatible``."""
        for value in values:
            if "\0" in value:
                raise ValueError(f"{self.path}: property {name}: {value!r} holds a NUL")
        self.raw(name, b"".join(value.encode() + b"\0" for value in values))

    def _cell(self, name: str, value: int, size: int) -> bytes:
        if not 0 <= value < 1 << (8 * size):
            raise ValueError(f"{self.path}: property {name}: {value:#x} is no u{8 * size}")
        return value.to_bytes(size, "big")


class DeviceTree:
    """A tree under construction. `root` is its root node."""

    def __init__(self) -> None:
        self._phandles = iter(range(1, 0xFFFFFFFF))
        self.root = Node("", None, self._phandles)

    def reserve_phandle(self) -> int:
        """A phandle for a node that is described later, which sets it as ``phandle`` itself."""
        return next(self._phandles)

    def to_bytes(self, *, boot_hart: int = 0, reserved: Iterable[tuple[int, int]] = ()) -> bytes:
        """The blob. `boot_hart` goes to ``boot_cpuid_phys``; `reserved`: (address, size), bytes."""
        strings = _Strings()
        structure = b"".join(_structure(self.root, strings)) + END.to_bytes(4, "big")
        reservations = b"".join(struct.pack(">QQ", *pair) for pair in (*reserved, (0, 0)))
        reservations_at = _HEADER.size  # 40: a multiple of 8, as section 5.3.2 asks
        structure_at = reservations_at + len(reservations)
        strings_at = structure_at + len(structure)
        header = _HEADER.pack(
            MAGIC,
            strings_at + len(strings.block),
            structure_at,
            strings_at,
            reservations_at,
            VERSION,
            LAST_COMPATIBLE_VERSION,
            boot_hart,
            len(strings.block),
            len(structure),
        )
        return header + reservations + structure + bytes(strings.block)


class _Strings:
    """The strings block: each property name once."""

    def __init__(self) -> None:
        self.block = bytearray()
        self._offsets: dict[str, int] = {}

    def offset(self, name: str) -> int:
        if name not in self._offsets:
            self._offsets[name] = len(self.block)
            self.block += name.encode() + b"\0"
        return self._offsets[name]


def _structure(node: Node, strings: _Strings) -> Iterator[bytes]:
    yield BEGIN_NODE.to_bytes(4, "big") + _padded(node.name.encode() + b"\0")
    for name, value in node.properties.items():
        yield struct.pack(">3I", PROP, len(value), strings.offset(name)) + _padded(value)
    for child in node.children.values():
        yield from _structure(child, strings)
    yield END_NODE.to_bytes(4, "big")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
