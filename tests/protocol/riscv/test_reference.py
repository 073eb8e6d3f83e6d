"""The reference hart running programs; and its page walk and PMP compared with QEMU's, if any."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from protocol.riscv.assembler import assemble
from protocol.riscv.reference import AccessFault, Memory, ReferenceHart, Trap
from tests.protocol.riscv.reference_machine import DATA, RAM, ReferenceMachine

UART, FINISHER = 0x10000000, 0x100000


class Uart:
    """Remembers what is written to its data register."""

    def __init__(self) -> None:
        self.output = bytearray()

    def read(self, offset: int, size: int) -> int:
        if size != 1:
            raise AccessFault("byte registers")
        return 0x60 + offset

    def write(self, offset: int, size: int, value: int) -> None:
        if size != 1:
            raise AccessFault("byte registers")
        self.output.append(value)


class Finisher:
    done = False

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.done = True


class Board:
    """RAM, a UART and a finisher where QEMU's `virt` has them."""

    def __init__(self, image: bytes) -> None:
        memory = Memory()
        memory.add_ram(RAM, 16 << 20)[: len(image)] = image
        self.uart, self.finisher = Uart(), Finisher()
        memory.devices += [(UART, 8, self.uart), (FINISHER, 8, self.finisher)]
        self.hart = ReferenceHart(memory, RAM)

    def run(self, steps: int = 10_000) -> int:
        return self.hart.run(steps, until=lambda: self.finisher.done)


FINISH = """
    li t0, 0x100000
    li t1, 0x5555
    sw t1, 0(t0)
1:  j 1b
"""


def run(text: str) -> Board:
    board = Board(assemble(text + FINISH).data)
    board.run()
    assert board.finisher.done
    return board


def test_a_program_prints_and_finishes():
    board = run("""
        la a0, text
        li a1, 0x10000000
    next:
        lbu a2, 0(a0)
        beqz a2, over
        sb a2, 0(a1)
        addi a0, a0, 1
        j next
        .section .data
    text: .asciz "hello"
        .section .text
    over:
    """)
    assert board.uart.output == b"hello"


def test_calls_and_a_recursive_sum():
    board = run("""
        la sp, 0x80010000
        li a0, 10
        call sum
        mv s0, a0
        j over
    sum:
        beqz a0, leave
        addi sp, sp, -16
        sd ra, 0(sp)
        sd a0, 8(sp)
        addi a0, a0, -1
        call sum
        ld a1, 8(sp)
        ld ra, 0(sp)
        addi sp, sp, 16
        add a0, a0, a1
    leave:
        ret
    over:
    """)
    assert board.hart.x[8] == 55


def test_code_that_a_store_changed_runs_changed():
    board = run("""
        la a0, place
        lw a1, other
        sw a1, 0(a0)
    place:
        li s0, 1
        j over
    other:
        li s0, 2
    over:
    """)
    assert board.hart.x[8] == 2


def test_x0_stays_zero_and_a_load_to_it_still_faults():
    machine = ReferenceMachine()
    machine.do("addi zero, zero, 5; ld zero, 0(a0)", a0=DATA)
    assert machine.x[0] == 0
    machine.do("ld zero, 0(a0)", a0=0x55)
    assert machine.mtrap == (5, 0x55)


@pytest.mark.parametrize(
    ("operation", "size", "old", "value", "new"),
    [
        ("amoswap", "w", 0x1_8000_0000, 7, 0x1_0000_0007),
        ("amoadd", "w", 0x1_FFFF_FFFF, 1, 0x1_0000_0000),
        ("amoadd", "d", 2**64 - 1, 2, 1),
        ("amoxor", "d", 0b1100, 0b1010, 0b0110),
        ("amoand", "d", 0b1100, 0b1010, 0b1000),
        ("amoor", "d", 0b1100, 0b1010, 0b1110),
        ("amomin", "w", 0x8000_0000, 1, 0x8000_0000),
        ("amomin", "d", 5, 2**64 - 1, 2**64 - 1),
        ("amomax", "w", 0xFFFF_FFFF, 1, 1),
        ("amominu", "w", 0x8000_0000, 0xFFFF_FFFF_0000_0001, 1),
        ("amomaxu", "d", 5, 2**64 - 1, 2**64 - 1),
    ],
)
def test_amo(operation, size, old, value, new):
    machine = ReferenceMachine()
    machine.memory.write(DATA, 8, old)
    machine.do(f"{operation}.{size} a0, a2, (a1)", a1=DATA, a2=value)
    assert machine.memory.read(DATA, 8) == new
    expected = old if size == "d" else (old & 0x7FFFFFFF) - (old & 0x80000000)
    assert machine.get("a0") == expected % 2**64


