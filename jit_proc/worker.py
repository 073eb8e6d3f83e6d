"""A worker: does one job after another, by the backend each names, and may die of any of them.

The problem: LLVM ends the process on errors in code generation and holds one lock for all, so
translating in parallel and surviving both need processes of their own. A worker keeps nothing from
one job to the next that could change a result: job in, outcome out.

Invariants:

- It reads frames from standard input and writes frames to what was standard output (`job.py`);
  whatever else prints goes to standard error, which the pool reads.
- A job's own failure (a lifter's refusal, IR that does not verify, an image that cannot be linked,
  a bug in the lifter) is an outcome, not an end. Only LLVM ends it, or a kill.
- It ends with its broker: end of input, or the parent-death signal while LLVM works.
- It gives way to the machine: `nice` is raised before the first job, and before anything else
  unless it is urgent (nothing is kept for the machine: to be ready comes first). On two cores a
  guest's hart runs on undisturbed while its code is made (`--nice 0` to measure without).

Run as `python -m jit_proc.worker`; only `pool.py` has a reason to.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from jit_proc import backends
from jit_proc.backends.llvm import DEFAULT_LIFTER, Llvm
from jit_proc.job import (
    AnyJob,
    Differs,
    EngineBuilt,
    EngineJob,
    Frames,
    Job,
    Outcome,
    Ready,
    Refusal,
    Untranslatable,
    encode,
)
from jit_proc.process import die_with_parent, give_up_writable_code
from protocol import mutants
from protocol.backends import parse

DEFAULT_ENGINE = "jit_proc.engine:build"
DEFAULT_NICE = 5

EngineBuilder = Callable[[], "tuple[bytes, dict[str, int]]"]


def perform(job: AnyJob, lifter: str = DEFAULT_LIFTER, engine: str = DEFAULT_ENGINE) -> Outcome:
    """Do one job; `lifter` is the `llvm` backend's.

    Everything that goes wrong short of the process's end becomes a Refusal.
    """
    try:
        if isinstance(job, EngineJob):
            build: EngineBuilder = resolve(engine)
            return EngineBuilt(*build())
        from jit_proc.llvm import make_for

        make_for(job.cpu)
        name, settings = parse(job.backend)
        backend = Llvm(lifter) if name == "llvm" else backends.find(name)
        return backend.translate(job, settings)
    except Untranslatable as refusal:
        return Refusal(refusal.reason, refusal.text)
    except Differs as found:
        return found.difference
    except Exception as error:
        traceback.print_exc()
        return Refusal("compiler_failed", f"{type(error).__name__}: {error}"[:1000])


def resolve(name: str) -> Any:
    """The function called `module:function`. Raises ImportError or AttributeError."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def serve(
    source: int, sink: BinaryIO, lifter: str, engine: str, nice: int, *, urgent: bool = False
) -> None:
    """Answer jobs from the descriptor `source` on `sink` until the end of input.

    `urgent`: give way to other processes only once ready, for somebody waits for just that.
    """
    gc.disable()  # nothing of what is imported is garbage
    if not urgent:
        os.nice(nice)
    from jit_proc.llvm import identity

    _warm_up(lifter)
    gc.freeze()
    gc.enable()
    if urgent:
        os.nice(nice)
    give_up_writable_code()
    sink.write(encode(Ready(identity())))
    frames = Frames()
    while data := os.read(source, 1 << 16):
        for job in frames.feed(data):
            sink.write(encode(perform(job, lifter, engine)))


def _warm_up(lifter: str) -> None:
    """Do once, before anybody waits, what makes a first job slow: imports, LLVM's own tables.

    A job on an empty page does it, for a job leaves nothing behind; what is wrong with the lifter
    is told to the first real one.
    """
    from jit_proc.llvm import compile_ir

    compile_ir("define void @nothing() nounwind { ret void }", isel="fast")
    with contextlib.suppress(Exception):
        resolve(lifter)(Job(0, bytes(4096), (0,), 0))


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the worker process."""
    parser = argparse.ArgumentParser(prog="python -m jit_proc.worker", description=__doc__)
    parser.add_argument("--lifter", default=DEFAULT_LIFTER, metavar="MODULE:FUNCTION")
    parser.add_argument("--engine", default=DEFAULT_ENGINE, metavar="MODULE:FUNCTION")
    parser.add_argument("--nice", type=int, default=DEFAULT_NICE, metavar="N")
    parser.add_argument("--parent", type=int, default=os.getppid(), metavar="PID")
    parser.add_argument("--urgent", action="store_true", help="give way only once ready")
    parser.add_argument("--armed", default="", metavar="NAME,...", help="see protocol/mutants.py")
    options = parser.parse_args(arguments)
    mutants.arm(filter(None, options.armed.split(",")))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for the broker to handle
    die_with_parent(options.parent, signal.SIGKILL)
    answers = os.dup(1)
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError), open(answers, "wb", buffering=0) as sink:
        serve(0, sink, options.lifter, options.engine, options.nice, urgent=options.urgent)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # taking the interpreter down would free callbacks in pages now read-only
