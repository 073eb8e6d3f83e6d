"""`python -m jit_proc.armed M7,M43 ARGUMENTS`: a translator with mistakes, for the stress tool.

The problem: a switched-on mistake must reach the translator and its workers, and no command that a
user runs may have a way to it. So there is this entry, which arms the switches and then does what
`python -m jit_proc ARGUMENTS` does.

Read next: `protocol/mutants.py`.
"""

from __future__ import annotations

import sys

from protocol import mutants


def main(arguments: list[str]) -> int:
    """Arm the switches named first, then run the translator with the rest."""
    mutants.arm(arguments[0].split(","))
    from jit_proc.__main__ import main as translator

    return translator(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
