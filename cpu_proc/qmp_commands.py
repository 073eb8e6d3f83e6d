"""QMP's commands on a machine: QEMU's by QEMU's names and fields, and ours, which begin with `x-`.

Problem: a program that drives QEMU's `virt` should find what it needs; who works on translators
needs to swap them, to retire, and to see what was retired, on a machine that runs.

Invariants:
- Called on a client's own thread, never on a hart's: commands may wait for a safe point, with the
  deadlines of `host_api.py`.
- What cannot be done is a `QmpError`; a bug of ours is one too, but logged with its traceback.

Read next: `host_api.py`, `monitor.py`, `docs/control.md` (every command, with an example).
"""

from __future__ import annotations

import functools
import time
import traceback
from typing import TYPE_CHECKING, Any, get_args

from cpu_proc import explain, monitor_info, qmp
from cpu_proc.qmp import Command, QmpError
from protocol.errors import UserError
from protocol.faults import AccessFault
from protocol.fields import RetireCause
from protocol.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from cpu_proc.machine import Machine

log = get_logger("qmp")
SWAP_PATIENCE = 60.0  # seconds; a backend may have a process to start
SHOWN = 10  # retirements, unless told otherwise


class QmpCommands:
    """The commands of one machine; `table` is what a `Session` takes."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        rows: dict[str, tuple[dict[str, str], Callable[..., Any]]] = {
            "query-status": ({}, self._status),
            "query-version": ({}, qmp.version_facts),
            "query-commands": ({}, self._commands),
            "query-name": ({}, dict),
            "query-kvm": ({}, lambda: {"enabled": False, "present": False}),
            "query-cpus-fast": ({}, self._cpus),
            "query-memory-size-summary": ({}, self._memory_size),
            "stop": ({}, self._stop),
            "cont": ({}, self._cont),
            "system_reset": ({}, self._reset),
            "system_powerdown": ({}, self._powerdown),
            "quit": ({}, self._quit),
            "human-monitor-command": (
                {"command-line": "string", "cpu-index": "integer?"},
                self._human,
            ),
            "pmemsave": (
                {"val": "integer", "size": "integer", "filename": "string"},
                self._save_physical,
            ),
            "memsave": (
                {
                    "val": "integer",
                    "size": "integer",
                    "filename": "string",
                    "cpu-index": "integer?",
                },
                self._save_virtual,
            ),
            "x-retirements": ({"count": "integer?"}, self._retirements),
            "x-retire": ({"cause": "string?"}, self._retire),
            "x-swap-backend": ({"backend": "string"}, self._swap),
            "x-query-jit": ({}, self._jit),
        }
        self.table = {
            name: Command(arguments, functools.partial(_guarded, name, function))
            for name, (arguments, function) in rows.items()
        }

    # --- QEMU's --------------------------------------------------------------------------------

    def _status(self) -> dict[str, Any]:
        machine = self._machine
        if machine.exit_code is not None:
            status = "internal-error" if machine.failure is not None else "shutdown"
        else:
            status = "paused" if machine.host.paused else "running"
        return {"status": status, "running": status == "running", "singlestep": False}

    def _commands(self) -> list[dict[str, str]]:
        return [{"name": name} for name in sorted([*self.table, "qmp_capabilities"])]

    def _cpus(self) -> list[dict[str, Any]]:
        threads = self._machine.hart_threads
        return [
            {
                "cpu-index": hart.index,
                "qom-path": f"/machine/soc0/harts[{hart.index}]",
                "thread-id": threads.get(hart.index, 0),
                "props": {"core-id": hart.index},
                "target": "riscv64",
            }
            for hart in self._machine.harts
        ]

    def _memory_size(self) -> dict[str, int]:
        return {"base-memory": self._machine.options.ram_size}

    def _stop(self) -> dict[str, Any]:
        self._machine.host.stop()
        return {}

    def _cont(self) -> dict[str, Any]:
        self._machine.host.cont()
        return {}

    def _reset(self) -> dict[str, Any]:
        self._machine.request_reset(guest=False)
        return {}

    def _powerdown(self) -> dict[str, Any]:
        self._machine.request_powerdown()
        return {}

    def _quit(self) -> dict[str, Any]:
        self._machine.end(0, reason="host-qmp-quit")
        return {}

    def _human(self, command_line: str, cpu_index: int = 0) -> str:
        self._hart(cpu_index)
        return self._machine.command(command_line).replace("\n", "\r\n")

    def _save_physical(self, val: int, size: int, filename: str) -> dict[str, Any]:
        self._save(filename, size, lambda: self._machine.host.read(val, size))
        return {}

    def _save_virtual(
        self, val: int, size: int, filename: str, cpu_index: int = 0
    ) -> dict[str, Any]:
        index, machine = self._hart(cpu_index), self._machine
        self._save(
            filename,
            size,
            lambda: machine.host.at_safe_point(
                lambda: monitor_info.read_virtual(machine, index, val, size)
            ),
        )
        return {}

    def _save(self, filename: str, size: int, read: Callable[[], bytes]) -> None:
        if not 0 <= size <= self._machine.options.ram_size:
            raise QmpError(f"Parameter 'size' expects at most {self._machine.options.ram_size}")
        try:
            data = read()
        except AccessFault as fault:
            raise QmpError(f"Invalid addr: no memory there ({fault})") from fault
        try:
            with open(filename, "wb") as file:
                file.write(data)
        except (OSError, ValueError) as error:  # ValueError: a name with a zero in it
            why = error.strerror if isinstance(error, OSError) else error
            raise QmpError(f"Could not open '{filename}': {why}") from error

    def _hart(self, index: int) -> int:
        if not 0 <= index < len(self._machine.harts):
            raise QmpError("Parameter 'cpu-index' expects a CPU number")
        return index

    # --- ours ----------------------------------------------------------------------------------

    def _retirements(self, count: int = SHOWN) -> dict[str, Any]:
        if count < 0:
            raise QmpError("Parameter 'count' expects 0 or more")
        book = self._machine.retirement
        events = list(book.history)[-count:] if count else []
        return {
            "epoch": book.epoch,
            "total": book.number,
            "now": book.now(),
            "counts": dict(book.counts),
            "events": [
                {
                    "number": event.number,
                    "when": event.when,
                    "cause": event.cause,
                    "by": explain.who_text(event.who),
                    "epoch": event.epoch,
                    "waited-ms": event.waited_ms,
                    "ms": event.ms,
                    "text": explain.line(event),
                }
                for event in events
            ],
        }

    def _retire(self, cause: str = "request") -> dict[str, Any]:
        if cause not in get_args(RetireCause):
            raise QmpError(f"Parameter 'cause' expects one of {', '.join(get_args(RetireCause))}")
        began = time.monotonic()
        self._machine.host.retire(cause)  # type: ignore[arg-type]
        return {"epoch": self._machine.retirement.epoch, "ms": (time.monotonic() - began) * 1e3}

    def _swap(self, backend: str) -> dict[str, Any]:
        machine, began = self._machine, time.monotonic()
        former = machine.backend
        machine.host.swap(backend, SWAP_PATIENCE)
        return {
            "backend": backend,
            "former": former,
            "epoch": machine.retirement.epoch,
            "ms": (time.monotonic() - began) * 1e3,
        }

    def _jit(self) -> dict[str, Any]:
        facts = monitor_info.jit_facts(self._machine)
        for hart, thread in zip(facts["harts"], self._machine.hart_seconds, strict=True):
            hart["cpu-seconds"] = thread
        return facts


def _guarded(name: str, function: Callable[..., Any], **arguments: Any) -> Any:
    """Call it; whatever goes wrong is an error of QMP."""
    try:
        return function(**arguments)
    except QmpError:
        raise
    except UserError as error:
        raise QmpError(error.text) from error
    except TimeoutError as error:
        raise QmpError(f"{name}: {error}") from error
    except Exception as error:
        log.error("command_failed", command=name, traceback=traceback.format_exc())
        raise QmpError(f"{name}: {type(error).__name__}: {error}") from error
