"""The oracle itself: a program that leaves a word in RAM, speaks, and chooses its exit status."""

from __future__ import annotations

import pytest

from tests.oracle import MISSING, RAM_BASE, Outcome, require, run_in_qemu

# lui a0,0x10000; addi a1,zero,'!'; sb a1,0(a0)    the UART at 0x10000000
# auipc a2,0; sd a1,64(a2)                         a word behind the program
# lui a3,0x100; lui a4,0x50; addi a4,a4,0x333...   the test finisher at 0x100000
PROGRAM = (0x1000_0537, 0x0210_0593, 0x00B5_0023, 0x0000_0617, 0x04B6_3023)
FINISH = (0x0010_06B7, 0x0005_3737, 0x3337_0713, 0x00E6_A023, 0x0000_006F)


def code(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


@pytest.mark.parametrize("at", [RAM_BASE, RAM_BASE + 0x20_0000])
def test_a_program_runs_and_its_memory_is_seen(at):
    outcome = run_in_qemu(code(*PROGRAM, *FINISH), at=at)
    assert (outcome.code, outcome.console) == (5, b"!")
    assert outcome.word(at + 12 + 64) == ord("!")


def test_a_program_that_never_ends_fails_the_test():
    with pytest.raises(pytest.fail.Exception, match=r"still ran in QEMU after 0.5 s.*b'!'"):
        run_in_qemu(code(*PROGRAM, 0x0000_006F), seconds=0.5)


def test_memory_ends_where_ram_ends():
    outcome = Outcome(0, b"", bytes(16))
    assert outcome.word(RAM_BASE + 8) == 0
    with pytest.raises(IndexError):
        outcome.word(RAM_BASE + 9)


def test_a_missing_tool_is_a_skip_here_and_a_failure_in_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"{MISSING}no-such-tool"):
        require("no-such-tool")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=f"{MISSING}no-such-tool"):
        require("no-such-tool")