def test_sc_succeeds_once_and_only_where_lr_was():
    machine = ReferenceMachine()
    machine.do("sc.w a0, a2, (a1)", a1=DATA, a2=9)
    assert machine.get("a0") == 1
    machine.do("lr.w a3, (a1); sc.w a0, a2, (a1)")
    assert (machine.get("a0"), machine.memory.read(DATA, 4)) == (0, 9)
    machine.do("sc.w a0, a2, (a1)")
    assert machine.get("a0") == 1
    machine.do("lr.d a3, (a1); addi a1, a1, 8; sc.d a0, a2, (a1)")
    assert (machine.get("a0"), machine.get("a3")) == (1, 9)
    assert machine.memory.read(DATA + 8, 8) == 0


def test_sc_fails_when_another_hart_stored_between():
    first = ReferenceMachine()
    second = ReferenceHart(first.memory, DATA, hartid=1)
    first.do("lr.w a0, (a1)", a1=DATA + 64)
    first.memory.write(DATA, 4, 0x00B52023)  # sw a1, 0(a0)
    second.x[10], second.x[11] = DATA + 64, 5
    second.step()
    first.do("sc.w a0, a2, (a1)", a2=7)
    assert (first.get("a0"), first.memory.read(DATA + 64, 4)) == (1, 5)


@pytest.mark.parametrize(
    ("text", "cause"),
    [("lr.d a0, (a1)", 4), ("sc.w a0, a0, (a1)", 6), ("amoadd.d a0, a0, (a1)", 6)],
)
def test_atomics_must_be_aligned(text, cause):
    machine = ReferenceMachine()
    machine.do(text, a1=DATA + 2)
    assert machine.mtrap == (cause, DATA + 2)


@pytest.mark.parametrize("offset", range(1, 8))
def test_plain_accesses_need_not_be(offset):
    machine = ReferenceMachine()
    machine.do("sd a0, (a1); lw a2, 1(a1)", a0=0x1122334455667788, a1=DATA + offset)
    assert machine.get("a2") == 0x44556677


def test_devices_are_reached_and_may_refuse():
    board = Board(b"")
    board.hart.pc = RAM
    board.hart.mtvec = RAM + 0x100
    for at, word in enumerate(assemble("lbu a0, 5(a1); lw a0, 4(a1)").data):
        board.hart.memory.write(RAM + at, 1, word)
    board.hart.x[11] = UART
    board.hart.step()
    assert board.hart.x[10] == 0x65
    board.hart.step()
    assert (board.hart.pc, board.hart.mcause, board.hart.mtval) == (RAM + 0x100, 5, UART + 4)


def test_rom_reads_and_refuses_stores():
    machine = ReferenceMachine()
    machine.memory.add_ram(0x1000, 0x1000, writable=False)
    machine.do("lw a0, (a1)", a1=0x1000)
    assert machine.mtrap is None
    machine.do("sw a0, (a1)")
    assert machine.mtrap == (7, 0x1000)


def test_floating_point_uses_frm_and_accrues_flags():
    machine = ReferenceMachine(mstatus=3 << 13)
    machine.do(
        "fmv.d.x fa0, a0; fmv.d.x fa1, a1; fdiv.d fa2, fa0, fa1; fmv.x.d a2, fa2; csrr a3, fcsr",
        a0=0x3FF0000000000000,
        a1=0x4008000000000000,
    )
    assert machine.get("a2") == 0x3FD5555555555555
    assert machine.get("a3") == 1  # inexact
    machine.do("csrwi frm, 3; fdiv.d fa2, fa0, fa1; fmv.x.d a2, fa2; flt.d a4, fa1, fa0")
    assert machine.get("a2") == 0x3FD5555555555556
    assert machine.get("a4") == 0


def test_run_stops_at_wfi_and_at_its_condition():
    board = Board(assemble("nop; wfi; nop; 1: j 1b").data)
    assert board.hart.run(100) == 2
    assert board.hart.waiting
    board.hart.mie, board.hart.irq = 8, 8
    assert board.hart.run(100, until=lambda: board.hart.pc == RAM + 12) == 1


