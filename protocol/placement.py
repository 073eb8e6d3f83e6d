"""Where images go in a code segment: one after the other, and never the same place twice.

Problem: a hart may run any byte of a code segment at any moment from when its offset was told. So
space is given out once per segment, and an image is complete before its offset is known.

Invariants:
- Offsets are multiples of `ALIGNMENT`; no two images share a byte.
- What does not fit changes nothing.
- Gaps are filled with int3.

Read next: `jit_proc/code_space.py`, the segment itself.
"""

from __future__ import annotations

from typing import Final

from protocol.mutants import armed

ALIGNMENT: Final = 64


class CodeSpaceFull(Exception):
    """An image does not fit into what is left of the segment; retire everything and begin a new
    epoch.
    """


class Placement:
    """What is taken of a segment of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self.images = 0
        self._late: list[tuple[int, bytes]] = []  # M44 alone fills these two
        self._places: dict[tuple[int, int], tuple[int, int]] = {}
        self._former: dict[int, dict[int, tuple[int, int]]] = {}  # M33 alone fills it

    @property
    def following(self) -> int:
        """Offset of the next image."""
        return -(-self.used // ALIGNMENT) * ALIGNMENT

    def place(
        self, code: bytes, page: int = -1, generation: int = 0
    ) -> tuple[int, list[tuple[int, bytes]]]:
        """Take room for `code`: its offset, and what must be written where before it is told.

        `page`, `generation`: what the code was made from, as far as known; only mistakes ask. M33
        takes the place of an older generation's code as free, whoever may still be inside; M44
        tells of an image that is half written, over one of an older generation, so that what shows
        is wrong code and not the machine's end. Raises CodeSpaceFull, or ValueError for an empty
        image.
        """
        if not code:
            raise ValueError("an empty image was to be published")
        if armed("M33"):
            former = self._former.setdefault(page, {})
            free = [
                o for o, (room, made) in former.items() if made != generation and room >= len(code)
            ]
            former |= {offset: (former[offset][0], generation) for offset in free}
            if free:
                return free[0], [(offset, code) for offset in free]
        if armed("M44"):
            was, made = self._places.get((page, len(code)), (0, generation))
            if made != generation:
                self._places[page, len(code)] = was, generation
                return was, self._halved(was, code)
        offset = self.following
        end = offset + len(code)
        if end > self.size:
            raise CodeSpaceFull(
                f"{len(code)} bytes of code do not fit: {self.used} of {self.size} bytes are taken"
            )
        writes = [(self.used, b"\xcc" * (offset - self.used)), (offset, code)]
        if armed("M44"):
            self._places[page, len(code)] = offset, generation
            late, self._late = self._late, []
            writes = [*late, *writes]
            if page < 0:  # whose code it is is not known: there is none to write over
                writes = [*writes[:-1], *self._halved(offset, code)]
        if armed("M33"):
            self._former[page][offset] = len(code), generation
        self.used = end
        self.images += 1
        return offset, writes

    def _halved(self, offset: int, code: bytes) -> list[tuple[int, bytes]]:
        """M44: what is written now; the other half is, with the next image."""
        half = len(code) // 2
        writes = [*self._late, (offset, code[:half])]
        self._late = [(offset + half, code[half:])]
        return writes
