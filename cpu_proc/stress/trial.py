"""One trial: a scenario's program on a real machine, with its wishes to the outside world granted.

The problem: some events come from outside the guest (a snapshot is restored, the host writes
memory, the translator is killed), and must come at the moment the guest is ready for them. So the
guest asks: it prints a line `!verb arguments` on its serial line and waits for one byte of answer.
The same line works on any emulator that somebody adapts (`VERBS` is the contract).

Lines of the guest: `=N` reports a value, `!...` asks, `trap CAUSE EPC` is an accident.

Invariants:
- The machine is the one users run: `cpu_proc.machine.Machine` with the options of a command line
  and the translator as its child process.
- Every wait has a deadline; a guest that is not done by then is `late`, which no verdict counts as
  a finding by values.
- A verb is carried out between two instructions of the guest (it spins in `ask`), by this thread.

Read next: `job.py` (a process for it), `scenario.py`.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cpu_proc.stress.disturbance import Disturbance
from cpu_proc.stress.job import LONGEST
from cpu_proc.stress.scenario import MODES, Mode, Scenario, number
from protocol import mutants
from protocol.generations import MASK, FirstGenerations

if TYPE_CHECKING:
    from cpu_proc.machine import Machine
    from cpu_proc.run_options import RunOptions
    from protocol.riscv.assembler import Program

PATIENCE = 60.0  # seconds for a guest to say something more, or to end
ATTACH_PATIENCE = 90.0  # seconds for the translator to be there
SETTLE_PATIENCE = 20.0  # seconds for regions that were asked for
FLASH_SIZE = 32 << 20
SMALL_SPACE = "64K"
DONE = b"k"
FAILED = b"e"


@dataclass
class Outcome:
    """What came of a trial. `verdict`: empty if the guest saw what it must (`Scenario.judge`)."""

    values: list[int] = field(default_factory=list)
    verdict: str = ""
    kind: str = "passed"
    """`passed`; `stale`: a wrong value; `trap`: an unexpected exception; `late`; `ended`: too
    early, with too few reports; `idle`: no region was published where one should."""
    said: str = ""
    seconds: float = 0.0
    retired: dict[str, int] = field(default_factory=dict)
    """Retirements by cause, of the machine's book."""
    stores: int = 0
    """Stores to tracked lines, which retire records in native code."""
    published: int = 0
    epoch: int = 0
    disturbed: dict[str, int] = field(default_factory=dict)
    """What was done to the machine meanwhile, by kind (`disturbance.py`)."""
    state: str = ""
    """A hash of hart 0 and of memory at the end (`oracle.state_hash`)."""

    @property
    def events(self) -> int:
        """Retirement events of all kinds."""
        return sum(self.retired.values()) + self.stores


def run(
    scenario: Scenario,
    mode: Mode | str,
    harts: int = 1,
    *,
    folder: Path | None = None,
    rounds: int | None = None,
    patience: float = PATIENCE,
    chaos: Mapping[str, float] | None = None,
    seed: int = 0,
    kind: type[Trial] | None = None,
) -> Outcome:
    """Run a scenario's program to its end and judge what it printed.

    `chaos`: a plan of disturbances meanwhile, at moments that `seed` chooses (`disturbance.py`).
    `kind`: another outside world than `Trial`'s.
    """
    mode = MODES[mode] if isinstance(mode, str) else mode
    if "aged" in scenario.options:
        young = replace(scenario, options=scenario.options - {"aged", "icount"})
        run(young, mode, harts, rounds=rounds, patience=patience, kind=kind)
    with tempfile.TemporaryDirectory(prefix="coldboot-trial-") as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        trial = (kind or Trial)(scenario, mode, max(harts, scenario.harts), place, rounds)
        if chaos:
            trial.disturbance = Disturbance(trial.machine, chaos, seed)
        try:
            trial.go(patience)
        finally:
            trial.close()
    return trial.judge()