def test_csrs_by_name_obey_the_mode():
    machine = ReferenceMachine(priv=1)
    machine.write_csr("sscratch", 5)
    assert machine.read_csr("sscratch") == 5
    with pytest.raises(Trap):
        machine.read_csr("mscratch")


# --- Against QEMU ---------------------------------------------------------------------------------

CASES = 0x80010000
RESULTS = 0x80200000
T2, T1, T0, TARGET = 0x80400000, 0x80401000, 0x80402000, 0x80403000
SCRATCH = 0x80300000  # far from what the PMP entries below name
IMAGE_SIZE = 0x404000

# A case: three table entries (address, value), satp, address, kind (index into `accesses`; 0 is a
# fetch), mstatus, pmpcfg0, pmpaddr0..3. A result: cause or all ones, tval, the three entries after.
CASE_WORDS, RESULT_WORDS = 15, 5
KINDS = 9
DRIVER = f"""
    la t0, handler
    csrw mtvec, t0
    li s0, {CASES}
    li s1, {RESULTS}
    ld s2, 0(s0)
    addi s0, s0, 8
    la s4, after
next:
    beqz s2, finish
    ld t0, 0(s0)
    ld t1, 8(s0)
    sd t1, 0(t0)
    ld t0, 16(s0)
    ld t1, 24(s0)
    sd t1, 0(t0)
    ld t0, 32(s0)
    ld t1, 40(s0)
    sd t1, 0(t0)
    ld t0, 88(s0)
    csrw pmpaddr0, t0
    ld t0, 96(s0)
    csrw pmpaddr1, t0
    ld t0, 104(s0)
    csrw pmpaddr2, t0
    ld t0, 112(s0)
    csrw pmpaddr3, t0
    ld t0, 80(s0)
    csrw pmpcfg0, t0
    ld t0, 48(s0)
    csrw satp, t0
    sfence.vma
    ld a0, 56(s0)
    ld t1, 64(s0)
    slli t1, t1, 3
    la t2, accesses
    add t1, t1, t2
    ld t2, 72(s0)
    li s5, -1
    li s6, 0
    csrw mepc, a0
    csrw mstatus, t2
    jr t1
accesses:
    mret
    j after
    lbu t0, 0(a0); j after
    lhu t0, 0(a0); j after
    lwu t0, 0(a0); j after
    ld t0, 0(a0); j after
    sb zero, 0(a0); j after
    sh zero, 0(a0); j after
    sw zero, 0(a0); j after
    sd zero, 0(a0); j after
after:
    csrw mstatus, zero
    sd s5, 0(s1)
    sd s6, 8(s1)
    ld t0, 0(s0)
    ld t1, 0(t0)
    sd t1, 16(s1)
    sd zero, 0(t0)
    ld t0, 16(s0)
    ld t1, 0(t0)
    sd t1, 24(s1)
    sd zero, 0(t0)
    ld t0, 32(s0)
    ld t1, 0(t0)
    sd t1, 32(s1)
    sd zero, 0(t0)
    addi s0, s0, {8 * CASE_WORDS}
    addi s1, s1, {8 * RESULT_WORDS}
    addi s2, s2, -1
    j next
finish:
    li t0, {RESULTS}
    li t1, {UART}
1:  lbu t3, 0(t0)
    sb t3, 0(t1)
    addi t0, t0, 1
    bne t0, s1, 1b
{FINISH}
    .align 2
handler:
    csrr s5, mcause
    csrr s6, mtval
    li t0, 0x1800
    csrw mstatus, t0
    csrw mepc, s4
    mret
"""
LIKELY_LEAVES = (0xDF, 0xCF, 0xD7, 0xC7, 0xDB, 0xD9, 0xC9, 0x5F, 0x9F, 0x4F, 0x8F, 0xCB, 0xD3, 0xC3)


