"""Random programs of several harts: one patches functions, the others call them.

The problem: with several harts a call may rightly return more than one value, so the reference
interpreter cannot say which. The program itself can. Hart 0 gives each function a sequence number
that only grows, in the function's own instruction:

    before[f] = n;  fence w, w;  the store to the code;  fence w, w;  after[f] = n

Another hart that reads `after`, executes fence.i, calls the function, and then reads `before`, must
have got a value between the two: less is stale code, more is code nobody wrote. Hart 0 itself must
get exactly n, with fence.i and without (our promise: a store to code is seen at once).

What is random: where functions stand (over the edges of lines and of a page), the order of patches,
the form of each store, how often, by which of two addresses (half of all programs run in S-mode
with an alias of all memory), through the host too; and each other hart's list of calls, which it
repeats until hart 0 has finished.

Invariants: a program is a function of its seed and of the patches that were kept; sequence numbers
are constants of a patch, so leaving patches out keeps them growing; hart 0
begins when all others are there, and each of them goes through its list at least once.

Read next: `random_program.py` (one hart, an exact oracle), `scenario.py`.
"""

from __future__ import annotations

import random

from cpu_proc.stress.scenario import RAM_BASE, Scenario

OPERATIONS = 60
PLACES = (64, 124, 192, 316, 1020, 2044, 2560, 3068, 4092)
"""Offsets of the words that change: at the ends of lines, and of the first page."""
CALLERS = 3  # lists of calls
LIST = 16  # calls of a list
LIMIT = 1 << 19  # of sequence numbers: `lui` has 20 bits, and the sign is none
ALIAS = 0x4000_0000
STEPS = {"sh": 16, "sb": 4096}
"""How much a number grows by a patch of a form that does not write the whole word."""
FORMS = ("sw", "c.sw", "fsw", "amoswap", "amoadd", "sc", "sd", "fsd", "sh", "sb", "host")

FRAME = """
main:
    la s0, state
    call enter
1:
    lw t0, 16(s0)
    li t1, OTHERS
    bne t0, t1, 1b
    j patches

secondary:
    la s0, state
    mv s1, a0
    call enter
    addi t0, s0, 16
    li t1, 1
    amoadd.w zero, t1, (t0)     # one more is present
caller:
    addi t0, s1, -1
    li t1, 3
    remu t0, t0, t1
    slli t0, t0, 3
    la t1, lists
    add t1, t1, t0
    ld t1, 0(t1)
    jalr ra, 0(t1)
    ld t0, 0(s0)                # over?
    beqz t0, caller
    fence rw, rw
    addi t0, s0, 20
    li t1, 1
    amoadd.w zero, t1, (t0)     # one more has finished
    j park

finish:
    fence rw, rw
    li t0, 1
    sd t0, 0(s0)
1:
    lw t0, 16(s0)
    lw t1, 20(s0)
    bne t0, t1, 1b
    fence rw, rw
    ld a0, 24(s0)               # wrong values, and what was wrong with the first of them
    call report
    ld a0, 32(s0)
    call report
    ld a0, 40(s0)
    call report
    ld a0, 48(s0)
    call report
    ld a0, 56(s0)
    call report
    ld a0, 64(s0)               # checks
    call report
    call done

wrong:                          # the function at s3 / 8 returned a0, not s5 to t2
    addi t0, s0, 24
    li t1, 1
    amoadd.d t0, t1, (t0)
    bnez t0, 1f
    srli t0, s3, 3
    addi t0, t0, 1
    sd t0, 32(s0)
    sd a0, 40(s0)
    sd s5, 48(s0)
    sd t2, 56(s0)
1:
    ret

look:                           # s5: the number that a call behind a fence.i must see at least
    la t0, after
    add t0, t0, s3
    ld s5, 0(t0)
    ret

calls:                          # the function s2, numbered s3 / 8, s4 times
    addi sp, sp, -16
    sd ra, 0(sp)
1:
    jalr ra, 0(s2)
    fence rw, rw
    la t0, before
    add t0, t0, s3
    and t1, a0, zero
    add t0, t0, t1
    ld t2, 0(t0)
    bltu a0, s5, 2f
    bgeu t2, a0, 3f
2:
    call wrong
3:
    addi t0, s0, 64
    li t1, 1
    amoadd.d zero, t1, (t0)
    addi s4, s4, -1
    bnez s4, 1b
    ld ra, 0(sp)
    addi sp, sp, 16
    ret

announce:                       # the next number of the function is s6
    la t0, before
    add t0, t0, s3
    sd s6, 0(t0)
    fence w, w
    slli t1, s6, 12
    addi t1, t1, 0x537          # lui a0, s6
    ret

written:
    fence w, w
    la t0, after
    add t0, t0, s3
    sd s6, 0(t0)
    ret

own:                            # hart 0 sees its own stores
    mv t2, s6
    mv s5, s6
    addi sp, sp, -16
    sd ra, 0(sp)
    jalr ra, 0(s2)
    beq a0, s6, 1f
    mv t2, s6
    call wrong
1:
    ld ra, 0(sp)
    addi sp, sp, 16
    ret
"""
BARE = """
enter:
    ret
"""
VIRTUAL = """
enter:
    la a0, root
    j supervise
    .align 12
root:
    .dword 0xcf, 0x200000cf, 0x200000cf
    .space 4096 - 24
"""
# over, -, present and finished, wrong values, function, value, least, most, checks
STATE = """
    .align 3
state:
    .space 128
"""


