"""Sequences with a handler of their own: each does what its instructions do one by one."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable

import pytest

from cpu_proc import native
from jit_proc import ngrams
from jit_proc.decoder import is_direct, variant
from jit_proc.fused import Kinds, slots
from jit_proc.ngrams import Item, Ngram
from protocol.riscv import isa
from protocol.riscv.assembler import assemble
from protocol.riscv.isa import Decoded, Encoding, decode
from tests.engine_harness import FINISHER, RAM, EngineMachine
from tests.isa.batch import SCRATCH_SIZE, Batch, Sequence, run_in_engine, run_reference
from tests.isa.generate import NOWHERE, Generator, raw_bits
from tests.isa.generate import _immediate as immediate
from tests.isa.values import M64

POOL = (0, 1, 2, 8, 9, 10)  # few, so that instructions meet in their registers
ECALL = b"\x73\0\0\0"
FAR = 0x80000  # from any sequence to where nothing but zeros is, if a jump reaches as far
NOP = b"\x01\0"
BATCH = 2000


@functools.cache
def encodings() -> dict[str, list[Encoding]]:
    """The encodings of each kind."""
    isa.load_all()
    found: dict[str, list[Encoding]] = {}
    for encoding in isa.ENCODINGS.values():
        found.setdefault(variant(encoding), []).append(encoding)
        if is_direct(encoding):
            found.setdefault(variant(encoding, near=True), []).append(encoding)
    return found


class Maker(Generator):
    """Instances of n-grams: what is known of registers holds, all else is as it comes."""

    def register(self, field_: str, written: bool) -> int:
        pool = [r for r in POOL if r >= 8] if field_.endswith("'") else POOL
        return self.random.choice(pool)

    def instruction(self, item: Item, before: list[dict[str, int]], to_end: int) -> bytes | None:
        """An instance, with the slots' registers appended to `before`; None: try again."""
        for _ in range(30):
            encoding = self.random.choice(encodings()[item.kind])
            target = to_end if item.kind.endswith("n") else FAR
            fields = {name: self.field(encoding, name, target) for name in encoding.pattern.fields}
            raw = raw_bits(encoding.pattern, fields)
            decoded = decode(raw)
            if decoded is None or not encoding.holds(fields):
                continue
            if variant(decoded.encoding, near=item.kind.endswith("n")) != item.kind:
                continue
            found = registers(decoded)
            if all(source_holds(found[slot], s, before) for slot, s in item.facts):
                before.append(found)
                return raw.to_bytes(encoding.length, "little")
        return None

    def field(self, encoding: Encoding, name: str, target: int) -> int:
        if name.rstrip("'") in ("rd", "rs1", "rs2"):
            return self.register(name, False)
        low, high, step = immediate(encoding.pattern, name)
        if name == encoding.operands.get("imm"):
            if "branch" in encoding.instruction.semantics.builtins:
                return target if target <= high else high // step * step
            if encoding.instruction.semantics.name == "auipc":
                return 0x40000000  # far from all that is there
            low, high = max(low, -16), min(high, 32)  # what is near stays in the scratch area
        return self.random.randrange(low, high + 1) // step * step

    def instance(self, ngram: Ngram) -> bytes | None:
        """The n-gram's bytes, on their way to an ecall behind two instructions more."""
        size = sum(item.length for item in ngram.items)
        code = b""
        before: list[dict[str, int]] = []
        for item in ngram.items:
            part = self.instruction(item, before, size - len(code) + len(NOP))
            if part is None:
                return None
            code += part
        return code + NOP + ECALL

    def sequence_of(self, ngram: Ngram) -> Sequence:
        pick = self.random
        code = None
        while code is None:
            code = self.instance(ngram)
        x = [self.word() for _ in range(31)]
        pointers = {}
        for register in POOL[1:]:
            kind = pick.random()
            if kind < 0.75:
                pointers[register] = pick.choice((64, 72, 96, 65, 130, 200))
            elif kind < 0.85:
                x[register - 1] = NOWHERE + pick.choice((0, 1, 4090, 4096 - 8))
            else:
                x[register - 1] = pick.choice((0, 1, 7, 8, 33, 64, M64, M64 - 7, 1 << 40, 1 << 63))
        scratch = bytes(pick.getrandbits(8) for _ in range(SCRATCH_SIZE))
        if any(item.kind.startswith("jalr") for item in ngram.items):
            scratch = ECALL * (SCRATCH_SIZE // 4)  # wherever it jumps to, it ends
        f = tuple(self.float_word() for _ in range(32))
        return Sequence(code, tuple(x), f, 0, scratch, pointers)


def registers(decoded: Decoded) -> dict[str, int]:
    return {slot: decoded.operands[param] for slot, param in slots(decoded.instruction).items()}


def source_holds(register: int, source: str, before: list[dict[str, int]]) -> bool:
    if source == "0":
        return register == 0
    origin, slot = int(source[1:]), {"d": "rd", "s": "rs1", "t": "rs2"}[source[0]]
    written = range(origin + (slot == "rd"), len(before))
    if any(before[i].get("rd", 0) == register for i in written):
        return False
    return register != 0 and before[origin].get(slot) == register


def test_the_data_is_sound():
    grams = ngrams.load()
    Kinds(grams)
    assert len(grams) >= 100
    assert len(set(grams)) == len(grams)
    assert [ngrams.parse(str(gram)) for gram in grams] == list(grams)


@pytest.mark.parametrize(
    "line",
    [
        "addi_2",
        "addi_2 " * 5,
        "addi_3 ld_2",
        "addi_2 ld_2[rs1:d1]",
        "addi_2 ld_2[rs3:d0]",
        "addi_2 ld_2[rs1]",
        "addi_2[rs1:s0] ld_2",
    ],
)
def test_a_line_that_is_no_n_gram_is_refused(line):
    with pytest.raises(ValueError, match=r"n-gram|register"):
        ngrams.parse(line)


def test_an_instruction_without_a_fast_handler_is_refused():
    with pytest.raises(ValueError, match="csrrw_4"):
        Kinds([ngrams.parse("csrrw_4 addi_2")])


def test_each_n_gram_does_what_its_instructions_do():
    maker = Maker(1)
    grams = ngrams.load()
    per_gram = 10
    cases = [(gram, maker.sequence_of(gram)) for gram in grams for _ in range(per_gram)]
    random.Random(2).shuffle(cases)
    for start in range(0, len(cases), BATCH):
        part = cases[start : start + BATCH]
        batch = Batch([sequence for _, sequence in part])
        expected = run_reference(batch)
        found = batch.results(run_in_engine(batch.image))
        for number, (a, b) in enumerate(zip(expected, found, strict=True)):
            assert a == b, f"{part[number][0]}\n{batch.describe(number, a, b)}"


# --- when a handler of its own is there, and when it is taken back ------------------------------

LOADS = ("c.ld a0, 0(a2)", "c.ld a1, 8(a2)", "c.ld a3, 16(a2)", "c.ld a4, 24(a2)")
PROGRAM = """
  la s0, body
  la a2, data
  li s1, 3
again:
  li a0, 0
  li a1, 0
  li a3, 0
  li a4, 0
  j body
.align 6
  {before}
body:
  {code}
  j done
.align 6
done:
  {patch}
  addi s1, s1, -1
  bnez s1, again
  li t0, {finisher}
  li t1, 0x5555
  sw t1, 0(t0)
1:j 1b
.data
.align 12
data: .dword 11, 22, 33, 44
"""


@pytest.fixture
def machine() -> EngineMachine:
    return EngineMachine(1 << 20)


def run(
    machine: EngineMachine, code: Iterable[str], before: str = "", patch: str = ""
) -> dict[str, int]:
    """Execute `code` three times, with `patch` after each; the program's symbols."""
    text = PROGRAM.format(code="\n".join(code), before=before, patch=patch, finisher=FINISHER)
    program = assemble(text, RAM)
    machine.reset()
    machine.load(RAM, program.data)
    machine.run(100_000)
    assert machine.finisher.value == 0x5555
    return program.symbols


def loaded(machine: EngineMachine) -> list[int]:
    """What the program's loads leave: a0, a1, a3, a4."""
    return [machine.state.x[i] for i in (10, 11, 13, 14)]


def fused_at(machine: EngineMachine, addresses: Iterable[int]) -> list[bool]:
    """Whether the records of these addresses hold handlers of sequences."""
    symbols = machine.engine.symbols
    found = []
    for address in addresses:
        page = machine.guest.backings["ram"].page(address - RAM)
        record = machine.records.record(page, (address & 4095) // 2)
        handler = native.words(record, 1)[0] - machine.engine.base
        found.append(symbols["h_fused_first"] <= handler < symbols["h_fused_end"])
    return found


def test_a_sequence_gets_a_handler_of_its_own_at_each_place_in_it(machine):
    body = run(machine, LOADS)["body"]
    assert fused_at(machine, range(body, body + 8, 2)) == [True, True, True, False]
    assert loaded(machine) == [11, 22, 33, 44]


@pytest.mark.parametrize("room", [2, 4, 6])
def test_a_sequence_over_the_end_of_a_line_is_cut_there(machine, room):
    body = run(machine, LOADS, before=f".space {64 - room}, 1")["body"]
    assert body % 64 == 64 - room
    wanted = [i != 3 and body % 64 + 2 * i != 62 for i in range(4)]
    assert fused_at(machine, range(body, body + 8, 2)) == wanted
    assert loaded(machine) == [11, 22, 33, 44]


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("before", [0, 58, 60])
def test_a_store_to_an_instruction_of_a_sequence_is_seen_by_the_next_execution(machine, at, before):
    new = int.from_bytes(assemble("c.ld a0, 24(a2)", RAM).data[:2], "little")
    patch = f"li t0, {new}\n sh t0, {2 * at}(s0)"
    run(machine, LOADS, before=f".space {before}, 1" if before else "", patch=patch)
    wanted = [11, 22, 33, 44]
    wanted[at] = 0
    wanted[0] = 44
    assert loaded(machine) == wanted


@pytest.mark.parametrize("at", range(4))
def test_a_store_of_one_byte_is_seen_too(machine, at):
    """The uppermost bit turns a c.ld into a c.sd: what it loaded is 0 from then on."""
    place = f"{2 * at + 1}(s0)"
    run(machine, LOADS, patch=f"lbu t0, {place}\n ori t0, t0, 0x80\n sb t0, {place}")
    wanted = [11, 22, 33, 44]
    wanted[at] = 0
    assert loaded(machine) == wanted


def test_a_store_beside_a_sequence_leaves_it(machine):
    patch = "sw zero, 32(s0)"
    body = run(machine, LOADS, patch=patch)["body"]
    assert fused_at(machine, range(body, body + 8, 2)) == [True, True, True, False]
    assert loaded(machine) == [11, 22, 33, 44]


def test_a_store_by_the_host_takes_a_sequence_back(machine):
    body = run(machine, LOADS)["body"]
    machine.load(body + 6, assemble("c.ld a0, 24(a2)", RAM).data[:2])
    assert fused_at(machine, range(body, body + 8, 2)) == [False] * 4