class Trial:
    """A machine with a scenario's program, and the outside world that the program asks for."""

    def __init__(
        self, scenario: Scenario, mode: Mode, harts: int, folder: Path, rounds: int | None = None
    ) -> None:
        from cpu_proc.machine import Machine

        self.scenario, self.mode, self.folder, self._rounds = scenario, mode, folder, rounds
        self.program: Program = scenario.assemble(mode, rounds)
        self.outcome = Outcome()
        self.disturbance: Disturbance | None = None
        self._rest = b""
        self._killed = 0  # the incarnation that `kill` ended
        self._said: list[str] = []
        self._restorations = 0
        self._service: subprocess.Popen[bytes] | None = None
        self._serial, out = os.pipe()
        os.set_blocking(self._serial, False)
        first = None
        if "wrap" in scenario.options:
            first = FirstGenerations(MASK - 2, MASK - 3, MASK - 7)
        try:
            options = self._options(harts, out)
            self.machine: Machine = Machine(options, first_generations=first)
        finally:
            os.close(out)
        self.verbs: dict[str, Callable[..., bytes | None]] = {
            name.removeprefix("do_").replace("_", "-"): getattr(self, name)
            for name in dir(self)
            if name.startswith("do_")
        }

    def _options(self, harts: int, out: int) -> RunOptions:
        from cpu_proc.options import ICOUNT_SHIFT
        from cpu_proc.run_options import Drive, RunOptions, Serial, VirtioDevice

        image = self.folder / "program.bin"
        image.write_bytes(self.program.data)
        wanted = self.scenario.options
        options = RunOptions(
            bios=str(image),
            ram_size=(6 << 30) if "bigram" in wanted else (64 << 20),
            harts=harts,
            serial=Serial("file", f"/proc/self/fd/{out}"),
            translator=self.mode.translator,
            backend=self.mode.backend,
            threshold=self.mode.threshold,
            svadu="svade" not in wanted,
            icount=ICOUNT_SHIFT if "icount" in wanted else None,
            boot_remap="on" if "boot-remap" in wanted else "off",
        )
        if "pflash" in wanted:
            drives = []
            for bank in range(2):
                path = self.folder / f"flash{bank}"
                if not path.exists():
                    with path.open("wb") as file:
                        file.truncate(FLASH_SIZE)
                drives.append(Drive(str(path)))
            options = replace(options, pflash=tuple(drives))
        if "disk" in wanted:
            path = self.folder / "disk"
            path.write_bytes(self.scenario.drive(self.program))
            drive = VirtioDevice("blk", Drive(str(path)))
            options = replace(options, virtio=(drive,))
        if "small-space" in wanted and options.translator == "embedded":
            options = replace(options, translator=self._serve())
        return options

    def _serve(self) -> str:
        """A translator with little room for code; its endpoint."""
        from protocol.transport import private_endpoint

        endpoint = private_endpoint()
        command = [sys.executable, "-m", *mutants.translator_module(), "--parent", str(os.getpid())]
        command += ["--endpoint", endpoint, "--code-space", SMALL_SPACE]
        self._service = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        return endpoint

    # --- its life ----------------------------------------------------------------------------

    def go(self, patience: float) -> None:
        """Power on and serve the guest until it ends, or says nothing for `patience` seconds."""
        began = time.monotonic()
        ended = threading.Event()

        def watch() -> None:
            try:
                self._code = self.machine.wait()
                self.machine.console.flush()  # output is gathered for some milliseconds
            finally:
                ended.set()

        self._code = -1
        # No hart runs before the translator is there: else a short guest has ended by then.
        self.machine.safe_point.post(self._await_translator)
        self.machine.power_on()
        threading.Thread(target=watch, daemon=True).start()
        said, since = 0, began
        while True:
            over = ended.is_set()  # before the last look at what it said
            self._listen(0.0 if over else 0.05)
            if over and not self._more():
                break
            now = time.monotonic()
            if len(self._said) != said:
                said, since = len(self._said), now
            if now > min(since + patience, began + LONGEST * patience):
                self.outcome.kind = "late"
                self.outcome.verdict = (
                    f"not done after {now - began:.0f} s, silent for {now - since:.0f} s"
                )
                break
        self.outcome.seconds = time.monotonic() - began

    def _await_translator(self) -> None:
        link = self.machine.translator
        if link is not None:
            link.wait_attached(ATTACH_PATIENCE)
        if self.disturbance is not None:
            self.disturbance.start()

    def close(self) -> None:
        """End the machine; read its book first."""
        machine, outcome = self.machine, self.outcome
        if self.disturbance is not None:
            self.disturbance.stop()
            outcome.disturbed = dict(self.disturbance.done)
        outcome.retired = dict(machine.retirement.counts)
        outcome.epoch = machine.retirement.epoch
        outcome.stores = sum(int(hart.state.stat_stores) for hart in machine.harts)
        if machine.translator is not None:
            outcome.published = machine.translator.counts["published"]
        if outcome.kind == "passed":
            outcome.state = self._state()
        outcome.said = "\n".join(self._said)
        machine.close()
        os.close(self._serial)
        if self._service is not None:
            from protocol.transport import discard_endpoint

            self._service.kill()
            self._service.wait()
            discard_endpoint(machine.options.translator)

    def _state(self) -> str:
        from cpu_proc.stress import oracle

        memory = self.machine.memory.read(oracle.RAM_BASE, oracle.RAM_SIZE)
        return oracle.state_hash(self.machine.harts[0].state, memory)

    def judge(self) -> Outcome:
        """The outcome with its verdict."""
        outcome = self.outcome
        late = outcome.verdict if outcome.kind == "late" else ""
        outcome.kind, outcome.verdict = self.scenario.verdict(
            self.mode, outcome.values, self._said, late=bool(late), rounds=self._rounds
        )
        if outcome.kind == "late":
            outcome.verdict = "; ".join(filter(None, (late, outcome.verdict)))
        elif outcome.kind == "passed" and self._should_publish() and outcome.published == 0:
            outcome.kind, outcome.verdict = "idle", "no region was published"
        return outcome

    def _should_publish(self) -> bool:
        quiet = self.disturbance is None
        return quiet and self.mode.name == "regions" and not self.scenario.without_regions

    def _more(self) -> bool:
        return bool(select.select([self._serial], [], [], 0)[0]) and self._peek()

    def _peek(self) -> bool:
        """Whether there is more than the end of the stream."""
        before = len(self._said), self._rest
        self._listen(0.0)
        return before != (len(self._said), self._rest)

    def _listen(self, seconds: float) -> None:
        if not select.select([self._serial], [], [], seconds)[0]:
            return
        try:
            data = os.read(self._serial, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            time.sleep(min(seconds, 0.01))
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hear(line.decode("ascii", "replace").strip("\r"))

    def _hear(self, line: str) -> None:
        self._said.append(line)
        if line.startswith("="):
            self.outcome.values.append(int(line[1:]))
        elif line.startswith("!"):
            verb, *words = line[1:].split()
            answer = self.verbs[verb](*words)
            if answer is not None:
                self.machine.receive(answer)

    # --- verbs: what a guest may ask for -----------------------------------------------------

    def number(self, word: str) -> int:
        """A number, or the value of a symbol of the program (`name+4` too)."""
        return number(self.program.symbols, word)

    def do_write(self, address: str, data: str) -> bytes:
        """`write ADDRESS HEX`: the host stores bytes, as a debugger does."""
        self.machine.host.write(self.number(address), bytes.fromhex(data))
        return DONE

    def do_save(self, name: str) -> bytes:
        """`save NAME`: keep the machine as it is now, in the middle of asking."""
        self.machine.host.save(str(self.folder / f"{name}.snapshot"))
        return DONE

    def do_restore(self, name: str) -> bytes:
        """`restore NAME`: the machine is what it was when it asked for `save`; the answer to that
        is now the digit of how many restorations there were. This question is never answered.
        """
        self.machine.host.restore(str(self.folder / f"{name}.snapshot"))
        self._restorations += 1
        return b"%d" % self._restorations

    def do_step(self, count: str) -> None:
        """`step N`: answered at once; the N instructions that follow are executed one by one."""
        host = self.machine.host
        host.pause()
        try:
            self.machine.receive(DONE)
            for _ in range(int(count)):
                host.step_hart(0)
        finally:
            host.resume()

    def translator_pid(self) -> int | None:
        """The translator's process, if it may be killed and stopped."""
        link = self.machine.translator
        return None if link is None else link.child_pid

    def do_kill(self) -> bytes:
        """`kill`: SIGKILL to the translator; answered when the machine knows."""
        import signal

        link, pid = self.machine.translator, self.translator_pid()
        if link is None or pid is None:
            return DONE  # nothing to kill: the program goes on
        epoch = self.machine.retirement.epoch
        self._killed = link.incarnation
        os.kill(pid, signal.SIGKILL)
        return DONE if self.until(lambda: self.machine.retirement.epoch > epoch) else FAILED

    def do_slow(self, milliseconds: str) -> bytes:
        """`slow MS`: the translator's workers stand still for so long, from now on."""
        import signal

        pid = self.translator_pid()
        if pid is None:
            return DONE
        task = f"/proc/{pid}/task/{pid}/children"
        with open(task, encoding="ascii") as file:
            workers = [int(word) for word in file.read().split()]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        threading.Timer(int(milliseconds) / 1e3, go_on).start()
        return DONE

    def do_reset_hart(self, index: str) -> bytes:
        """`reset-hart N`: that hart, and no other, begins anew at the reset vector."""
        self.machine.host.reset_hart(int(index))
        return DONE

    def do_retire(self) -> bytes:
        """`retire`: everything is retired, at the next safe point."""
        self.machine.host.retire()
        return DONE

    def do_swap(self, backend: str) -> bytes:
        """`swap BACKEND`: another backend translates; answered when it is in force, or refused."""
        link = self.machine.translator
        if link is None:
            return DONE  # nothing to swap
        swap = self.machine.request_swap(backend)
        return DONE if swap.done.wait(PATIENCE) and not swap.problem else FAILED

    def do_ready(self) -> bytes:
        """`ready`: wait until there is a translator that was not killed (in tier 0: not at all)."""
        link = self.machine.translator
        if link is not None:
            self.until(lambda: link.incarnation not in (0, self._killed), PATIENCE)
        return DONE

    def do_settle(self) -> bytes:
        """`settle`: wait until every region asked for is there or refused, 20 s at most."""
        link = self.machine.translator
        if link is not None:
            link.settle(SETTLE_PATIENCE)
        return DONE

    def do_regions(self, count: str) -> bytes:
        """`regions N`: wait until N more regions were published, or 20 s (in tier 0: not)."""
        link = self.machine.translator
        if link is not None:
            wanted = link.counts["published"] + int(count)
            self.until(lambda: link.counts["published"] >= wanted, SETTLE_PATIENCE)
        return DONE

    @staticmethod
    def until(event: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Wait for something; whether it came."""
        deadline = time.monotonic() + seconds
        while not event():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True
