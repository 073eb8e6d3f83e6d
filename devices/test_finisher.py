"""SiFive's test finisher: the register by which a guest ends or resets its machine.

Problem: "power off" and "reboot" must end in a store that the emulator understands. OpenSBI's SRST,
Linux's syscon drivers and test programs all write this one register.

Invariants: the register keeps nothing and reads 0; the low half of what is written is the order,
the high half its code. 16-bit writes are valid (OpenSBI uses them) and have code 0.

Source: no manual documents it; QEMU's ``hw/misc/sifive_test.c`` and the ``sifive,test0`` node that
firmware looks for are the reference.
Read next: `device` for what becomes of a request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devices.device import Fail, NodeContext, PowerOff, Request, Reset, check_access

FAIL = 0x3333
PASS = 0x5555
RESET = 0x7777


@dataclass
class TestFinisherState:
    """Nothing: the device has no memory."""

    __test__ = False  # not a test, whatever pytest thinks of its name


class TestFinisher:
    """The device. `request` is called with what the guest asks for."""

    __test__ = False

    name = "test-finisher"
    size = 0x1000

    def __init__(self, request: Callable[[Request], None]) -> None:
        self.state = TestFinisherState()
        self._request = request

    def reset(self) -> None:
        """Nothing to do."""

    def restore(self, state: TestFinisherState) -> None:
        """Nothing to do but to keep the object."""
        self.state = state

    def read(self, offset: int, size: int) -> int:
        """0 everywhere; 2 and 4 bytes."""
        check_access(offset, size, (2, 4), write=False)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """An order at offset 0, anything else is ignored; 2 and 4 bytes."""
        check_access(offset, size, (2, 4), write=True)
        if offset != 0:
            return
        order, code = value & 0xFFFF, value >> 16 & 0xFFFF
        if order == PASS:
            self._request(PowerOff(0))
        elif order == RESET:
            self._request(Reset())
        elif order == FAIL:
            self._request(Fail(code))

    def describe(self, context: NodeContext) -> None:
        """The register as a syscon, and the two generic nodes that say what to write to it."""
        node = context.node("test")
        node.string("compatible", "sifive,test1", "sifive,test0", "syscon")
        for name, value in (("poweroff", PASS), ("reboot", RESET)):
            order = context.root.node(name)
            order.string("compatible", f"syscon-{name}")
            order.u32("regmap", node.phandle)
            order.u32("offset", 0)
            order.u32("value", value)
