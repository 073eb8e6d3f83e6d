"""Jumps as far as an instruction reaches, by instructions that stand in no page's records.

Problem: what stands over a page's edge is executed from a scratch array, where a target cannot be
told by its distance from the record. A jump that took it for one in the same page would go on in
records that nobody filled.

Read next: `programs`, `jit_proc/runtime_fetch.py` (`fetch_single`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system import programs

REACH = 1 << 20  # of jal, in bytes, each way
PAGE = 4096
# How much nearer than as far back as can be; and how much nearer than as far ahead.
BACK = (0, 2, 0xA46, 0x7F8, 0xFFE)
AHEAD = (2, 0x7F8, 0xFFE, PAGE)


def program() -> str:
    """Calls each of the jumps 40 times; a jump's target returns its number in a0."""
    places: dict[int, str] = {}  # offset from `base` -> eight bytes there
    text = "main:\n    la s5, base\n"
    for number in range(len(BACK) + len(AHEAD)):
        jump = REACH + 2 * PAGE * (number + 1) + PAGE - 2
        if number < len(BACK):
            target = jump - REACH + BACK[number]
        else:
            target = jump + REACH - AHEAD[number - len(BACK)]
        places[jump] = f"j target{number}\n    .word 0x00000013"
        places[target] = f"target{number}:\n    .word {number << 20 | 0x513:#x}, 0x8067"
        text += f"    la s0, jump{number}\n    li s1, 40\n    li s2, {number}\n    call check\n"
        places[jump] = f"jump{number}:\n    {places[jump]}"
    text += "    j PASS\n    .align 12\nbase:\n"
    here = 0
    for offset, what in sorted(places.items()):
        text += f"    .space {offset - here}\n{what}\n"
        here = offset + 8
    return text


@pytest.mark.parametrize(
    "words", [["-translator", "none"], ["-threshold", "1"]], ids=["tier0", "eager"]
)
def test_a_jump_over_a_pages_edge_reaches_its_whole_range(words: list[str], tmp_path: Path):
    done = programs.run(program(), tmp_path, *words)
    assert done.returncode == 0, done.stderr
