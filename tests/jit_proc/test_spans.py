"""What a selection depends on: the bytes of its spans, and no others (the content store's key)."""

from __future__ import annotations

import random

import pytest

from jit_proc.select import select, spans_of
from protocol.layout import PAGE_SIZE
from protocol.riscv import isa


def code_like(chance: random.Random) -> bytes:
    """A page of bytes among which are many branches, jumps, undecodable and compressed words."""
    isa.load_all()
    words = [0x0000_0063, 0x0000_006F, 0x0000_8067, 0xA001, 0x0001, 0xFFFF_FFFF, 0x0000_0013]
    content = bytearray()
    while len(content) < PAGE_SIZE:
        word = chance.choice(words)
        if word & 3 == 3:
            word ^= chance.getrandbits(20) << 12 if chance.random() < 0.7 else 0
            content += (word & 0xFFFF_FFFF).to_bytes(4, "little")
        else:
            content += word.to_bytes(2, "little")
    return bytes(content[:PAGE_SIZE])


@pytest.mark.parametrize("seed", range(60))
def test_bytes_outside_of_the_spans_have_no_influence(seed: int):
    chance = random.Random(seed)
    content = code_like(chance)
    entries = tuple(sorted(chance.sample(range(2048), 3)))
    chosen = select(content, entries)
    spans = spans_of(chosen.sites)
    other = bytearray(chance.randbytes(PAGE_SIZE))
    for start, size in spans:
        other[start : start + size] = content[start : start + size]
    again = select(bytes(other), entries)
    assert chosen == again
    assert spans == spans_of(again.sites)


def test_what_is_no_instruction_was_looked_at_as_a_whole():
    """Its upper half decides that it is none: 0xffff0033 is not, 0x00000033 is `add`."""
    isa.load_all()
    content = bytes.fromhex("13000000 3300ffff") + bytes(4088)
    assert ((0, 8),) == spans_of(select(content, (0,)).sites)
