"""Assembly text cut into statements and operands; comments fall away here.

The problem: `#`, `;` and `,` separate nothing inside a string or a character literal, and a comma
nothing inside parentheses. So whatever may hide a separator is matched as one piece.

Read next: `assembler.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

STRING = r'"(?:\\.|[^"\\\n])*"'
_CHAR = r"'(?:\\.|[^\\\n])'"
# Whatever may hide a separator or the beginning of a comment is matched as one piece.
_LEXEME = re.compile(
    rf"(?P<keep>{STRING}|{_CHAR})|(?P<comment>/\*.*?\*/|(?://|\#)[^\n]*)|(?P<end>[;\n])|.",
    re.DOTALL,
)
_COMMA = re.compile(
    rf"(?P<keep>{STRING}|{_CHAR})|(?P<open>\()|(?P<close>\))|(?P<comma>,)|.", re.DOTALL
)


def statements(text: str) -> Iterator[tuple[int, str]]:
    """(line number, statement) without comments; empty ones left out."""
    number = begin = 1
    piece = ""
    for found in _LEXEME.finditer(text + "\n"):
        lexeme = found[0]
        if found["end"]:
            if piece.strip():
                yield begin, piece.strip()
            piece = ""
        else:
            begin = begin if piece.strip() else number
            piece += " " if found["comment"] else lexeme
        number += lexeme.count("\n")


def split(text: str) -> list[str]:
    """Operands: commas separate, but not within quotes or parentheses."""
    parts, depth = [""], 0
    for found in _COMMA.finditer(text):
        depth += bool(found["open"]) - bool(found["close"])
        if found["comma"] and not depth:
            parts.append("")
        else:
            parts[-1] += found[0]
    parts = [p.strip() for p in parts]
    return parts if parts != [""] else []
