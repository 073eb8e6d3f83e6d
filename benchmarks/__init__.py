"""How fast it is, beside others: programs of our own, measured in turn on one machine.

Read next: `suite.py` (what is run, and when), `programs.py`, docs/benchmarks.md.
"""
