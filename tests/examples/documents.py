"""Documents that run: the blocks of a Markdown file, carried out in a copy of the sources.

The problem: examples in a document rot unless somebody runs them. So a block says in its first line
what it is, and `follow` does what a reader would do, from top to bottom.

- ``python file=PATH`` (any language): make that file.
- ``python append=PATH``: put the block at the file's end.
- ``diff patch=PATH``: for each hunk after ``@@``, the lines with a blank or ``-`` must stand in the
  file exactly once; they become those with a blank or ``+``.
- ``console``: run each line after ``$``; what follows must be its output, to the byte.

Other blocks are only read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cpu_proc", "jit_proc", "devices", "protocol")
DEADLINE = 240.0  # seconds for one command: many times what it takes

_BLOCK = re.compile(r"^```(\w+)(?: (\w+)=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what to do with which file, its text and its line."""

    language: str
    action: str
    path: str
    text: str
    line: int


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    text = document.read_text(encoding="utf-8")
    return [
        Block(
            found[1], found[2] or "", found[3] or "", found[4], text.count("\n", 0, found.start())
        )
        for found in _BLOCK.finditer(text)
    ]


def copy_sources(folder: Path) -> dict[str, str]:
    """Copy the packages to `folder`; the environment in which its commands use that copy."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    programs = folder / "bin"
    programs.mkdir()
    for name, words in (("python", ""), ("coldboot", "-m cpu_proc ")):
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n', encoding="utf-8")
        script.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


def follow(document: Path, folder: Path) -> int:
    """Do what the document says in a copy of the sources; the number of commands run."""
    environment = copy_sources(folder)
    commands = 0
    for block in blocks(document):
        where = f"{document.name}:{block.line + 1}"
        path = folder / block.path
        if block.action == "file":
            assert not path.exists(), f"{where}: {block.path} is there already"
            path.write_text(block.text, encoding="utf-8")
        elif block.action == "append":
            path.write_text(path.read_text(encoding="utf-8") + block.text, encoding="utf-8")
        elif block.action == "patch":
            path.write_text(patched(path.read_text(encoding="utf-8"), block.text, where))
        elif block.action:
            raise AssertionError(f"{where}: {block.action}= is not known")
        elif block.language == "console":
            commands += run_console(block, folder, environment, where)
    return commands


def patched(text: str, diff: str, where: str) -> str:
    """The text after a diff without line numbers."""
    for hunk in diff.split("@@\n")[1:]:
        lines = hunk.splitlines(keepends=True)
        assert {line[0] for line in lines} <= set(" +-"), where
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(old) == 1, f"{where}: these lines are not there once:\n{old}"
        text = text.replace(old, new)
    return text


def run_console(block: Block, folder: Path, environment: dict[str, str], where: str) -> int:
    """Run a block's commands and compare their output; how many there were."""
    steps = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not steps[0], f"{where}: output without a command"
    for step in steps[1:]:
        command, _, expected = step.partition("\n")
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert expected == done.stdout, f"{where}: {command}\n{done.stdout}{done.stderr}"
    return len(steps) - 1
