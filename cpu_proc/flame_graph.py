"""A flame graph: where time goes, by callers, as one SVG file that needs nothing else.

Problem: a list of hot functions does not say who calls them. Each row is a level of calls, each
box as wide as the share of samples that passed through it (Gregg, The Flame Graph, CACM 59(6)).

Read next: `profile.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

WIDTH, ROW, FONT = 1200, 17, 11  # pixels
LETTER = 6.6  # width of one, about
NARROWEST = 0.4  # pixels below which a box is left out


@dataclass
class _Box:
    count: int = 0
    above: dict[str, _Box] = field(default_factory=dict)

    def height(self) -> int:
        return 1 + max((box.height() for box in self.above.values()), default=0)


def svg(stacks: Mapping[tuple[str, ...], int], title: str) -> str:
    """Draw samples. `stacks`: outermost function first -> number of samples."""
    root = _Box()
    for stack, count in stacks.items():
        box = root
        box.count += count
        for name in stack:
            box = box.above.setdefault(name, _Box())
            box.count += count
    height = (root.height() + 2) * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="monospace" font-size="{FONT}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fdfcf8"/>',
        f'<text x="8" y="{ROW - 4}">{escape(title)}</text>',
    ]
    if root.count:
        _draw(parts, root, "all", 0.0, height - ROW, WIDTH / root.count, root.count)
    return "\n".join([*parts, "</svg>", ""])


def _draw(
    parts: list[str], box: _Box, name: str, x: float, y: int, scale: float, total: int
) -> None:
    width = box.count * scale
    if width < NARROWEST:
        return
    share = f"{100 * box.count / total:.1f} %"
    room = int((width - 6) / LETTER)
    label = name if len(name) <= room else name[: max(0, room - 2)] + ".."
    parts.append(
        f"<g><title>{escape(name)}: {box.count} samples, {share}</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, NARROWEST):.1f}" '
        f'height="{ROW - 1}" rx="1" fill="{_color(name)}"/>'
        + (f'<text x="{x + 3:.1f}" y="{y + ROW - 5}">{escape(label)}</text>' if room > 2 else "")
        + "</g>"
    )
    for callee, above in sorted(box.above.items()):
        _draw(parts, above, callee, x, y - ROW, scale, total)
        x += above.count * scale


def _color(name: str) -> str:
    """Warm, and always the same for the same name."""
    seed = zlib.crc32(name.encode())
    return f"rgb({205 + seed % 50},{90 + (seed >> 8) % 120},{(seed >> 16) % 60})"
