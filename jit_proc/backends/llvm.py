"""The `llvm` backend: many blocks of a page as one optimised function.

Options change how the code is made, never what it does: `level` is LLVM's effort in code
generation, `passes` what runs over the IR before. What the lifter's IR cannot do without
(`always-inline`, where it calls routines) is run in any case.

Read next: `jit_proc/lift.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace

from jit_proc.backends import Option
from jit_proc.backends.native import make
from jit_proc.job import Job, Region, Translation
from jit_proc.passes import PASS_METHODS

DEFAULT_LIFTER = "jit_proc.lift:translate"
_NEEDED = "always-inline"
_PASS = "|".join(PASS_METHODS)


class Llvm:
    """Lifts with `lifter` (`module:function`), compiles with LLVM."""

    name = "llvm"
    summary = "regions of many blocks, optimised by LLVM (the default)"
    options = (
        Option("level", "0|1|2", "[0-2]", "effort in code generation (default 1)"),
        Option("isel", "fast|dag", "fast|dag", "how instructions are selected (default fast)"),
        Option(
            "passes",
            "PASS[+PASS...]|none",
            f"none|({_PASS})(\\+({_PASS}))*",
            "passes over the IR (default sroa+instcombine+simplifycfg)",
        ),
    )

    def __init__(self, lifter: str = DEFAULT_LIFTER) -> None:
        self.lifter = lifter

    def translate(self, job: Job, settings: Mapping[str, str]) -> Region:
        """See `Backend.translate`."""

        def lift() -> Translation:
            module, _, function = self.lifter.partition(":")
            translation: Translation = getattr(importlib.import_module(module), function)(job)
            if "level" in settings:
                translation = replace(translation, level=int(settings["level"]))
            if "isel" in settings:
                translation = replace(translation, isel=settings["isel"])
            if "passes" in settings:
                needed = [_NEEDED] if _NEEDED in translation.passes else []
                chosen = [name for name in settings["passes"].split("+") if name != "none"]
                translation = replace(translation, passes=(*needed, *chosen))
            return translation

        return make(lift)


LLVM = Llvm()
