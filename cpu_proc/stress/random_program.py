"""Random programs that write, patch, copy, alias, remap, reset and call code: a seed's guest.

The problem: scenarios find the mistakes somebody thought of. Here a driver does what a seed says to
a few dozen small functions - it calls them hot and cold, rewrites their instructions by every form
of store, copies one over another, writes beside them, moves the pages they are seen through - and
folds every result into a checksum. What the checksum must be, the reference interpreter says
(`oracle.py`), for on one hart the architecture and our promise (a store to code is seen at once)
leave one answer.

What is random: where functions stand (over the edges of lines and pages too), their instructions,
the order of operations, the addresses they go by. Half of all programs run in S-mode with Sv39:
code pages are then also seen through an alias, through windows whose page-table entries are changed
under way, and from U-mode.

Invariants: a program is a function of its seed and of what was cut out of it (`Cut`); nothing
random decides where control goes but a choice of function, so nearly all of them end (a function
over the edge of a page may have another one's end behind a window; where that becomes a loop, the
oracle gives up, and the seed is no program); an exception in a function is a result like another
(`handler`); the image is the same in every mode.
Registers: s0 checksum, s1 the segment (a reset begins the next one), a0 to a3 the functions' own.

Read next: `oracle.py`, `scenario.py`.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, replace
from typing import NamedTuple

from cpu_proc.stress.oracle import Expectation, expect
from cpu_proc.stress.scenario import MODES, Scenario

PAGES = 4  # of functions
OPERATIONS = 60  # of a program
STEPS, STEPS_EACH = 50_000, 1_000
"""Instructions that a program has, and more for each operation (500 are usual): see below."""
CELLS = 6  # instructions of a function, four bytes each; then `ret`
PLACES = (32, 96, 162, 254, 516, 1020, 2042, 3000, 4082)
"""Offsets of functions in a page: some cross lines, the last one the page's edge."""
ALIAS = 0x4000_0000
WINDOW = ALIAS + 0x1_0000
USER = ALIAS + 0x2_0000
KEPT = 0x8080_0000  # memory that a reset leaves alone: segment, checksum
ONE = (
    "addi a0, a0, {i}",
    "xori a0, a0, {i}",
    "ori a1, a1, {i}",
    "andi a2, a2, {i}",
    "add a0, a0, a1",
    "sub a0, a0, a2",
    "xor a1, a1, a0",
    "or a2, a2, a0",
    "mul a0, a0, a3",
    "mulhu a1, a0, a3",
    "divu a2, a0, a3",
    "remu a1, a0, a2",
    "slli a0, a0, {s}",
    "srai a1, a0, {s}",
    "srli a2, a1, {s}",
    "addiw a0, a0, {i}",
    "addw a1, a0, a2",
    "sltu a1, a0, a2",
    "lui a1, {u}",
    "auipc a2, 0",
    "sh1add a0, a0, a1",
    "rol a0, a0, a1",
    "andn a0, a0, a2",
    "max a0, a0, a1",
    "clz a1, a0",
    "rev8 a0, a0",
    "fcvt.d.l fa0, a0",
    "fadd.d fa0, fa0, fa1",
    "fmul.d fa1, fa0, fa1",
    "fmv.x.d a1, fa0",
    "fcvt.l.d a2, fa0",
    "csrr a1, fflags",
    "beq a0, a1, .+8",
    "bltu a0, a2, .+8",
    "lw a1, -4(t3)",
    "sd a0, 0(t3)",
    "c.addi a0, {c}; c.mv a1, a0",
    "c.add a0, a2; c.slli a0, 3",
    "c.xor a0, a1; c.addi a1, {c}",
    "c.li a2, {c}; c.sub a0, a2",
    "c.nop; c.addi a0, {c}",
)
"""A function's instructions: four bytes each. t3 points to the function's own data."""


@dataclass(frozen=True)
class Function:
    """A place in the code pages: `page` and `offset`, and a name."""

    number: int
    page: int
    offset: int

    @property
    def place(self) -> int:
        """Bytes from the start of the code pages."""
        return self.page * 4096 + self.offset


class Cut(NamedTuple):
    """What is left of a program when it has been shrunk.

    `keep`: the operations that are still there, by number; None: all. `blank`: the functions whose
    instructions are `nop`. Everything else stays as the seed says: draws do not depend on a cut.
    """

    keep: frozenset[int] | None = None
    blank: frozenset[int] = frozenset()


