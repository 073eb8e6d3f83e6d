"""Packages of another Debian release and architecture, fetched by this machine's own apt.

Problem: a riscv64 kernel comes from Debian for riscv64, but the host is an x86-64 machine whose
own package database must not be touched, which may not be root's, and whose mirrors only its own
configuration knows.

Invariants:
- Nothing outside the given folder is written: apt gets its own lists, status, cache and sources
  there.
- No mirror is named in this program: the sources line is the machine's own with the suite changed.
- apt itself checks signatures and hashes, against Debian's archive keyring; nothing here weakens
  that.
- Every wait has a deadline: apt is ended when its progress stands still for `STALL_SECONDS`.

Sources: sources.list(5), apt.conf(5), apt-get(8). Read next: `guests`, the one user.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from protocol.errors import UserError

ETC = Path("/etc/apt")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PROGRAMS = ("apt-get", "apt-cache", "dpkg-deb")
STALL_SECONDS = 180.0
RELEASES = ("bullseye", "bookworm", "trixie", "forky", "duke", "sid")
ALIASES = ("oldoldstable", "oldstable", "stable", "testing", "unstable")

Progress = Callable[[float], None]
"""Told how much of the current step is done, in percent."""


class AptError(Exception):
    """apt refused or failed; the text is its own first complaint."""


@dataclass(frozen=True)
class Source:
    """A place of packages, as the machine's own apt knows it; `signed_by` is a path or empty."""

    uri: str
    suite: str
    signed_by: str = ""


def mirrors(etc: Path = ETC) -> list[Source]:
    """Where this machine gets Debian from, likeliest first; other vendors' suites are left out.

    Reads both of sources.list(5)'s forms. Files that cannot be read are passed over, as apt does
    for other users.
    """
    found: list[Source] = []
    paths = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if path.suffix == ".list":
            found += _one_line_sources(text)
        elif path.suffix == ".sources":
            found += _deb822_sources(text)
    plausible = [source for source in dict.fromkeys(found) if source.suite in (*RELEASES, *ALIASES)]

    def unlikelihood(source: Source) -> tuple[bool, bool, bool]:
        # Other vendors like to call their suite "stable", too. A wrong guess is harmless: their
        # signature is not Debian's, and the next mirror is tried.
        keyring = Path(source.signed_by).name
        return (
            bool(keyring) and "debian-archive" not in keyring,
            not source.uri.rstrip("/").endswith("/debian"),
            source.suite not in RELEASES,
        )

    unique: dict[str, Source] = {}
    for source in sorted(plausible, key=unlikelihood):
        unique.setdefault(source.uri, source)
    return list(unique.values())


def _one_line_sources(text: str) -> Iterator[Source]:
    """The form ``deb [option=value ...] URI suite component...``."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[(.*?)\]\s*)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if not match or "main" not in match[4].split() or match[2].startswith("cdrom:"):
            continue
        options = dict(re.findall(r"([\w-]+)=(\S+)", match[1] or ""))
        yield Source(match[2], match[3], options.get("signed-by", ""))


def _deb822_sources(text: str) -> Iterator[Source]:
    """The form with one field a line, stanzas separated by empty lines."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        unfolded = re.sub(r"\n[ \t]+", " ", stanza)
        fields = {
            name.strip().lower(): value.split()
            for name, colon, value in (line.partition(":") for line in unfolded.splitlines())
            if colon
        }
        if fields.get("enabled", ["yes"])[:1] in (["no"], ["false"], ["0"], ["off"]):
            continue
        if "deb" not in fields.get("types", []) or "main" not in fields.get("components", []):
            continue
        keyring = fields.get("signed-by", [])
        for uri in fields.get("uris", []):
            for suite in fields.get("suites", []):
                if not uri.startswith("cdrom:"):
                    # More than one word, or one that is no path, is a key or a fingerprint.
                    path = keyring[0] if len(keyring) == 1 and keyring[0].startswith("/") else ""
                    yield Source(uri, suite, path)


@dataclass(frozen=True)
class Suite:
    """A release, and the architecture whose lists of packages are read.

    `alias` is another name it goes by for some years, such as ``stable``.
    """

    name: str
    architecture: str
    alias: str = ""


