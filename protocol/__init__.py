"""The contract between the machine process and the translator service: messages, shared layouts,
and the ISA.

Both services and the devices import this package; it imports none of them. Begin with `SPEC.md`,
then `generations.py` (what makes code valid), `messages.py` (what is said) and `session_machine.py`
(when).
"""
