"""The real lifter, after a pause: code is retired while it is being made.

Named to a translator by `--lifter tests.system.slow_lifter:translate`. COLDBOOT_TEST_PAUSE is the
pause in seconds.
"""

from __future__ import annotations

import os
import time

from jit_proc import lift
from jit_proc.job import Job, Translation

PAUSE = "COLDBOOT_TEST_PAUSE"


def translate(job: Job) -> Translation:
    """Translate the job's bytes, which may be old by the time it is done."""
    time.sleep(float(os.environ.get(PAUSE, "0.02")))
    return lift.translate(job)
