"""UART 16550A: the console.

Problem: firmware polls it, U-Boot and Linux drive it by interrupts, and Linux first finds out by
experiment what kind of UART it is. All of them must see a 16550A.

Invariants:
- Output leaves at once through `transmit`: the transmitter is always empty when a guest looks.
- Input beyond the FIFO waits in `state.backlog` on the host's side: a guest loses input only when
  it clears its FIFO. There is no overrun but in loopback.
- The interrupt line is a pure function of the state (`_wanted_level`).
- The "receiver timeout" interrupt comes without the timeout: input below the trigger level is
  announced as soon as it is there.
- Wide accesses reach the one byte register at their offset, as on QEMU's board.

Source: National Semiconductor PC16550D data sheet, section 8 (names of registers and bits are its).
Read next: `plic`, where the interrupt goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from devices.device import AccessFault, Irq, NodeContext

RBR = THR = 0
IER = 1
IIR = FCR = 2
LCR = 3
MCR = 4
LSR = 5
MSR = 6
SCR = 7

IER_ERBFI, IER_ETBEI, IER_ELSI, IER_EDSSI = 1, 2, 4, 8
IIR_NONE, IIR_MODEM, IIR_THRE, IIR_DATA, IIR_LINE, IIR_TIMEOUT = 0x1, 0x0, 0x2, 0x4, 0x6, 0xC
IIR_FIFOS = 0xC0
FCR_ENABLE, FCR_CLEAR_RECEIVER = 1, 2
LCR_DLAB = 0x80
MCR_LOOP = 0x10
LSR_DR, LSR_OE, LSR_THRE, LSR_TEMT = 0x01, 0x02, 0x20, 0x40
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
MSR_DELTAS = 0x0F

FIFO_SIZE = 16
CLOCK_HZ = 3_686_400
"""Input clock as told to guests: a divisor of 2 is 115200 baud. Nothing here runs at that speed."""

_TRIGGER_LEVELS = (1, 4, 8, 14)
_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD  # the far end is always there and ready
_BYTES = tuple(bytes([value]) for value in range(256))


@dataclass
class Uart16550State:
    """Registers as the data sheet names them; `fcr` without its self-clearing bits."""

    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = 0
    scr: int = 0
    dll: int = 0
    dlm: int = 0
    modem_deltas: int = 0
    """Bits 0 to 3 of MSR."""
    overrun: bool = False
    """LSR's OE."""
    thre_pending: bool = False
    """THR became empty and nobody has taken note."""
    fifo: bytearray = field(default_factory=bytearray)
    """What the guest can read: up to 16 bytes, or 1 while FIFOs are off."""
    backlog: bytearray = field(default_factory=bytearray)
    """Input that has not reached the FIFO."""


