"""The identity of the ISA's description, for handshakes and cache keys, without importing it.

The machine process compares ISA hashes at its start and needs nothing else of the description.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


@functools.cache
def isa_hash() -> str:
    """A hash of the text of the ISA's description: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
