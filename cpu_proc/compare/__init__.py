"""The same guests on other emulators: one program, one judge, a column each.

The problem: whether an emulator runs stale code is a question anybody can put to any of them, with
the same guest. The scenarios of `cpu_proc/stress/scenarios/` are such guests. Here they are run on
this project's tiers, on QEMU, on Unicorn and on Spike, as far as each has what a scenario needs.

Invariants: the program's bytes are the same for all, what it reports is judged by
`Scenario.verdict` and by nothing else, and what could not be run says why.

Read next: `peer.py` (what an emulator has to offer: one class), `qemu.py`, docs/compare.md.
"""
