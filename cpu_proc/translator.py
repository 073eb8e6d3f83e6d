"""The machine's end of its translator: the I/O thread, the child process, the code segment.

The problem: harts must not wait for the translator. So a thread of its own carries the session
(`protocol/session_machine.py` decides, this module acts); harts put wishes into its mailbox, and
what it has for them - a publication, a retirement because the translator is lost - it posts for the
next safe point.

Invariants:
- Code is published at a safe point, by one check and one store a record: every counter of the
  stamp is what it was, and the bytes hash to what the translator says it read.
- The code segment is unmapped, and the records that pointed into it are gone, before a hart runs
  under the new epoch; what still executed there would be a SIGSEGV.
- Harts run on in tier 0 while a retirement of everything awaits its answer. Nothing is asked for or
  published until the translator has acknowledged that it forgot, or is given up; only another
  retirement of everything waits for that (`await_retirement`), to a deadline.

Read next: `retirement.py`, `protocol/session_machine.py`.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, Any

from cpu_proc.asking import Asker
from cpu_proc.publisher import CodeSegment, Publisher
from cpu_proc.retirement import Retiring
from cpu_proc.swap import Swap
from cpu_proc.translator_child import TranslatorChild
from protocol import mutants
from protocol.backlog import Backlog as Backlog
from protocol.errors import UserError
from protocol.layout import LAYOUT_HASH
from protocol.logs import Complaints, get_logger
from protocol.riscv.identity import isa_hash

if TYPE_CHECKING:
    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine
    from cpu_proc.run_options import RunOptions
    from protocol.messages import Segment
    from protocol.session import MachineAction
    from protocol.session_machine import MachineSession
    from protocol.transport import Connection, Mailbox, Timers

log = get_logger("translator_link")

RETIRE_PATIENCE = 5.0  # seconds to wait for an answer; the session's own deadline is shorter
ATTACH_PATIENCE = 30.0  # seconds to wait for a translator when every region is waited for
FORCED_PATIENCE = 10.0  # seconds to wait for a region when every one is waited for
CLOSE_PATIENCE = 2.0
_ASK_AGAIN = frozenset(("not_attached", "window_full", "send_queue_full", "timed_out"))
POLL_LIMIT = 5.0


class TranslatorLink:
    """One machine's link to its translator. Wishes may be put from any thread."""

    def __init__(
        self, machine: Machine, options: RunOptions, child: TranslatorChild | None = None
    ) -> None:
        """`child`: the translator that was started for this machine already."""
        self._machine = machine
        self._options = options
        self._forced = options.threshold == 1
        self._child = child or TranslatorChild(options)
        self._endpoint = options.translator
        self._thread = threading.Thread(target=self._main, name="translator", daemon=True)
        self._mailbox: Mailbox[tuple[Any, ...]] | None = None
        self._early: list[tuple[Any, ...]] = []  # wishes from before the mailbox was there
        self._gate = threading.Lock()
        # Not the one of when the session is made: a guest may have reset by then, and said so.
        self._first_epoch = machine.retirement.epoch
        self._code = CodeSegment()
        self._backlog = Backlog()
        self._publisher = Publisher(machine, self._code, self._backlog, self._put)
        self._asker = Asker(machine, self._backlog, self._publisher, self._forced)
        self._quiet: list[threading.Event] = []  # wait for no request outstanding
        self._retiring: Retiring | None = None  # the last retirement of everything
        self._attached = threading.Event()
        self._retired: dict[str, Any] = {}  # what the translator says it dropped
        self._void = False  # a retirement waits in the mailbox: wants before it are of no use
        self._told: Retiring | None = None  # the last one that the session was told
        self._swaps: list[Swap] = []  # one at a time is under way
        self._swapping = False
        self._swapped_in = False  # the retirement of a swap is under way
        self._closing = False
        self.incarnation = 0
        self._complaints = Complaints(log)
        self.backend = ""  # in force
        self.counts = self._publisher.counts
        self.times = self._publisher.times

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

    def failing(self, failing: dict[int, list[int]]) -> None:
        """What the regions entered there assume often does not hold: page -> slots."""
        if failing:
            self._put(("failing", failing))

    def sample(self, hart: Hart) -> None:
        """A hart that was called for a sample has left native code."""
        hart.sampled = False
        self._asker.upgrades.sample(hart)

    def settle(self, seconds: float) -> bool:
        """Wait until no request is outstanding; whether that came."""
        quiet = threading.Event()
        self._put(("quiet", quiet))
        return quiet.wait(seconds)

    def retire(self, epoch: int, cause: str, retiring: Retiring) -> None:
        """Tell the translator to forget all before `epoch`, and take its code away. At a safe
        point: before a hart runs, no record may point there any more.

        `retiring` hears when the translator has answered or is given up.
        """
        self._code.retire(epoch, keep=cause == "backend_swap" and mutants.armed("M46"))
        self._void = True
        self._retiring = retiring
        self._put(("retire", epoch, cause, retiring))

    def await_retirement(self) -> None:
        """Wait until no retirement of everything is under way, or give its answer up."""
        retiring = self._retiring
        if retiring is not None and not retiring.wait(self._thread.is_alive() * RETIRE_PATIENCE):
            log.warning("retirement_unanswered", epoch=self._machine.retirement.epoch)
            self._code.tidy()
            retiring.answered({})

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
        if self._retiring is not None:
            self._retiring.answered({})
        self._child.close(CLOSE_PATIENCE)

    @property
    def child_pid(self) -> int | None:
        """The process id of the embedded translator, if there is one."""
        return self._child.pid

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the embedded translator's workers, those there are at the moment."""
        return self._child.worker_pids

    def holds(self, address: int) -> bool:
        """Whether an address lies in the code segment."""
        return self._code.holds(address)

    def facts(self) -> dict[str, Any]:
        """What there is to tell of it, as plain data; counts are not of one moment."""
        session = getattr(self, "_session", None)
        return {
            "endpoint": self._endpoint,
            "pid": self.child_pid,
            "incarnation": f"{self.incarnation:016x}",
            "backend": self.backend,
            "state": session.state if session is not None else "starting",
            "outstanding": session.outstanding if session is not None else 0,
            "backlog": len(self._backlog),
            "swapping": self._swapping,
            "counts": dict(self.counts),
            "times-us": dict(self._publisher.times),
        }

    def summary(self) -> list[str]:
        """Lines for --stats."""
        return self._publisher.summary()

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
            self._release(self._quiet)
            if self._retiring is not None:
                self._retiring.answered({})
            self._attached.set()
            for swap in self._swaps:
                swap.end("the machine ends")

    def _serve(self) -> None:
        from protocol.session_machine import MachineSession, Offer
        from protocol.transport import Mailbox, Timers

        if self._options.translator == "embedded":
            self._endpoint = self._child.endpoint
            if self._child.pid is None:
                self._child.start()
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
        self._act(self._session.connect(_session_number()))
        if not self._forced:
            self._timers.set("sample", self._asker.tick())
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
                if name == "sample":
                    self._timers.set(name, self._asker.tick())
                else:
                    self._act(self._session.timer(name))
            self._swap_next()
            self._tell_settled()
            self._feed()
            self._tell_quiet()
        self._client.close()

    def _tell_settled(self) -> None:
        if self._session.settled and self._told is not None:
            told, self._told = self._told, None
            told.answered(self._retired)
            if self._swapped_in:
                self._swapped()

    def _tell_quiet(self) -> None:
        if self._session.outstanding == 0 and (
            self._session.state not in ("attached", "retiring") or not self._backlog
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
                    self._asker.report(wanted)
            case ("failing", failing):
                if not self._void:
                    for page, slots in failing.items():
                        self._asker.upgrades.failing(page, slots)
            case ("again", epoch, page, slots):
                if epoch == self._machine.retirement.epoch:
                    self._asker.late(page, slots)
            case ("quiet", event):
                self._quiet.append(event)
            case ("retire", epoch, cause, retiring):
                self._void = False
                self._told, self._retired = retiring, {}
                self._swapped_in = self._swapped_in or cause == "backend_swap"
                self._asker.clear()
                self._act(self._session.retire(epoch, cause))
                self._code.tidy()
            case ("swap", swap):
                self._swaps.append(swap)
            case ("leftovers", shortcuts):
                for message in shortcuts.leftovers(self._session.session):
                    self._act(self._session.receive(message))
            case ("close",):
                self._act(self._session.close("machine ended"))

    def _feed(self) -> None:
        """Ask for what is hot, as much as may be under way."""
        hurry = bool(self._quiet) or self._options.threshold is not None
        asks = self._asker.asks(self._session, hurry)
        while not self._void and (actions := next(asks, None)) is not None:
            self._act(actions)
        due = None if self._void else self._asker.wake(self._session)
        if due is not None:
            self._timers.set("rest", due)

    def _act(self, actions: list[MachineAction]) -> None:
        from protocol import session as s
        from protocol.messages import Cancel, Hello, Translate

        trace = self._machine.trace
        for action in actions:
            match action:
                case s.Send(message):
                    if isinstance(message, Translate):
                        self.counts["requested"] += 1
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
                        if trace is not None:
                            trace.requested(message, self._session.translator_pid)
                    elif isinstance(message, Cancel):
                        self.counts["cancelled"] += 1
                        log.info("request_cancelled", id=message.id)
                        if trace is not None:
                            trace.ended(message.id, "cancelled")
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
                    self._asker.answered(message)
                    if trace is not None:
                        trace.answered(message)
                    if left:
                        self._asker.again(message.page, left)
                    self._machine.safe_point.post(
                        functools.partial(self._publisher.publish, message)
                    )
                case s.AttachCode(code, epoch):
                    self._attach_code(code, epoch)
                case s.DropCode():
                    self._code.drop()  # whoever retired has done so, but for what came since
                case s.RetirementDone(message):
                    self._retired = {
                        "queued": message.queued,
                        "running": message.running,
                        "modules": message.modules,
                        "live_older": message.live_older,
                    }
                case s.RequestRefused(message):
                    self.counts[f"refused_{message.reason}"] += 1
                    self._asker.answered(message)
                    if trace is not None:
                        trace.ended(message.id, f"refused: {message.reason}")
                    if self._publisher.shortcuts is not None:
                        content = self._machine.guest.page_bytes(message.page)
                        self._publisher.shortcuts.refused(message, content)
                    if message.reason == "bytes_moved":
                        self._asker.late(message.page, message.entries)
                case s.RequestFailed(page=page) if self._asker.withdrawn(page):
                    pass  # it is in the backlog still
                case s.RequestFailed(page=page, entries=entries, reason=reason):
                    self.counts[f"failed_{reason}"] += 1
                    if reason in _ASK_AGAIN:
                        self._asker.again(page, entries)
                case s.Dropped(tag=tag, id=identity, reason=reason):
                    self.counts[f"dropped_{reason}"] += 1
                    log.debug("message_dropped", message=tag, id=identity, reason=reason)
                case s.CodeSpaceFull():
                    self._post_retirement("code_space_full")
                case s.TranslatorDead(reason, epoch_needed, text):
                    epoch = self._session.epoch
                    self._complaints.warn("translator_lost", text, reason=reason, epoch=epoch)
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
                    self._complaints.warn("translator_incompatible", text)
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

    def _swapped(self, problem: str = "") -> None:
        """The swap under way is over: tell who asked."""
        self._swapping = self._swapped_in = False
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
            self._child.start()
        self._client = self._connect()
        self._act(self._session.connect(_session_number()))

    def _connect(self) -> Connection:
        from protocol.transport import Client

        client: Connection = Client(self._endpoint)
        if self._machine.transport is not None:
            client = self._machine.transport(client)
        assert self._mailbox is not None
        client.watch(self._mailbox.fileno())
        return client

    def _attach_code(self, code: Segment, epoch: int) -> None:
        if not self._code.attach(code, epoch):
            return
        self._attached.set()
        self._complaints.reset()
        self.incarnation = self._session.incarnation
        self.backend = self._session.backend
        incarnation, pid = f"{self.incarnation:016x}", self._session.translator_pid
        fields = {"incarnation": incarnation, "pid": pid, "backend": self.backend}
        log.info("translator_attached", epoch=epoch, **fields)


def _session_number() -> int:
    """A random one, never 0."""
    return int.from_bytes(os.urandom(8), "little") or 1
