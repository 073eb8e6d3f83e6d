"""The reference's tests of traps, CSRs, translation and PMP, as they stand, on the engine."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from tests.isa.engine_hart import EngineHart

MODULES = ("test_privileged", "test_csr", "test_mmu")
NOT_OURS = (
    # The page walk's update is one instruction of the host here: nobody can come between.
    "test_another_hart_that_changes_the_entry_meanwhile_is_obeyed",
    # A scratch word; the engine puts something else there afterwards.
    "test_an_answer_says_whether_it_holds_for_the_page",
)


def _copy(name: str) -> ModuleType:
    """A module of tests of its own, whose machine is the engine's."""
    spec = importlib.util.find_spec(f"tests.protocol.riscv.{name}")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ReferenceMachine = EngineHart  # type: ignore[attr-defined]
    return module


def _tests() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in MODULES:
        for key, value in vars(_copy(name)).items():
            if key.startswith("test_") and callable(value) and key not in NOT_OURS:
                assert key not in found
                found[key] = value
    return found


globals().update(_tests())


def test_what_is_left_out_exists():
    names = {name for module in MODULES for name in vars(_copy(module))}
    assert set(NOT_OURS) <= names


assert pytest is not None
