"""What guests see of a translator's code: scenarios and random programs on a real machine.

The problem: whether code does what the guest's instructions say, minds the state word, and is gone
when it must be, only a machine that runs it can tell. So the stress tool's scenarios run here with
the translator under test, with every record asked for at its first execution; each must report what
the architecture says. What fails names the rule that is broken when this guest goes wrong.

Invariants: each guest is a machine process of its own (wrong code may end it); what is found is
what the guest reported. A backend that translates nothing of a guest is no failure, and is said.

Read next: `cpu_proc/stress/trial.py`, `guest_job.py`.
"""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

from cpu_proc.conformance.rules import Bench, Result
from cpu_proc.stress.job import run_job

PATIENCE = 90.0


class Guest(NamedTuple):
    """A scenario, and the rule it watches. `kills`: it wants the translator killed."""

    scenario: str
    clause: str
    rule: str
    mode: str = "regions"
    harts: int = 1
    kills: bool = False


GUESTS = (
    Guest("m19_one_tier", "5.3", "code is retired by a store to its bytes"),
    Guest("m06_store_forms", "5.3", "every form of store in translated code retires what it hits"),
    Guest("m12_store_over_edge", "5.3", "a store over an edge retires on both sides"),
    Guest("m08_page_table_runs", "5.3", "an implicit store of a page walk retires too"),
    Guest("m10_permissions", "5.1.5", "an access is judged by the permissions there are now"),
    Guest("m11_tail_patched", "5.1.4", "an instruction over a page's edge depends on both pages"),
    Guest("m11_second_page", "5.1.4", "an instruction over a page's edge depends on both pages"),
    Guest("m13_virtual_physical", "1 backing page", "code belongs to its page, not to an address"),
    Guest("m07_two_addresses", "1 backing page", "code belongs to its page, not to an address"),
    Guest("m15_jump_cache", "1 record", "nothing but a record points to translated code"),
    Guest("m16_chained_jump", "1 record", "nothing but a record points to translated code"),
    Guest("m17_link_again", "1 record", "nothing but a record points to translated code", harts=2),
    Guest("m18_return_stack", "1 record", "nothing but a record points to translated code"),
    Guest("m40_link_order", "1 record", "nothing but a record points to translated code", harts=2),
    Guest("m20_illegal_then_valid", "7 negative result", "a refusal holds for its bytes only"),
    Guest("m21_patched_twice", "5.1.1", "bytes are read for each request"),
    Guest("m22_full_space", "7 code segment", "no byte of the code segment is used twice"),
    Guest("m22_recycled_space", "6.2", "nothing survives its epoch", mode="mixed"),
    Guest(
        "m23_fp_state",
        "5.1.5",
        "what is baked of a hart's state (FS, rounding mode) is part of "
        "the state word and compared at each entry",
    ),
    Guest("m24_mode_change", "5.1.5", "the mode is looked at, not assumed"),
    Guest("m25_hashes", "5.1.2", "a kept result is found by all of its bytes"),
    Guest("m26_same_place", "5.1.2", "a kept result is found by bytes, not by place"),
    Guest(
        "m27_read_before_tracked",
        "5.1.4",
        "the identity is of the bytes that were read",
        "mixed",
        2,
    ),
    Guest("m28_remote_hart", "5.3", "another hart sees new code behind its fence.i", harts=2),
    Guest("m29_spinning_hart", "6.1", "a loop passes a quiescent state", harts=2),
    Guest("m30_window", "5.3", "a store retires before it counts as done", harts=2),
    Guest("m31_patched_while_made", "5.1.1", "counters are read after the bytes too", "mixed"),
    Guest("m32_two_at_once", "5.3", "of two stores at once none is lost", harts=2),
    Guest("m33_parked_inside", "6.1", "code is not reused while a hart is inside", harts=2),
    Guest("m34_stopped_hart", "6.1", "a stopped hart holds no pointer to code", harts=2),
    Guest("m36_behind_fence", "5.3", "fence.i ends a region: what follows is fetched anew"),
    Guest(
        "m38_own_block", "5.3", "a store to the code it stands in is seen by the next instruction"
    ),
    Guest("m39_counted_once", "6.1", "an access that leaves a region has not been made"),
    Guest(
        "m42_reset_while_made", "6.2", "nothing that was under way outlives a retirement", "mixed"
    ),
    Guest(
        "m42_forgotten_while_made",
        "6.2",
        "nothing that was under way outlives a retirement",
        "mixed",
    ),
    Guest("m43_alike", "5.1.2", "a kept result is found by all of its bytes"),
    Guest("m44_new_code", "5.1.3", "code is complete when it is told of", "mixed"),
    Guest("m45_counted_time", "5.1.2", "a kept result is found by the state word too"),
    Guest("m46_backend_swap", "4.9", "nothing of an old backend survives a swap"),
    Guest("m47_patched_while_made", "3 TRANSLATED", "an answer has its request's stamp", "mixed"),
    Guest(
        "m41_killed_translator", "4.7", "nothing of an incarnation outlives it", "mixed", 1, True
    ),
    Guest(
        "m44_killed_writer",
        "5.1.3",
        "a writer that is killed leaves nothing visible",
        "regions",
        1,
        True,
    ),
)
CHECKSUM = "5.1.2", "code does what the guest's instructions say: registers and memory at the end"


def names(random: int) -> list[str]:
    """Of all guests."""
    return [f"guest.{one.scenario}" for one in GUESTS] + [
        f"guest.checksum-{seed}" for seed in range(random)
    ]


class Supervisor:
    """Starts the translator under test again when a guest had it killed."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        target = self._bench.target
        while not self._over.wait(0.05):
            if target.ended():
                target.kill()
                target.start()

    def close(self) -> None:
        """No longer."""
        self._over.set()
        self._thread.join()


def run(bench: Bench, name: str) -> Result:
    """Run one guest."""
    wanted = name.removeprefix("guest.")
    job: dict[str, Any] = {
        "endpoint": bench.target.endpoint,
        "backend": bench.backend,
        "patience": PATIENCE,
        "pid_file": str(bench.target.pid_file or ""),
    }
    if wanted.startswith("checksum-"):
        guest = Guest(wanted, *CHECKSUM)
        job["random"] = int(wanted.rpartition("-")[2])
    else:
        guest = next(one for one in GUESTS if one.scenario == wanted)
        job["scenario"] = guest.scenario
    result = Result(name, guest.clause, guest.rule, "passed")
    if guest.kills and not bench.target.restartable:
        result.verdict = "skipped"
        result.finding = "it wants the translator killed: start it with --start"
        return result
    supervisor = Supervisor(bench) if bench.target.restartable else None
    began = time.monotonic()
    try:
        found = run_job(
            {**job, "mode": guest.mode, "harts": guest.harts}, "cpu_proc.conformance.guest_job"
        )
    finally:
        if supervisor is not None:
            supervisor.close()
    result.seconds = time.monotonic() - began
    published = int(found.get("published", 0))
    bench.translated += published
    match found["kind"]:
        case "passed" | "idle":
            result.finding = "" if published else "nothing was translated"
        case "void":
            result.verdict, result.finding = "skipped", found["verdict"]
        case kind:
            what = {"stale": "wrong value", "crashed": "the machine ended"}.get(kind, kind)
            result.verdict = "failed"
            result.finding = f"{what}: {found['verdict']} ({guest.mode}, {published} regions)"
    return result
