"""The UART as OpenSBI, U-Boot and Linux's 8250 driver use it, detection included."""

from __future__ import annotations

import copy

import pytest

from devices.device import AccessFault
from devices.uart16550 import Uart16550
from tests.devices.guest import Line

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7

NO_INTERRUPT, MODEM, THRE, DATA, LINE, TIMEOUT = 0x1, 0x0, 0x2, 0x4, 0x6, 0xC


class Bench:
    """A UART, what it sent, and its line."""

    def __init__(self) -> None:
        self.sent = b""
        self.line = Line()
        self.uart = Uart16550(self.line, self.transmit)

    def transmit(self, data: bytes) -> None:
        self.sent += data

    def get(self, register: int) -> int:
        return self.uart.read(register, 1)

    def set(self, register: int, value: int) -> None:
        self.uart.write(register, 1, value)

    def interrupt(self) -> int:
        """IIR without the bits that say that FIFOs are on."""
        return self.get(IIR) & 0x3F

    def drain(self) -> bytes:
        """As Linux's serial8250_rx_chars: while there is data, read it."""
        data = b""
        while self.get(LSR) & 1:
            data += bytes([self.get(RBR)])
        return data


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def running(bench: Bench) -> Bench:
    """As after Linux opened the port: FIFOs on, trigger level 8, OUT2."""
    bench.set(FCR, 0x81)
    bench.set(MCR, 0x0B)
    return bench


def test_polled_output(bench: Bench) -> None:
    for byte in b"OpenSBI\n":
        assert bench.get(LSR) & 0x60 == 0x60
        bench.set(THR, byte)
    assert bench.sent == b"OpenSBI\n"


def test_polled_input(bench: Bench) -> None:
    assert bench.get(LSR) & 1 == 0
    bench.uart.receive(b"ab")
    assert bench.drain() == b"ab"
    assert bench.get(RBR) == 0


def test_linux_detects_a_16550a(bench: Bench) -> None:
    """The register sequence of autoconfig() in drivers/tty/serial/8250/8250_port.c."""
    bench.set(IER, 0)
    assert bench.get(IER) & 0x0F == 0
    bench.set(IER, 0x0F)
    assert bench.get(IER) & 0x0F == 0x0F
    bench.set(IER, 0)
    # Loopback: OUT2 and RTS come back as DCD and CTS.
    bench.set(MCR, 0x10 | 0x08 | 0x02)
    assert bench.get(MSR) & 0xF0 == 0x90
    bench.set(MCR, 0)
    bench.set(LCR, 0xBF)
    assert bench.get(IIR) != 0, "an EFR would read 0: no 16650"
    bench.set(LCR, 0)
    bench.set(FCR, 1)
    assert bench.get(IIR) >> 6 == 3, "FIFOs that work: 16550A"
    # autoconfig_16550a: none of the greater ones.
    bench.set(LCR, 0x80)
    assert bench.get(IIR) != 0
    bench.set(LCR, 0)
    bench.set(FCR, 0x21)
    assert bench.get(IIR) >> 5 == 6
    bench.set(FCR, 0x01)
    bench.set(LCR, 0x80)
    bench.set(FCR, 0x21)
    assert bench.get(IIR) >> 5 == 6, "bit 5 would say 16750"
    bench.set(LCR, 0)
    bench.set(FCR, 0x01)
    bench.set(IER, 0x40)
    assert bench.get(IER) & 0x40 == 0, "bit 6 would say XScale"
    bench.set(FCR, 0)
    assert bench.get(IIR) >> 6 == 0


def test_linux_finds_no_bugs_at_startup(running: Bench) -> None:
    """serial8250_do_startup: UART_BUG_THRE and UART_BUG_TXEN."""
    running.set(IER, 2)
    assert running.interrupt() == THRE
    running.set(IER, 0)
    running.set(IER, 2)
    assert running.interrupt() == THRE
    running.set(IER, 0)
    running.set(IER, 2)
    assert running.get(LSR) & 0x40
    assert running.interrupt() == THRE


def test_the_scratch_register_and_the_divisor_keep_what_they_are_given(bench: Bench) -> None:
    bench.set(SCR, 0xA5)
    bench.set(LCR, 0x80)
    bench.set(DLL, 2)
    bench.set(DLM, 1)
    assert (bench.get(DLL), bench.get(DLM), bench.get(SCR)) == (2, 1, 0xA5)
    bench.set(LCR, 0x03)
    assert (bench.get(IER), bench.get(LCR), bench.sent) == (0, 0x03, b"")


def test_interrupt_driven_output(running: Bench) -> None:
    running.set(IER, 2)
    assert running.line.level
    assert running.get(IIR) == 0xC0 | THRE
    assert not running.line.level
    assert running.get(IIR) == 0xC0 | NO_INTERRUPT
    for byte in b"0123456789abcdef":
        running.set(THR, byte)
    assert running.line.level
    assert running.interrupt() == THRE
    running.set(THR, 0x21)
    assert running.line.level
    running.set(IER, 0)
    assert not running.line.level
    assert running.sent == b"0123456789abcdef!"


