"""A simulator of machines and their translator: the real decisions, a made-up world.

Problem: what goes wrong between two processes goes wrong once in a million interleavings, and never
again while somebody looks. So the code that decides (both session state machines, the publish rule,
the reading of pages, the placing of code) runs here as it is, between models of everything around
it, under one scheduler that draws each next event from a seed. A run that breaks the contract can
be repeated to the step, and shrunk to the few events that matter.

Invariants:
- No socket, thread, clock or random number but the scheduler's: the same script is the same run.
- What is modelled mirrors `cpu_proc/translator.py`, `cpu_proc/retirement.py`,
  `cpu_proc/records.py`, `cpu_proc/safe_point.py` and `jit_proc/service.py`, step by step in the
  same order; what decides is imported from `protocol/`, so that a mistake made there is a mistake
  here.

Read next: `world.py` (what can happen), `machine.py`, `translator.py`, `script.py` (repeat and
shrink); `docs/simulate.md` (how to read what it prints).
"""
