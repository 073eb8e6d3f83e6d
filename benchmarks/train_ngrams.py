"""Which sequences of instructions get a handler of their own: counted in real runs.

The problem: `jit_proc/ngrams.txt` shall hold the sequences that are frequent in programs at large.
`count` runs a machine with an engine whose handlers count how often each record was executed, and
writes the straight sequences that were executed, with how often, as JSON lines. `choose` reads such
files, each program counting alike, and writes the n-grams: from single instructions up, the two
neighbours that are executed most often as such become one, again and again; then, for what is left,
the pairs about whose registers nothing is known.

    python -m benchmarks.train_ngrams count OUT.jsonl -- -m 512M -kernel Image -append ...
    python -m benchmarks.train_ngrams choose --exact 300 --general 100 OUT.jsonl ... > ngrams.txt

The options behind `--` are those of `coldboot run`; no translator takes part. Read next:
`jit_proc/ngrams.py` (what a line means).
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import functools
import json
import mmap
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jit_proc.ngrams import MAX_LENGTH, Item, Ngram

DISTANCE = -(1 << 40)  # from a record to its counter
KEPT = 12_000  # sequences of a program, the most frequent
LINE = 64

Token = tuple[str, int, int, int]
"""Handler, rd, rs1, rs2 (-1: none)."""
Path_ = tuple[Token, ...]


# --- counting -------------------------------------------------------------------------------------


def count(words: Sequence[str], out: Path) -> int:
    """Run a machine and write what it executed; its exit code."""
    import cpu_proc.machine as machines
    from cpu_proc import native
    from cpu_proc import options as run_options
    from cpu_proc.engine import Engine
    from jit_proc import engine
    from jit_proc.link import link
    from jit_proc.llvm import compile_ir
    from protocol.layout import RECORD_ARRAY_STRIDE

    linked = link(compile_ir(engine.text(counts=DISTANCE), engine.PASSES, engine.LEVEL).elf)
    with tempfile.NamedTemporaryFile(prefix="engine-") as file:
        file.write(linked.code)
        file.flush()
        base = native.map_code_copy(file.name, len(linked.code), 0)
    made = Engine(base, len(linked.code), linked.symbols)
    machines.engines.load = lambda: made  # type: ignore[attr-defined]
    handlers = {
        base + at: name.removeprefix("h_")
        for name, at in linked.symbols.items()
        if name.startswith("h_")
    }
    found: collections.Counter[Path_] = collections.Counter()

    class Counted(machines.Machine):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            start = self.records.start - len(self.harts) * RECORD_ARRAY_STRIDE
            _map_counters(start + DISTANCE, self.records.end - start)

        def close(self) -> None:
            super().close()
            for hart in self.harts:
                end = int(hart.state.pool_next)
                for array in range(self.records.start, end, RECORD_ARRAY_STRIDE):
                    _read_array(array, handlers, found)

    machines.Machine = Counted  # type: ignore[misc]
    code = machines.run(run_options.parse(["--translator", "none", *words]))
    total = sum(len(path) * n for path, n in found.items())
    with out.open("w") as lines:
        for path, n in found.most_common(KEPT):
            print(json.dumps([n / total, path], separators=(",", ":")), file=lines)
    print(f"{total} instructions counted in {len(found)} sequences", file=sys.stderr)
    return code


def _map_counters(address: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fixed, no_reserve = 0x100000, 0x4000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve | fixed
    if libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) != address:
        raise SystemExit(f"no memory for counters at {address:#x}")


def _read_array(array: int, handlers: dict[int, str], found: collections.Counter[Path_]) -> None:
    """Add the sequences of one page's records."""
    from cpu_proc import native
    from protocol.layout import SLOTS_PER_PAGE

    words = native.words(array, 2 * SLOTS_PER_PAGE)
    counters = native.words(array + DISTANCE, 2 * SLOTS_PER_PAGE)
    tokens: dict[int, tuple[Token, int]] = {}
    for slot in range(SLOTS_PER_PAGE):
        if counters[2 * slot]:
            name = handlers.get(words[2 * slot], "")
            token = _token(name, words[2 * slot + 1])
            if token is not None:
                tokens[slot] = token, counters[2 * slot]
    flows: dict[int, int] = {}  # slot -> executions that came from the instruction before
    for slot, (token, n) in tokens.items():
        after = _next(slot, token)
        if after in tokens and not _transfers(token[0]):
            flows[after] = n
    for slot, (_, n) in tokens.items():
        entered = n - flows.get(slot, 0)
        if entered <= 0:
            continue
        path = []
        at = slot
        while at in tokens:
            token = tokens[at][0]
            path.append(token)
            if _transfers(token[0]):
                break
            at = _next(at, token)
        if len(path) > 1:
            found[tuple(path)] += entered


