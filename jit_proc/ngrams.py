"""N-grams: the sequences of instructions that tier 0 executes by one handler, as data.

The problem: an interpreter pays for every instruction a jump through its record. Sequences that are
frequent in all programs get a handler of their own (`fused.py`). Which ones is not judged by eye:
`ngrams.txt` is what real runs counted, its first lines say by which command; this module reads it.

A line is one n-gram: its instructions, each as `mnemonic_length` (`n` behind it: a transfer that
stays in its page), and in brackets what is known of a source register:

- `rs1:0`: it is x0;
- `rs1:d2`: it was written by instruction 2 of the sequence (they are numbered from 0) and by none
  since;
- `rs1:s2` or `rs1:t2`: it is rs1 or rs2 of instruction 2, and was not written since.

What is not said may be anything: `addi_2 ld_2` fits wherever `addi_2 ld_2[rs1:d0]` does. The
longest that fits is taken, among these the one that says most.

Read next: `fused.py` (handlers and choice), `benchmarks/train_ngrams.py` (the command).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MAX_LENGTH = 4  # instructions
MAX_KINDS = 255  # a kind's number is a byte, 0 for none
MAX_BYTES = 4 * MAX_LENGTH
DATA = Path(__file__).with_name("ngrams.txt")

_ITEM = re.compile(r"(?P<kind>\w+_(?P<length>[24])n?)(?:\[(?P<facts>[\w:,]+)\])?")
_FACT = re.compile(r"(?P<slot>rs1|rs2):(?P<source>0|[dst][0-9])")


@dataclass(frozen=True)
class Item:
    """One instruction of an n-gram: its handler's name, and (slot, source) of what is known."""

    kind: str
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def length(self) -> int:
        """Bytes."""
        return int(self.kind.rstrip("n")[-1])

    def __str__(self) -> str:
        facts = ",".join(f"{slot}:{source}" for slot, source in self.facts)
        return f"{self.kind}[{facts}]" if facts else self.kind


@dataclass(frozen=True)
class Ngram:
    """A sequence with a handler of its own."""

    items: tuple[Item, ...]

    @property
    def facts(self) -> int:
        """How much it says of registers."""
        return sum(len(item.facts) for item in self.items)

    def __str__(self) -> str:
        return " ".join(str(item) for item in self.items)


def parse(line: str) -> Ngram:
    """The n-gram of a line. Raises ValueError that names what is wrong."""
    items = []
    for number, word in enumerate(line.split()):
        match = _ITEM.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} is no instruction of an n-gram")
        facts = []
        for text in (match["facts"] or "").split(","):
            fact = _FACT.fullmatch(text)
            if fact is None or (fact["source"] != "0" and int(fact["source"][1:]) >= number):
                if text or match["facts"]:
                    raise ValueError(f"{word!r}: {text!r} says nothing of an earlier register")
                continue
            facts.append((fact["slot"], fact["source"]))
        items.append(Item(match["kind"], tuple(facts)))
    if not 2 <= len(items) <= MAX_LENGTH:
        raise ValueError(f"{line!r}: an n-gram has 2 to {MAX_LENGTH} instructions")
    return Ngram(tuple(items))


def load(path: Path = DATA) -> tuple[Ngram, ...]:
    """The n-grams of a file, in its order; comments begin with '#'."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    found = dict.fromkeys(parse(line) for line in lines if line)
    return tuple(found)
