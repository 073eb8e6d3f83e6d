"""The documents: their examples work, their links lead somewhere, their commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.documents import ROOT, blocks, follow, patched

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]
README = ROOT / "README.md"
WORKED = ("README.md", "docs/extending.md")
"""Documents that are made of examples; the others may have none."""


@pytest.mark.parametrize("name", NAMES)
def test_its_examples_work(name: str, tmp_path: Path):
    done = follow(ROOT / name, tmp_path)

    assert done > 0 or name not in WORKED


@pytest.mark.parametrize("name", NAMES)
def test_its_links_lead_somewhere(name: str):
    document = ROOT / name
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    for link in links:
        assert "://" in link or (document.parent / link).exists(), link


@pytest.mark.parametrize("name", NAMES)
def test_the_files_it_names_exist(name: str):
    text = (ROOT / name).read_text(encoding="utf-8")
    made = {block.path for block in blocks(ROOT / name)}
    for path in re.findall(r"`((?:cpu_proc|jit_proc|devices|protocol|tests|docs)/[\w./*]+)`", text):
        assert path in made or list(ROOT.glob(path.rstrip("/"))), path


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", README.read_text("utf-8"), re.MULTILINE))

    assert {"demo", "test", "linux"} <= named <= targets


def test_every_option_it_names_exists():
    usage = subprocess.run(
        [sys.executable, "-m", "cpu_proc", "run", "-help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    known = set(re.findall(r"^  -([\w-]+)", usage, re.MULTILINE)) | {"help"}
    for command in re.findall(r"coldboot run ([^`\n|]*)", README.read_text(encoding="utf-8")):
        for option in re.findall(r"(?:^|\s)--?([a-z][\w-]*)", command):
            assert option in known, command


def test_a_patch_must_fit():
    assert "a\nb2\nc\n" == patched("a\nb\nc\n", "@@\n a\n-b\n+b2\n", "here")
    with pytest.raises(AssertionError, match="not there once"):
        patched("a\na\n", "@@\n a\n+b\n", "here")
