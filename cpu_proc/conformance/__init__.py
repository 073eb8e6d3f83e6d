"""`coldboot conformance`: whether a translator keeps to the protocol, and if not, which rule.

Read next: `rules.py` (what a check is), `peer.py` (a machine that follows a script),
docs/conformance.md.
"""
