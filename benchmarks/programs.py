"""The guest programs of the benchmarks, and how they are built for a guest and for the host.

The problem: a program that is to be compared must be the same everywhere, and nothing about it may
be known to a translator. So there is one source for guest and host (`guests/bench.h` tells the
shape), built at run time by Debian's compilers, and how long it runs is a number in its memory.

Invariants: an image is made again when a source, an option or a compiler changes, and never
otherwise; a file in the cache is complete (it is renamed into place).

Read next: `guests/runtime.c`, `contenders.py`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import UserError

GUESTS = Path(__file__).with_name("guests")
CROSS = ("riscv64-unknown-elf-", "riscv64-linux-gnu-")
LIMIT_AT = 8  # where the image has the number of chunks: see guests/start.S

COMMON = (
    *("-O2", "-fno-builtin", "-fno-math-errno", "-ffp-contract=off"),
    *("-fno-tree-loop-distribute-patterns", "-Wall", "-Wextra", "-Werror"),
)
GUEST = (
    *("-march=rv64gc", "-mabi=lp64d", "-mcmodel=medany", "-ffreestanding", "-fno-pic"),
    *("-fno-stack-protector", "-nostdlib", "-static", "-Wl,--build-id=none"),
)


@dataclass(frozen=True)
class Program:
    """A program: what is asked of it is one line, `what`.

    `kind` is `integer`, `float`, or `system`: the last for those that are not bound by plain
    computing (they write code, trap, or store beside their code). `native` is its source for the
    host, if it can have one. All sources lie in `guests/`.
    """

    name: str
    kind: str
    what: str
    sources: tuple[str, ...]
    native: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()


def _c(name: str, kind: str, what: str) -> Program:
    return Program(name, kind, what, (f"{name}.c",), (f"{name}.c",))


PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (
        _c("control", "integer", "lists, a small matrix, a state machine, a crc"),
        _c("sieve", "integer", "byte stores with a stride"),
        _c("bytecode", "integer", "an interpreter with computed gotos"),
        _c("calls", "integer", "recursion: Fibonacci, Ackermann, Hanoi"),
        _c("queens", "integer", "backtracking with bit masks and arrays"),
        _c("sha256", "integer", "rotations and additions in a loop"),
        _c("cipher", "integer", "a straight line of 1,500 instructions"),
        _c("bignum", "integer", "1,024-bit products by 64-bit words"),
        _c("bits", "integer", "crc, population, reversal, variable shifts"),
        _c("memcopy", "integer", "copying and filling 128 KiB"),
        _c("chase", "integer", "pointers through 64 MiB, out of every cache"),
        _c("hashtable", "integer", "look-ups, insertions, deletions"),
        _c("sorting", "integer", "quicksort, heapsort; comparing by pointer"),
        _c("strings", "integer", "lengths, comparisons, searches, words"),
        _c("compress", "integer", "LZ77, there and back"),
        _c("dispatch", "integer", "methods of objects, by tables of functions"),
        _c("farcalls", "integer", "a hot loop calling functions on other pages"),
        Program(
            "apart",
            "integer",
            "a loop with stores; its data are far from its code",
            ("beside.S",),
            ("beside.c",),
        ),
        _c("nbody", "float", "double: products, divisions, square roots"),
        _c("matrix", "float", "double: fused products; an elimination"),
        _c("fft", "float", "double: butterflies over a changing stride"),
        _c("polynomial", "float", "double: Horner's rule, fused; conversions"),
        _c("mandelbrot", "float", "single: a short chain, a comparison"),
        _c("signal", "float", "single: a filter, saxpy, extremes, conversions"),
        Program(
            "beside",
            "system",
            "the same loop; its data are on its own page",
            ("beside.S",),
            ("beside.c",),
            ("-DBESIDE",),
        ),
        _c("jit", "system", "a compiler: writes functions, fence.i, calls"),
        Program(
            "syscalls",
            "system",
            "two processes on Sv39: ecall, copies, switches",
            ("syscalls_start.S", "syscalls.c"),
        ),
    )
}


@dataclass(frozen=True)
class Built:
    """A program's files: the guest's image and ELF file, and the host's program if it has one."""

    program: Program
    image: Path
    elf: Path
    native: Path | None

    def limited(self, chunks: int, folder: Path) -> Path:
        """An image that ends after so many chunks; 0: never."""
        data = bytearray(self.image.read_bytes())
        data[LIMIT_AT : LIMIT_AT + 8] = chunks.to_bytes(8, "little")
        path = folder / f"{self.program.name}-{chunks}.bin"
        path.write_bytes(data)
        return path


