"""Profiles: hot functions of a guest by symbol, and jitdump's records."""

from __future__ import annotations

import os
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from cpu_proc import flame_graph, jitdump
from cpu_proc.symbols import Symbols
from tests.system import programs, runner

TEXT = """
main:
    li s6, 400
1:
    call outer
    addi s6, s6, -1
    bnez s6, 1b
    j PASS

outer:                          # frames as compilers make them with -fno-omit-frame-pointer
    addi sp, sp, -16
    sd ra, 8(sp)
    sd s0, 0(sp)
    addi s0, sp, 16
    call inner
    ld ra, 8(sp)
    ld s0, 0(sp)
    addi sp, sp, 16
    ret

inner:
    li t0, 200000
2:
    addi t0, t0, -1
    bnez t0, 2b
    ret
"""
SYMBOLS = ("main", "outer", "inner", "PASS")


def run(tmp_path: Path, *words: str) -> None:
    done = programs.run(TEXT, tmp_path, *words, symbols=SYMBOLS)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [("-translator", "none"), ("-threshold", "64")])
def test_the_hot_function_and_who_called_it(words: tuple[str, ...], tmp_path: Path):
    run(tmp_path, "-profile", str(tmp_path / "out"), *words)

    rows = [
        line.split()
        for line in (tmp_path / "out.txt").read_text().splitlines()
        if line.endswith(SYMBOLS)
    ]
    assert rows[0][3] == "inner"
    assert float(rows[0][0]) > 80
    folded = dict(
        line.rsplit(" ", 1) for line in (tmp_path / "out.folded").read_text().splitlines()
    )
    assert max(folded, key=lambda stack: int(folded[stack])) == "main;outer;inner"
    drawn = ET.parse(tmp_path / "out.svg")
    assert any("inner" in (t.text or "") for t in drawn.iter("{http://www.w3.org/2000/svg}title"))


def test_samples_change_nothing_a_guest_counts(tmp_path: Path):
    """With counted time the same instructions run, looked at or not."""

    def count(*words: str) -> bytes:
        elf = programs.elf(TEXT, tmp_path, SYMBOLS)
        done = runner.run("-m", "32M", "-icount", "shift=3", "-stats", *words, elf)
        assert done.returncode == 0, done.stderr
        line: bytes = done.stderr.splitlines()[0]
        return line.split(b",")[0]

    assert count() == count("-profile", str(tmp_path / "out"))


def test_jitdump_names_regions_and_holds_their_code(tmp_path: Path):
    run(tmp_path, "-jitdump", str(tmp_path), "-threshold", "1")

    (path,) = tmp_path.glob("jit-*.dump")
    data = path.read_bytes()
    head = jitdump.HEADER.unpack_from(data)
    assert head[:4] == (jitdump.MAGIC, jitdump.VERSION, jitdump.HEADER.size, jitdump.EM_X86_64)
    assert path.name == f"jit-{head[5]}.dump"
    at, before = head[2], head[6]
    names: list[str] = []
    while at < len(data):
        kind, size, when = jitdump.PREFIX.unpack_from(data, at)
        _, _, address, again, length, index = jitdump.LOAD.unpack_from(
            data, at + jitdump.PREFIX.size
        )
        text_at = at + jitdump.PREFIX.size + jitdump.LOAD.size
        name = data[text_at : data.index(b"\0", text_at)].decode()
        assert (kind, address, index) == (jitdump.CODE_LOAD, again, len(names))
        assert text_at + len(name) + 1 + length == at + size
        assert when >= before
        at, before = at + size, when
        names.append(name)
    assert names[0] == "tier 0"
    assert len(names) > 1
    assert {"inner"} <= {function for name in names[1:] for function in name.split(",")}


def test_a_profile_that_cannot_be_written_is_told_at_once(tmp_path: Path):
    elf = programs.elf(TEXT, tmp_path)
    for option, word in (("-profile", "/nowhere/out"), ("-jitdump", "/nowhere")):
        done = runner.run(option, word, elf)
        assert done.returncode == 2
        assert done.stderr.startswith(f"coldboot: {option} /nowhere".encode())
        assert len(done.stderr.splitlines()) == 1


def test_symbols_of_system_map(tmp_path: Path):
    path = tmp_path / "System.map"
    path.write_text("ffffffff80000000 T _start\nffffffff80000100 t helper\nffffffff80f D data\n")
    symbols = Symbols([os.fspath(path)], 0x8000_0000)
    assert symbols.name(0xFFFF_FFFF_8000_0104) == "helper+0x4"
    assert symbols.function(0xFFFF_FFFF_8000_00FE) == "_start"
    assert symbols.function(0x1000) == ""


def test_a_flame_graph_is_as_wide_as_its_samples():
    drawn = ET.fromstring(flame_graph.svg({("a", "b<c"): 3, ("a",): 1}, "t & t"))
    widths = {
        group[0].text: float(group[1].attrib["width"])
        for group in drawn
        if group.tag.endswith("}g")
    }
    assert widths["b<c: 3 samples, 75.0 %"] == pytest.approx(flame_graph.WIDTH * 0.75, abs=1)
    assert widths["a: 4 samples, 100.0 %"] == pytest.approx(flame_graph.WIDTH, abs=1)
    assert struct.calcsize("<IIIIIIQQ") == 40  # as the specification has it
