"""The stress tool: guests that try to see stale code, on the real services.

The problem: that every event retires exactly what it must is a claim about guests, so guests must
judge it. Here are a scenario for each class of mistake (`scenarios/`), the machine they are run on
(`trial.py`: the real machine process, the real translator), and what decides: only what the guest
printed. The fault switches of `protocol/mutants.py` show that the judgement can fail.

A trial is a pure function of its description (scenario, mode, harts, switches, seed) and runs in a
process of its own, which may crash or hang without harm (`job.py`).

Read next: `scenario.py`, `prelude.s`, `trial.py`.
"""