class Writer:
    """Writes one program."""

    def __init__(self, seed: int, operations: int, keep: frozenset[int] | None) -> None:
        self.random = random.Random(f"race {seed}")
        self.virtual = self.random.random() < 0.5
        self.operations = operations
        self.keep = keep
        self.numbers = [1] * len(PLACES)  # the last number given to each function
        self.texts: list[str] = []  # what hart 0 asks of the host

    def place(self, function: int) -> str:
        """Sets s2 and s3."""
        alias = self.virtual and self.random.random() < 0.5
        name = f"code + {PLACES[function]}"
        more = f"    li t0, {RAM_BASE - ALIAS}\n    sub s2, s2, t0\n" if alias else ""
        return f"    la s2, {name}\n{more}    li s3, {8 * function}\n"

    # --- hart 0 ----------------------------------------------------------------------------------

    def patch(self, label: str) -> str:
        """One function gets new numbers, by one form of store, some times."""
        rng = self.random
        function = rng.randrange(len(PLACES))
        form = rng.choice(FORMS)
        if form in ("sd", "fsd") and PLACES[function] % 8:
            form = "sw"
        step = STEPS.get(form, 1)
        first = self.numbers[function] + 1
        times = min(rng.choice((1, 3, 20, 60)), (LIMIT - first) // step)
        if form == "host":
            times = min(times, 1)
        if times < 1:
            form, times, step = "nothing", 1, 1
        else:
            self.numbers[function] = first + step * (times - 1)
        own = rng.choice(("", "", "    call own\n", "    fence.i\n    call own\n"))
        if form == "nothing":
            return own and f"{self.place(function)}    ld s6, after + {8 * function}\n"
        where = self.place(function)
        if form == "host":
            return where + self.by_host(function, first, label) + own
        return (
            f"{where}    li s6, {first}\n    call announce\n    sw t1, 0(s2)\n    call written\n"
            f"    li s4, {times}\n{label}:\n    call announce\n{self.store(form)}"
            f"    call written\n{own}    addi s4, s4, -1\n    beqz s4, {label}e\n"
            f"    li t0, {step}\n    add s6, s6, t0\n    j {label}\n{label}e:\n"
        )

    def store(self, form: str) -> str:
        """The word t1 to s2."""
        both = "    lwu t2, 4(s2)\n    slli t2, t2, 32\n    or t1, t1, t2\n"
        match form:
            case "c.sw":
                return "    mv a4, s2\n    mv a5, t1\n    c.sw a5, 0(a4)\n"
            case "fsw":
                return "    fmv.w.x ft0, t1\n    fsw ft0, 0(s2)\n"
            case "amoswap":
                return "    amoswap.w t2, t1, (s2)\n"
            case "amoadd":
                return "    lw t2, 0(s2)\n    sub t1, t1, t2\n    amoadd.w t2, t1, (s2)\n"
            case "sc":
                return "8:\n    lr.w t2, (s2)\n    sc.w t2, t1, (s2)\n    bnez t2, 8b\n"
            case "sd":
                return f"{both}    sd t1, 0(s2)\n"
            case "fsd":
                return f"{both}    fmv.d.x ft0, t1\n    fsd ft0, 0(s2)\n"
            case "sh":
                return "    srli t1, t1, 16\n    sh t1, 2(s2)\n"
            case "sb":
                return "    srli t1, t1, 24\n    sb t1, 3(s2)\n"
        return "    sw t1, 0(s2)\n"

    def by_host(self, function: int, number: int, label: str) -> str:
        word = (number << 12 | 0x537).to_bytes(4, "little").hex()
        self.texts.append(f'{label}t:\n    .asciz "write code+{PLACES[function]} {word}"\n')
        return (f"    li s6, {number}\n    call announce\n    la a0, {label}t\n    call ask\n"
                "    call written\n")  # fmt: skip

    def patches(self) -> str:
        """What hart 0 does."""
        rng, lines = self.random, ["patches:\n"]
        for number in range(self.operations):
            text = self.patch(f"patch{number}")
            if rng.random() < 0.2:
                text += (
                    f"    li t0, {rng.randint(1, 5000)}\n9:\n    addi t0, t0, -1\n    bnez t0, 9b\n"
                )
            if rng.random() < 0.2:
                text += f"    la t0, code + {rng.choice(PLACES) + 24}\n    sw t0, 0(t0)\n"
            if self.keep is None or number in self.keep:
                lines.append(text)
        return "".join([*lines, "    j finish\n"])

    # --- the others ------------------------------------------------------------------------------

    def call(self) -> str:
        """One entry of a list: a function or two, behind one fence.i."""
        rng = self.random
        first, second = rng.sample(range(len(PLACES)), 2)
        times, again = rng.choice((1, 2, 10, 40)), rng.choice((1, 3))
        fence = "    fence rw, rw\n"
        if self.virtual and rng.random() < 0.2:
            fence += "    sfence.vma\n"
        beside = ""
        if rng.random() < 0.3:  # data in a line of code
            beside = f"    la t0, code + {rng.choice(PLACES) + 20}\n    sw s1, 0(t0)\n"
        if rng.random() < 0.5:
            return (f"{self.place(first)}    call look\n{fence}    fence.i\n{beside}"
                    f"    li s4, {times}\n    call calls\n")  # fmt: skip
        return (
            f"    li s3, {8 * second}\n    call look\n    mv s7, s5\n"
            f"{self.place(first)}    call look\n{fence}    fence.i\n    li s4, {times}\n"
            f"    call calls\n{beside}{self.place(second)}    mv s5, s7\n    li s4, {again}\n"
            "    call calls\n"
        )

    def lists(self) -> str:
        """What the other harts do, each its own."""
        lines = []
        for number in range(CALLERS):
            lines.append(f"list{number}:\n    addi sp, sp, -16\n    sd ra, 0(sp)\n")
            lines += [self.call() for _ in range(LIST)]
            lines.append("    ld ra, 0(sp)\n    addi sp, sp, 16\n    ret\n")
        table = ", ".join(f"list{number}" for number in range(CALLERS))
        return "".join([*lines, "    .align 3\nlists:\n", f"    .dword {table}\n"])

    # --- the whole -------------------------------------------------------------------------------

    def code(self) -> str:
        """The functions. What follows a word that changes is 16 bytes of `srli` and `ret`."""
        lines, at = ["    .align 12\ncode:\n"], 0
        for place in PLACES:
            lines.append(f"    .space {place - at}\n    lui a0, 1\n    srli a0, a0, 12\n")
            lines.append("    jalr zero, 0(ra)\n    nop\n")
            at = place + 16
        return "".join([*lines, "    .space 64\n"])

    def text(self) -> str:
        """The program for `Scenario`, header included."""
        numbers = ", ".join("1" for _ in PLACES)
        arrays = f"    .align 6\nbefore:\n    .dword {numbers}\nafter:\n    .dword {numbers}\n"
        parts = [FRAME, VIRTUAL if self.virtual else BARE, self.patches(), self.lists()]
        parts += [self.code(), STATE, arrays, *self.texts]
        return "\n".join(["#: M28 a random race", "#: expect 0 0 0 0 0 *", *parts])


def scenario(
    seed: int, harts: int, operations: int = OPERATIONS, keep: frozenset[int] | None = None
) -> Scenario:
    """A seed's program for a number of harts."""
    text = Writer(seed, operations, keep).text()
    text += f"\n    .equ OTHERS, {harts - 1}\n"
    return Scenario(f"race{seed}", "M28", f"a race {seed}", text, (), harts, one_image=True)
