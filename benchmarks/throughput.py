"""How fast guest code is translated, and where the time goes: real pages, without a machine.

A fixed corpus - pages of the kernel and of busybox at even distances, each entered at the heads of
its first loops, as a hot page would be - is translated in this process, `--rounds` times over.
Shown are guest instructions, bytes of code, regions a second and microseconds a guest instruction,
in the processor's time, and on the clock the split by phase; all of the round that took the
processor least, for others may be busy on the machine. Nothing is asserted.

    python -m benchmarks.throughput [--rounds 3] [--pages 60] [--backend llvm,level=2] [--json FILE]

Needs the guests (`coldboot guests fetch`).
"""

from __future__ import annotations

import argparse
import json
import mmap
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from cpu_proc.guests import default_folder
from jit_proc import backends
from jit_proc.job import Job, Region, Times, Untranslatable
from jit_proc.llvm import identity
from jit_proc.select import read_site
from protocol.backends import parse
from protocol.errors import USER_ERROR_EXIT, UserError
from protocol.layout import PAGE_SIZE
from protocol.riscv import isa

SOURCES = (("Image", 0x2000, 0xA0_0000), ("busybox", 0x1_1000, 0x15_0000))  # their code
MAX_HEADS = 3


def loop_heads(page: bytes) -> tuple[int, ...]:
    """Slots that a branch of the page itself goes back to, the first ones."""
    heads, offset = set(), 0
    while offset < PAGE_SIZE:
        site = read_site(page, offset)
        if site.target is not None and 0 <= site.target <= offset:
            heads.add(site.target // 2)
        offset = site.end
    return tuple(sorted(heads)[:MAX_HEADS])


def corpus(folder: Path, pages: int, backend: str) -> list[Job]:
    """So many pages' jobs, half of each source, those without loops left out. Raises UserError."""
    isa.load_all()
    jobs = []
    for name, start, end in SOURCES:
        try:
            with (
                open(folder / name, "rb") as file,
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data,
            ):
                step = (end - start) // PAGE_SIZE // max(1, pages // len(SOURCES))
                for place in range(start, end, max(1, step) * PAGE_SIZE):
                    page = data[place : place + PAGE_SIZE]
                    if len(page) == PAGE_SIZE and (heads := loop_heads(page)):
                        jobs.append(Job(place // PAGE_SIZE, page, heads, 0, backend))
        except OSError as error:
            raise UserError(
                f"{folder / name}: {error.strerror}; coldboot guests fetch leaves it there"
            ) from error
    return jobs


def translate(jobs: list[Job]) -> Iterator[Region]:
    """The regions of those jobs that make one."""
    for job in jobs:
        name, settings = parse(job.backend)
        try:
            yield backends.find(name).translate(job, settings)
        except Untranslatable:
            continue


def measure(jobs: list[Job]) -> dict[str, float]:
    """One round: counts, and microseconds by phase."""
    regions = instructions = code = 0
    phases = dict.fromkeys(Times._fields, 0)
    wall = time.perf_counter_ns()
    for region in translate(jobs):
        regions += 1
        instructions += region.instructions
        code += len(region.code)
        for phase, microseconds in region.times._asdict().items():
            phases[phase] += microseconds
    return {
        "regions": regions,
        "instructions": instructions,
        "code": code,
        "wall": (time.perf_counter_ns() - wall) / 1000,
        **phases,
    }


def table(best: Mapping[str, float]) -> str:
    """What people read."""
    instructions = best["instructions"]
    worked = sum(best[phase] for phase in Times._fields if phase != "cpu")
    lines = [
        f"{best['regions']:.0f} regions, {instructions:.0f} guest instructions,"
        f" {best['code'] / instructions:.1f} bytes of code for each",
        f"{best['regions'] / best['cpu'] * 1e6:.1f} regions a second,"
        f" {best['cpu'] / instructions:.0f} microseconds a guest instruction (processor's time);"
        f" {best['wall'] / instructions:.0f} on the clock",
    ]
    for phase in Times._fields:
        if phase != "cpu":
            share = best[phase] / max(1, worked)
            lines.append(f"  {phase:<8}{best[phase] / instructions:>8.1f} us{100 * share:>6.1f} %")
    return "\n".join(lines)


def run(arguments: list[str] | None = None) -> int:
    """Measure and print. Raises UserError."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of the whole corpus (default 3)")
    parser.add_argument("--pages", type=int, default=60, help="pages looked at (default 60)")
    parser.add_argument("--backend", default="llvm", help="with its options (default llvm)")
    parser.add_argument("--guests", type=Path, default=default_folder(), metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures there")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.pages < 1:
        raise UserError("--rounds and --pages: at least 1")
    name = options.backend.partition(",")[0]
    complaint = "" if name in backends.names() else f"backend {name} is unknown"
    if complaint := complaint or backends.complaint(options.backend):
        raise UserError(complaint)
    jobs = corpus(options.guests, options.pages, options.backend)
    for _ in translate(jobs[:1]):  # imports, LLVM's own tables
        pass
    rounds = [measure(jobs) for _ in range(options.rounds)]
    best = min(rounds, key=lambda one: one["cpu"])
    if not best["regions"]:
        raise UserError(f"backend {options.backend} translates nothing")
    print(table(best))
    if options.json is not None:
        found = {"compiler": identity(), "backend": options.backend, "rounds": rounds}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def main() -> int:
    """The exit status: a UserError is one line and status 2."""
    try:
        return run()
    except UserError as error:
        print(f"throughput: {error.text}", file=sys.stderr)
        return USER_ERROR_EXIT


if __name__ == "__main__":
    sys.exit(main())
