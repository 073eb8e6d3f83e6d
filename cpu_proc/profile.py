"""Where the guest spends its time: samples of the harts' pc, by symbol.

Problem: `perf` sees the host's side; who develops firmware or a kernel asks which of the guest's
functions are hot, and from where they are called. So every few milliseconds each running hart is
called out of native code, at the first taken branch it comes to, and its pc, privilege and chain
of frame pointers are noted.

What that means for the figures: a sample belongs to the branch behind the instruction that was
executing. The chain of callers is there for code compiled with frame pointers (Debian's kernel is);
of other code the caller is ra's, if that names a function. Addresses without a symbol are put
together by page.

Invariant: sampling reads guest memory and registers, and changes nothing the guest can see: with
counted time the same instructions run.

Read next: `symbols.py`, `flame_graph.py`.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from cpu_proc.loader import RAM_BASE
from protocol.errors import UserError
from protocol.faults import AccessFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cpu_proc.hart import Hart
    from cpu_proc.jitdump import JitDump
    from cpu_proc.machine import Machine
    from cpu_proc.memory_map import MemoryMap
    from cpu_proc.symbols import Symbols

RATE = 250  # samples a second of each hart
DEPTH = 48  # callers of a sample at most
FRAME = 1 << 16  # bytes between two frames at most
SHOWN = 40  # lines of the report
RA, FP = 1, 8
MACHINE = 3
MODES = {0: "user", 1: "supervisor", MACHINE: "machine"}
ASLEEP = "(asleep)"


def make(machine: Machine) -> tuple[Profiler | None, JitDump | None]:
    """What the options ask for. Raises UserError if a file cannot be made."""
    options = machine.options
    profiler = dump = None
    if options.profile is not None:
        from cpu_proc.symbols import Symbols

        symbols = Symbols([*options.symbols, *options.image_files], RAM_BASE)
        profiler = Profiler(machine.harts, machine.memory, symbols, options.profile)
    if options.jitdump is not None:
        from cpu_proc.jitdump import JitDump

        dump = JitDump(options.jitdump, machine)
    return profiler, dump


def physical(memory: MemoryMap, satp: int, priv: int, address: int) -> int | None:
    """Where a virtual address is in memory; None if it is not mapped (privileged, section 10.3)."""
    mode = satp >> 60
    if priv == MACHINE or not mode:
        return address
    table = (satp & (1 << 44) - 1) << 12
    for level in reversed(range(mode - 5)):
        shift = 12 + 9 * level
        try:
            entry = int.from_bytes(memory.read(table + 8 * (address >> shift & 511), 8), "little")
        except AccessFault:
            return None
        table = (entry >> 10 & (1 << 44) - 1) << 12
        if not entry & 1:
            return None
        if entry & 0xE:
            inside = (1 << shift) - 1
            return table & ~inside | address & inside
    return None


class Profiler:
    """Samples the harts of one machine from `start` to `close`."""

    def __init__(
        self,
        harts: Sequence[Hart],
        memory: MemoryMap,
        symbols: Symbols,
        name: str,
        rate: int = RATE,
    ) -> None:
        self._harts = harts
        self._memory = memory
        self._symbols = symbols
        self._name = name
        self.wanted = [False] * len(harts)
        self.stacks: Counter[tuple[tuple[int, ...], int]] = Counter()  # pcs, innermost first; priv
        self.asleep = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._main, name="profile", daemon=True)

    def start(self) -> None:
        """Begin to take samples."""
        self._thread.start()

    def _main(self) -> None:
        while not self._ended.wait(1 / RATE):
            for hart in self._harts:
                if hart.state.waiting:
                    self.asleep += 1
                elif not self.wanted[hart.index]:
                    self.wanted[hart.index] = True
                    hart.call()

    def take(self, hart: Hart) -> None:
        """Note where a hart is, which has just left native code. Its own thread calls this."""
        self.wanted[hart.index] = False
        state = hart.state
        pc, priv = int(state.pc), int(state.priv)
        self.stacks[
            (pc, *self._callers(state.x[RA], state.x[FP], int(state.satp), priv)), priv
        ] += 1

    def _callers(self, ra: int, fp: int, satp: int, priv: int) -> list[int]:
        """Return addresses, innermost first: ra, and what the frames hold."""
        found = [int(ra)]
        fp = int(fp)
        while len(found) < DEPTH and fp % 8 == 0 and fp >= 16:
            place = physical(self._memory, satp, priv, fp - 16)
            if place is None or place % 4096 > 4080:
                break
            try:
                data = self._memory.read(place, 16)
            except AccessFault:
                break
            before, back = (int.from_bytes(data[i : i + 8], "little") for i in (0, 8))
            if back < 4096:
                break
            found.append(back)
            if not fp < before <= fp + FRAME:
                break
            fp = before
        return found

    # --- the report --------------------------------------------------------------------------

    def _label(self, address: int, priv: int) -> str:
        name = self._symbols.function(address)
        return name or f"[{MODES.get(priv, '?')} {address & ~4095:#x}]"

    def folded(self) -> dict[tuple[str, ...], int]:
        """Samples by functions, outermost first."""
        made: Counter[tuple[str, ...]] = Counter()
        for (addresses, priv), count in self.stacks.items():
            pc, *callers = addresses
            # ra is the caller's only in a function that has called nothing yet; a frame's is sure.
            sure = [self._symbols.function(a - 1) for a in callers[1:]]
            leaf = self._symbols.function(callers[0] - 1) if callers else ""
            names = [self._label(pc, priv)]
            if leaf and leaf != names[0] and (not sure or leaf != sure[0]):
                names.append(leaf)
            names += [name for name in sure if name]
            made[tuple(reversed(names))] += count
        return dict(made)

    def report(self, stacks: dict[tuple[str, ...], int]) -> str:
        """The text: functions by samples, with and without those they called."""
        total = sum(stacks.values())
        own: Counter[str] = Counter()
        within: Counter[str] = Counter()
        for stack, count in stacks.items():
            own[stack[-1]] += count
            for name in set(stack):
                within[name] += count
        modes: Counter[str] = Counter()
        for (_, priv), count in self.stacks.items():
            modes[MODES.get(priv, "?")] += count
        share = ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in modes.most_common())
        lines = [
            f"{total} samples of running harts, {RATE} a second of each; "
            f"{self.asleep} of harts asleep",
            share or "no hart ran long enough",
            "",
            "   own %  with callees %  samples  function",
        ]
        for name, count in own.most_common(SHOWN):
            lines.append(
                f"{100 * count / total:8.1f}  {100 * within[name] / total:14.1f}  {count:7}  {name}"
            )
        if len(own) > SHOWN:
            rest = sum(count for _, count in own.most_common()[SHOWN:])
            lines.append(f"{100 * rest / total:8.1f}  {'':14}  {rest:7}  {len(own) - SHOWN} others")
        return "\n".join([*lines, ""])

    def close(self) -> None:
        """Stop, and write NAME.txt, NAME.folded and NAME.svg. Raises UserError."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        from cpu_proc import flame_graph

        stacks = self.folded()
        folded = "".join(f"{';'.join(s)} {n}\n" for s, n in sorted(stacks.items()))
        title = f"{self._name}: {sum(stacks.values())} samples"
        files = {
            ".txt": self.report(stacks),
            ".folded": folded,
            ".svg": flame_graph.svg(stacks, title),
        }
        for suffix, text in files.items():
            path = self._name + suffix
            try:
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:
                raise UserError(f"-profile {self._name}: {path}: {error.strerror}") from error
