"""Real workloads that hurt a translator, as long as one likes, on coldboot and on QEMU.

Problem: guests that patch themselves, compile at run time, load and unload code, or run code from
flash that they rewrite, are where stale code shows; a bug may come once in a thousand rounds. So
each is a program that checks its own results and says how long it took, for any count of rounds:

    python -m tests.system.workloads tracer --harts 2 --count 1000
    python -m tests.system.workloads lua --emulator coldboot --emulator qemu --rounds 3

The suite runs short versions (`tests/system/test_linux_workloads.py`).

Invariants: what the guest says decides, with its exit status; a kernel that complained (an oops, a
warning, a stall) fails the run, whatever else it did; every run has a deadline.

Read next: `linux` (what runs under Debian's kernel), `flash` (bare metal), `emulators`.
"""
