"""HTIF as a guest sees it: commands in `tohost`, answers in `fromhost`."""

from __future__ import annotations

import struct

import pytest

from cpu_proc.htif import EBADF, EFAULT, ENOSYS, Exit, Htif
from protocol.faults import AccessFault

TOHOST, FROMHOST = 0x1000, 0x1040
BLOCK, TEXT = 0x1100, 0x1200
END = 0x2000


class Guest:
    """A page of memory, and the moments at which the machine calls `check`."""

    def __init__(self, fromhost: int | None = FROMHOST) -> None:
        self.memory = bytearray(END)
        self.printed = b""
        self.htif = Htif(TOHOST, fromhost, self._print)

    def _print(self, data: bytes) -> None:
        self.printed += data

    def read64(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def write64(self, address: int, value: int) -> None:
        self.memory[address : address + 8] = value.to_bytes(8, "little")

    def read(self, address: int, length: int) -> bytes:
        if address + length > END:
            raise AccessFault(address, length, write=False)
        return bytes(self.memory[address : address + length])

    def store(self, address: int, value: int) -> Exit | None:
        self.write64(address, value)
        return self.check()

    def check(self) -> Exit | None:
        return self.htif.check(self.read64, self.write64, self.read)

    def call(self, *words: int) -> int:
        """A system call as riscv-tests make it; its result."""
        self.memory[BLOCK : BLOCK + 64] = struct.pack("<8Q", *words, *[0] * (8 - len(words)))
        assert self.store(TOHOST, BLOCK) is None
        assert 1 == self.read64(FROMHOST)
        self.store(FROMHOST, 0)
        return int.from_bytes(self.read(BLOCK, 8), "little", signed=True)


@pytest.mark.parametrize(("value", "code"), [(1, 0), (3, 1), (2 * 1337 + 1, 1337)])
def test_an_odd_value_ends_the_run(value, code):
    guest = Guest()

    assert Exit(code) == guest.store(TOHOST, value)
    assert 0 == guest.read64(TOHOST)


def test_zero_is_no_command():
    guest = Guest()

    assert guest.store(TOHOST, 0) is None
    assert 0 == guest.read64(FROMHOST)


def test_characters_are_printed_and_answered():
    guest = Guest()

    for char in b"hi":
        assert guest.store(TOHOST, 1 << 56 | 1 << 48 | char) is None
        assert 0 == guest.read64(TOHOST)
        assert 1 << 56 | 1 << 48 | 0x100 | char == guest.read64(FROMHOST)
        guest.store(FROMHOST, 0)

    assert b"hi" == guest.printed


def test_an_answer_waits_until_the_last_one_was_taken():
    guest = Guest()
    guest.store(TOHOST, 1 << 56 | 1 << 48 | ord("a"))
    guest.store(TOHOST, 1 << 56 | 1 << 48 | ord("b"))

    assert ord("a") == guest.read64(FROMHOST) & 0xFF
    guest.store(FROMHOST, 0)
    assert ord("b") == guest.read64(FROMHOST) & 0xFF


def test_a_read_is_answered_when_there_is_input():
    guest = Guest()
    guest.store(TOHOST, 1 << 56)
    assert 0 == guest.read64(FROMHOST)

    guest.htif.receive(b"xy")
    guest.check()
    assert 1 << 56 | 0x100 | ord("x") == guest.read64(FROMHOST)

    guest.store(FROMHOST, 0)
    assert 0 == guest.read64(FROMHOST), "one character for one request"
    guest.store(TOHOST, 1 << 56)
    assert 0x100 | ord("y") == guest.read64(FROMHOST) & 0xFFFF


def test_the_write_system_call_prints():
    guest = Guest()
    guest.memory[TEXT : TEXT + 5] = b"hello"

    assert 5 == guest.call(64, 1, TEXT, 5)
    assert b"hello" == guest.printed


def test_system_calls_fail_as_on_unix():
    guest = Guest()

    assert -EBADF == guest.call(64, 7, TEXT, 5)
    assert -EFAULT == guest.call(64, 1, END - 2, 5)
    assert -ENOSYS == guest.call(4711)
    assert b"" == guest.printed


def test_the_exit_system_call_ends_the_run():
    guest = Guest()
    guest.memory[BLOCK : BLOCK + 16] = struct.pack("<2Q", 93, 3)

    assert Exit(3) == guest.store(TOHOST, BLOCK)


@pytest.mark.parametrize("command", [END, 2**48 - 2, 7 << 56 | 1, 1 << 56 | 9 << 48, 2**64 - 2])
def test_nonsense_changes_nothing(command):
    guest = Guest()

    assert guest.store(TOHOST, command) is None
    assert (0, 0) == (guest.read64(TOHOST), guest.read64(FROMHOST))


def test_a_program_without_fromhost_still_prints_and_ends():
    guest = Guest(fromhost=None)

    assert guest.store(TOHOST, 1 << 56 | 1 << 48 | ord("a")) is None
    assert Exit(0) == guest.store(TOHOST, 1)
    assert b"a" == guest.printed


def test_a_reset_forgets_answers_that_wait():
    guest = Guest()
    guest.store(TOHOST, 1 << 56 | 1 << 48 | ord("a"))
    guest.store(TOHOST, 1 << 56 | 1 << 48 | ord("b"))

    guest.htif.reset()
    guest.store(FROMHOST, 0)

    assert 0 == guest.read64(FROMHOST)
