"""The machine: puts harts, memory, devices, records and the translator's session together.

Everything that makes a machine is constructed here, once, and everything that ends it is decided
here: power-off, failure, reset, the user's quit. Harts run in threads of their own (`_hart_loop`);
the caller's thread waits for the end.

Invariants:
- Requests (reset, power-off) only post work for the next safe point; nobody is reset half-way
  through an instruction.
- `lock` is held for every access to a device and for every change of what hangs on guest memory
  (records, regions); it is never held while waiting for a hart.

Read next: `safe_point.py`, `retirement.py`, `hart.py`, `board.py`.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cpu_proc import engine as engines
from cpu_proc import loader, mistakes, profile
from cpu_proc.board import RESET_VECTOR, ROM_BASE, Board
from cpu_proc.console import Console
from cpu_proc.counts import Teller
from cpu_proc.culprit import Culprits
from cpu_proc.early import Early, backing_sizes, make_memory
from cpu_proc.exits import Exits
from cpu_proc.hart import NEVER, QUIET, TICK_NS, Hart
from cpu_proc.host_api import HostApi
from cpu_proc.loader import RAM_BASE, ROM_SIZE
from cpu_proc.memory_hooks import MemoryHooks
from cpu_proc.memory_map import MemoryMap
from cpu_proc.records import Records
from cpu_proc.retirement import Retirement
from cpu_proc.safe_point import SafePoint
from cpu_proc.segments import ControlSegment, GuestMemory
from devices.device import Fail, PowerOff, Request, Reset
from protocol import layout, mutants
from protocol.errors import UserError
from protocol.faults import AccessFault
from protocol.generations import FirstGenerations
from protocol.layout import HART, PAGE_SIZE, RECORD_ARRAY_STRIDE
from protocol.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from cpu_proc.control_socket import ControlSocket
    from cpu_proc.explain_file import ExplainFile
    from cpu_proc.htif import Htif
    from cpu_proc.run_options import RunOptions
    from cpu_proc.swap import Swap
    from cpu_proc.trace_file import TraceFile
    from cpu_proc.translator import TranslatorLink
    from protocol.transport import Connection

log = get_logger("machine")

RECORD_ARRAYS = 8192  # pages with records at once: 288 MiB when all are used
THRESHOLD = 1024  # executions of a record until it is hot, if nothing else is said
SWITCH_INTERVAL = 0.0005  # seconds a device access may wait for another thread of this process
BACKEND_PATIENCE = 5.0  # seconds to learn of a backend's wrong name from a translator that starts
IDLE_WAIT = 3600.0  # seconds; a sleeping hart is woken by what it waits for, not by this


class Machine:
    """One machine. Construct it, `power_on`, `wait`; then `close`."""

    def __init__(
        self,
        options: RunOptions,
        *,
        first_generations: FirstGenerations | None = None,
        early: Early | None = None,
    ) -> None:
        """`first_generations`: for tests, where the counters begin. `early`: what of it began
        already. Raises UserError.
        """
        early = early or Early(loader.plan(options), make_memory(options))
        self.options = options
        self.lock = threading.RLock()
        self.made = False  # whether all parts are there
        self.hooks = MemoryHooks(self)
        self.exits = Exits(self)
        self.plan = early.plan
        self.engine = engines.load()
        self.guest = GuestMemory(backing_sizes(options), early.memory)
        self.control = ControlSegment(options.harts, self.guest.page_count)
        self.records = Records(self.control, RECORD_ARRAYS)
        self.records.decode = self.engine.address("h_decode")
        self.memory = MemoryMap(
            self.lock,
            on_write=self.hooks.written,
            on_commit=self.hooks.committed,
            on_storing=self.hooks.storing,
        )
        self.safe_point = SafePoint()
        self.culprits = Culprits(self.memory, self.safe_point)
        self.safe_point.whose = self.culprits.current
        self.harts = [
            Hart(i, address, self.engine, self.memory, self)
            for i, address in enumerate(self.control.hart_addresses)
        ]
        self.safe_point.harts = self.harts
        note_write = self.engine.note_write()
        self.records.note_write = functools.partial(note_write, self.harts[0].address)
        drop_arrays = self.engine.drop_arrays()
        self.records.drop_arrays = functools.partial(drop_arrays, self.harts[0].address)
        for hart in self.harts:
            hart.meet(self.control.segment.address, self.harts)
        self._share_records()
        self.retirement = Retirement(self, (first_generations or FirstGenerations()).epoch)
        self.host = HostApi(self)
        self.mistakes = mistakes.make(self)
        self.translator: TranslatorLink | None = None
        self._child = early.child
        self.transport: Callable[[Connection], Connection] | None = None
        """What is put round each connection to the translator; the stress tool sets it."""
        self.control_socket: ControlSocket | None = None
        self.exit_code: int | None = None
        self.failure: BaseException | None = None
        self.resets = 0
        self.listeners: list[Callable[[str, dict[str, object]], None]] = []
        self.started = 0.0  # the host's monotonic clock at power-on
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.console = Console(options.serial, self)
        self.teller = Teller(self)
        self.ram = self.memory.add_ram(RAM_BASE, options.ram_size, self.guest.backings["ram"])
        self.memory.add_rom(ROM_BASE, ROM_SIZE, self.guest.backings["rom"])
        self.board = Board(self, options, self.console.write)
        self._tree = self.board.device_tree(self.plan)
        self.htif = self._make_htif()
        if first_generations is not None:
            self.records.set_generations(first_generations.page_generation)
            self.memory.generation = first_generations.map_generation
            self.control.words.map_generation = first_generations.map_generation
        self.explain: ExplainFile | None = None
        if options.explain is not None:
            from cpu_proc.explain_file import ExplainFile

            self.explain = ExplainFile(self, options.explain)
        self.trace: TraceFile | None = None
        if options.trace is not None:
            from cpu_proc.trace_file import TraceFile

            self.trace = TraceFile(self, options.trace)
        self.profiler, self.jitdump = profile.make(self)
        self.made = True

    def _share_records(self) -> None:
        """Give each hart its scratch array and its part of the arrays' memory."""
        engine, records = self.engine, self.records
        for hart in self.harts:
            address = hart.address
            hart.state.scratch = records.make_scratch(
                engine.address("h_scratch_end"),
                address + HART.offset("scratch_bytes"),
                address + HART.offset("scratch_page"),
            )
        total = (records.end - records.start) // RECORD_ARRAY_STRIDE // len(self.harts)
        self.pools = [
            (records.start + i * total * RECORD_ARRAY_STRIDE, total * RECORD_ARRAY_STRIDE)
            for i in range(len(self.harts))
        ]
        for hart, (start, size) in zip(self.harts, self.pools, strict=True):
            hart.state.pool_next = start
            hart.state.pool_end = start + size
            hart.state.threshold = min(self.options.threshold or THRESHOLD, 65535)
            hart.state.hot_limit = 1 if self.options.threshold == 1 else layout.HOT_RING
            if self.options.translator == "none":
                hart.state.hot_limit = 0
            if self.options.icount is not None:
                hart.state.icount = 1 << self.options.icount
            else:
                hart.state.quiet = QUIET
            hart.state.trace = int("int" in self.options.log_items)
            hart.state.trap_pc = NEVER
            hart.state.features = self.options.svadu | self.options.sstc << 1
            if self.options.max_instructions is not None:
                hart.state.stop_count = self.options.max_instructions

    def _make_htif(self) -> Htif | None:
        tohost = self.plan.symbols.get("tohost")
        if tohost is None or not self.memory.is_memory(tohost, 8):
            return None
        from cpu_proc.htif import Htif

        slot = self.memory.find(tohost)
        assert slot is not None
        assert slot.backing is not None
        offset = slot.offset + tohost - slot.base
        self.records.watch(slot.backing.page(offset), offset % PAGE_SIZE, 8)
        return Htif(tohost, self.plan.symbols.get("fromhost"), self.console.write)

    # --- life ------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Reset everything, load the images and let the harts run."""
        ticks = time.monotonic_ns() // TICK_NS
        for hart in self.harts:
            hart.state.time_offset = 0 if self.options.icount is not None else -ticks & NEVER
        self.load(fresh=True)
        self.started = time.monotonic()
        if self.options.load_snapshot is not None:
            self.host.restore(self.options.load_snapshot)
        if self.options.translator != "none":
            from cpu_proc.translator import TranslatorLink

            self.translator = TranslatorLink(self, self.options, self._child)
            self.translator.start()
        self.console.start()
        for hart in self.harts:
            thread = threading.Thread(
                target=self._hart_loop, args=(hart,), name=f"hart{hart.index}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        if self.profiler is not None:
            self.profiler.start()
        self.teller.start()

    def open_control(self) -> None:
        """Have QMP served. Without -qmp it is in the user's runtime folder, if that can be."""
        path = self.options.qmp
        if path == "none":
            return
        from cpu_proc import control_socket

        if path:
            self.control_socket = control_socket.ControlSocket(self, path)
            return
        try:
            path = control_socket.default_path()
            self.control_socket = control_socket.ControlSocket(self, path)
        except (OSError, UserError) as error:
            log.info("control_socket_missing", error=str(error))

    def load(self, *, fresh: bool = False) -> None:
        """Reset harts and devices and copy all images: at power-on and at every reset."""
        with self.lock:
            self.board.reset()
            for hart in self.harts:
                hart.reset(RESET_VECTOR)
                hart.state.fatal = int(self.options.fatal != "none")
            if self.htif is not None:
                self.htif.reset()
            write = functools.partial(self.memory.write_rom, did="image copy")
            self.plan.copy(write, fresh=fresh)
            write(self.plan.dtb_address, self._tree)
            write(ROM_BASE, self.board.rom(self.plan))

    def dump_device_tree(self, path: str) -> None:
        """Write the device tree to a file. Raises UserError if that cannot be done."""
        try:
            Path(path).write_bytes(self._tree)
        except OSError as error:
            raise UserError(f"-machine dumpdtb={path}: {error.strerror}") from error

    def wait(self) -> int:
        """Wait for the end; the exit code. Raises what a callback raised."""
        while not self._ended.wait(1.0):
            pass
        for thread in self._threads:
            thread.join()
        if self.options.backend and self.translator is not None:
            self.translator.wait_attached(BACKEND_PATIENCE)
        if self.failure is not None:
            raise self.failure
        return self.exit_code or 0

    def close(self) -> None:
        """Let go of the translator, the console and the devices."""
        self.end(1)
        self.teller.close()
        for thread in self._threads:
            thread.join(5.0)
        if self.translator is not None:
            self.translator.close()
        if self.control_socket is not None:
            self.control_socket.close()
        for file in (self.explain, self.trace, self.jitdump, self.profiler):
            if file is not None:
                file.close()
        try:
            self.board.close()
        finally:
            self.console.close()

    def end(self, code: int, *, guest: bool = False, reason: str = "host-signal") -> None:
        """Stop for good; the first one to say so decides the exit code. `reason`: as QEMU's."""
        if self.exit_code is None:
            self.exit_code = code
            self.tell("SHUTDOWN", guest=guest, reason=reason)
        self._ended.set()
        self.safe_point.end()

    def linger(self, seconds: float) -> None:
        """Let time pass, unless the machine ends."""
        self._ended.wait(seconds)

    def fail(self, error: BaseException) -> None:
        """A bug in a callback: stop, and let `wait` raise it."""
        if self.failure is None:
            self.failure = error
        self.end(1, reason="host-error")

    def guest_error(self, hart: Hart, address: int, fault: AccessFault) -> None:
        """The guest touched what nothing answers for."""
        if "guest_errors" in self.options.log_items:
            log.info("access_refused", hart=hart.index, address=address, what=str(fault))

    def tell(self, event: str, **data: object) -> None:
        """Something happened that who looks on from outside may want to know (QMP's events)."""
        for listener in self.listeners:
            listener(event, data)

    def command(self, line: str) -> str:
        """A line for the monitor; its answer."""
        from cpu_proc.monitor import Commands

        return Commands(self).execute(line)

    # --- requests: devices, the console, the user -----------------------------------------------

    def request(self, wish: Request) -> None:
        """What a device asks for. Done at the next safe point."""
        match wish:
            case PowerOff(code):
                self.end(code, guest=True, reason="guest-shutdown")
            case Fail(code):
                log.info("guest_failed", code=code)
                self.end(code & 0xFF or 1, guest=True, reason="guest-panic")
            case Reset():
                self.request_reset()

    def request_reset(self, *, guest: bool = True) -> None:
        """Reset the system at the next safe point; with -no-reboot, end. `guest`: it asked."""
        reason = "guest-reset" if guest else "host-qmp-system-reset"
        if not self.options.reboot:
            self.end(0, guest=guest, reason=reason)
            return
        self.safe_point.post(functools.partial(self._reset, guest, reason))

    def request_powerdown(self) -> None:
        """Tell QMP's clients of a power button; the board has none that a guest could see."""
        self.tell("POWERDOWN")

    def request_swap(self, backend: str) -> Swap:
        """Have another backend (`NAME` or `NAME,OPTION=VALUE,...`) translate from now on.

        Returns at once: everything is retired (cause backend_swap) when the translator has it
        ready, or the answer's `problem` tells why it stays as it is. Raises UserError.
        """
        from protocol.backends import parse

        if self.translator is None:
            raise UserError(f"swap {backend}: this machine has no translator")
        try:
            parse(backend)
        except ValueError as error:
            raise UserError(f"swap: {error}") from error
        return self.translator.swap(backend)

    def request_quit(self) -> None:
        """The user wants out."""
        self.end(0, reason="host-ui")

    def _reset(self, guest: bool, reason: str) -> None:
        self.resets += 1
        self.tell("RESET", guest=guest, reason=reason)
        if mutants.armed("M2"):
            # M2: a reset only puts back what stood there: its copies are no writes.
            told, self.memory.on_write = self.memory.on_write, lambda *_: None
            self.load()
            self.memory.on_write = told
            return
        self.retirement.everything("system_reset", meanwhile=self.load)
        log.info("system_reset_done", epoch=self.retirement.epoch)

    def receive(self, data: bytes) -> None:
        """Input from the console."""
        with self.lock:
            if self.htif is not None:
                self.htif.receive(data)
                self.exits.htif()
            self.board.uart.receive(data)

    def waiting(self) -> int:
        """Bytes of input the guest has not read."""
        return len(self.board.uart.state.backlog)

    @property
    def backend(self) -> str:
        """The backend in force, with its options; "none" without a translator."""
        return (self.translator.backend if self.translator is not None else "") or "none"

    # --- a hart's thread --------------------------------------------------------------------

    def _hart_loop(self, hart: Hart) -> None:
        self.safe_point.join()
        self.culprits.join(hart)
        try:
            while not self._ended.is_set():
                self.safe_point.enter(hart)
                if self._ended.is_set():
                    self.safe_point.leave()
                    break
                reason = hart.run()
                if self.profiler is not None and self.profiler.wanted[hart.index]:
                    self.profiler.take(hart)
                if hart.sampled and reason == layout.EXIT_ATTENTION and self.translator is not None:
                    self.translator.sample(hart)
                self.safe_point.leave()
                if reason == layout.EXIT_WAIT:
                    if self.mistakes is not None:
                        self.mistakes.sleep(hart, IDLE_WAIT)
                        continue
                    hart.sleep(IDLE_WAIT)
                    if hart.alarm != NEVER:
                        self.board.clock_moved()
                else:
                    self.exits.serve(hart, reason)
        except BaseException as error:
            self.fail(error)
        finally:
            self.safe_point.part()

    @property
    def hart_threads(self) -> dict[int, int]:
        """The kernel's ids of harts' threads, by hart."""
        return {i: thread.native_id or 0 for i, thread in enumerate(self._threads)}

    @property
    def hart_seconds(self) -> list[float]:
        """Processor time of each hart's thread so far; 0 for one that has none."""
        seconds = [0.0] * len(self.harts)
        for i, thread in enumerate(self._threads):
            if thread.is_alive() and thread.ident is not None:
                seconds[i] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        return seconds

    @property
    def running(self) -> bool:
        """Whether harts have threads: from `power_on` to the end."""
        return any(thread.is_alive() for thread in self._threads)

    def reset_hart(self, hart: Hart, pc: int | None = None) -> None:
        """Reset one hart, at a safe point; `HostApi.reset_hart` says what that leaves alone.

        Interrupt lines and the timer's compare register are the devices' and stay.
        """
        state, began = hart.state, time.monotonic()
        # It left for a retirement that it has not come to yet. (M37: which is forgotten.)
        if state.exit_lines and not mutants.armed("M37"):
            self.exits.retirement(hart)
        lines, timer = int(state.irq), int(state.mtimecmp)
        hart.reset(RESET_VECTOR if pc is None else pc)
        state.irq, state.mtimecmp = lines, timer
        state.fatal = int(self.options.fatal != "none")
        hart.wake.set()
        self.retirement.note("hart_reset", began=began, hart=hart.index)
        log.info("hart_reset", hart=hart.index, pc=int(state.pc))


def run(options: RunOptions, early: Early | None = None) -> int:
    """Run a machine to its end; the exit code of the process. `early`: as of `Machine`."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    machine = Machine(options, early=early)
    try:
        if options.dump_dtb is not None:
            machine.dump_device_tree(options.dump_dtb)
            return 0
        machine.power_on()
        machine.open_control()
        gc.freeze()  # what is there stays: a collection need not look at it
        code = machine.wait()
        if options.signature is not None:
            from cpu_proc import signature

            signature.write(
                options.signature,
                machine.memory.read,
                machine.plan.symbols,
                options.signature_granularity,
            )
        if options.stats:
            machine.console.flush()
            from cpu_proc import stats

            stats.write(machine)
        return code
    finally:
        machine.close()
