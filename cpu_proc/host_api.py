"""The host's hands on a machine: what a script, the monitor, a debugger or the stress tool may do.

The problem: whoever drives a machine from outside needs a handful of operations that are safe
whatever the harts are doing, and that are over when they return. `Machine.host` has them; each
waits for its safe point, with a deadline, so the next guest instruction sees what was done.

Invariants:
- Every call has a deadline (`seconds`) and raises TimeoutError when it passes; then nothing was
  done, unless the error says that it is under way.
- Callable from any thread but a hart's (a device or a piece of posted work only posts), and never
  with the machine's lock held: what is waited for may want it.
- Before `power_on` and after the end the calls work as well; the caller's thread does the work.

    machine.host.pause()
    machine.host.write(0x8000_0000, code)      # RAM, ROM or flash; retires what stood there
    machine.host.set_register(0, "pc", 0x8000_0000)
    machine.host.step_hart(0)
    machine.host.resume()

Read next: `safe_point.py`, `retirement.py`, `snapshot.py`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, get_args

from cpu_proc.safe_point import PATIENCE
from protocol import layout
from protocol.errors import UserError
from protocol.fields import RetireCause

if TYPE_CHECKING:
    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine

T = TypeVar("T")

ABI = [
    *("zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
    *(f"a{i}" for i in range(8)),
    *(f"s{i}" for i in range(2, 12)),
    *("t3", "t4", "t5", "t6"),
]
_READ_ONLY = ("priv", "count", "hartid", "fflags", *layout.CSRS)
_MASK = 2**64 - 1
SNAPSHOT_PATIENCE = 300.0  # seconds: gigabytes are compressed, and written to a disk


class HostApi:
    """The operations; one for each machine, `Machine.host`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._stopping = threading.Lock()
        self._stopped_at = 0
        self.stopped = False  # by `stop`

    # --- harts -----------------------------------------------------------------------------------

    def pause(self, seconds: float = PATIENCE) -> None:
        """Stop all harts between two instructions. Pauses nest: each needs its `resume`."""
        self._machine.safe_point.hold(seconds)

    def resume(self) -> None:
        """Undo one `pause`. RuntimeError if the machine is not paused."""
        self._machine.safe_point.release()

    def stop(self, seconds: float = PATIENCE) -> None:
        """Stop the machine for its user; harmless when it is stopped. Guest time stands still."""
        with self._stopping:
            if self.stopped:
                return
            self.pause(seconds)
            self._stopped_at = time.monotonic_ns()
            self.stopped = True
        self._machine.tell("STOP")

    def cont(self) -> None:
        """Undo `stop`; harmless when the machine runs."""
        with self._stopping:
            if not self.stopped:
                return
            passed = time.monotonic_ns() - self._stopped_at
            for hart in self._machine.harts:
                hart.let_pass(passed)
            self.stopped = False
            self.resume()
        self._machine.tell("RESUME")

    @property
    def paused(self) -> bool:
        """Whether somebody has paused the machine."""
        return self._machine.safe_point.held

    def at_safe_point(self, work: Callable[[], T], seconds: float = PATIENCE) -> T:
        """Have `work` done with all harts out of native code; its result, or what it raised."""
        return self._machine.safe_point.do(work, seconds)

    def step_hart(self, index: int, seconds: float = PATIENCE) -> int:
        """Have one hart of a paused machine execute one instruction, or take one interrupt.

        Returns why native code was left (`layout.EXIT_*`; EXIT_WAIT: it waits in wfi). What the
        instruction asked for - a reset, a remap, a retirement - is done when this returns.
        """
        hart = self._stopped(index)

        def step() -> int:
            reason = hart.step()
            # Its store may have hit code, whatever else made it leave: that comes first.
            retire = layout.EXIT_RETIRE if hart.state.exit_lines else reason
            self._machine.exits.serve(hart, retire)
            return reason

        return self.at_safe_point(step, seconds)

    def reset_hart(self, index: int, pc: int | None = None, seconds: float = PATIENCE) -> None:
        """Reset one hart: its state as after power-on, pc at the reset vector (or `pc`).

        The other harts, devices and memory are left alone. What hangs on the hart goes: lookups,
        reservation, hot list. Translated code stays, and no epoch is bumped: code belongs to the
        bytes of a page and is entered through guards that compare the hart's state, so it is as
        valid for the reset hart as for any other; every write to those bytes, whenever it came,
        retired it. (A system reset is another matter: devices and images change with it.)
        """
        hart = self._machine.harts[index]

        def reset() -> None:
            with self._machine.lock:
                self._machine.reset_hart(hart, pc)

        self.at_safe_point(reset, seconds)

    def get_register(self, index: int, name: str) -> int:
        """A register of a hart of a paused machine: pc, x0 to x31 or their ABI names, f0 to f31,
        priv, count, a CSR with storage of its own. KeyError for another name.
        """
        state = self._stopped(index).state
        field, number = _register(name)
        if field in ("x", "f"):
            return int(getattr(state, field)[number])
        return int(getattr(state, field))

    def set_register(self, index: int, name: str, value: int) -> None:
        """Change pc, an x or an f register of a hart of a paused machine.

        KeyError for others: what a CSR or the privilege mode decides is derived state, which only
        the instruction that writes it keeps right.
        """
        state = self._stopped(index).state
        field, number = _register(name)
        if field in _READ_ONLY:
            raise KeyError(f"{name} is not for writing")
        if field == "pc":
            state.pc = value & _MASK
        elif field == "f" or number:
            getattr(state, field)[number] = value & _MASK

    # --- memory ----------------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes of RAM, ROM or a flash's array, at a guest-physical address.

        Raises AccessFault if any of them is not memory.
        """
        with self._machine.lock:
            return self._machine.memory.read(address, length)

    def write(self, address: int, data: bytes, seconds: float = PATIENCE) -> None:
        """Store `data`, as a debugger does: in ROM too. What was made from the old bytes is
        retired before this returns. Raises AccessFault, having stored nothing.
        """

        def store() -> None:
            with self._machine.lock:
                self._machine.memory.write_rom(address, data)

        self.at_safe_point(store, seconds)

    # --- the machine -----------------------------------------------------------------------------

    def request_reset(self) -> None:
        """Reset the system at the next safe point; does not wait."""
        self._machine.request_reset(guest=False)

    def retire(self, cause: RetireCause = "request", seconds: float = PATIENCE) -> None:
        """Retire every translation, under a new epoch; the translator has let go, too, when this
        returns. ValueError for a `cause` that RETIRE does
        not know.
        """
        if cause not in get_args(RetireCause):
            raise ValueError(f"{cause!r} is no cause of a retirement: {get_args(RetireCause)}")
        self.at_safe_point(lambda: self._machine.retirement.everything(cause), seconds)
        if self._machine.translator is not None:
            self._machine.translator.await_retirement()

    def save(self, path: str, seconds: float = SNAPSHOT_PATIENCE) -> int:
        """Save the machine to a file; its size in bytes. Raises SnapshotError (a UserError), and
        an older file of that name stays as it was.
        """
        from cpu_proc import snapshot

        return self.at_safe_point(lambda: snapshot.save(self._machine, path), seconds)

    def restore(self, path: str, seconds: float = SNAPSHOT_PATIENCE) -> None:
        """Have the machine be what was saved; everything is retired. Raises SnapshotError (a
        UserError) for a file that is damaged or of another machine, and changes nothing.
        """
        from cpu_proc import snapshot

        checked = snapshot.read(self._machine, path)
        self.at_safe_point(lambda: snapshot.apply(self._machine, checked), seconds)

    def swap(self, backend: str, seconds: float = PATIENCE) -> None:
        """Have another backend (`NAME` or `NAME,OPTION=VALUE,...`) translate; it is in force then.

        Raises UserError if it cannot be had: the old one stays.
        """
        swap = self._machine.request_swap(backend)
        if not swap.done.wait(seconds):
            raise TimeoutError(f"swap {backend}: under way, not done within {seconds:g} s")
        if swap.problem:
            raise UserError(f"swap {backend}: {swap.problem}")

    def _stopped(self, index: int) -> Hart:
        machine = self._machine
        if machine.running and not machine.safe_point.held:
            raise RuntimeError("the machine runs: pause it first")
        return machine.harts[index]


def _register(name: str) -> tuple[str, int]:
    """Field of the hart's structure, and index in it, of a register's name."""
    if name in ABI:
        return "x", ABI.index(name)
    if name == "fp":
        return "x", 8
    found = re.fullmatch(r"([xf])(\d+)", name)
    if found and int(found[2]) < 32:
        return found[1], int(found[2])
    if name == "pc" or name in _READ_ONLY:
        return name, 0
    raise KeyError(f"there is no register {name}")
