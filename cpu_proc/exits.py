"""What a hart leaves native code for, and what is done about it, on the hart's own thread.

The problem: the engine does what is frequent; the rest - regions to ask for, stores that hit
translated code, traps to be logged or that cannot be taken, a budget that is used up - comes here.

Invariants: called with the hart out of native code; what needs every hart out is posted for the
next safe point, never done here.

Read next: `hart.py`, `retirement.py`, `memory_hooks.py`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cpu_proc import culprit, explain
from cpu_proc.culprit import Who
from cpu_proc.hart import NEVER
from protocol import layout
from protocol.logs import get_logger

if TYPE_CHECKING:
    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine

log = get_logger("machine")


class Exits:
    """Serves the exits of a machine's harts."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def serve(self, hart: Hart, reason: int) -> None:
        """Do what a hart left native code for."""
        machine = self._machine
        if reason in (layout.EXIT_HOT, layout.EXIT_ATTENTION) and hart.state.hot_count:
            self._serve_hot(hart)
        elif reason == layout.EXIT_RETIRE:
            self.retirement(hart)
        elif reason == layout.EXIT_POOL:
            machine.safe_point.post(lambda: machine.retirement.everything("overflow"))
        elif reason == layout.EXIT_TRAP:
            _log_trap(hart)
        elif reason == layout.EXIT_STOP:
            if hart.state.count >= (machine.options.max_instructions or NEVER):
                machine.end(0)
            else:
                machine.board.clock_moved()
        elif reason == layout.EXIT_FATAL:
            self._serve_fatal(hart)

    def _serve_fatal(self, hart: Hart) -> None:
        """A trap of this hart cannot be taken: the handler's first instruction traps itself."""
        machine = self._machine
        state, action = hart.state, machine.options.fatal
        state.stuck = 0
        log.warning(
            "trap_not_taken",
            hart=hart.index,
            cause=int(state.mcause),
            pc=int(state.pc),
            value=int(state.mtval),
            action=action,
        )
        if action == "halt":
            machine.end(1, guest=True, reason="guest-panic")
        elif action == "reset":
            machine.request_reset()
        state.fatal = 0  # once is enough, until the hart is reset

    def _serve_hot(self, hart: Hart) -> None:
        """Ask for regions at the records found hot."""
        machine = self._machine
        state = hart.state
        wanted: dict[int, list[int]] = {}
        failing: dict[int, list[int]] = {}
        for i in range(state.hot_count):
            record = state.hot[2 * i]
            page = machine.records.page_of(state.hot[2 * i + 1])
            if page is not None:
                found = failing if record & layout.HOT_ASSUMED else wanted
                found.setdefault(page, []).append(machine.records.slot_of(record))
        state.hot_count = 0
        if machine.translator is not None:
            machine.translator.failing(failing)
            machine.translator.want(wanted)

    def retirement(self, hart: Hart) -> None:
        """A store of this hart hit lines that regions were made from, or that are watched."""
        machine = self._machine
        state = hart.state
        if machine.mistakes is not None and machine.mistakes.serve(hart):
            return
        began = time.monotonic()  # the hart waits for the lock too
        with machine.lock:
            page = machine.records.page_of(state.exit_page)
            if state.exit_page == 0:
                self._serve_two_pages(hart, began)
            elif page is not None:
                more = explain.before_store(machine, hart, page)
                retired = machine.records.retire_regions(page, state.exit_lines)
                if retired:
                    machine.retirement.note(
                        "guest_store",
                        Who("hart", did="store", hart=hart.index, pc=more.pop("pc")),
                        explain.where(machine, page, **more),
                        began=began,
                        page=page,
                        regions=retired,
                        pc=int(state.pc),
                    )
            if page is not None and machine.records.generation(page) == 0:
                machine.hooks.wrapped()
            elif page is None and state.exit_lines == NEVER:
                machine.hooks.wrapped()  # of one page or another
            state.exit_lines = 0
            self.htif()
        if machine.mistakes is not None:
            machine.mistakes.stored(hart)

    def _serve_two_pages(self, hart: Hart, began: float) -> None:
        """One instruction wrote to code in two pages, and the hart names neither."""
        machine = self._machine
        count = sum(
            machine.records.retire_regions(page, NEVER) for page in list(machine.records.regions)
        )
        pc = culprit.store_pc(hart.state)
        who = Who("hart", did="store over a page's edge", hart=hart.index, pc=pc)
        pc_now = int(hart.state.pc)
        machine.retirement.note("guest_store", who, began=began, regions=count, pc=pc_now)

    def htif(self) -> None:
        machine = self._machine
        if machine.htif is None:
            return
        action = machine.htif.check(
            lambda address: int.from_bytes(machine.memory.read(address, 8), "little"),
            lambda address, value: machine.memory.write(
                address, value.to_bytes(8, "little"), "answer of HTIF"
            ),
            machine.memory.read,
        )
        if action is not None:
            machine.end(action.code, guest=True, reason="guest-shutdown")


def _log_trap(hart: Hart) -> None:
    state = hart.state
    log.info(
        "trap_taken",
        hart=hart.index,
        cause=state.trap_cause,
        pc=state.trap_pc,
        value=state.trap_value,
        priv=int(state.priv),
        handler=int(state.pc),
    )
    state.trap_pc = NEVER