class PrivateApt:
    """apt with a state of its own in `folder`, for packages of `architecture`."""

    def __init__(self, folder: Path, architecture: str) -> None:
        """Raises `UserError` when there is no apt, or `folder` has a name that apt cannot take."""
        for program in PROGRAMS:
            if shutil.which(program) is None:
                raise UserError(
                    f"guests fetch: {program} is not on this machine, and the guests are Debian's "
                    "packages: fetch them on a Debian machine and copy the folder"
                )
        if re.search(r'["\n;]', str(folder)):
            raise UserError(
                f"guests fetch: apt cannot work in {folder}: choose a plainer name with --dir"
            )
        self._folder = folder
        self._config = folder / "apt.conf"
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        # Hooks of the machine's configuration are cleared: they tidy the machine's own caches.
        self._config.write_text(
            f'Dir::State "{folder}";\n'
            f'Dir::State::Lists "{folder}/lists";\n'
            f'Dir::State::status "{folder}/status";\n'
            f'Dir::State::extended_states "{folder}/extended_states";\n'
            f'Dir::Cache "{folder}/cache";\n'
            f'Dir::Cache::archives "{folder}/cache/archives";\n'
            f'Dir::Etc::sourcelist "{folder}/sources.list";\n'
            'Dir::Etc::sourceparts "/dev/null";\n'
            'Dir::Etc::preferences "/dev/null";\n'
            'Dir::Etc::preferencesparts "/dev/null";\n'
            "#clear APT::Architectures;\n"
            f'APT::Architecture "{architecture}";\n'
            f'APT::Architectures {{ "{architecture}"; }};\n'
            "#clear APT::Update::Pre-Invoke;\n"
            "#clear APT::Update::Post-Invoke;\n"
            "#clear APT::Update::Post-Invoke-Success;\n"
            'APT::Sandbox::User "root";\n'
            'Acquire::Languages "none";\n'
            'Acquire::Retries "3";\n'
            'Acquire::http::Timeout "30";\n'
            'Acquire::https::Timeout "30";\n'
        )

    def update(self, mirror: Source, suites: Sequence[Suite], progress: Progress) -> None:
        """Read the lists of packages. Raises `AptError`, also when a signature is not good.

        A cache on the way to a mirror may hold a new signature and an old list under one name of a
        release, and what fits under another: then the other name is asked.
        """
        keyring = KEYRING if KEYRING.exists() else Path(mirror.signed_by or KEYRING)
        if not keyring.exists():
            raise UserError(
                f"guests fetch: Debian's keyring {keyring} is not there, so nothing fetched could "
                "be checked: install the package debian-archive-keyring"
            )
        try:
            self._read_lists(mirror, keyring, suites, progress)
        except AptError:
            if not any(suite.alias for suite in suites):
                raise
            aliases = [replace(suite, name=suite.alias or suite.name) for suite in suites]
            with contextlib.suppress(AptError):
                self._read_lists(mirror, keyring, aliases, progress)
                if all(map(self._is_read, suites)):
                    return
            raise

    def _read_lists(
        self, mirror: Source, keyring: Path, suites: Sequence[Suite], progress: Progress
    ) -> None:
        lines = [
            f"deb [arch={suite.architecture} signed-by={keyring}] {mirror.uri} {suite.name} main\n"
            for suite in suites
        ]
        (self._folder / "sources.list").write_text("".join(lines))
        # Without this option a list that could not be had is a warning.
        self._run(["update", "-o", "APT::Update::Error-Mode=any"], self._folder, progress)

    def _is_read(self, suite: Suite) -> bool:
        """Whether what was read under its other name is this release."""
        line, name = f"Codename: {suite.name}", suite.alias or suite.name
        return any(
            line in path.read_text(encoding="utf-8", errors="replace").splitlines()
            for path in (self._folder / "lists").glob(f"*_dists_{name}_*Release")
        )

    def depends(self, package: str) -> list[str]:
        """Names of the packages that `package` depends on, versions and alternatives left out."""
        shown = self._ask("show", "--no-all-versions", package)
        match = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
        return [item.split()[0] for item in match[1].split(",")] if match else []

    def download(self, packages: Sequence[str], target: Path, progress: Progress) -> list[Path]:
        """Fetch these packages (``name`` or ``name/suite``) alone into `target`: their files."""
        self._run(["download", *packages], target, progress)
        return sorted(target.glob("*.deb"))

    def _ask(self, *words: str) -> str:
        command = ["apt-cache", "-c", str(self._config), *words]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
            timeout=STALL_SECONDS,
        )
        if done.returncode:
            raise AptError(_complaint(done.stderr) or f"{' '.join(words)}: exit {done.returncode}")
        return done.stdout

    def _run(self, words: Sequence[str], folder: Path, progress: Progress) -> None:
        """Run apt-get in `folder`, passing on the percentages of its status descriptor."""
        reader, writer = os.pipe()
        command = [
            "apt-get",
            "-c",
            str(self._config),
            "-q=2",
            "-o",
            f"APT::Status-Fd={writer}",
            *words,
        ]
        with tempfile.TemporaryFile() as output, open(reader, "rb", buffering=0) as status:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=_environment(),
                    pass_fds=(writer,),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            finally:
                os.close(writer)
            try:
                _follow(status.fileno(), progress)
                code = process.wait(STALL_SECONDS)
            except (TimeoutError, subprocess.TimeoutExpired):
                raise AptError(f"no progress for {STALL_SECONDS:.0f} s") from None
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if code:
                output.seek(0)
                text = output.read().decode(errors="replace")
                raise AptError(_complaint(text) or f"apt-get {words[0]} ended with {code}")


def _follow(descriptor: int, progress: Progress) -> None:
    """Read ``dlstatus:NUMBER:PERCENT:TEXT`` lines until the other end closes.

    Raises `TimeoutError` when the percentage stands still for `STALL_SECONDS`.
    """
    tail = b""
    latest = b""
    deadline = time.monotonic() + STALL_SECONDS
    while True:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        chunk = os.read(descriptor, 4096)
        if not chunk:
            return
        *lines, tail = (tail + chunk).split(b"\n")
        for line in lines:
            fields = line.split(b":")
            # apt repeats its last line every half second, also when nothing comes in.
            if len(fields) >= 3 and fields[0] == b"dlstatus" and fields[2] != latest:
                latest = fields[2]
                deadline = time.monotonic() + STALL_SECONDS
                progress(float(latest))


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _complaint(text: str) -> str:
    """The first error in apt's output, or else its first warning."""
    for mark in ("E: ", "W: "):
        for line in text.splitlines():
            if line.startswith(mark):
                return line.removeprefix(mark).strip()
    return ""


def unpack(package: Path, target: Path) -> None:
    """Lay out the files of a .deb below `target`, owned by whoever runs this. Raises `AptError`."""
    command = ["dpkg-deb", "--extract", str(package), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise AptError(
            f"{package.name} cannot be unpacked: {done.stderr.strip() or 'unknown reason'}"
        )


def version(package: Path) -> str:
    """Name and version of a .deb, as ``name version``. Raises `AptError`."""
    command = ["dpkg-deb", "--show", "--showformat=${Package} ${Version}", str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise AptError(f"{package.name} cannot be read: {done.stderr.strip() or 'unknown reason'}")
    return done.stdout.strip()
