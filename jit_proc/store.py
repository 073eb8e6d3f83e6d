"""The disk cache of the tier-0 engine: built once, found again by every later run.

The problem: building the engine takes a second of LLVM; a machine should start in a quarter of
one. So the finished engine is kept in the user's cache folder under a key that covers all it
depends on (`protocol/engine_image.py`, which also reads it).

Invariants:

- A file under its final name is complete: it is written beside it, synchronised, and renamed
  (rename(2) replaces atomically). Two translators that build at once both succeed; one file stays.
- A file that does not check out is removed and built again, never used.
- The folder is the user's alone (mode 0700), the files are read-only for everybody else.
- No usable folder (read-only home, full disk) is no error: the image is then handed over in a
  sealed memfd that lives as long as this process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jit_proc.code_space import F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK
from protocol import engine_image
from protocol.engine_image import EngineImage, EngineImageError
from protocol.logs import get_logger

_F_ADD_SEALS = 1033
_F_SEAL_WRITE = 0x08

log = get_logger("store")


class EngineStore:
    """Finds and keeps engines; `folder` is the user's cache folder if not given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or engine_image.cache_folder()
        self._held: dict[str, int] = {}  # key -> memfd of an image that found no place on disk

    def path(self, key: str) -> Path:
        """Where the engine `key` lies, or would lie."""
        return self.folder / f"engine-{key}.bin"

    def find(self, key: str) -> EngineImage | None:
        """The engine `key` if there is one that checks out. One that does not is removed."""
        if key in self._held:
            return engine_image.read(self._held_path(key), key)
        path = self.path(key)
        try:
            return engine_image.read(path, key)
        except FileNotFoundError:
            return None
        except EngineImageError as error:
            log.warning("engine_discarded", path=str(path), reason=str(error))
            with contextlib.suppress(OSError):
                path.unlink()
        except OSError as error:
            log.warning("engine_unreadable", path=str(path), reason=str(error))
        return None

    def keep(
        self, key: str, code: bytes, symbols: Mapping[str, int], *, lasting: bool = False
    ) -> EngineImage:
        """Keep the engine `key` and say where. Raises EngineImageError when it is inconsistent.

        `lasting`: it must outlive this process; without a usable folder EngineImageError then.
        """
        content = engine_image.encode(key, code, symbols)
        try:
            self._write(self.path(key), content)
        except OSError as error:
            if lasting:
                raise EngineImageError(
                    f"the engine cannot be kept in {self.folder}: {error.strerror};"
                    " set XDG_CACHE_HOME to a folder of yours"
                ) from error
            log.warning("engine_not_cached", folder=str(self.folder), reason=str(error))
            self._hold(key, content)
            return engine_image.read(self._held_path(key), key)
        return engine_image.read(self.path(key), key)

    def close(self) -> None:
        """Let go of images that were only held in memory."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def _write(self, path: Path, content: bytes) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix=".engine-", dir=self.folder)
        try:
            with open(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o400)
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _hold(self, key: str, content: bytes) -> None:
        fd = os.memfd_create("coldboot-engine", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(fd, 0o400)
            with open(fd, "wb", closefd=False) as file:
                file.write(content)
            fcntl.fcntl(fd, _F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | _F_SEAL_WRITE)
        except BaseException:
            os.close(fd)
            raise
        self._held[key] = fd

    def _held_path(self, key: str) -> str:
        return f"/proc/{os.getpid()}/fd/{self._held[key]}"
