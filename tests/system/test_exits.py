"""How a run ends, and that a counted run is the same every time.

Read next: `programs`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.system import programs, runner
from tests.system.runner import Machine, linux

EXIT = """
main:
    li t0, {value}
    li t1, FINISHER
    {store} t0, 0(t1)
1:  wfi
    j 1b
"""

HTIF = """
main:
    la t1, tohost
    li t0, {value}
    {store} t0, 0(t1)
1:  j 1b
    .data
    .align 6
tohost:   .dword 0
fromhost: .dword 0
begin_signature:
    .dword 0x0123456789abcdef
    .word 0xfedcba98
end_signature:
"""


@pytest.mark.parametrize(
    ("value", "store", "status"),
    [
        ("0x5555", "sw", 0),
        ("0x5555", "sh", 0),
        ("0x3333 | 42 << 16", "sw", 42),
        ("0x3333 | 1 << 16", "sw", 1),
        ("0x3333", "sh", 1),
    ],
)
@pytest.mark.parametrize("translator", ["embedded", "none"])
def test_the_test_finisher(value: str, store: str, status: int, translator: str, tmp_path: Path):
    text = EXIT.format(value=value, store=store)

    result = programs.run(text, tmp_path, "--translator", translator)

    assert status == result.returncode
    assert (b"", b"") == (result.stdout, result.stderr)


@pytest.mark.parametrize(("value", "status"), [(1, 0), (3, 1), (2 * 7 + 1, 7), (2 * 256 + 1, 1)])
def test_htif(value: int, status: int, tmp_path: Path):
    text = HTIF.format(value=value, store="sd")

    result = programs.run(text, tmp_path, symbols=("tohost", "fromhost"))

    assert status == result.returncode, result.stderr


def test_the_signature(tmp_path: Path):
    symbols = ("tohost", "fromhost", "begin_signature", "end_signature")
    path = tmp_path / "signature"

    result = programs.run(
        HTIF.format(value=1, store="sd"), tmp_path, "--signature", path, symbols=symbols
    )

    assert 0 == result.returncode, result.stderr
    assert "89abcdef\n01234567\nfedcba98\n" == path.read_text()


def test_a_reset_with_no_reboot_ends_the_run(tmp_path: Path):
    result = programs.run(EXIT.format(value="0x7777", store="sh"), tmp_path, "-no-reboot")

    assert 0 == result.returncode, result.stderr


@pytest.mark.parametrize("translator", ["embedded", "none"])
def test_resets_at_once_and_often(translator: str, tmp_path: Path):
    # Faster than a translator starts; RAM keeps what the image does not restore.
    text = """
    .equ COUNTER, 0x81000000
main:
    li t1, COUNTER
    ld t0, 0(t1)
    addi t0, t0, 1
    sd t0, 0(t1)
    li t2, 100
    beq t0, t2, PASS
    li t0, 0x7777
    li t1, FINISHER
    sh t0, 0(t1)
    j FAIL                      # nothing runs behind a reset
    """
    result = programs.run(text, tmp_path, "--translator", translator)

    assert (0, b"") == (result.returncode, result.stderr)


def test_nothing_runs_behind_the_end(tmp_path: Path):
    text = """
main:
    li t1, FINISHER
    li t0, 0x5555
    li t2, UART
    li t3, 'x'
    sw t0, 0(t1)
    sb t3, 0(t2)
1:  j 1b
    """
    result = programs.run(text, tmp_path)

    assert (0, b"") == (result.returncode, result.stdout)


LOOP = """
main:
1:  addi t0, t0, 1
    j 1b
"""


@pytest.mark.parametrize("count", [1, 1000, 12_345_678])
def test_the_number_of_instructions(count: int, tmp_path: Path):
    # A run ends where control is transferred next, and there on every tier.
    ends = {
        instructions(programs.run(LOOP, tmp_path, "--max-instructions", str(count), *words).stderr)
        for words in (("--stats",), ("--stats", "--translator", "none"))
    }

    assert 1 == len(ends)
    assert count <= ends.pop() < count + 16


def instructions(said: bytes) -> int:
    """How many were executed, from the lines of --stats."""
    found = re.search(rb"^hart 0: (\d+) instructions", said, re.M)
    assert found, said
    return int(found[1])


TIMER = """
    .equ CLINT, 0x2000000
main:                           # 50 timer interrupts, and what the clock said at each
    la t0, on_timer
    csrw mtvec, t0
    li s0, 50
    li s1, CLINT + 0xbff8
    li s2, CLINT + 0x4000
    li s3, UART
    li s4, 0
    ld t0, 0(s1)
    addi t0, t0, 100
    sd t0, 0(s2)
    li t0, 0x80
    csrw mie, t0
    csrsi mstatus, 8
