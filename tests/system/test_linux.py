"""Debian's kernel on unmodified OpenSBI, as a user has it: a shell on a terminal.

Read next: `test_reboot`, `test_faults`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system import runner
from tests.system.runner import PROMPT, Machine, Translator, linux


def at_shell(machine: Machine) -> Machine:
    machine.expect("BOOT-OK")
    machine.expect(PROMPT)
    return machine


def test_a_shell_on_a_terminal(guests_folder: Path, tmp_path: Path):
    with Machine(linux(guests_folder), tmp_path) as machine:
        machine.expect("OpenSBI v")
        at_shell(machine)

        assert "hello 42" == machine.command("echo hello $((6*7))")
        assert {"bin", "dev", "init", "proc", "sys"} <= set(machine.command("ls /").split())
        cpu = machine.command("cat /proc/cpuinfo")
        assert "rv64imafdc" in cpu
        assert "sv57" in cpu
        assert "Linux" in machine.command("uname -a")

        # The words come from a process that has the terminal: keys make signals for it by then.
        machine.send("sh -c 'echo going to; exec sleep 600'\r")
        machine.expect(r"going to\r+\n")
        machine.send("\x03")
        machine.expect(rb"\^C")
        machine.expect(PROMPT)
        assert "alive" == machine.command("echo alive")

        machine.send("poweroff -f\r")
        machine.expect("reboot: Power down")
        assert 0 == machine.wait()
        assert "" == machine.errors


@pytest.mark.parametrize("translator", ["embedded", "none"])
def test_a_command_from_the_kernel_command_line(translator: str, guests_folder: Path):
    result = runner.run(
        *linux(guests_folder, "--translator", translator, append='run="cat /proc/cmdline; exit 7"')
    )

    assert 0 == result.returncode, result.stderr
    assert b"cryptomgr.notests quiet run=" in result.stdout
    assert b"RUN-EXIT 7" in result.stdout
    assert b"" == result.stderr


def test_the_default_kernel_command_line(guests_folder: Path):
    # No cryptomgr.notests: the kernel tests its own ciphers first, twice the instructions.
    words = linux(guests_folder)
    words[words.index("-append") + 1] = 'console=ttyS0 run="uname -m"'

    result = runner.run(*words)

    assert 0 == result.returncode, result.stderr
    assert b"\nriscv64\r\n" in result.stdout
    assert b"Freeing unused kernel image" in result.stdout
    for trouble in (b"Oops", b"WARNING", b"BUG:", b"alg: ", b"Call Trace"):
        assert trouble not in result.stdout


def test_several_machines_on_one_translator_one_after_the_other(
    guests_folder: Path, tmp_path: Path
):
    with Translator(tmp_path) as translator:
        for count in range(1, 4):
            words = ["--translator", translator.endpoint]
            with Machine(
                linux(guests_folder, *words, append='run="dmesg | wc -l; ls /bin | wc -l"'),
                tmp_path,
            ) as machine:
                assert translator.process.pid == machine.translator()
                machine.expect("RUN-EXIT 0")
                assert 0 == machine.wait()
            translator.wait_event("session_ended", count)
            assert "" == machine.errors

        assert translator.process.poll() is None
        ended = [event["reason"] for event in translator.events("session_ended")]
        # An answer under way to a machine that has just gone tells it before the goodbye does.
        assert 3 == len(ended)
        assert {"machine ended", "peer_lost"} >= set(ended)
        assert translator.events("block_translated")
