"""File tests of translation: guest code in, and in the same file what became of it.

A file of `tests/filetests` says on its first lines what it is about (`;`), then has parts, each
under a line `--- name`:

- `guest`: assembly for `CODE`; STOP, TRAP, DATA, RAM and HOLE are known names. A program ends by a
  jump to STOP, or by a trap.
- `start`: where to enter (`enter`), what a translator was asked for (`entries`, if it is something
  else), `exact` (counted time), `looks` (`float_guards.py`), `flat` (loads look at the
  window), `fs`, `frm`, registers by name, `memory ADDRESS = words`.
- `region`: what was selected. `ir`: the region after LLVM's passes, the hart's fields by name, up
  to the common ways out (`show = exits` shows those too; `show = assembly` adds a part `host`).
- `end`: all that the program changed, and the offsets that tier 0 executed from the page's records
  while the region was there.

`pytest --update-filetests` writes the last parts anew. Whatever they say, the program must do on
the reference interpreter, in tier 0 and with the region the same, and stop anywhere with the right
state.

Read next: `region_machine.py`, `jit_proc/lift.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as binding
import pytest

from jit_proc import llvm
from jit_proc.job import Translation
from protocol.layout import HART, STATE_EXACT, STATE_FLAT, STATE_LOOKS
from protocol.riscv.operands import F_NUMBERS, X_NUMBERS
from tests.engine_harness import RAM
from tests.jit_proc import region_machine
from tests.jit_proc.region_machine import CODE, SYMBOLS, Outcome, Start, differences

FOLDER = Path(__file__).parents[1] / "filetests"
FILES = sorted(FOLDER.glob("*.filetest"))
M64 = 2**64 - 1
OTHERS = ("enter", "entries", "exact", "looks", "flat", "fs", "frm", "show")
_BY_OFFSET = {
    f.offset + 8 * i: f"hart.{f.name}" + (f"[{i}]" if f.count > 1 else "")
    for f in HART.fields.values()
    for i in range(f.count)
}


@dataclass
class Case:
    """A file, read. `parts`: name -> lines."""

    path: Path
    about: list[str]
    parts: dict[str, list[str]]
    settings: dict[str, str] = field(default_factory=dict)
    memory: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Case:
        about: list[str] = []
        parts: dict[str, list[str]] = {}
        lines = about
        for line in path.read_text().splitlines():
            if line.startswith("--- "):
                lines = parts.setdefault(line[4:].strip(), [])
            else:
                lines.append(line)
        case = cls(path, about, parts)
        case.program = region_machine.guest("\n".join(parts["guest"]))
        for line in filter(str.strip, parts["start"]):
            name, _, value = (text.strip() for text in line.partition("="))
            if name.startswith("memory "):
                words = [case.value(v) & M64 for v in value.split()]
                case.memory[case.value(name[7:])] = b"".join(w.to_bytes(8, "little") for w in words)
            else:
                case.settings[name] = value
        return case

    program: Any = None

    def value(self, text: str) -> int:
        """A number, a label, or a sum of them."""
        total = 0
        for part in text.replace("-", "+-").split("+"):
            if part:
                word = part.strip().lstrip("-")
                known = SYMBOLS | self.program.symbols
                number = known[word] if word in known else int(word, 0)
                total += -number if part.strip().startswith("-") else number
        return total

    @property
    def exact(self) -> bool:
        return "exact" in self.settings

    @property
    def state(self) -> int:
        bits = (("exact", STATE_EXACT), ("looks", STATE_LOOKS), ("flat", STATE_FLAT))
        return sum(bit for name, bit in bits if name in self.settings)

    @property
    def start(self) -> Start:
        pc = self.value(self.settings.get("enter", "CODE"))
        x, f = {}, {}
        for name, value in self.settings.items():
            if name in X_NUMBERS:
                x[X_NUMBERS[name]] = self.value(value) & M64
            elif name in F_NUMBERS:
                f[F_NUMBERS[name]] = self.value(value) & M64
            else:
                assert name in OTHERS, name
        return Start(
            self.program,
            pc,
            x,
            f,
            self.memory,
            self.settings.get("fs", "dirty"),
            int(self.settings.get("frm", "0")),
        )

    @property
    def translation(self) -> Translation:
        asked = self.settings.get("entries", self.settings.get("enter", "CODE")).split()
        entries = [self.value(e) for e in asked]
        return region_machine.lift(self.start, entries, self.state)


# --- what is written into the files ---------------------------------------------------------------


@cache
def _any_host(level: int = llvm.DEFAULT_LEVEL, isel: str = llvm.DEFAULT_ISEL) -> Any:
    """A plain x86-64, so that a file says the same wherever it is written."""
    target = binding.Target.from_triple("x86_64-unknown-linux-gnu")
    return target.create_target_machine(
        cpu="x86-64-v2", features="", opt=level, reloc="pic", codemodel="small"
    )


def describe_region(translation: Translation) -> list[str]:
    entries = " ".join(f"{2 * slot:#x}" for slot in translation.entries)
    spans = " ".join(f"{start:#x}+{length:#x}" for start, length in translation.spans)
    return [
        f"entries = {entries}",
        f"spans = {spans}",
        f"lines = {translation.lines:#x}",
        f"instructions = {translation.instructions}",
        f"passes = {' '.join(translation.passes)}",
    ]


def _optimized(translation: Translation) -> Any:
    """The module after its passes, as for any host."""
    llvm.host_cpu()  # makes LLVM ready
    module = binding.parse_assembly(translation.ir)
    builder = binding.create_pass_builder(_any_host(), binding.create_pipeline_tuning_options())
    manager = binding.create_new_module_pass_manager()
    for name in translation.passes:
        getattr(manager, llvm._pass_method(name))()
    manager.run(module, builder)
    return module


def describe_ir(translation: Translation, whole: bool) -> list[str]:
    text = str(_optimized(translation))
    start = text.index("define hidden preserve_nonecc void @region(")
    body = text[start : text.index("\n}\n", start)].splitlines()
    shown = []
    for line in body[1:]:
        if line.startswith("exit_") and not whole:
            break
        line = re.sub(r"getelementptr (?:\w+ )*i8, ptr %hart, i64 (\d+)", _field, line)
        line = re.sub(r" #\d+$", "", line)
        shown.append(re.sub(r"\s*; preds = .*", "", line))
    return [line for line in shown if line]


def _field(found: re.Match[str]) -> str:
    offset = int(found[1])
    return f"address of {_BY_OFFSET[offset & -8]}" + (" + 4" if offset & 4 else "")


def describe_host(translation: Translation) -> list[str]:
    host = _any_host(translation.level, translation.isel)
    llvm.emit_by(translation.isel)
    assembly = host.emit_assembly(_optimized(translation))
    start = assembly.index("\nregion:")
    lines = assembly[start : assembly.index(".Lfunc_end0:", start)].strip().splitlines()
    lines = [line.replace("\t", "  ").rstrip() for line in lines]
    # r12 is the first argument of preserve_nonecc: the hart.
    return [
        re.sub(r"(\d*)\(%r12\)", _hart_operand, line)
        for line in lines
        if not line.startswith("  .p2align")
    ]


def _hart_operand(found: re.Match[str]) -> str:
    return f"[{_BY_OFFSET[int(found[1] or '0')]}]"


def describe_end(case: Case, end: Outcome, tier_0: list[int]) -> list[str]:
    begin = region_machine.run_reference(case.start, 0)
    lines = [f"pc = {_place(case, end.pc)}", f"count = {end.count}"]
    names = {number: name for name, number in X_NUMBERS.items() if name != "fp"}
    lines += [
        f"{names[i]} = {_number(b)}"
        for i, (a, b) in enumerate(zip(begin.x, end.x, strict=True))
        if a != b
    ]
    names = {number: name for name, number in F_NUMBERS.items()}
    lines += [
        f"{names[i]} = {b:#x}"
        for i, (a, b) in enumerate(zip(begin.f, end.f, strict=True))
        if a != b
    ]
    if end.fflags:
        lines.append(f"fflags = {end.fflags:#x}")
    if end.mepc:
        lines.append(f"trap = cause {end.mcause} at {_place(case, end.mepc)}, value {end.mtval:#x}")
    for at in range(0, len(end.memory), 8):
        word = end.memory[at : at + 8]
        if begin.memory[at : at + 8] != word:
            value = int.from_bytes(word, "little")
            lines.append(f"memory {_place(case, RAM + at)} = {value:#x}")
    lines.append(f"tier 0 = {' '.join(f'{offset:#x}' for offset in tier_0) or 'nothing'}")
    return lines


def _number(value: int) -> str:
    return str(value) if value < 4096 else hex(value)


def _place(case: Case, address: int) -> str:
    bases = {
        "CODE": CODE,
        "STOP": SYMBOLS["STOP"],
        "TRAP": SYMBOLS["TRAP"],
        "DATA": SYMBOLS["DATA"],
    }
    for name, base in bases.items():
        if base <= address < base + 4096:
            return f"{name}+{address - base:#x}"
    return hex(address)


# --- the tests --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_region_is_what_the_file_says_and_does_what_the_reference_does(path, request):
    case = Case.read(path)
    start, translation = case.start, case.translation
    expected = region_machine.run_reference(start)
    image = region_machine.compile_region(translation)
    assert differences(expected, region_machine.run_tier_0(start)) == [], "tier 0"
    found = region_machine.run_region(start, translation, image)
    tier_0 = region_machine.machine().in_tier_0()
    assert differences(expected, found) == [], "region"

    show = case.settings.get("show", "")
    written = {
        "region": describe_region(translation),
        "ir": describe_ir(translation, "exits" in show),
        **({"host": describe_host(translation)} if "assembly" in show else {}),
        "end": describe_end(case, expected, tier_0),
    }
    if request.config.getoption("--update-filetests"):
        parts = {"guest": case.parts["guest"], "start": case.parts["start"], **written}
        lines = case.about + [x for name, part in parts.items() for x in (f"--- {name}", *part)]
        path.write_text("\n".join(lines) + "\n")
        return
    for name, lines in written.items():
        assert case.parts.get(name) == lines, f"{path.name}, part {name}"

    _stop_anywhere(case, translation, image, expected.count)


def _stop_anywhere(case: Case, translation: Translation, image: Any, total: int) -> None:
    """Stopped at any count, the hart stands where the reference does after as many instructions."""
    start = case.start
    step = max(1, total // 12)
    for count in sorted({*range(1, min(total, 8)), *range(8, total, step)}):
        stopped = region_machine.run_region(start, translation, image, count)
        assert stopped.count >= count
        before = region_machine.run_reference(start, stopped.count)
        if differences(before, stopped):  # a trap retires nothing: it may have been taken
            after = region_machine.run_reference(start, stopped.count, trapped=True)
            assert differences(after, stopped) == [], f"stopped at {count}"
        if case.exact:
            tier_0 = region_machine.run_tier_0(start, count)
            assert differences(tier_0, stopped) == [], f"stopped at {count}, tier 0"


def test_there_are_files():
    assert len(FILES) >= 20
    for path in FILES:
        case = Case.read(path)
        assert case.about, f"{path.name} does not say what it is about"
        assert all(line.startswith("; ") for line in case.about)
        assert {"guest", "start", "region", "ir", "end"} <= set(case.parts)
