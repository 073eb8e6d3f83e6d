"""LLVM as a long-lived worker uses it."""

from __future__ import annotations

from pathlib import Path

from jit_proc.llvm import compile_ir, emit_assembly

IR = """
define i64 @f(i64 %n) nounwind {
entry:
  %slot = alloca i64
  store i64 %n, ptr %slot
  br label %loop
loop:
  %old = load i64, ptr %slot
  %double = mul i64 %old, 2
  %new = udiv i64 %double, 4
  store i64 %new, ptr %slot
  %again = icmp ugt i64 %new, 3
  br i1 %again, label %loop, label %done
done:
  ret i64 %new
}
"""


def resident() -> int:
    """Kilobytes of this process alone: pages of files come and go as others need room."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])


def test_nothing_is_left_of_a_job():
    grown = []
    for _ in range(5):
        before = resident()
        for _ in range(80):
            compile_ir(IR)
        grown.append(resident() - before)

    # What a job leaves it leaves in each round; what a pool or the collector takes, in one or two.
    assert min(grown) < 160, f"kilobytes for each 80 jobs: {grown}"


def test_selecting_fast_is_for_who_asks_for_it():
    before = compile_ir(IR).elf
    fast = compile_ir(IR, isel="fast").elf
    assert fast != before
    assert (compile_ir(IR).elf, compile_ir(IR, isel="fast").elf) == (before, fast)
    assert emit_assembly(IR, isel="fast") != emit_assembly(IR)


def test_the_same_text_gives_the_same_code():
    assert 1 == len({compile_ir(IR).elf for _ in range(3)})