def wanted(names: str | None) -> list[Program]:
    """The programs of a comma-separated list; all without one. Raises UserError."""
    if names is None:
        return list(PROGRAMS.values())
    for name in names.split(","):
        if name not in PROGRAMS:
            raise UserError(f"no program is called {name!r}; there are {', '.join(PROGRAMS)}")
    return [PROGRAMS[name] for name in names.split(",")]


def compilers() -> tuple[str, str]:
    """The prefix of the cross tools and the host's compiler. Raises UserError."""
    for prefix in CROSS:
        if shutil.which(prefix + "gcc") and shutil.which(prefix + "objcopy"):
            break
    else:
        raise UserError(
            "the programs need a compiler for RISC-V: Debian's package gcc-riscv64-unknown-elf"
        )
    if shutil.which("gcc") is None:
        raise UserError("the programs' results are checked natively: that needs gcc")
    return prefix, "gcc"


def cache() -> Path:
    """Where built programs are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "coldboot" / "benchmarks"


def build(program: Program) -> Built:
    """Build a program, or find it built. Raises UserError."""
    prefix, host = compilers()
    sources = [GUESTS / name for name in ("start.S", "runtime.c", *program.sources)]
    script = GUESTS / "link.ld"
    options = [*COMMON, *GUEST, *program.defines]
    guest_key = _key(prefix + "gcc", options, [*sources, script])
    folder = cache() / f"{program.name}-{guest_key}"
    elf, image = folder / "guest.elf", folder / "guest.bin"
    if not image.exists():
        with _made(folder) as aside:
            words: list[str | Path] = [
                *options,
                "-T",
                script,
                *sources,
                "-o",
                aside / "guest.elf",
                "-lgcc",
            ]
            _run(prefix + "gcc", words)
            _run(prefix + "objcopy", ["-O", "binary", aside / "guest.elf", aside / "guest.bin"])
    if not program.native:
        return Built(program, image, elf, None)
    sources = [GUESTS / name for name in ("runtime.c", *program.native)]
    options = [*COMMON, *_host_options()]
    folder = cache() / f"{program.name}-native-{_key(host, options, sources)}"
    if not (folder / "native").exists():
        with _made(folder) as aside:
            _run(host, [*options, *sources, "-o", aside / "native"])
    return Built(program, image, elf, folder / "native")


def _host_options() -> list[str]:
    """A fused multiply-add is one instruction for the guest; so it is for a host that has it."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return ["-mfma"] if " fma " in cpu else []


def _key(compiler: str, options: Sequence[str], sources: Sequence[Path]) -> str:
    digest = hashlib.sha256(subprocess.check_output([compiler, "--version"]))
    digest.update(repr(options).encode())
    for path in (*sources, GUESTS / "bench.h"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class _made:
    """A folder that appears under its name complete, or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Path:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._aside = Path(tempfile.mkdtemp(dir=self._folder.parent))
        return self._aside

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            try:
                self._aside.rename(self._folder)
            except OSError:  # somebody else made it meanwhile
                shutil.rmtree(self._aside)
        else:
            shutil.rmtree(self._aside, ignore_errors=True)


def _run(tool: str, words: Iterable[object]) -> None:
    done = subprocess.run([tool, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{tool} failed: {done.stderr.strip()[-2000:]}")