def test_interrupt_driven_input(running: Bench) -> None:
    running.set(IER, 1)
    running.uart.receive(b"ls")
    assert running.line.level
    assert running.interrupt() == TIMEOUT
    assert running.drain() == b"ls"
    assert not running.line.level
    running.uart.receive(b"12345678")
    assert running.interrupt() == DATA
    assert running.get(RBR) == ord("1")
    assert running.interrupt() == TIMEOUT
    assert running.drain() == b"2345678"
    assert running.interrupt() == NO_INTERRUPT


@pytest.mark.parametrize(("setting", "level"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_trigger_levels(bench: Bench, setting: int, level: int) -> None:
    bench.set(FCR, setting)
    bench.set(IER, 1)
    bench.uart.receive(bytes(level - 1))
    assert bench.interrupt() == (TIMEOUT if level > 1 else NO_INTERRUPT)
    bench.uart.receive(b"x")
    assert bench.interrupt() == DATA


def test_without_fifos_each_byte_is_announced(bench: Bench) -> None:
    bench.set(IER, 1)
    bench.uart.receive(b"ab")
    assert bench.get(IIR) == DATA
    assert bench.get(RBR) == ord("a")
    assert bench.get(IIR) == DATA
    assert bench.get(RBR) == ord("b")
    assert bench.get(IIR) == NO_INTERRUPT


def test_a_flood_of_input_is_not_lost(running: Bench) -> None:
    data = bytes(range(256)) * 400
    running.uart.receive(data)
    assert running.uart.waiting == len(data)
    assert running.drain() == data
    assert running.uart.waiting == 0


def test_clearing_the_receiver_drops_only_what_is_in_the_fifo(running: Bench) -> None:
    running.uart.receive(bytes(range(20)))
    running.set(FCR, 0x83)
    assert running.drain() == bytes(range(16, 20))


def test_data_comes_before_output_and_line_errors_before_both(running: Bench) -> None:
    running.set(MCR, 0x10)
    for byte in range(17):
        running.set(THR, byte)
    running.set(IER, 0x0F)
    assert running.interrupt() == LINE
    assert running.get(LSR) == 0x63
    assert running.get(LSR) == 0x61
    assert running.interrupt() == DATA
    assert running.drain() == bytes(range(16))
    assert running.interrupt() == THRE
    assert running.interrupt() == MODEM
    running.get(MSR)
    assert running.interrupt() == NO_INTERRUPT
    assert not running.line.level


def test_loopback_sends_nothing_and_receives_nothing_else(running: Bench) -> None:
    running.set(MCR, 0x10)
    running.uart.receive(b"typed")
    running.set(THR, 0x41)
    assert running.drain() == b"A"
    assert running.sent == b""
    running.set(MCR, 0x0B)
    assert running.drain() == b"typed"


def test_modem_lines_report_changes_once(bench: Bench) -> None:
    assert bench.get(MSR) == 0xB0
    bench.set(MCR, 0x10 | 0x0F)
    assert bench.get(MSR) == 0xF0, "RI rose: no trailing edge"
    bench.set(MCR, 0x10)
    assert bench.get(MSR) == 0x0F
    assert bench.get(MSR) == 0x00
    bench.set(IER, 8)
    bench.set(MCR, 0x12)
    assert bench.line.level
    assert bench.get(MSR) == 0x11
    assert not bench.line.level


@pytest.mark.parametrize("size", [2, 4, 8])
def test_wide_accesses_reach_one_register(bench: Bench, size: int) -> None:
    bench.uart.write(SCR, size, 0x1234_56A5)
    assert bench.uart.read(SCR, size) == 0xA5
    bench.uart.receive(b"z")
    assert bench.uart.read(RBR, size) == ord("z")


def test_there_are_eight_registers(bench: Bench) -> None:
    with pytest.raises(AccessFault):
        bench.uart.read(8, 1)
    with pytest.raises(AccessFault):
        bench.uart.write(8, 1, 0)


def test_reset_keeps_input_that_waits_outside(running: Bench) -> None:
    running.set(IER, 3)
    running.uart.receive(bytes(range(20)))
    running.uart.reset()
    assert not running.line.level
    assert (running.get(IER), running.get(LCR), running.get(MCR)) == (0, 0, 0)
    assert running.drain() == bytes(range(16, 20))


def test_a_restored_state_goes_on(running: Bench) -> None:
    running.set(IER, 3)
    running.uart.receive(b"hello")
    other = Bench()
    other.uart.restore(copy.deepcopy(running.uart.state))
    assert other.line.level
    assert other.interrupt() == TIMEOUT
    assert other.drain() == b"hello"
    assert other.interrupt() == THRE
