"""PLIC: which device's interrupt reaches which hart.

Problem: 96 interrupt sources, each with a priority, go to contexts (a hart in a mode), each with
its enables and its threshold; a handler claims one source and completes it.

Invariants:
- A source is level triggered. Its gateway forwards one request while the level is high, and no
  other before the handler has completed it; a request once forwarded stays pending, even if the
  level falls (section 3).
- `claimed` and `pending` bits of a source are never set both.
- A context's output is a pure function of the state: some pending, enabled source has a priority
  above the threshold. It is announced when it changes.
- Claiming ignores the threshold, and priority 0 means never (sections 4 and 6).
- Completing a source which the context has not enabled is ignored (section 8).

Source: RISC-V Platform-Level Interrupt Controller Specification 1.0.0.
Read next: `clint` for the interrupts that do not come here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from devices.device import Irq, NodeContext, check_access

SOURCES = 96
"""Sources are numbered 1 to 96; 0 means none."""
MAX_PRIORITY = 7

PRIORITY = 0x0
PENDING = 0x1000
ENABLE = 0x2000
ENABLE_STRIDE = 0x80
CONTEXT = 0x200000
CONTEXT_STRIDE = 0x1000
MAX_CONTEXTS = 1024
"""As many as the window of QEMU's board has room for."""

_WORDS = SOURCES // 32 + 1
_VALID = ((1 << SOURCES) - 1) << 1  # bit n: source n
_M_EXTERNAL, _S_EXTERNAL = 11, 9  # numbers of the external interrupts in mip


@dataclass
class PlicState:
    """Sets of sources are numbers: bit n is source n."""

    level: int = 0
    """Inputs as they are now."""
    pending: int = 0
    claimed: int = 0
    """Forwarded, claimed, not completed: the gateway is closed."""
    priority: list[int] = field(default_factory=lambda: [0] * (SOURCES + 1))
    enable: list[int] = field(default_factory=list)
    """A set for each context."""
    threshold: list[int] = field(default_factory=list)


