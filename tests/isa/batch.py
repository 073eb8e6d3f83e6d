"""Batches: thousands of small programs as one guest program, whose results are compared in RAM.

The problem: the same instruction sequence has to run on the reference interpreter, on tier 0, on
translated regions, and in QEMU, and entering any of these costs more than the sequence. So a batch
is one image: a driver that loads all registers from a sequence's record, jumps to it, catches the
trap that ends it, and stores all registers, the trap and the scratch area into another record.
Whoever can run a raw program at `RAM` and show its memory afterwards is a `Runner`.

A sequence ends by any trap (an `ecall` stands at its end). It may use all registers and the CSRs
that the driver does not: not mscratch, mtvec, mstatus, mepc. The scratch area lies inside the
record of results, so areas cross pages now and then.

Invariants: the driver restores the scratch area and all registers before each sequence, and clears
the reservation, so a batch can be run for several `rounds` in one go (the first rounds make a
translator's regions, the last one's results are seen); a sequence must then do the same each time.

Read next: `generate.py` (where sequences come from), `test_sequences.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

from protocol.riscv.assembler import assemble
from protocol.riscv.disassembler import disassemble
from protocol.riscv.isa import decode
from protocol.riscv.reference import Memory, ReferenceHart
from tests import oracle
from tests.engine_harness import FINISHER, shared_machine

RAM = 0x8000_0000
CODE = RAM + 0x2000
INPUT = RAM + 0x40_0000
OUTPUT = RAM + 0xA0_0000
RAM_MIB = 16
SCRATCH_WORDS = 64
SCRATCH_SIZE = 8 * SCRATCH_WORDS
# Words of a record: x1..x31, f0..f31, fcsr; then, of an input, the entry; of an output, the trap
# and how many instructions were retired (with a few of the driver's).
F_AT, FCSR_AT, ENTRY_AT, CAUSE_AT, EPC_AT, TVAL_AT, COUNT_AT = 31, 63, 64, 64, 65, 66, 67
SCRATCH_AT = 68
RECORD_WORDS = SCRATCH_AT + SCRATCH_WORDS
RECORD_SIZE = 8 * RECORD_WORDS
MAX_SEQUENCES = (OUTPUT - INPUT) // RECORD_SIZE
JUMP = b"\x6f\0\x40\0"  # to the next instruction, which is thus found hot in time
FS_DIRTY = 3 << 13
STEP_LIMIT = 100_000

Runner = Callable[[bytes], bytes]
"""Runs a raw program of `RAM` until it stores to the finisher; RAM's bytes afterwards."""


@dataclass(frozen=True)
class Sequence:
    """Code with the state it begins in. `x`: 31 words, x1 first; pointers into the scratch area are
    given by `pointers`: register number -> offset in it.
    """

    code: bytes
    x: tuple[int, ...]
    f: tuple[int, ...]
    fcsr: int
    scratch: bytes
    pointers: dict[int, int]


