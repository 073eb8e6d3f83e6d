"""The `shadow` backend: two others translate, and a sample of what they make is compared.

The problem: a backend that is wrong about one instruction in some case runs guests for weeks before
it shows, and then as anything but a wrong instruction. So `shadow:llvm,reference` has the first
one's code run, and before it is answered has some regions run both ways, by a process that does
nothing else, from many states (`comparing.py`).

Invariants:
- What is answered is the first one's region, as it would have made it alone; or nothing at all. A
  region in which the two differ is never published: its bytes go into quarantine, tier 0 carries
  them, and a file that replays the difference is written.
- What cannot be compared though it should be is refused: a sample is never smaller than asked for.
- Which regions are compared depends on their bytes and `seed` alone: translating stays a pure
  function, and the same guest has the same regions compared.

Read next: `jit_proc/comparing.py`, `jit_proc/reproducer.py`, `jit_proc/quarantine.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING

from jit_proc import backends
from jit_proc.backends import Option
from jit_proc.job import Difference, Differs, Job, Region, Untranslatable
from protocol.backends import AGAINST, OF, parse

if TYPE_CHECKING:
    from jit_proc.comparing import Comparer, Verdict

SAMPLE = 4
STATES = 12


class Shadow:
    """Translates with two backends."""

    name = "shadow"
    summary = "the first one's regions, a sample compared with the second one's by running both"
    options: tuple[Option, ...] = (
        Option("sample", "N", "[1-9][0-9]{0,5}", f"compare one region in N (default {SAMPLE})"),
        Option("states", "N", "[1-9][0-9]{0,3}", f"states to run it from (default {STATES})"),
        Option("seed", "N", "[0-9]{1,9}", "chooses another sample, and other states (default 0)"),
    )

    def translate(self, job: Job, settings: Mapping[str, str]) -> Region:
        """See `Backend.translate`. Raises Differs."""
        seed = int(settings.get("seed", 0))
        first = translate_with(settings[OF], job)
        if not is_chosen(job, first, int(settings.get("sample", SAMPLE)), seed):
            return first
        from jit_proc.comparing import ComparisonFailed

        try:
            second = translate_with(settings[AGAINST], job)
            verdict = _comparer().compare(
                job, first, second, int(settings.get("states", STATES)), seed
            )
        except Untranslatable as refusal:
            # There is nothing to compare it with: that one refuses what the first one can do.
            print(f"not compared: {settings[AGAINST]} says {refusal}", file=sys.stderr)
            return replace(first, alone=True)
        except ComparisonFailed as error:
            raise Untranslatable("compiler_failed", f"not compared: {error}") from error
        if not verdict.lines:
            return replace(first, compared=verdict.ran)
        raise Differs(_difference(job, settings, first, verdict))


SHADOW = Shadow()


def translate_with(word: str, job: Job) -> Region:
    """What one backend, as it is spelt, makes of a job."""
    name, settings = parse(word)
    return backends.find(name).translate(replace(job, backend=word), settings)


def is_chosen(job: Job, region: Region, sample: int, seed: int) -> bool:
    """Whether a region is one of those to compare, by the bytes it was made from."""
    digest = blake2b(seed.to_bytes(8, "little"), digest_size=8)
    for start, size in region.spans:
        digest.update(job.content[start : start + size])
    return int.from_bytes(digest.digest(), "little") % sample == 0


def _difference(
    job: Job, settings: Mapping[str, str], first: Region, verdict: Verdict
) -> Difference:
    from jit_proc import reproducer

    assert verdict.state is not None
    record = reproducer.Reproducer(
        job, settings[OF], settings[AGAINST], verdict.state, verdict.lines, verdict.blamed
    )
    text = f"{settings[OF]} and {settings[AGAINST]} differ: {verdict.lines[0]}"
    try:
        path = str(reproducer.write(record))
    except OSError as error:
        print(f"the reproducer cannot be written: {error}", file=sys.stderr)
        path = ""
    return Difference(settings[OF], first.spans, text, path, verdict.ran)


@cache
def _comparer() -> Comparer:
    """This process's, started when it is first needed and kept."""
    from jit_proc.comparing import Comparer

    return Comparer()