def walk_case(rng: random.Random) -> tuple[int, ...]:
    """A random translation that ends at one of the top three levels, or faults on the way."""
    scheme = rng.choice((8, 8, 8, 9, 10))
    bits = 12 + 9 * (scheme - 5)
    offset = rng.choice((0, 0x10, 0x7F8, 0xFF8))
    address = rng.getrandbits(bits) & ~0xFFF | offset
    leaf = rng.randrange(3)
    entries: list[int] = []
    for depth, table in enumerate((T2, T1, T0)):
        shift = bits - 9 * (depth + 1)
        entries.append(table + 8 * (address >> shift & 511))
        if depth == leaf:
            page = rng.choice((TARGET, TARGET, RAM)) >> 12
            if rng.random() < 0.9:
                page = page >> shift - 12 << shift - 12
            value = rng.choice((*LIKELY_LEAVES, rng.getrandbits(10))) | page << 10
        else:
            value = (T1, T0, T2)[depth] >> 2 | 1
            if rng.random() < 0.1:
                value ^= 1 << rng.randrange(10)
        if rng.random() < 0.05:
            value ^= 1 << rng.randrange(54, 64)
        entries.append(value)
    if address >> bits - 1:
        address |= 2**64 - (1 << bits)
    if rng.random() < 0.05:
        address ^= 1 << rng.randrange(39, 64)
    kind = rng.randrange(KINDS)
    status = rng.choice((0, 1 << 18)) | rng.choice((0, 1 << 19)) | rng.choice((0, 1)) << 11
    status |= 1 << 17 if kind else 0
    everything = 2**54 - 1
    return (*entries, scheme << 60 | T2 >> 12, address, kind, status, 0x1F, everything, 0, 0, 0)


def pmp_case(rng: random.Random) -> tuple[int, ...]:
    """An access of S mode without translation, and four random PMP entries near it."""
    addresses: list[int] = []
    packed = 0
    for number in range(4):
        near = TARGET + rng.choice((0, 0, 0, 0x1000, -0x1000))
        address = near + rng.choice((0, 4, 8, 12, 16, 32, 64, 0xFF0, 0xFFC)) >> 2
        matching = rng.randrange(4)
        if matching == 3:
            order = rng.randrange(13)
            address = address >> order + 1 << order + 1 | (1 << order) - 1
        addresses.append(address)
        packed |= (matching << 3 | rng.choice((0, 1, 3, 4, 5, 7, 7))) << 8 * number
    if rng.random() < 0.3:
        addresses[3], packed = 2**54 - 1, packed & 0xFFFFFF | 0x1F << 24
    kind = rng.randrange(1, KINDS)
    # QEMU lets a misaligned access through whose middle an entry forbids: aligned ones only.
    address = TARGET + (rng.choice((0, 4, 8, 12, 16, 24, 32, 60, 64, 0xFF0, 0xFFC)) & -8 | 4)
    address &= -(1 << (kind - 1) % 4)
    status = 1 << 17 | 1 << 11
    return (SCRATCH, 0, SCRATCH, 0, SCRATCH, 0, 0, address, kind, status, packed, *addresses)


@pytest.mark.skipif(not shutil.which("qemu-system-riscv64"), reason="needs qemu-system-riscv64")
@pytest.mark.parametrize("make", [walk_case, pmp_case])
def test_translation_and_pmp_agree_with_qemu(make, tmp_path: Path):
    rng = random.Random(20)
    cases = [make(rng) for _ in range(400)]
    image = bytearray(IMAGE_SIZE)
    code = assemble(DRIVER).data
    assert len(code) <= CASES - RAM
    image[: len(code)] = code
    data = struct.pack("<Q", len(cases)) + b"".join(struct.pack("<15Q", *c) for c in cases)
    image[CASES - RAM : CASES - RAM + len(data)] = data
    image[TARGET - RAM :] = struct.pack("<I", 0x73) * (IMAGE_SIZE - (TARGET - RAM) >> 2)
    firmware, output = tmp_path / "image.bin", tmp_path / "output"
    firmware.write_bytes(image)
    subprocess.run(
        [
            *("qemu-system-riscv64", "-M", "virt", "-m", "32M", "-display", "none"),
            *("-monitor", "none", "-serial", f"file:{output}", "-bios", str(firmware)),
        ],
        check=True,
        timeout=240,
    )
    board = Board(bytes(image))
    board.hart.menvcfg = 1 << 61  # QEMU before 8.1 updates A and D without being asked
    board.run(1_000_000)
    assert board.finisher.done
    size = 8 * RESULT_WORDS
    theirs = output.read_bytes()
    assert len(theirs) == len(board.uart.output) == size * len(cases)
    for number, case in enumerate(cases):
        part = slice(size * number, size * (number + 1))
        expected = struct.unpack(f"<{RESULT_WORDS}Q", theirs[part])
        actual = struct.unpack(f"<{RESULT_WORDS}Q", board.uart.output[part])
        shown = [hex(word) for word in case]
        assert [hex(word) for word in expected] == [hex(word) for word in actual], shown