def _driver(count: int, rounds: int, counted: bool) -> str:
    lines = [
        "  la t0, handler",
        "  csrw mtvec, t0",
        f"  li t0, {FS_DIRTY}",
        "  csrs mstatus, t0",
        "round:",
        "  la t0, block",
        f"  li t1, {INPUT}",
        "  sd t1, 0(t0)",
        f"  li t1, {OUTPUT}",
        "  sd t1, 8(t0)",
        f"  li t1, {count}",
        "  sd t1, 16(t0)",
        "next:",
        "  la t0, block",
        "  csrw mscratch, t0",
        "  addi t1, t0, 40",
        "  sc.d t1, t1, (t1)",
        "  ld a0, 0(t0)",
        "  ld a1, 8(t0)",
        f"  addi a2, a0, {8 * SCRATCH_AT}",
        f"  addi a3, a1, {8 * SCRATCH_AT}",
        f"  addi a4, a2, {SCRATCH_SIZE}",
        "1:ld a5, 0(a2)",
        "  ld a6, 8(a2)",
        "  sd a5, 0(a3)",
        "  sd a6, 8(a3)",
        "  addi a2, a2, 16",
        "  addi a3, a3, 16",
        "  bne a2, a4, 1b",
    ]
    lines += [f"  csrw {name}, zero" for name in ("sscratch", "sepc", "scause", "stval")]
    lines += [f"  fld f{i}, {8 * (F_AT + i)}(a0)" for i in range(32)]
    lines += [f"  ld t1, {8 * FCSR_AT}(a0)", "  csrw fcsr, t1"]
    lines += [f"  ld t1, {8 * ENTRY_AT}(a0)", "  csrw mepc, t1"]
    lines += ["  li t1, 0x1800", "  csrs mstatus, t1", "  csrw minstret, zero", "begin:"]
    lines += [f"  ld x{i}, {8 * (i - 1)}(a0)" for i in range(1, 32) if i != 10]
    lines += ["  ld a0, 72(a0)", "  mret", "leave:"]
    lines += [".align 3", "handler:", "  csrrw a0, mscratch, a0", "  ld a0, 8(a0)"]
    lines += [f"  sd x{i}, {8 * (i - 1)}(a0)" for i in range(1, 32) if i != 10]
    lines += ["end:", "  csrr t0, minstret" if counted else "  li t0, 0"]
    lines += [f"  sd t0, {8 * COUNT_AT}(a0)"]
    names = {9: "mscratch", FCSR_AT: "fcsr", CAUSE_AT: "mcause", EPC_AT: "mepc", TVAL_AT: "mtval"}
    for at, name in names.items():
        lines += [f"  csrr t0, {name}", f"  sd t0, {8 * at}(a0)"]
    lines += [f"  fsd f{i}, {8 * (F_AT + i)}(a0)" for i in range(32)]
    lines += ["  la t0, block"]
    for at in (0, 8):
        lines += [f"  ld t1, {at}(t0)", f"  addi t1, t1, {RECORD_SIZE}", f"  sd t1, {at}(t0)"]
    lines += ["  ld t1, 16(t0)", "  addi t1, t1, -1", "  sd t1, 16(t0)", "  beqz t1, 2f"]
    lines += ["  j next", "2:ld t1, 24(t0)", "  addi t1, t1, -1", "  sd t1, 24(t0)"]
    lines += ["  beqz t1, 3f", "  j round", f"3:li t0, {FINISHER}", "  li t1, 0x5555"]
    lines += ["  sw t1, 0(t0)", "4:j 4b"]
    lines += [".data", ".align 4", f"block: .dword 0, 0, 0, {rounds}, 0, 0"]
    return "\n".join(lines)


class Batch:
    """Sequences laid out in RAM, from `CODE` on; `image` is the program for a `Runner`.

    `counted`: retired instructions are compared too, which asks for a machine that counts exactly.
    """

    def __init__(self, sequences: Seq[Sequence], rounds: int = 1, *, counted: bool = True) -> None:
        assert 0 < len(sequences) <= MAX_SEQUENCES
        self.sequences = tuple(sequences)
        self.counted = counted
        program = assemble(_driver(len(sequences), rounds, counted), RAM)
        driver = program.data
        own = [line for line in program.lines if self._measured(program.symbols, line.address)]
        self.overhead = sum(line.size for line in own) // 4
        assert len(driver) <= CODE - RAM
        code = bytearray()
        entries = []
        for sequence in sequences:
            entries.append(CODE + len(code))
            code += JUMP + sequence.code
        assert CODE + len(code) <= INPUT
        self.entries = tuple(entries)
        records = bytearray()
        for number in range(len(sequences)):
            sequence = self.sequences[number]
            x = self.registers(number)
            words = (*x, *sequence.f, sequence.fcsr, entries[number], 0, 0, 0)
            records += struct.pack(f"<{SCRATCH_AT}Q", *words) + sequence.scratch
        image = bytearray(INPUT - RAM) + records
        image[: len(driver)] = driver
        image[CODE - RAM : CODE - RAM + len(code)] = code
        self.image = bytes(image)

    @staticmethod
    def _measured(symbols: dict[str, int], address: int) -> bool:
        """Whether the driver's instruction at an address is counted with a sequence's."""
        start, handler = symbols["begin"], symbols["handler"]
        return start <= address < symbols["leave"] or handler <= address < symbols["end"]

    def scratch(self, number: int) -> int:
        """Address of a sequence's scratch area."""
        return OUTPUT + number * RECORD_SIZE + 8 * SCRATCH_AT

    def registers(self, number: int) -> list[int]:
        """x1..x31 of a sequence, its pointers included."""
        sequence = self.sequences[number]
        x = list(sequence.x)
        for register, offset in sequence.pointers.items():
            x[register - 1] = self.scratch(number) + offset
        return x

    def results(self, ram: bytes) -> list[bytes]:
        """The record of results of each sequence in the memory a runner gives."""
        start = OUTPUT - RAM
        return [
            ram[start + i * RECORD_SIZE : start + (i + 1) * RECORD_SIZE]
            for i in range(len(self.sequences))
        ]

    def describe(self, number: int, expected: bytes, found: bytes) -> str:
        """What differs, and the code with the state it began in."""
        lines = [f"sequence {number} at {self.entries[number]:#x}:"]
        for name, a, b in zip(NAMES, _words(expected), _words(found), strict=True):
            if a != b:
                lines.append(f"  {name}: expected {a:#x}, found {b:#x}")
        sequence = self.sequences[number]
        at = self.entries[number]
        code = JUMP + sequence.code
        offset = 0
        while offset < len(code):
            raw = int.from_bytes(code[offset : offset + 4], "little")
            size = 4 if raw & 3 == 3 else 2
            text = disassemble(raw, at + offset) if decode(raw) else "illegal"
            lines.append(f"  {at + offset:x}: {raw & (1 << 8 * size) - 1:0{2 * size}x}  {text}")
            offset += size
        x = self.registers(number)
        lines.append("  x: " + " ".join(f"x{i + 1}={v:#x}" for i, v in enumerate(x)))
        lines.append("  f: " + " ".join(f"f{i}={v:#x}" for i, v in enumerate(sequence.f)))
        lines.append(f"  fcsr: {sequence.fcsr:#x}  scratch at {self.scratch(number):#x}")
        return "\n".join(lines)


