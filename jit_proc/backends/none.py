"""The `none` backend: refuses everything, so that a machine runs in tier 0 alone.

Unlike `-translator none`, the translator is there, and another backend can be swapped to.

Read next: `__init__.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from jit_proc.backends import Option
from jit_proc.job import Job, Region, Untranslatable


class Nothing:
    """Translates nothing."""

    name = "none"
    summary = "no regions: everything runs in the interpreter"
    options: tuple[Option, ...] = ()

    def translate(self, job: Job, settings: Mapping[str, str]) -> Region:
        """Refuse. The reason holds for this page until it changes, or everything is retired."""
        raise Untranslatable("unsupported", "the backend in force is none")


NONE = Nothing()