def _next(slot: int, token: Token) -> int:
    """The slot behind an instruction, or -1 where its line ends."""
    after = slot + Item(token[0]).length // 2
    return after if after % (LINE // 2) else -1


@functools.cache
def _shapes() -> dict[str, tuple[int | None, int | None, int | None, bool]]:
    """Of what may be fused: the bytes of rd, rs1, rs2 in a record, and whether it transfers."""
    from jit_proc.cold import operand_bytes, transfers_control
    from jit_proc.fused import Kinds, slots

    shapes = {}
    for name, (instruction, _, _) in Kinds(()).handlers.items():
        places = operand_bytes(instruction)
        bytes_ = {slot: places[param] for slot, param in slots(instruction).items()}
        transfers = transfers_control(instruction.semantics)
        shapes[name] = bytes_.get("rd"), bytes_.get("rs1"), bytes_.get("rs2"), transfers
    return shapes


def _transfers(kind: str) -> bool:
    return _shapes()[kind][3]


def _token(kind: str, operands: int) -> Token | None:
    if kind not in _shapes():
        return None
    rd, rs1, rs2 = (
        -1 if byte is None else operands >> 8 * byte & 0xFF for byte in _shapes()[kind][:3]
    )
    return kind, rd, rs1, rs2


# --- choosing -------------------------------------------------------------------------------------


def gram(tokens: Sequence[Token], *, facts: bool = True) -> Ngram:
    """The n-gram of instructions, with all that is known of their registers."""
    items = []
    for number, (kind, _, rs1, rs2) in enumerate(tokens):
        known = []
        for slot, register in (("rs1", rs1), ("rs2", rs2)):
            source = _source(tokens[:number], register) if facts else ""
            if source:
                known.append((slot, source))
        items.append(Item(kind, tuple(known)))
    return Ngram(tuple(items))


def _source(before: Sequence[Token], register: int) -> str:
    if register == 0:
        return "0"
    if register < 0:
        return ""
    for number in reversed(range(len(before))):
        _, rd, rs1, rs2 = before[number]
        if rd == register:
            return f"d{number}"
        if rs1 == register:
            return f"s{number}"
        if rs2 == register:
            return f"t{number}"
    return ""


def choose(programs: Sequence[Path], exact: int, general: int) -> list[Ngram]:
    """The n-grams for these programs' sequences, best first."""
    weights: dict[Path_, float] = collections.defaultdict(float)
    for program in programs:
        for line in program.read_text().splitlines()[:KEPT]:
            n, path = json.loads(line)
            weights[tuple(tuple(token) for token in path)] += n / len(programs)
    sequences = Sequences(weights)
    chosen: dict[Ngram, None] = {}
    for facts, limit in ((True, exact), (False, exact + general)):
        sequences.begin(facts=facts)
        while len(chosen) < limit:
            best = sequences.best()
            if best is None:
                break
            sequences.merge(best)
            chosen[best] = None
    before = sum(weight * len(path) for path, weight in weights.items())
    print(f"handlers executed: {sequences.units() / before:.3f} a instruction", file=sys.stderr)
    return list(chosen)


class Sequences:
    """Sequences cut into units, each a single instruction or an n-gram chosen."""

    def __init__(self, weights: Mapping[Path_, float]) -> None:
        self._paths = list(weights)
        self._weights = list(weights.values())
        self._units = [[(i, i + 1) for i in range(len(path))] for path in self._paths]

    def begin(self, *, facts: bool) -> None:
        """Find out what could be one; without `facts`, pairs alone and nothing of registers."""
        self._facts = facts
        self._gains: dict[Ngram, float] = collections.defaultdict(float)
        self._where: dict[Ngram, set[int]] = collections.defaultdict(set)
        for number in range(len(self._paths)):
            self._add(number, 1)

    def _neighbours(self, number: int) -> Iterator[tuple[int, Ngram]]:
        units, path = self._units[number], self._paths[number]
        for first in range(len(units) - 1):
            start, end = units[first][0], units[first + 1][1]
            if end - start == 2 or (self._facts and end - start <= MAX_LENGTH):
                yield first, _gram(path[start:end], self._facts)

    def _add(self, number: int, sign: int) -> None:
        for _, ngram in self._neighbours(number):
            self._gains[ngram] += sign * self._weights[number]
            self._where[ngram].add(number)

    def best(self) -> Ngram | None:
        """What is executed most often; what is known of registers counts too."""
        if not self._gains:
            return None
        return max(self._gains, key=lambda ngram: self._gains[ngram] * (1 + 0.3 * ngram.facts))

    def merge(self, wanted: Ngram) -> None:
        for number in self._where[wanted]:
            self._add(number, -1)
            units = self._units[number]
            while True:
                firsts = (first for first, ngram in self._neighbours(number) if ngram == wanted)
                first = next(firsts, None)
                if first is None:
                    break
                units[first : first + 2] = [(units[first][0], units[first + 1][1])]
            self._add(number, 1)
        del self._gains[wanted]

    def units(self) -> float:
        """How many handlers are executed."""
        return sum(w * len(u) for w, u in zip(self._weights, self._units, strict=True))


@functools.lru_cache(1 << 20)
def _gram(tokens: Path_, facts: bool) -> Ngram:
    return gram(tokens, facts=facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    counting = commands.add_parser("count", help="run a machine and count what it executes")
    counting.add_argument("out", type=Path)
    counting.add_argument("words", nargs="+", metavar="OPTION")
    choosing = commands.add_parser("choose", help="choose n-grams from what was counted")
    choosing.add_argument("--exact", type=int, default=300, help="n-grams with known registers")
    choosing.add_argument("--general", type=int, default=100, help="pairs without")
    choosing.add_argument("programs", nargs="+", type=Path)
    options = parser.parse_args()
    if options.command == "count":
        return count(options.words, options.out)
    ngrams = choose(options.programs, options.exact, options.general)
    names = " ".join(path.name for path in options.programs)
    print("# Sequences of instructions with handlers of their own: see ngrams.py. Made by")
    print(f"#   python -m benchmarks.train_ngrams choose --exact {options.exact} ", end="")
    print(f"--general {options.general} {names}")
    for ngram in ngrams:
        print(ngram)
    return 0


if __name__ == "__main__":
    sys.exit(main())