WHOLE = Cut()


@functools.cache
def word_of(text: str) -> int:
    """The four bytes of a cell's text."""
    from protocol.riscv.assembler import assemble

    data = assemble(text, 0x8000_0000).data
    if len(data) != 4:
        raise AssertionError(f"{text!r} makes {len(data)} bytes")
    return int.from_bytes(data, "little")


class Writer:
    """Writes one program."""

    def __init__(self, seed: int, operations: int = OPERATIONS, cut: Cut = WHOLE) -> None:
        self.keep, self.blank = cut.keep, cut.blank
        self.random = random.Random(seed)
        self.virtual = self.random.random() < 0.5
        self.operations = operations
        self.functions = [
            Function(page * len(PLACES) + i, page, offset)
            for page in range(PAGES)
            for i, offset in enumerate(PLACES)
            if (page, offset) != (PAGES - 1, PLACES[-1])
        ]
        self.lines: list[str] = []
        self.labels = 0

    # --- pieces ------------------------------------------------------------------------------

    def cell(self, number: int = 0) -> str:
        """A random instruction, or two compressed ones, for a function's cell."""
        rng = self.random
        text = rng.choice(ONE)
        if number == CELLS - 1 and ".+8" in text:
            text = ONE[0]  # it would jump over the `ret`
        return text.format(
            i=rng.randint(-2048, 2047), s=rng.randint(0, 63), u=rng.randint(0, 0xFFFFF),
            c=rng.choice([n for n in range(-32, 32) if n]),
        )  # fmt: skip

    def emit(self, *lines: str) -> None:
        self.lines += [f"    {line}" for line in lines]

    def function(self) -> Function:
        # A few favourites are hot: what is hit often is what has been translated.
        pool = self.functions[:: 7 if self.random.random() < 0.7 else 1]
        return self.random.choice(pool)

    def address(self, function: Function, register: str, *, execute: bool) -> None:
        """A register gets one of the addresses that the function goes by."""
        rng = self.random
        if self.virtual and rng.random() < 0.5:
            if rng.random() < 0.5:
                self.emit(f"li {register}, {ALIAS + function.place}")
                return
            if execute:
                # Through the window: which page is behind it, an entry says that operations change.
                self.emit(f"li {register}, {WINDOW + function.place}")
                return
        self.emit(f"la {register}, code + {function.place}")

    def float_on(self) -> None:
        """The driver's own need of FP; t2 is lost."""
        self.emit("li t2, 0x6000", f"csrs {self.status}, t2")

    # --- operations ----------------------------------------------------------------------------

    def arguments(self) -> None:
        for register in ("a0", "a1", "a2", "a3"):
            self.emit(f"li {register}, {self.random.choice((1, 3, 0x7FF, 0xDEADBEEF, 12345))}")

    def op_call(self) -> None:
        self.arguments()
        self.address(self.function(), "t0", execute=True)
        self.emit("jalr ra, 0(t0)", "call fold")

    def op_hot(self) -> None:
        self.arguments()
        self.address(self.function(), "t0", execute=True)
        self.emit(f"li t1, {self.random.choice((2, 4, 20))}", "call loop", "call fold")

    def op_patch(self) -> None:
        """Rewrite a cell, by some form of store; then most often run it."""
        rng = self.random
        function, number = self.function(), rng.randrange(CELLS)
        offset = function.place + 4 * number
        self.address(Function(0, 0, offset), "t0", execute=False)
        self.emit(f"li t1, {word_of(self.cell(number))}")
        forms = ["sw", "sh", "sb", "fsw", "c.sw"]
        if offset % 4 == 0:
            forms += ["amoswap", "sc"]
        if number + 1 < CELLS:
            forms += ["sd", "fsd"]
        match rng.choice(forms):
            case "sw":
                self.emit("sw t1, 0(t0)")
            case "sh":
                self.emit("sh t1, 0(t0)", "srli t1, t1, 16", "sh t1, 2(t0)")
            case "sb":
                for byte in range(4):
                    self.emit(f"sb t1, {byte}(t0)", "srli t1, t1, 8")
            case "fsw":
                self.float_on()
                self.emit("fmv.w.x ft0, t1", "fsw ft0, 0(t0)")
            case "c.sw":
                self.emit("mv a4, t0", "mv a5, t1", "c.sw a5, 0(a4)")
            case "amoswap":
                self.emit("amoswap.w t2, t1, (t0)")
            case "sc":
                self.emit("lr.w t2, (t0)", "sc.w t2, t1, (t0)")
            case "sd":
                self.emit(*self.two(number), "sd t1, 0(t0)")
            case "fsd":
                self.float_on()
                self.emit(*self.two(number), "fmv.d.x ft0, t1", "fsd ft0, 0(t0)")
        self.emit(*rng.choice(((), ("fence.i",), ("fence.i",), ("fence rw, rw",))))
        if rng.random() < 0.8:
            self.arguments()
            self.address(function, "t0", execute=True)
            self.emit("jalr ra, 0(t0)", "call fold")

    def two(self, number: int) -> tuple[str, ...]:
        """Put the next cell's word above the one in t1."""
        load = f"li t2, {word_of(self.cell(number + 1))}"
        return load, "slli t2, t2, 32", "slli t1, t1, 32", "srli t1, t1, 32", "or t1, t1, t2"

    def op_copy(self) -> None:
        """One function over another."""
        source, target = self.function(), self.function()
        self.address(source, "t0", execute=False)
        self.address(target, "t1", execute=False)
        step = self.random.choice((2, 4))
        self.emit(f"li t2, {CELLS * 4 // step}", f"call copy{step}")
        self.emit(*self.random.choice(((), ("fence.i",))))
        self.arguments()
        self.address(target, "t0", execute=True)
        self.emit("jalr ra, 0(t0)", "call fold")

    def op_beside(self) -> None:
        """Data in the lines of code: behind a function's `ret`."""
        function = self.function()
        self.address(Function(0, 0, function.place + 4 * CELLS + 4), "t0", execute=False)
        self.emit(f"li t1, {self.random.getrandbits(31)}", "sw t1, 0(t0)", "lw a0, 0(t0)",
                  "call fold")  # fmt: skip

    def op_inline(self) -> None:
        """The driver patches its own next instruction."""
        self.labels += 1
        label = f"inline{self.labels}"
        self.emit(f"la t0, {label}", f"li t1, {word_of(self.cell())}", "la t3, data")
        self.arguments()
        self.emit("sw t1, 0(t0)", *self.random.choice(((), ("fence.i",))))
        self.lines.append(f"{label}:")
        self.emit("addi a0, a0, 1", "nop", "call fold")

    def op_service(self) -> None:
        """A handler in M-mode writes the code (in M-mode programs it is the same by a trap)."""
        function = self.function()
        number = self.random.randrange(CELLS)
        self.emit(f"la a0, code + {function.place + 4 * number}",
                  f"li a1, {word_of(self.cell(number))}", "li a7, 0", "ecall")  # fmt: skip
        self.op_call_of(function)

    def op_call_of(self, function: Function) -> None:
        self.arguments()
        self.address(function, "t0", execute=True)
        self.emit("jalr ra, 0(t0)", "call fold")

    def op_hammer(self) -> None:
        """Patch and call in a loop: each time another immediate."""
        function = self.function()
        count = self.random.choice((20, 50, 100))
        self.emit(f"li s2, {count}", f"la s3, code + {function.place}")
        self.labels += 1
        label = f"hammer{self.labels}"
        fence = self.random.choice(("fence.i", "nop"))
        self.lines.append(f"{label}:")
        self.emit("slli t1, s2, 20", f"li t2, {word_of('addi a0, a0, 0')}", "or t1, t1, t2",
                  "sw t1, 0(s3)", fence, "li a0, 7", "li a3, 5", "mv t0, s3", "la t3, data",
                  "jalr ra, 0(t0)", "call fold", "addi s2, s2, -1",
                  f"bnez s2, {label}")  # fmt: skip

    def op_flag(self) -> None:
        """State that code depends on: FS, the rounding mode."""
        self.float_on()
        self.emit(
            *self.random.choice(
                (
                    ("csrwi frm, 0",),
                    ("csrwi frm, 1",),
                    ("csrwi frm, 3",),
                    ("csrwi fflags, 0",),
                    ("li t1, 0x6000", f"csrc {self.status}, t1"),
                    ("li t1, 0x6000", f"csrs {self.status}, t1"),
                )
            )
        )
        self.op_call()

    def op_remap(self) -> None:
        """Another page behind a window; or its permissions."""
        page, to = self.random.randrange(PAGES), self.random.randrange(PAGES)
        flags = self.random.choice((0xCF, 0xCF, 0xCF, 0xC7))  # the last: no execution
        self.emit(f"la t0, code + {to << 12}", "srli t0, t0, 2", f"ori t0, t0, {flags}",
                  f"la t1, leaves + {8 * (16 + page)}", "sd t0, 0(t1)")  # fmt: skip
        self.emit(
            *self.random.choice(
                (("sfence.vma",), (f"li t2, {WINDOW + (page << 12)}", "sfence.vma t2, zero"))
            )
        )
        self.arguments()
        self.emit(f"li t0, {WINDOW + (page << 12) + self.random.choice(PLACES[:-1])}",
                  "jalr ra, 0(t0)", "call fold")  # fmt: skip

    def op_user(self) -> None:
        """A function in U-mode."""
        self.arguments()
        self.emit(f"li t0, {USER + self.function().place}", "li a7, 1", "call in_user", "call fold")

    @property
    def status(self) -> str:
        return "sstatus" if self.virtual else "mstatus"

    # --- the whole ---------------------------------------------------------------------------

    def body(self) -> list[str]:
        """All operations that are kept, in segments that end in a reset."""
        common = [self.op_call, self.op_hot, self.op_hot, self.op_patch, self.op_patch,
                  self.op_patch, self.op_copy, self.op_beside, self.op_inline, self.op_service,
                  self.op_hammer, self.op_flag]  # fmt: skip
        if self.virtual:
            common += [self.op_remap, self.op_remap, self.op_user]
        resets = self.random.choice((0, 0, 1, 2))
        share = self.operations // (resets + 1)
        segments = []
        for segment in range(resets + 1):
            kept = []
            for number in range(segment * share, (segment + 1) * share):
                self.lines = []
                self.random.choice(common)()
                if self.keep is None or number in self.keep:
                    kept.append(self.lines)
            if kept or self.keep is None:
                segments.append(kept)
        lines = []
        for segment, operations in enumerate(segments or [[]]):
            lines.append(f"segment{segment}:")
            for number, operation in enumerate(operations):
                lines += operation
                if number % 6 == 5:
                    lines += ["    mv a0, s0", "    call report"]
            if segment + 1 < len(segments):
                lines.append("    j again")
        table = " ".join(f".dword segment{n};" for n in range(len(segments) or 1))
        return [*lines, "    j finish", "    .align 3", "segments:", f"    {table}"]

    def code(self) -> list[str]:
        """The functions, each at its place."""
        lines = ["    .align 12", "code:"]
        at = 0
        for function in self.functions:
            lines.append(f"    .space {function.place - at}")
            cells = [self.cell(n) for n in range(CELLS)]
            if function.number in self.blank:
                cells = ["nop"] * CELLS
            lines += [f"    .word {word_of(cell)}" for cell in cells]
            lines.append(f"    .word {word_of('jalr zero, 0(ra)')}")
            at = function.place + 4 * CELLS + 4
        return [*lines, f"    .space {PAGES * 4096 - at}"]

    def text(self) -> str:
        """The program for `scenario.Scenario`, without header."""
        from cpu_proc.stress import random_frame

        frame = random_frame.VIRTUAL if self.virtual else random_frame.BARE
        parts = [random_frame.MAIN, frame, *self.body(), *self.code(), random_frame.DATA]
        return "\n".join(parts)


def write(seed: int, operations: int = OPERATIONS, cut: Cut = WHOLE) -> str:
    """The text of a seed's program."""
    return Writer(seed, operations, cut).text()


@functools.lru_cache(maxsize=16)
def scenario(
    seed: int, operations: int = OPERATIONS, cut: Cut = WHOLE
) -> tuple[Scenario, Expectation]:
    """A seed's program as a scenario, with what the oracle expects of it. Raises OutOfSteps.

    It is the same image in every mode, so that one expectation and one final state serve all.
    """
    text = write(seed, operations, cut)
    bare = Scenario(f"random{seed}", "M6", f"random program {seed}", text, (), one_image=True)
    steps = STEPS + STEPS_EACH * operations
    expectation = expect(bare.assemble(MODES["tier0"]).data, steps)
    values = " ".join(map(str, expectation.values))
    return replace(bare, text=f"#: random program {seed}\n#: expect {values}\n{text}"), expectation