NAMES = [f"x{i}" for i in range(1, 32)] + [f"f{i}" for i in range(32)]
NAMES += ["fcsr", "mcause", "mepc", "mtval", "count"]
NAMES += [f"scratch+{8 * i:#x}" for i in range(SCRATCH_WORDS)]


def _words(record: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{RECORD_WORDS}Q", record)


def run_reference(batch: Batch) -> list[bytes]:
    """The results by the reference interpreter; the driver's work is done from outside."""
    memory = Memory()
    ram = memory.add_ram(RAM, RAM_MIB << 20)
    ram[: len(batch.image)] = batch.image
    hart = ReferenceHart(memory, RAM)
    results = []
    for number, sequence in enumerate(batch.sequences):
        hart.reset(batch.entries[number])
        hart.count = 0
        hart.mtvec = RAM
        hart.mstatus = FS_DIRTY
        hart.x[1:] = batch.registers(number)
        hart.f[:] = sequence.f
        hart.accrued, hart.frm = sequence.fcsr & 31, sequence.fcsr >> 5
        scratch = batch.scratch(number) - RAM
        ram[scratch : scratch + SCRATCH_SIZE] = sequence.scratch
        for _ in range(STEP_LIMIT):
            hart.step()
            if hart.pc == RAM:
                break
        else:
            raise AssertionError(f"sequence {number} does not end")
        fcsr = hart.accrued | hart.frm << 5
        count = hart.count + batch.overhead if batch.counted else 0
        words = (*hart.x[1:], *hart.f, fcsr, hart.mcause, hart.mepc, hart.mtval, count)
        results.append(
            struct.pack(f"<{SCRATCH_AT}Q", *words) + ram[scratch : scratch + SCRATCH_SIZE]
        )
        output = OUTPUT - RAM + number * RECORD_SIZE  # where later ones may read it
        ram[output : output + len(results[-1])] = results[-1]
    return results


def run_in_engine(image: bytes) -> bytes:
    """A runner: tier 0 in this process."""
    machine = shared_machine()
    machine.reset()
    machine.load(RAM, image)
    machine.run(1 << 40)
    assert machine.finisher.value == 0x5555
    return bytes(machine.ram)


def run_in_qemu(image: bytes) -> bytes:
    """A runner: QEMU, without what we do not have."""
    options = ("-cpu", "rv64,zbc=off,h=off")
    outcome = oracle.run_in_qemu(image, memory_mib=RAM_MIB, options=options)
    assert outcome.code == 0
    return outcome.memory


def differences(batch: Batch, expected: Seq[bytes], found: Seq[bytes]) -> list[str]:
    """Descriptions of the sequences whose results differ."""
    return [
        batch.describe(number, a, b)
        for number, (a, b) in enumerate(zip(expected, found, strict=True))
        if a != b
    ]


def shrink(sequence: Sequence, runner: Runner, rounds: int = 1, *, counted: bool = True) -> str:
    """A description of a failing sequence with as much as possible replaced by nops."""

    def attempt(code: bytes) -> str:
        batch = Batch([replace(sequence, code=code)], rounds, counted=counted)
        found = differences(batch, run_reference(batch), batch.results(runner(batch.image)))
        return found[0] if found else ""

    code = sequence.code
    shown = attempt(code)
    if not shown:
        return "it does not fail alone"
    offset = 0
    while offset < len(code):
        size = 4 if code[offset] & 3 == 3 else 2
        nop = b"\x13\0\0\0" if size == 4 else b"\x01\0"
        candidate = code[:offset] + nop + code[offset + size :]
        try:
            smaller = attempt(candidate)
        except AssertionError:
            smaller = ""
        if smaller:
            code, shown = candidate, smaller
        offset += size
    return shown
