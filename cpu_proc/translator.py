"""The machine's end of its translator: the I/O thread, the child process, the code segment.

The problem: harts must never wait for the translator, but for a retirement of everything, and that
only to a deadline. So a thread of its own carries the session (`protocol/session_machine.py`
decides, this module acts); harts put wishes into its mailbox, and what it has for them - a
publication, a retirement because the translator is lost - it posts for the next safe point.

Invariants:
- Code is published at a safe point, by one check and one store a record: every counter of the
  stamp is what it was, and the bytes hash to what the translator says it read.
- The code segment is unmapped, and the records that pointed into it are gone, before a hart runs
  under the new epoch; what still executed there would be a SIGSEGV.
- `end_retirement` returns when the translator has acknowledged, or is given up.

Read next: `retirement.py`, `protocol/session_machine.py`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from cpu_proc import native
from protocol import mutants
from protocol.backlog import Backlog as Backlog
from protocol.errors import UserError
from protocol.generations import Now, Stamp
from protocol.layout import LAYOUT_HASH
from protocol.logs import get_logger
from protocol.publication import Shortcuts, why_late
from protocol.riscv.identity import isa_hash

if TYPE_CHECKING:
    from cpu_proc.culprit import Who
    from cpu_proc.machine import Machine
    from cpu_proc.run_options import RunOptions
    from protocol.messages import Segment, Translated
    from protocol.session import MachineAction
    from protocol.session_machine import MachineSession
    from protocol.transport import Connection, Mailbox, Timers

log = get_logger("translator_link")

RETIRE_PATIENCE = 5.0  # seconds a hart waits for `retire`; the session's own deadline is shorter
ATTACH_PATIENCE = 30.0  # seconds to wait for a translator when every region is waited for
FORCED_PATIENCE = 10.0  # seconds to wait for a region when every one is waited for
CLOSE_PATIENCE = 2.0
WINDOW = (
    6  # requests under way: enough to keep workers busy, few enough that the hottest comes next
)
MOST_MERGES = 3  # of a page, in an epoch
_ASK_AGAIN = frozenset(("not_attached", "window_full", "send_queue_full", "timed_out"))
POLL_LIMIT = 5.0
WORKED = ("select", "lift", "parse", "passes", "codegen", "link")  # a worker's phases


class Swap:
    """A swap of backends that was asked for. `problem`: why it came to nothing, once `done`."""

    def __init__(self, backend: str, who: Who) -> None:
        self.backend = backend
        self.who = who
        self.problem = ""
        self.done = threading.Event()

    def end(self, problem: str = "") -> None:
        self.problem = problem
        self.done.set()


class TranslatorLink:
    """One machine's link to its translator. Wishes may be put from any thread."""

    def __init__(self, machine: Machine, options: RunOptions) -> None:
        self._machine = machine
        self._options = options
        self._forced = options.threshold == 1
        self._child: subprocess.Popen[bytes] | None = None
        self._endpoint = options.translator
        self._thread = threading.Thread(target=self._main, name="translator", daemon=True)
        self._mailbox: Mailbox[tuple[Any, ...]] | None = None
        self._early: list[tuple[Any, ...]] = []  # wishes from before the mailbox was there
        self._gate = threading.Lock()
        # Not the one of when the session is made: a guest may have reset by then, and said so.
        self._first_epoch = machine.retirement.epoch
        self._code: tuple[int, int, int] | None = None  # address, size, epoch
        self._backlog = Backlog()
        self._merges: Counter[int] = Counter()  # by page: how often its regions were to be one
        self._shortcuts = Shortcuts.made()
        self._quiet: list[threading.Event] = []  # wait for no request outstanding
        self._settling: list[threading.Event] = []  # wait for a retirement's end
        self._attached = threading.Event()
        self._retired: dict[str, Any] = {}
        self._void = False  # a retirement waits in the mailbox: wants before it are of no use
        self._swaps: list[Swap] = []  # one at a time is under way
        self._swapping = False
        self._closing = False
        self.incarnation = 0
        self.backend = ""  # in force
        self.counts: Counter[str] = Counter()
        self.times: Counter[str] = Counter()

    # --- from any thread -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect; returns at once. With --threshold 1 it waits for the translator."""
        self._thread.start()
        if self._forced:
            self.wait_attached(ATTACH_PATIENCE)

    def wait_attached(self, seconds: float) -> bool:
        """Wait until there is a translator to ask; whether there is."""
        return self._attached.wait(seconds)

    def want(self, wanted: dict[int, list[int]]) -> None:
        """Ask for regions: page -> slots. With --threshold 1, wait until the answers are here."""
        if not wanted:
            return
        self._put(("want", wanted))
        if self._forced:
            self.settle(FORCED_PATIENCE)

    def settle(self, seconds: float) -> bool:
        """Wait until no request is outstanding; whether that came."""
        quiet = threading.Event()
        self._put(("quiet", quiet))
        return quiet.wait(seconds)

    def begin_retirement(self, epoch: int, cause: str) -> threading.Event:
        """Tell the translator to forget all before `epoch`, at a safe point; what to wait for.

        Any time from now on the code segment is unmapped: no hart may run before `end_retirement`,
        and no record may point there then.
        """
        settled = threading.Event()
        self._retired = {}
        self._void = True
        self._put(("retire", epoch, cause, settled))
        return settled

    def end_retirement(self, epoch: int, settled: threading.Event) -> dict[str, Any]:
        """Wait for what was begun; what the translator says it dropped.

        Called after the records are gone. Afterwards no older code is mapped.
        """
        if not self._thread.is_alive() or not settled.wait(RETIRE_PATIENCE):
            log.warning("retirement_unanswered", epoch=epoch)
            self._drop_code()
        return self._retired

    def swap(self, backend: str) -> Swap:
        """Have another backend translate: at a safe point, once the translator has it ready."""
        swap = Swap(backend, self._machine.culprits.current())
        self._put(("swap", swap))
        if self._closing or not self._thread.is_alive():
            swap.end("there is no translator")
        return swap

    def close(self) -> None:
        """Say goodbye, end the thread and the child."""
        self._closing = True
        if self._thread.is_alive():
            self._put(("close",))
            self._thread.join(CLOSE_PATIENCE)
        if self._child is not None:
            self._end_child(CLOSE_PATIENCE)
            from protocol.transport import discard_endpoint

            discard_endpoint(self._endpoint)  # in case it was killed

    def summary(self) -> list[str]:
        """Lines for --stats."""
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        lines = [f"translator: {counts or 'nothing'}"]
        done, instructions = self.counts["published"], self.counts["instructions"]
        fresh = done - self.counts["from_store"]
        if fresh and instructions:
            times = ", ".join(f"{name} {us / done / 1e3:.2f}" for name, us in self.times.items())
            lines.append(f"  mean milliseconds a region: {times}")
            worked = max(1, sum(self.times[name] for name in WORKED))
            lines.append(
                f"  {fresh / worked * 1e6:.1f} regions a second of a worker's time, "
                f"{worked / instructions:.0f} microseconds a guest instruction"
                f" ({self.times['cpu'] / instructions:.0f} of its processor)"
            )
        return lines

    @property
    def child_pid(self) -> int | None:
        """The process id of the embedded translator, if there is one."""
        return self._child.pid if self._child is not None else None

    def holds(self, address: int) -> bool:
        """Whether an address lies in the code segment."""
        code = self._code
        return code is not None and code[0] <= address < code[0] + code[1]

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the embedded translator's workers, those there are at the moment."""
        pid, found = self.child_pid, []
        if pid is not None:
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                        found += [int(word) for word in file.read().split()]
        return found

    def _put(self, wish: tuple[Any, ...]) -> None:
        with self._gate:
            if self._mailbox is None:
                self._early.append(wish)
            else:
                self._mailbox.put(wish)

    # --- the I/O thread ------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            if not self._closing:
                self._machine.fail(error)
        finally:
            self._release(self._settling + self._quiet)
            self._attached.set()
            for swap in self._swaps:
                swap.end("the machine ends")

    def _serve(self) -> None:
        from protocol.session_machine import MachineSession, Offer
        from protocol.transport import Mailbox, Timers

        if self._options.translator == "embedded":
            from protocol.transport import private_endpoint

            self._endpoint = private_endpoint()
            self._start_child()
        machine = self._machine
        ram, ctrl = machine.guest.segment, machine.control.segment
        from protocol.messages import Segment

        offer = Offer(
            layout_hash=LAYOUT_HASH,
            isa_hash=isa_hash(),
            host=os.uname().machine,
            host_features=(),
            pid=os.getpid(),
            ram=Segment(ram.path, ram.size),
            ram_base=0x8000_0000,
            ctrl=Segment(ctrl.path, ctrl.size),
            backend=self._options.backend,
        )
        self._session: MachineSession = MachineSession(offer, self._first_epoch)
        self._timers: Timers = Timers()
        with self._gate:
            self._mailbox = Mailbox()
            for wish in self._early:
                self._mailbox.put(wish)
        self._client: Connection = self._connect()
        self._act(self._session.connect(secrets.randbits(64) or 1))
        while self._session.state != "closed":
            ready = self._client.poll(self._timers.wait(POLL_LIMIT))
            for wish in self._mailbox.take_all():
                self._obey(wish)
            if ready.messages:
                for message in self._client.receive():
                    if isinstance(message, Exception):
                        self._act(self._session.garbage(message))
                    else:
                        self._act(self._session.receive(message))
            if ready.disconnected:
                self._act(self._session.disconnected())
            for name in self._timers.due():
                self._act(self._session.timer(name))
            self._swap_next()
            self._feed()
            self._tell_waiters()
        self._client.close()

    def _tell_waiters(self) -> None:
        if self._session.settled:
            self._release(self._settling)
        if self._session.outstanding == 0 and (
            self._session.state != "attached" or not self._backlog
        ):
            self._release(self._quiet)

    @staticmethod
    def _release(events: list[threading.Event]) -> None:
        for event in events:
            event.set()
        events.clear()

    def _obey(self, wish: tuple[Any, ...]) -> None:
        match wish:
            case ("want", wanted):
                if not self._void:
                    self._backlog.add(wanted)
            case ("again", epoch, page, slots):
                if epoch == self._machine.retirement.epoch:
                    self._backlog.again(page, slots)
            case ("quiet", event):
                self._quiet.append(event)
            case ("retire", epoch, cause, event):
                self._void = False
                self._settling.append(event)
                self._backlog.clear()
                self._merges.clear()
                if cause == "backend_swap" and mutants.armed("M46"):
                    self._code = None  # the mistake: it stays mapped, and records point to it
                self._act(self._session.retire(epoch, cause))
            case ("swap", swap):
                self._swaps.append(swap)
            case ("swapped",):
                self._swapped()
            case ("leftovers", shortcuts):
                for message in shortcuts.leftovers(self._session.session):
                    self._act(self._session.receive(message))
            case ("close",):
                self._act(self._session.close("machine ended"))

    def _feed(self) -> None:
        """Ask for the hottest pages, as many as may be under way."""
        session = self._session
        while session.state == "attached" and session.outstanding < WINDOW and self._backlog:
            if self._void:
                return
            page, slots, heat = self._backlog.take()
            covered = self._machine.records.entry_slots(page)
            wanted = [slot for slot in slots if slot not in covered]
            if self._shortcuts is not None:
                wanted = self._shorten(self._shortcuts, page, wanted)
            if wanted:
                known = tuple(sorted(covered))
                # M27 needs a region with lines that nobody executed: it gets no advice.
                blind = self._forced or mutants.armed("M27")
                seen = b"" if blind else self._machine.records.seen_slots(page)
                self._act(session.request(self._stamp(page), wanted, heat, 0, known, seen))
            elif self._may_merge(page):
                seen = self._machine.records.seen_slots(page)
                self._act(session.request(self._stamp(page), covered, heat, 1, (), seen))

    def _may_merge(self, page: int) -> bool:
        """Whether the regions of a page shall be made one, for control changes between them often.

        Not over and over: what is too large for one region stays several.
        """
        if self._forced or len(self._machine.records.regions.get(page, ())) < 2:
            return False
        self._merges[page] += 1
        return self._merges[page] <= MOST_MERGES

    def _shorten(self, shortcuts: Shortcuts, page: int, wanted: list[int]) -> list[int]:
        """Serve slots from what is remembered beyond its time; those that are left."""
        content = self._machine.guest.page_bytes(page)
        places = shortcuts.places(self._session.epoch, page, wanted, content)
        refused = [slot for slot in wanted if shortcuts.is_refused(page, slot)]

        def install() -> None:
            illegal = self._machine.engine.address("h_illegal_2")
            entries = [(slot, illegal) for slot in refused]
            if self._code is not None:
                entries += [(slot, self._code[0] + offset) for slot, offset in places]
            with self._machine.lock:
                self._machine.records.publish(page, 2**64 - 1, entries)

        self._machine.safe_point.post(install)
        served = {*refused, *(slot for slot, _ in places)}
        return [slot for slot in wanted if slot not in served]

    def _stamp(self, page: int) -> Stamp:
        words = self._machine.control.words
        generation = self._machine.records.generation(page)
        exact = int(self._options.icount is not None)
        return Stamp(int(words.epoch), int(words.map_generation), page, generation, exact)

    def _act(self, actions: list[MachineAction]) -> None:
        from protocol import session as s
        from protocol.messages import Cancel, Hello, Translate

        for action in actions:
            match action:
                case s.Send(message):
                    if isinstance(message, Translate):
                        log.info(
                            "region_requested",
                            id=message.id,
                            page=message.page,
                            entries=len(message.entries),
                            heat=message.heat,
                            epoch=message.epoch,
                            map_generation=message.map_generation,
                            page_generation=message.page_generation,
                        )
                    elif isinstance(message, Cancel):
                        log.info("request_cancelled", id=message.id)
                    elif isinstance(message, Hello):
                        log.info("session_opened", session=message.session)
                    if not self._client.send(message):
                        self._act(self._session.send_failed(message))
                case s.SetTimer(name, seconds):
                    self._timers.set(name, seconds)
                case s.CancelTimer(name):
                    self._timers.cancel(name)
                case s.Publish(message, left):
                    self.counts["translated"] += 1
                    if left:
                        self._backlog.add({message.page: left})
                    self._machine.safe_point.post(functools.partial(self._publish, message))
                case s.AttachCode(code, epoch):
                    self._attach_code(code, epoch)
                case s.DropCode():
                    self._drop_code()
                case s.RetirementDone(message):
                    self._retired = {
                        "queued": message.queued,
                        "running": message.running,
                        "modules": message.modules,
                        "live_older": message.live_older,
                    }
                case s.RequestRefused(message):
                    self.counts[f"refused_{message.reason}"] += 1
                    if self._shortcuts is not None:
                        content = self._machine.guest.page_bytes(message.page)
                        self._shortcuts.refused(message, content)
                    if message.reason == "bytes_moved":
                        self._backlog.again(message.page, message.entries)
                case s.RequestFailed(page=page, entries=entries, reason=reason):
                    self.counts[f"failed_{reason}"] += 1
                    if reason in _ASK_AGAIN:
                        self._backlog.add({page: entries})
                case s.Dropped(tag=tag, id=identity, reason=reason):
                    self.counts[f"dropped_{reason}"] += 1
                    log.debug("message_dropped", message=tag, id=identity, reason=reason)
                case s.CodeSpaceFull():
                    self._post_retirement("code_space_full")
                case s.TranslatorDead(reason=reason, epoch_needed=epoch_needed):
                    log.warning("translator_lost", reason=reason, epoch=self._session.epoch)
                    self.counts["lost"] += 1
                    if epoch_needed:
                        self._post_retirement("translator_restart")
                case s.SwapReady(backend):
                    log.info("backend_ready", backend=backend)
                    self._machine.safe_point.post(functools.partial(self._swap_in, backend))
                case s.SwapFailed(backend=backend, text=text):
                    log.warning("backend_refused", backend=backend, text=text)
                    self._swapped(text)
                case s.Reconnect():
                    self._reconnect()
                case s.Incompatible(text):
                    if not self.incarnation:
                        raise UserError(text)
                    # It was another one before: the guest goes on without.
                    log.warning("translator_incompatible", text=text)
                case _:
                    log.debug("action_ignored", action=type(action).__name__)

    def _post_retirement(self, cause: str) -> None:
        epoch = self._machine.retirement.epoch

        def retire() -> None:
            # Another cause may have bumped the epoch meanwhile: then this is done already.
            if self._machine.retirement.epoch == epoch:
                self._machine.retirement.everything(cause)

        self._machine.safe_point.post(retire)

    def _swap_in(self, backend: str) -> None:
        """At a safe point: nothing the old backend made is run from here on."""
        who = self._swaps[0].who if self._swaps else None
        self._machine.retirement.everything("backend_swap", who)
        log.info("backend_swapped", backend=backend, epoch=self._machine.retirement.epoch)
        self._put(("swapped",))

    def _swapped(self, problem: str = "") -> None:
        """The swap under way is over: tell who asked."""
        self._swapping = False
        if self._swaps:
            self._swaps.pop(0).end(problem)

    def _swap_next(self) -> None:
        """Begin with the next swap; one asked for early waits for the translator to be met."""
        while self._swaps and not self._swapping:
            if self._session.state in ("idle", "greeting"):
                return
            self._swapping = True
            self._act(self._session.swap(self._swaps[0].backend))

    def _reconnect(self) -> None:
        self._client.close()
        if self._options.translator == "embedded":
            self._start_child()
        self._client = self._connect()
        self._act(self._session.connect(secrets.randbits(64) or 1))

    def _connect(self) -> Connection:
        from protocol.transport import Client

        client: Connection = Client(self._endpoint)
        if self._machine.transport is not None:
            client = self._machine.transport(client)
        assert self._mailbox is not None
        client.watch(self._mailbox.fileno())
        return client

    # --- code ------------------------------------------------------------------------------------

    def _attach_code(self, code: Segment, epoch: int) -> None:
        try:
            address = native.map_code(code.path, code.size)
        except OSError as error:
            log.warning("code_segment_refused", path=code.path, error=str(error))
            return
        self._code = (address, code.size, epoch)
        self._attached.set()
        self.incarnation = self._session.incarnation
        self.backend = self._session.backend
        log.info(
            "translator_attached",
            epoch=epoch,
            incarnation=f"{self.incarnation:016x}",
            pid=self._session.translator_pid,
            backend=self._session.backend,
        )

    def _drop_code(self) -> None:
        with self._gate:  # a hart that waits no longer for the thread drops it itself
            code, self._code = self._code, None
        if code is not None:
            native.unmap(code[0], code[1])

    def _publish(self, message: Translated) -> None:
        """Check and store, at a safe point."""
        began = time.perf_counter_ns()
        machine = self._machine
        records = machine.records
        words = machine.control.words
        page = message.page
        now = Now(int(words.epoch), int(words.map_generation), records.generation(page))
        code = self._code
        with machine.lock:
            content = machine.guest.page_bytes(page)
            why = why_late(message, now, None if code is None else code[2], content)
            if why is not None:
                self.counts[f"late_{why}"] += 1
                self._log_dropped(message, why, now)
                slots = [slot for slot, _ in message.entries]
                self._put(("again", message.epoch, page, slots))
                return
            self._backlog.served(page)
            assert code is not None
            entries = [(slot, code[0] + offset) for slot, offset in message.entries]
            if machine.jitdump is not None:
                start = code[0] + message.code_offset
                machine.jitdump.region(page, entries, start, message.code_size)
            if records.publish(page, message.lines, entries, message.id) is None:
                self.counts["late_records"] += 1
                self._log_dropped(message, "records", now)
                return
        if self._shortcuts is not None:
            self._shortcuts.published(message)
            self._put(("leftovers", self._shortcuts))
        self.counts["published"] += 1
        if any(getattr(message.timings, name) for name in WORKED):
            self.counts["instructions"] += message.instructions
        else:
            self.counts["from_store"] += 1
        for name, microseconds in message.timings._asdict().items():
            self.times[name] += microseconds
        self.times["install"] += (time.perf_counter_ns() - began) // 1000
        log.info(
            "region_published",
            id=message.id,
            page=page,
            entries=len(entries),
            epoch=now.epoch,
            page_generation=now.page_generation,
        )
        if "in_asm" in self._options.log_items:
            self._log_code(message, bytes(content))

    @staticmethod
    def _log_dropped(message: Translated, reason: str, now: Now) -> None:
        log.info(
            "publication_dropped",
            id=message.id,
            page=message.page,
            reason=reason,
            epoch=now.epoch,
            page_generation=now.page_generation,
        )

    @staticmethod
    def _log_code(message: Translated, content: bytes) -> None:
        from protocol.riscv.disassembler import disassemble, length

        for start, size in message.spans:
            at = start
            while at < start + size:
                raw = int.from_bytes(content[at : at + 4], "little")
                text = disassemble(raw, at)
                log.info("guest_code", id=message.id, page=message.page, offset=at, code=text)
                at += length(raw)

    # --- the child -------------------------------------------------------------------------------

    def _start_child(self) -> None:
        self._end_child(0)  # of a lost one nothing is expected any more
        command = [sys.executable, "-m", *mutants.translator_module(), "--parent", str(os.getpid())]
        command += ["--endpoint", self._endpoint]
        if self._options.cold:
            command += ["--store", "off"]
        if self._options.log_json:
            command.append("--log-json")
        if log.enabled("info"):
            command += ["--log-level", "info"]
        try:
            # In a process group of its own: Ctrl-C is this process's to answer; it ends the child.
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        except OSError as error:
            log.warning("translator_not_started", error=str(error))
            return
        log.info("translator_started", pid=self._child.pid)

    def _end_child(self, patience: float) -> None:
        """End the child, by a kill after `patience` seconds."""
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if patience > 0:
                child.terminate()
                child.wait(patience)
        child.kill()
        child.wait()
