"""The engine in the machine process: found in the cache, mapped read-only and executable.

The engine does not depend on a guest, so it lives in a file (`protocol/engine_image.py`) that the
translator made once. When it is missing, a translator process is started to build it; this process
never imports the compiler.

Read next: `hart.py`.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from cpu_proc import native
from protocol import engine_image, mutants
from protocol.errors import UserError
from protocol.layout import LAYOUT_HASH
from protocol.riscv.identity import isa_hash

BUILD_DEADLINE = 180.0  # seconds for a translator to build the engine


@dataclass(frozen=True)
class Engine:
    """The mapped engine. `run(hart address)` executes until the hart has a reason to leave."""

    base: int
    size: int
    symbols: Mapping[str, int]

    def address(self, name: str) -> int:
        """Address of one of the engine's symbols."""
        return self.base + self.symbols[name]

    def function(self, name: str = "run") -> ctypes._FuncPointer:
        """`run` or `step` as a callable: takes the hart's address, returns an exit reason."""
        return ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(self.address(name))

    def drop_arrays(self) -> ctypes._FuncPointer:
        """`drop_arrays(hart, first array, end, first descriptor, end)`: pages have none then."""
        kind = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, *[ctypes.c_uint64] * 4)
        return kind(self.address("drop_arrays"))

    def note_write(self) -> ctypes._FuncPointer:
        """`note_write(hart, page descriptor, offset, length)`: retire what written bytes made."""
        kind = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, *[ctypes.c_uint64] * 3)
        return kind(self.address("note_write"))


def load() -> Engine:
    """Map the engine of this host, building it first if need be.

    Raises UserError when there is none and none can be built.
    """
    key = engine_image.engine_key(isa_hash(), LAYOUT_HASH)
    path = str(engine_image.engine_path(key))
    try:
        image = engine_image.read(path, key)
    except (OSError, engine_image.EngineImageError):
        path = _build()
        image = engine_image.read(path, key)
    base = native.map_code_copy(image.path, image.code_size, image.code_offset)
    return Engine(base, image.code_size, image.symbols)


def _build() -> str:
    """Have a translator build the engine; the path of its file."""
    command = [sys.executable, "-m", *mutants.translator_module(), "--build-engine"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BUILD_DEADLINE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"the engine could not be built: {error}") from error
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"the engine could not be built: {' '.join(command[1:])} said: {reason[0]}")
    return done.stdout.strip().splitlines()[-1]
