"""Keys of translators that talk over a network, and the folder they are kept in: `coldboot keys`.

Problem: who can speak to a translator can have it work, and who can answer a machine's translator
can have that machine execute any code. On one host the kernel's files guard both; between hosts
each side must know the other's key (CURVE, as ZeroMQ has it) and nobody else's.

A folder, of this user alone:
- `own.key`: this side's pair. The secret never leaves it.
- `public.key`: the public one, to be handed to the other side.
- `authorized/NAME.key`: the public keys of others: who may come, and who is gone to.

Invariants:
- Folders have mode 0700, files 0600; a folder or key that others may read or change is refused.
- What is written is complete before it has its name.
- `authorized/` is looked at anew whenever somebody comes, and while connections stand: a key that
  is added counts at once, and one that is removed ends its connection.

Read next: `protocol.key_guard`, who may come; docs/remote.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import UserError

# ZeroMQ RFC 32 (Z85): 32 bytes as 40 characters.
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LINE = re.compile(r"(public|secret) = (\S+)")

OWN = "own.key"
PUBLIC = "public.key"
AUTHORIZED = "authorized"


@dataclass(frozen=True)
class Keys:
    """A folder's pair, and where those of others lie."""

    folder: Path
    public: str
    secret: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Keys({str(self.folder)!r})"

    def authorized(self) -> dict[str, str]:
        """Names of others by their public keys, as the folder has them now."""
        found = {}
        with contextlib.suppress(OSError):
            for path in sorted((self.folder / AUTHORIZED).glob("*.key")):
                with contextlib.suppress(UserError):
                    found[_read(path)["public"]] = path.stem
        return found

    def of(self, name: str) -> str:
        """The public key of the other side called `name`; empty: of the only one. Or UserError."""
        names = {other: key for key, other in self.authorized().items()}
        place = self.folder / AUTHORIZED
        if not name and len(names) == 1:
            return next(iter(names.values()))
        if not name and names:
            raise UserError(f"{place} has several keys: say peer=NAME, one of {', '.join(names)}")
        if name not in names:
            wanted = f"the key {name}" if name else "a key"
            raise UserError(f"{place} lacks {wanted}: coldboot keys {self.folder} --authorize FILE")
        return names[name]


def default_folder() -> Path:
    """``$XDG_CONFIG_HOME/coldboot/keys``, by default ``~/.config/coldboot/keys``."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(os.path.expanduser("~"), ".config")
    return Path(base) / "coldboot" / "keys"


def load(folder: Path) -> Keys:
    """The keys of a folder. Raises UserError when there are none, or others can get at them."""
    own = folder / OWN
    try:
        for path in (folder, own, folder / AUTHORIZED):
            found = path.lstat()
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise UserError(f"{path} is open to other users: give it to its owner alone")
    except OSError as error:
        raise UserError(
            f"no keys in {folder} ({error.strerror}): make them by coldboot keys {folder}"
        ) from error
    lines = _read(own)
    if "secret" not in lines:
        raise UserError(f"{own} has no secret key: make another folder")
    return Keys(folder, lines["public"], lines["secret"])


def make(folder: Path, pair: Callable[[], tuple[str, str]]) -> Keys:
    """Make a folder with a new pair (`pair`: public and secret). Raises UserError."""
    try:
        if folder.exists() and {path.name for path in folder.iterdir()} - {PUBLIC, AUTHORIZED}:
            raise UserError(f"{folder} has other things in it: name a new folder for the keys")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        (folder / AUTHORIZED).mkdir(mode=0o700, exist_ok=True)
        public, secret = pair()
        _write(folder / OWN, f"# keep this to yourself\npublic = {public}\nsecret = {secret}\n")
        _write(folder / PUBLIC, f"# hand this to the other side\npublic = {public}\n")
    except OSError as error:
        raise UserError(f"keys cannot be made in {folder}: {error.strerror}") from error
    return load(folder)


def authorize(keys: Keys, source: Path, name: str) -> None:
    """Enter another side's public key. Raises UserError."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name for a key: letters, digits, _ . and - are possible")
    public = _read(source)["public"]
    if public == keys.public:
        raise UserError(f"{source} is this folder's own key: the other side's is wanted")
    try:
        _write(keys.folder / AUTHORIZED / f"{name}.key", f"public = {public}\n")
    except OSError as error:
        raise UserError(f"the key cannot be kept: {error.strerror}") from error


def revoke(keys: Keys, name: str) -> None:
    """Remove another side's key: what stands with it ends. Raises UserError."""
    if not _NAME.fullmatch(name) or not (keys.folder / AUTHORIZED / f"{name}.key").exists():
        there = ", ".join(sorted(keys.authorized().values())) or "none"
        raise UserError(f"no key {name!r} is authorized in {keys.folder}: there are {there}")
    try:
        (keys.folder / AUTHORIZED / f"{name}.key").unlink()
    except OSError as error:
        raise UserError(f"the key {name} cannot be removed: {error.strerror}") from error


def _read(path: Path) -> dict[str, str]:
    """The keys in a file. Raises UserError."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise UserError(f"key {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UserError(f"{path} is no key file: coldboot keys FOLDER makes one") from None
    found = (match for line in text.splitlines() if (match := _LINE.fullmatch(line)))
    lines = {match[1]: match[2] for match in found}
    if "public" not in lines or not all(_KEY.fullmatch(key) for key in lines.values()):
        raise UserError(f"{path} is no key file: coldboot keys FOLDER makes one")
    return lines


def _write(path: Path, text: str) -> None:
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".key-")  # mode 0600
    try:
        with open(fd, "w", encoding="ascii") as file:
            file.write(text)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `coldboot keys`."""
    parser.add_argument("folder", nargs="?", type=Path, default=default_folder(),
                        help="where (default %(default)s)")  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--authorize", type=Path, metavar="FILE",
                      help="enter the public key of another side")  # fmt: skip
    what.add_argument("--revoke", metavar="NAME",
                      help="remove the key of another side; what stands with it ends")  # fmt: skip
    parser.add_argument("--name", help="what to call it (default: the file's folder's name)")


def run(arguments: argparse.Namespace) -> int:
    """Make keys if there are none, enter another's if told so, and say what there is."""
    from protocol.transport import new_pair

    folder: Path = arguments.folder.absolute()
    known = arguments.revoke is not None or (folder / OWN).exists()
    keys = load(folder) if known else make(folder, new_pair)
    if arguments.revoke is not None:
        revoke(keys, arguments.revoke)
    if arguments.authorize is not None:
        source: Path = arguments.authorize.absolute()
        authorize(keys, source, arguments.name or source.parent.name)
    print(f"own public key  {keys.public}  ({folder / PUBLIC}: hand it to the other side)")
    for public, name in keys.authorized().items():
        print(f"authorized      {public}  {name}")
    return 0