2:  addi s4, s4, 1              # work of two kinds of instruction, so that counts differ
    andi t0, s4, 7
    bnez t0, 2b
    mul s5, s4, s4
    andi t0, s4, 255
    bnez t0, 2b
    wfi
    j 2b

    .align 2
on_timer:
    ld t0, 0(s1)
    addi t1, t0, 777
    sd t1, 0(s2)
    xor t0, t0, s4
    csrr t1, mepc
    xor t0, t0, t1
    li t2, 16
3:  andi t1, t0, 15
    addi t1, t1, 65
    sb t1, 0(s3)
    srli t0, t0, 4
    addi t2, t2, -1
    bnez t2, 3b
    addi s0, s0, -1
    beqz s0, PASS
    mret
"""


@pytest.mark.parametrize("words", [(), ("--threshold", "1"), ("--translator", "none")])
def test_a_counted_run_is_the_same_every_time(words: tuple[str, ...], tmp_path: Path):
    runs = [
        programs.run(TIMER, tmp_path, "-icount", "shift=3", "--stats", *words) for _ in range(2)
    ]
    reference = programs.run(
        TIMER, tmp_path, "-icount", "shift=3", "--stats", "--translator", "none"
    )

    assert [0, 0, 0] == [one.returncode for one in (*runs, reference)]
    assert 50 * 16 == len(reference.stdout)
    assert [reference.stdout] * 2 == [one.stdout for one in runs]
    assert [instructions(reference.stderr)] * 2 == [instructions(one.stderr) for one in runs]


def test_a_counted_boot_of_linux_is_the_same_every_time(guests_folder: Path):
    append = 'run="cat /proc/interrupts; dmesg | tail -5; date"'
    common = ["-icount", "shift=3", "--stats"]
    runs = [
        runner.run(*linux(guests_folder, *common, *words, append=append))
        for words in ((), (), ("--translator", "none"))
    ]

    assert [0] * 3 == [one.returncode for one in runs], runs[0].stderr
    assert b"RUN-EXIT 0" in runs[0].stdout
    assert runs[0].stdout == runs[1].stdout == runs[2].stdout
    assert 1 == len({instructions(one.stderr) for one in runs})


SLEEPER = """
    .equ CLINT, 0x2000000
main:                           # {what}
    la t0, on_timer
    csrw mtvec, t0
    li s1, CLINT
    li s2, CLINT + 0xbff8
    li s3, CLINT + 0x4000
    {setup}
1:  wfi
    j 1b
    .align 2
on_timer:
    j PASS
"""


@pytest.mark.parametrize("words", [(), ("-icount", "auto")])
@pytest.mark.parametrize(
    ("what", "setup"),
    [
        (
            "a timer, while an interrupt line is up that is masked",
            """
            li t0, 1
            sw t0, 0(s1)            # msip
            ld t0, 0(s2)
            li t1, 500000           # 50 ms
            add t0, t0, t1
            sd t0, 0(s3)
            li t0, 0x80             # MTIE, not MSIE
            csrw mie, t0
            csrsi mstatus, 8
            """,
        ),
        (
            "the supervisor's timer, while the machine's is due but masked",
            """
            sd zero, 0(s3)          # mtimecmp: long ago
            li t0, 1
            slli t0, t0, 63
            csrw 0x30a, t0          # menvcfg: STCE
            ld t0, 0(s2)
            li t1, 500000
            add t0, t0, t1
            csrw 0x14d, t0          # stimecmp
            li t0, 0x20             # STIE, not MTIE
            csrw mie, t0
            csrsi mstatus, 8
            """,
        ),
    ],
)
def test_a_sleeping_hart_waits_for_what_it_may_take(
    what: str, setup: str, words: tuple[str, ...], tmp_path: Path
):
    result = programs.run(SLEEPER.format(what=what, setup=setup), tmp_path, "--stats", *words)

    assert 0 == result.returncode
    waits = re.search(rb"wait (\d+)", result.stderr)
    assert waits is None or int(waits[1]) < 10, "it does not spin"


def test_counted_time_passes_while_the_guest_sleeps(guests_folder: Path, tmp_path: Path):
    # Ten minutes of the guest's time are no time of ours.
    result = runner.run(*linux(guests_folder, "-icount", "auto", append='run="sleep 600; uptime"'))

    assert 0 == result.returncode
    assert b"up 10 min" in result.stdout


@pytest.mark.parametrize(("keys", "status"), [("\x01x", 0)])
def test_leaving_by_the_keyboard(keys: str, status: int, tmp_path: Path):
    path = programs.elf("main: wfi\n j main\n", tmp_path)
    with Machine([path], tmp_path) as machine:
        machine.wait_event("translator_attached")
        machine.send(keys)

        assert status == machine.wait()
