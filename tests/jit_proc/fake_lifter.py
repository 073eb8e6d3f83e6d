"""A lifter and an engine of a few lines, named to workers by `--lifter` and `--engine`.

The first byte of the page says what happens: translate (0), refuse (1), end the process as LLVM
does (2), end it the first time only (3), never return (4), bad IR (5), a bug (6), noise (7), wait
for a file (8), spans that are no spans (9), 20 KiB of code (10), IR that
LLVM cannot make code for, by which it ends the process (11). `note`: for 3 and 8 a file, for 8
another one to be made.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from jit_proc.job import Job, Translation, Untranslatable

TRANSLATE, REFUSE, DIE, DIE_ONCE, HANG, BAD_IR, BUG, NOISE, SLOW, BAD_SPANS, BIG, KILL_LLVM = range(
    12
)


def page(what: int = TRANSLATE, value: int = 0, note: str = "") -> bytes:
    """A page for `translate`: its code returns `value`."""
    head = bytes([what]) + value.to_bytes(4, "little") + note.encode() + b"\0"
    return head + bytes(4096 - len(head))


def translate(job: Job) -> Translation:
    what, value = job.content[0], int.from_bytes(job.content[1:5], "little")
    note = job.content[5:].split(b"\0")[0].decode()
    if what == REFUSE:
        raise Untranslatable("not_code", "illegal at slot 7")
    if what == DIE or (what == DIE_ONCE and not Path(note).exists()):
        if note:
            Path(note).touch()
        print("LLVM ERROR: ran out of registers during register allocation", file=sys.stderr)
        os.abort()
    if what == HANG:
        time.sleep(600)
    if what == SLOW:
        awaited, *started = map(Path, note.split())
        for path in started:
            path.touch()
        deadline = time.monotonic() + 20
        while not awaited.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    if what == BUG:
        raise KeyError("lifter")
    if what == NOISE:
        print("noise on standard output")
    if what == BAD_IR:
        return Translation("define i64 @f( {", {0: "f"}, ((0, 2),), 1, 1)
    if what == KILL_LLVM:
        arguments = ", ".join(f"i64 %a{number}" for number in range(13))
        ir = f"""
        define preserve_nonecc void @f(ptr %handler, {arguments}) nounwind {{
          musttail call preserve_nonecc void %handler(ptr %handler, {arguments})
          ret void
        }}"""
        return Translation(ir, {0: "f"}, ((0, 2),), 1, 1)
    functions = "\n".join(
        f"define i64 @entry{slot}() nounwind {{ ret i64 {value + slot} }}" for slot in job.entries
    )
    if what == BIG:
        functions += '\nmodule asm ".fill 20480, 1, 0xcc"'
    return Translation(
        ir=functions,
        entries={slot: f"entry{slot}" for slot in job.entries},
        spans=tuple((2 * slot, 2) for slot in job.entries[::2]) or ((0, 2),),
        lines=2**64 - 1,
        instructions=len(job.entries),
    )


def translate_whole_page(job: Job) -> Translation:
    """As `translate`, with one span over the page: any entries are inside."""
    made = translate(job)
    if job.content[0] == BAD_SPANS:
        return Translation(made.ir, made.entries, ((4094, 8), (1, 1)), 0, made.instructions)
    return Translation(made.ir, made.entries, ((0, 4096),), made.lines, made.instructions)


def build() -> tuple[bytes, dict[str, int]]:
    return b"\xb8\x2a\x00\x00\x00\xc3", {"enter": 0}


def build_fails() -> tuple[bytes, dict[str, int]]:
    raise RuntimeError("no engine today")