class Uart16550:
    """The device. `transmit` gets each byte of output, in order; it shall not block for long."""

    name = "uart16550"
    size = 0x100

    def __init__(self, irq: Irq, transmit: Callable[[bytes], None]) -> None:
        self.state = Uart16550State()
        self._irq = irq
        self._transmit = transmit
        self._level = False

    def receive(self, data: bytes) -> None:
        """Input from outside. All of it is kept; see `waiting` to not give more than is read."""
        self.state.backlog += data
        self._refill()
        self._update()

    @property
    def waiting(self) -> int:
        """Bytes of input the guest has not read yet."""
        return len(self.state.fifo) + len(self.state.backlog)

    def reset(self) -> None:
        """Registers as after master reset; input that waits outside the FIFO is kept."""
        self.restore(Uart16550State(backlog=self.state.backlog))

    def restore(self, state: Uart16550State) -> None:
        """Continue from `state`; the interrupt line follows."""
        self.state = state
        self._refill()
        self._level = self._wanted_level()
        self._irq(self._level)

    def read(self, offset: int, size: int) -> int:
        """One byte register, whatever the size. Raises `AccessFault` beyond the eighth."""
        state = self.state
        if offset == LSR:
            value = LSR_THRE | LSR_TEMT | (LSR_DR if state.fifo else 0)
            if state.overrun:
                value |= LSR_OE
                state.overrun = False
                self._update()
            return value
        if offset == RBR:
            return state.dll if state.lcr & LCR_DLAB else self._receive_byte()
        if offset == IIR:
            return self._identify()
        if offset == IER:
            return state.dlm if state.lcr & LCR_DLAB else state.ier
        if offset == MSR:
            value = self._modem_lines() | state.modem_deltas
            state.modem_deltas = 0
            self._update()
            return value
        if offset == LCR:
            return state.lcr
        if offset == MCR:
            return state.mcr
        if offset == SCR:
            return state.scr
        raise AccessFault(offset, size, write=False)

    def write(self, offset: int, size: int, value: int) -> None:
        """One byte register, whatever the size. Raises `AccessFault` beyond the eighth."""
        state = self.state
        value &= 0xFF
        if offset == THR:
            if state.lcr & LCR_DLAB:
                state.dll = value
            else:
                self._send_byte(value)
        elif offset == IER:
            if state.lcr & LCR_DLAB:
                state.dlm = value
            else:
                # Enabling the THRE interrupt while THR is empty, as it always is, raises it anew.
                if value & ~state.ier & IER_ETBEI:
                    state.thre_pending = True
                state.ier = value & 0x0F
                self._update()
        elif offset == FCR:
            self._control_fifos(value)
        elif offset == LCR:
            state.lcr = value
        elif offset == MCR:
            before = self._modem_lines()
            state.mcr = value & 0x1F
            self._note_modem_change(before, self._modem_lines())
            self._refill()
            self._update()
        elif offset == SCR:
            state.scr = value
        elif offset > SCR:
            raise AccessFault(offset, size, write=True)

    def describe(self, context: NodeContext) -> None:
        """``ns16550a``; the first one described becomes the console."""
        node = context.node("serial")
        node.string("compatible", "ns16550a")
        node.u32("clock-frequency", CLOCK_HZ)
        chosen = context.root.node("chosen")
        if "stdout-path" not in chosen.properties:
            chosen.string("stdout-path", node.path)
            context.root.node("aliases").string("serial0", node.path)

    def _send_byte(self, value: int) -> None:
        state = self.state
        if state.mcr & MCR_LOOP:
            if len(state.fifo) < self._fifo_size():
                state.fifo.append(value)
            else:
                state.overrun = True
        else:
            self._transmit(_BYTES[value])
        state.thre_pending = True
        self._update()

    def _receive_byte(self) -> int:
        fifo = self.state.fifo
        if not fifo:
            return 0
        value = fifo.pop(0)
        self._refill()
        self._update()
        return value

    def _fifo_size(self) -> int:
        return FIFO_SIZE if self.state.fcr & FCR_ENABLE else 1

    def _refill(self) -> None:
        state = self.state
        if state.backlog and not state.mcr & MCR_LOOP:
            room = self._fifo_size() - len(state.fifo)
            state.fifo += state.backlog[:room]
            del state.backlog[:room]

    def _control_fifos(self, value: int) -> None:
        state = self.state
        if (value ^ state.fcr) & FCR_ENABLE or value & FCR_CLEAR_RECEIVER:
            state.fifo.clear()
        # Bits 3, 6 and 7 are only programmed together with bit 0 (data sheet, section 8.5).
        state.fcr = value & 0xC9 if value & FCR_ENABLE else 0
        self._refill()
        self._update()

    def _identify(self) -> int:
        """IIR: the pending interrupt of highest priority. Reading it acknowledges THRE."""
        state = self.state
        fifos = IIR_FIFOS if state.fcr & FCR_ENABLE else 0
        if state.ier & IER_ELSI and state.overrun:
            return fifos | IIR_LINE
        if state.ier & IER_ERBFI and state.fifo:
            trigger = _TRIGGER_LEVELS[state.fcr >> 6] if fifos else 1
            return fifos | (IIR_DATA if len(state.fifo) >= trigger else IIR_TIMEOUT)
        if state.ier & IER_ETBEI and state.thre_pending:
            state.thre_pending = False
            self._update()
            return fifos | IIR_THRE
        if state.ier & IER_EDSSI and state.modem_deltas:
            return fifos | IIR_MODEM
        return fifos | IIR_NONE

    def _modem_lines(self) -> int:
        """Bits 4 to 7 of MSR: constant, or the guest's own outputs in loopback (section 8.7)."""
        mcr = self.state.mcr
        if not mcr & MCR_LOOP:
            return _CONNECTED
        rts_to_cts = MSR_CTS if mcr & 2 else 0
        dtr_to_dsr = MSR_DSR if mcr & 1 else 0
        return rts_to_cts | dtr_to_dsr | (mcr & 4) << 4 | (mcr & 8) << 4

    def _note_modem_change(self, before: int, after: int) -> None:
        changed = before ^ after
        if after & MSR_RI:
            changed &= ~MSR_RI  # TERI is set by the trailing edge only
        self.state.modem_deltas |= changed >> 4

    def _wanted_level(self) -> bool:
        state = self.state
        ier = state.ier
        return bool(
            (ier & IER_ERBFI and state.fifo)
            or (ier & IER_ETBEI and state.thre_pending)
            or (ier & IER_ELSI and state.overrun)
            or (ier & IER_EDSSI and state.modem_deltas)
        )

    def _update(self) -> None:
        level = self._wanted_level()
        if level != self._level:
            self._level = level
            self._irq(level)
