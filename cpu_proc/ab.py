"""Two backends by turns under one running guest, and the speed of each there.

Problem: which backend is faster on *this* guest, doing what it does now? Two runs are two different
guests on a computer that is busy with something else the second time. So they take turns on the
same one, by slices, and what is compared is guest instructions a second of the harts' own processor
time, which neither a busy computer nor a guest that sleeps changes.

Invariants:
- Each turn begins with a swap: nothing of the other's code is left. So it begins cold, and two
  speeds are told: of the whole turn, and of its second half, when what is hot has been translated.
- The turns are ordered A B B A A B B A...: a guest that grows slower or faster favours neither.
- At the end, however it comes, the backend is the one that was in force.

Read next: `ctl.py`, `docs/control.md`.
"""

from __future__ import annotations

import json
import time
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from protocol.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from cpu_proc.qmp_client import QmpClient

IDLE = 0.001  # seconds: less processor time than that says nothing of speed


class Reading(NamedTuple):
    """Of all harts, since the machine was made."""

    instructions: int
    seconds: float


class Turn(NamedTuple):
    """One backend's turn: instructions and processor seconds of the whole and of the second half;
    `swap_ms`, what the swap before it took.
    """

    backend: str
    whole: Reading
    late: Reading
    swap_ms: float


def run(client: QmpClient, backends: tuple[str, str], arguments: Namespace) -> str:
    """Take turns, and tell. Raises UserError."""
    if not 0.02 <= arguments.slice <= arguments.seconds:
        raise UserError("ctl ab: --slice S from 0.02 up, and --for S no less, are expected")
    former = client.ask("x-query-jit")["backend"]
    turns: list[Turn] = []
    end = time.monotonic() + arguments.seconds
    try:
        while time.monotonic() < end or len(turns) < 4:
            first = (len(turns) + 1) // 2 % 2
            turns.append(take_turn(client, backends[first], arguments.slice))
    finally:
        client.ask("x-swap-backend", backend=former)
    if arguments.json:
        try:
            with open(arguments.json, "w", encoding="utf-8") as file:
                json.dump([turn._asdict() for turn in turns], file, indent=1)
        except OSError as error:
            raise UserError(f"ctl ab --json {arguments.json}: {error.strerror}") from error
    return report(backends, turns, arguments.slice)


def take_turn(client: QmpClient, backend: str, seconds: float) -> Turn:
    """One slice of one backend."""
    swapped = client.ask("x-swap-backend", backend=backend)
    readings = [read(client)]
    for _ in range(2):
        time.sleep(seconds / 2)
        readings.append(read(client))
    begin, middle, end = readings
    return Turn(backend, since(begin, end), since(middle, end), swapped["ms"])


def read(client: QmpClient) -> Reading:
    """Where the harts are."""
    harts: list[dict[str, Any]] = client.ask("x-query-jit")["harts"]
    return Reading(sum(h["instructions"] for h in harts), sum(h["cpu-seconds"] for h in harts))


def since(one: Reading, other: Reading) -> Reading:
    return Reading(other.instructions - one.instructions, other.seconds - one.seconds)


def report(backends: tuple[str, str], turns: list[Turn], seconds: float) -> str:
    """A line for each backend, and how they compare."""
    lines = [f"guest instructions a second of the harts' processor time, turns of {seconds:g} s"]
    middle = {}
    for backend in dict.fromkeys(backends):
        own = [turn for turn in turns if turn.backend == backend]
        late = speeds([turn.late for turn in own])
        whole = speeds([turn.whole for turn in own])
        if not late or not whole:
            lines.append(f"  {backend}: the guest slept all through its {len(own)} turns")
            continue
        middle[backend] = median(late)
        lines.append(
            f"  {backend}: {median(late) / 1e6:.1f} M (from {min(late) / 1e6:.1f} to "
            f"{max(late) / 1e6:.1f}) in {len(late)} second halves; {median(whole) / 1e6:.1f} M "
            f"with the start after a swap ({median(t.swap_ms for t in own):.0f} ms)"
        )
    if len(middle) == 2:
        lines.append(
            f"  {backends[0]} / {backends[1]}: {middle[backends[0]] / middle[backends[1]]:.2f}"
        )
    return "\n".join(lines)


def speeds(readings: list[Reading]) -> list[float]:
    """Instructions a second, of those in which the guest did something."""
    return [r.instructions / r.seconds for r in readings if r.seconds > IDLE]
