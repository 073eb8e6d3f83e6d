"""HTIF: how a program written for Spike prints, reads and ends, by storing commands to its variable
`tohost`.

Problem: RISC-V's own tests know no UART and no power switch; they store a command to `tohost` and
may wait for an answer in `fromhost`. The machine watches the page that holds the two and calls
`Htif.check` after a store to it.

Invariants:
- Pure: no thread, no clock, no memory of its own; reads and writes go through the functions given
  to `check`.
- As in Spike's fesvr: `tohost` is cleared before a command is carried out; an answer is stored only
  when `fromhost` is 0, and waits otherwise. So `check` is due after a store to either, and after
  `receive`.
- A command that is not understood is logged and gets no answer; nothing the guest stores raises an
  exception here.

A command: device in bits 63..56, command in bits 55..48, payload in bits 47..0. Source:
riscv-isa-sim, fesvr/device.cc and fesvr/syscall.cc.

| device | command | payload | answer |
|---|---|---|---|
| 0 | 0 | bit 0 set: exit, code in bits 47..1 | none: the run ends |
| 0 | 0 | address of eight words: a system call's number, arguments; [0] becomes its result | 1 |
| 1 | 0 | read a character | 0x100 + character, once there is one |
| 1 | 1 | write the character in bits 7..0 | 0x100 + character |

Read next: `loader` (finds the symbols), `signature`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from protocol.faults import AccessFault
from protocol.logs import get_logger

SYS_WRITE = 64
SYS_EXIT = 93
EBADF, EFAULT, ENOSYS = 9, 14, 38
MAX_WRITE = 1 << 20
"""Bytes one system call may print; a longer one is cut, as write(2) may."""

_PAYLOAD = (1 << 48) - 1
_WORD = (1 << 64) - 1

log = get_logger("htif")


@dataclass(frozen=True)
class Exit:
    """The guest asked for the end of the run; `code` is the exit status, 0 for a passed test."""

    code: int


class Htif:
    """One program's host interface. `tohost`, `fromhost`: guest-physical addresses; `output` takes
    printed bytes.
    """

    def __init__(self, tohost: int, fromhost: int | None, output: Callable[[bytes], None]) -> None:
        self.tohost = tohost
        self.fromhost = fromhost
        self._output = output
        self._answers: deque[int] = deque()
        self._input: deque[int] = deque()
        self._reads = 0

    def reset(self) -> None:
        """Forget what is under way: the machine was reset."""
        self._answers.clear()
        self._reads = 0

    def receive(self, data: bytes) -> None:
        """Characters for the guest, kept until it asks; call `check` afterwards."""
        self._input.extend(data)

    def check(
        self,
        read64: Callable[[int], int],
        write64: Callable[[int, int], None],
        read_bytes: Callable[[int, int], bytes],
    ) -> Exit | None:
        """Carry out the command in `tohost`, if there is one, and give the answers that can be
        given.

        `read_bytes` may raise for an address that is not memory: the system call then returns
        -EFAULT.
        """
        command = read64(self.tohost)
        if command:
            write64(self.tohost, 0)
            action = self._execute(command, read64, write64, read_bytes)
            if action is not None:
                return action
        while self._reads and self._input:
            self._reads -= 1
            self._answer(1, 0, 0x100 | self._input.popleft())
        if self._answers and self.fromhost is not None and read64(self.fromhost) == 0:
            write64(self.fromhost, self._answers.popleft())
        return None

    def _execute(
        self,
        command: int,
        read64: Callable[[int], int],
        write64: Callable[[int, int], None],
        read_bytes: Callable[[int, int], bytes],
    ) -> Exit | None:
        device, function, payload = command >> 56, command >> 48 & 0xFF, command & _PAYLOAD
        if (device, function) == (0, 0):
            if payload & 1:
                return Exit(payload >> 1)
            return self._system_call(payload, read64, write64, read_bytes)
        if (device, function) == (1, 0):
            self._reads += 1
        elif (device, function) == (1, 1):
            self._output(bytes([payload & 0xFF]))
            self._answer(1, 1, 0x100 | payload & 0xFF)
        else:
            log.warning("command_ignored", device=device, command=function, payload=payload)
        return None

    def _system_call(
        self,
        block: int,
        read64: Callable[[int], int],
        write64: Callable[[int, int], None],
        read_bytes: Callable[[int, int], bytes],
    ) -> Exit | None:
        try:
            words = memoryview(read_bytes(block, 64)).cast("Q")
        except AccessFault as error:
            log.warning("system_call_ignored", address=block, error=str(error))
            return None
        number, first, address, length = words[0], words[1], words[2], words[3]
        if number == SYS_EXIT:
            return Exit(first & 0x7FFF_FFFF)
        if number == SYS_WRITE:
            result = self._write(first, address, min(length, MAX_WRITE), read_bytes)
        else:
            log.warning("system_call_refused", number=number)
            result = -ENOSYS
        write64(block, result & _WORD)
        self._answer(0, 0, 1)
        return None

    def _write(
        self, descriptor: int, address: int, length: int, read_bytes: Callable[[int, int], bytes]
    ) -> int:
        if descriptor not in (1, 2):
            return -EBADF
        try:
            data = read_bytes(address, length)
        except AccessFault:
            return -EFAULT
        self._output(data)
        return length

    def _answer(self, device: int, function: int, payload: int) -> None:
        if self.fromhost is not None:
            self._answers.append(device << 56 | function << 48 | payload)
