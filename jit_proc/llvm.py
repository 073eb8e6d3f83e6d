"""LLVM at arm's length: textual IR in, an ELF object out.

The problem: everything native comes from LLVM through llvmlite, whose initialisation, pass
managers and fatal errors must not spread through the translator. This module is the only one that
imports llvmlite, and only workers import it: the import alone takes a quarter of a second, and **a
code generation error ends the process** ("ran out of registers", an unreachable path, inline
assembly without an assembly parser). Whoever calls `compile_ir` must be expendable (see
`worker.py` and `pool.py`).

Invariants:

- Objects are position independent (`reloc='pic'`, small code model), so that `link.py` meets only
  PC32 and PLT32 relocations and a linked image may be mapped at any address.
- `identity()` names all that decides what code comes out besides the IR and the options. It is
  part of every key under which translated code is kept.
- Code is made in one of two ways (`isel`): "dag" looks for the best instructions, "fast" takes half
  the time for code a tenth longer, which runs as fast: a region is simple to begin with, the
  register allocator is the same, and passes that find nothing in a region are left out. LLVM takes
  this from options of the process, so whoever emits says which way first (`emit_by`).
- Errors in the IR are `IRError`, raised before code generation starts: the module is parsed and
  verified first.

Read next: `link.py` (places the object), `worker.py` (who calls this).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding as binding

from jit_proc.passes import PASS_METHODS

DEFAULT_PASSES = ("sroa", "instcombine", "simplifycfg")
DEFAULT_LEVEL = 1
DEFAULT_ISEL = "dag"
# Per cent of a jump table that must be in use. LLVM's own 10 makes several tables, and a search for
# the right one, of an interpreter's handlers that are longer than 20 bytes each.
JUMP_TABLE_DENSITY = 3


# What only costs in a region, where registers are scarce and each way out wants values kept.
_WITHOUT = (
    "--disable-lsr",  # one register that steps through memory would become several that do
    "--x86-cmov-converter=false",  # conditional moves, most of them of counts, would be branches
    "--enable-misched=false",
    "--disable-machine-sink",
    "--disable-machine-licm",
    "--disable-constant-hoisting",
)


class IRError(Exception):
    """The IR text does not parse or verify, or names an unknown pass; the message is LLVM's, with
    its line.
    """


@dataclass(frozen=True)
class Timings:
    """Milliseconds of wall time each phase took."""

    parse: float
    verify: float
    optimize: float
    codegen: float

    @property
    def total(self) -> float:
        """All phases together, in milliseconds."""
        return self.parse + self.verify + self.optimize + self.codegen


@dataclass(frozen=True)
class Compiled:
    """An ELF x86-64 relocatable object and what it cost."""

    elf: bytes
    timings: Timings


@cache
def _initialize() -> None:
    """Prepare the host's target once a process; the assembly parser too, or inline assembly would
    end the process.
    """
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    binding.initialize_native_asmparser()
    binding.set_option("", f"--jump-table-density={JUMP_TABLE_DENSITY}")
    for option in _WITHOUT:
        binding.set_option("", option)


def host_cpu() -> tuple[str, str]:
    """LLVM's name for the host's CPU and its feature string (`+avx2,-avx512f,...`, sorted)."""
    _initialize()
    features = binding.get_host_cpu_features()
    return binding.get_host_cpu_name(), features.flatten(sort=True)


_made_for = [""]  # the CPU in force; empty: this host's


def make_for(cpu: str) -> None:
    """Have code be made for a CPU by its name, or for this host's if it is empty, until told
    otherwise.
    """
    _made_for[0] = cpu


def target_machine(level: int = DEFAULT_LEVEL, isel: str = DEFAULT_ISEL) -> Any:
    """The TargetMachine for codegen `level` 0 to 3 (position independent, small code model) and a
    selector of instructions, `fast` or `dag`; one of each kind, and for each CPU.
    """
    return _target_machine(level, isel, _made_for[0])


@cache
def _target_machine(level: int, isel: str, other: str) -> Any:
    cpu, features = (other, "") if other else host_cpu()
    target = binding.Target.from_default_triple()
    return target.create_target_machine(
        cpu=cpu, features=features, opt=level, reloc="pic", codemodel="small"
    )


_FAST = {"fast-isel": "true", "disable-cgp": "true"}
_way = [DEFAULT_ISEL]  # in force


def emit_by(isel: str) -> None:
    """Have code be made by `isel`, `fast` or `dag`, until told otherwise.

    A target machine that has once emitted code fast selects instructions so from then on: it must
    be one of its own (`target_machine`).
    """
    if isel == _way[0]:
        return
    for option, value in _FAST.items():
        opposite = "false" if value == "true" else "true"
        set_llvm_option(f"--{option}={value if isel == 'fast' else opposite}")
    _way[0] = isel


@cache
def identity() -> str:
    """What decides the code besides IR and options: LLVM's version, the CPU's name and its
    features.
    """
    version = ".".join(str(part) for part in binding.llvm_version_info)
    return "/".join(("llvm-" + version, *host_cpu()))


def set_llvm_option(option: str) -> None:
    """Set one of LLVM's command-line options for the whole process, e.g. `--use-registers-for-
    deopt-values`.
    """
    binding.set_option("", option)


def compile_ir(
    text: str,
    passes: Sequence[str] = DEFAULT_PASSES,
    level: int = DEFAULT_LEVEL,
    isel: str = DEFAULT_ISEL,
) -> Compiled:
    """Compile IR `text` for this host: run `passes` in order over the module, then generate code
    at `level` 0 to 3, its instructions selected by `isel`.

    Raises IRError when the text is wrong or a pass is unknown. An error in code generation ends
    the process.
    """
    methods = [_pass_method(name) for name in passes]
    machine = target_machine(level, isel)
    emit_by(isel)
    start = time.perf_counter()
    module = _parse(text)
    with module:
        parsed = time.perf_counter()
        _verify(module)
        verified = time.perf_counter()
        _optimize(module, methods)
        optimized = time.perf_counter()
        elf: bytes = machine.emit_object(module)
    emitted = time.perf_counter()
    return Compiled(
        elf=elf,
        timings=Timings(
            parse=(parsed - start) * 1e3,
            verify=(verified - parsed) * 1e3,
            optimize=(optimized - verified) * 1e3,
            codegen=(emitted - optimized) * 1e3,
        ),
    )


def optimize_ir(text: str, passes: Sequence[str] = DEFAULT_PASSES) -> str:
    """The IR after `passes`, as text: for golden files and for people who look at what LLVM made
    of it.
    """
    methods = [_pass_method(name) for name in passes]
    with _parse(text) as module:
        _verify(module)
        _optimize(module, methods)
        return str(module)


def emit_assembly(text: str, level: int = DEFAULT_LEVEL, isel: str = DEFAULT_ISEL) -> str:
    """The host assembly of IR `text` as it stands (run `optimize_ir` first), for golden files and
    for reading.
    """
    with _parse(text) as module:
        _verify(module)
        emit_by(isel)
        assembly: str = target_machine(level, isel).emit_assembly(module)
    return assembly


def _parse(text: str) -> Any:
    _initialize()
    try:
        return binding.parse_assembly(text)
    except RuntimeError as error:
        raise IRError(str(error).strip()) from error


def _verify(module: Any) -> None:
    try:
        module.verify()
    except RuntimeError as error:
        raise IRError(str(error).strip()) from error


def _optimize(module: Any, methods: Sequence[str]) -> None:
    if methods:
        manager, builder = _pipeline(tuple(methods), _made_for[0])
        manager.run(module, builder)


@cache
def _pipeline(methods: tuple[str, ...], cpu: str) -> tuple[Any, Any]:
    """A pass manager and its builder for the CPU in force, kept for the process: llvmlite frees a
    manager but not its passes, 15 KiB a region.
    """
    options = binding.create_pipeline_tuning_options()
    builder = binding.create_pass_builder(target_machine(), options)
    manager = binding.create_new_module_pass_manager()
    for method in methods:
        getattr(manager, method)()
    return manager, builder


def _pass_method(name: str) -> str:
    try:
        return PASS_METHODS[name]
    except KeyError:
        known = ", ".join(sorted(PASS_METHODS))
        raise IRError(f"unknown LLVM pass {name!r}; known are: {known}") from None