class Plic:
    """The device, for `harts` harts; context 2h is M-mode of hart h, 2h+1 its S-mode.

    `set_external(context, level)` drives that hart's external interrupt.
    """

    name = "plic"
    size = 0x600000

    def __init__(self, harts: int, set_external: Callable[[int, bool], None]) -> None:
        if not 1 <= 2 * harts <= MAX_CONTEXTS:
            raise ValueError(f"a PLIC serves 1 to {MAX_CONTEXTS // 2} harts, not {harts}")
        self._contexts = 2 * harts
        self._set_external = set_external
        self._outputs = [False] * self._contexts
        self._by_priority = [0] * (MAX_PRIORITY + 1)
        self.state = self._initial()

    def line(self, source: int) -> Irq:
        """The interrupt input of a source (1 to 96), to give to the device that drives it."""
        if not 1 <= source <= SOURCES:
            raise ValueError(
                f"interrupt source {source} does not exist: the PLIC has 1 to {SOURCES}"
            )
        return lambda level: self.set_level(source, level)

    def set_level(self, source: int, level: bool) -> None:
        """Drive the input of a source."""
        bit = 1 << source
        state = self.state
        if bool(state.level & bit) == level:
            return
        state.level ^= bit
        if level and not (state.pending | state.claimed) & bit:
            state.pending |= bit
            self._update()

    def reset(self) -> None:
        """Nothing enabled, nothing pending but what devices assert; inputs stay as they are."""
        level = self.state.level
        state = self._initial()
        state.level = state.pending = level
        self.restore(state)

    def restore(self, state: PlicState) -> None:
        """Continue from `state`; all outputs are driven anew."""
        self.state = state
        self._by_priority = [0] * (MAX_PRIORITY + 1)
        for source, priority in enumerate(state.priority):
            self._by_priority[priority] |= 1 << source & _VALID
        for context in range(self._contexts):
            self._outputs[context] = self._output(context)
            self._set_external(context, self._outputs[context])

    def read(self, offset: int, size: int) -> int:
        """4 bytes only. Reading a context's claim register claims. Unused offsets read 0."""
        check_access(offset, size, (4,), write=False)
        state = self.state
        if offset >= CONTEXT:
            context, register = divmod(offset - CONTEXT, CONTEXT_STRIDE)
            if context < self._contexts:
                if register == 4:
                    return self._claim(context)
                if register == 0:
                    return state.threshold[context]
        elif offset >= ENABLE:
            context, byte = divmod(offset - ENABLE, ENABLE_STRIDE)
            if context < self._contexts:
                return state.enable[context] >> 8 * byte & 0xFFFFFFFF
        elif offset >= PENDING:
            return state.pending >> 8 * (offset - PENDING) & 0xFFFFFFFF
        elif offset <= PRIORITY + 4 * SOURCES:
            return state.priority[offset // 4]
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """4 bytes only. Pending bits and unused offsets ignore writes."""
        check_access(offset, size, (4,), write=True)
        state = self.state
        value &= 0xFFFFFFFF
        if offset >= CONTEXT:
            context, register = divmod(offset - CONTEXT, CONTEXT_STRIDE)
            if context < self._contexts:
                if register == 4:
                    self._complete(context, value)
                elif register == 0:
                    state.threshold[context] = value & MAX_PRIORITY
                    self._update()
        elif offset >= ENABLE:
            context, byte = divmod(offset - ENABLE, ENABLE_STRIDE)
            if context < self._contexts and byte < 4 * _WORDS:
                others = state.enable[context] & ~(0xFFFFFFFF << 8 * byte)
                state.enable[context] = (others | value << 8 * byte) & _VALID
                self._update()
        elif PRIORITY + 4 <= offset <= PRIORITY + 4 * SOURCES:
            self._set_priority(offset // 4, value & MAX_PRIORITY)

    def describe(self, context: NodeContext) -> None:
        """``riscv,plic0``, under the phandle reserved for it, wired to each hart's M and S mode."""
        node = context.node("plic")
        node.string("compatible", "sifive,plic-1.0.0", "riscv,plic0")
        node.u32("phandle", context.controller)
        node.empty("interrupt-controller")
        node.u32("#interrupt-cells", 1)
        node.u32("#address-cells", 0)
        node.u32("riscv,ndev", SOURCES)
        cells: list[int] = []
        for phandle in context.hart_controllers:
            cells += [phandle, _M_EXTERNAL, phandle, _S_EXTERNAL]
        node.u32("interrupts-extended", *cells)

    def _initial(self) -> PlicState:
        return PlicState(enable=[0] * self._contexts, threshold=[0] * self._contexts)

    def _best(self, context: int, above: int) -> int:
        """The pending, enabled source of highest priority above `above`, lowest first; or 0."""
        candidates = self.state.pending & self.state.enable[context]
        if candidates:
            for priority in range(MAX_PRIORITY, above, -1):
                if sources := candidates & self._by_priority[priority]:
                    return (sources & -sources).bit_length() - 1
        return 0

    def _output(self, context: int) -> bool:
        return self._best(context, self.state.threshold[context]) != 0

    def _claim(self, context: int) -> int:
        source = self._best(context, 0)
        if source:
            self.state.pending &= ~(1 << source)
            self.state.claimed |= 1 << source
            self._update()
        return source

    def _complete(self, context: int, source: int) -> None:
        state = self.state
        if source > SOURCES or not state.enable[context] >> source & 1:
            return
        bit = 1 << source
        if state.claimed & bit:
            state.claimed &= ~bit
            if state.level & bit:
                state.pending |= bit
                self._update()

    def _set_priority(self, source: int, priority: int) -> None:
        self._by_priority[self.state.priority[source]] &= ~(1 << source)
        self._by_priority[priority] |= 1 << source
        self.state.priority[source] = priority
        self._update()

    def _update(self) -> None:
        for context in range(self._contexts):
            level = self._output(context)
            if level != self._outputs[context]:
                self._outputs[context] = level
                self._set_external(context, level)
