"""Snapshots as a user has them: a guest saved from the monitor goes on in a new process."""

from __future__ import annotations

from pathlib import Path

from tests.system import programs, runner
from tests.system.runner import PROMPT, Machine, linux


def monitor(machine: Machine, line: str, answer: str) -> None:
    """One line in the monitor, and back to the guest."""
    machine.send("\x01c")
    machine.expect(r"\(coldboot\) ")
    machine.send(line + "\r")
    machine.expect(answer)
    machine.expect(r"\(coldboot\) ")
    machine.send("\x01c")


def test_linux_goes_on_in_a_new_process(guests_folder: Path, tmp_path: Path):
    words = linux(guests_folder, "-smp", "2", append="quiet", memory="256M")
    path = tmp_path / "shell"
    with Machine(words, tmp_path) as machine:
        machine.expect(PROMPT)
        machine.command("X=kept; cat /proc/uptime > /up")
        monitor(machine, f"snapshot save {path}", "saved to .* MB")
        machine.command("X=lost; rm /up")
        monitor(machine, f"snapshot restore {path}", "restored from")
        assert "kept" in machine.command("echo $X")
        assert "" == machine.errors
    with Machine([*words, "-loadvm", path], tmp_path) as machine:
        machine.send("\r")
        machine.expect(PROMPT)
        assert "kept 2" in machine.command("echo $X $(nproc)")
        first, later = machine.command("cat /up /proc/uptime").split("\n")[-2:]
        assert float(first.split()[0]) <= float(later.split()[0])
        assert "hash" in machine.command("echo hash; sha256sum /bin/busybox > /dev/null; sync")
        machine.send("poweroff -f\r")
        assert 0 == machine.wait()
        assert "" == machine.errors


def test_a_file_that_is_no_snapshot_is_refused(tmp_path: Path):
    program = programs.elf("main: j PASS", tmp_path)
    done = runner.run("-loadvm", program, program)
    assert (2, b"") == (done.returncode, done.stdout)
    assert f"coldboot: snapshot {program}: is not a snapshot\n" == done.stderr.decode()
    done = runner.run("-loadvm", tmp_path / "none", program)
    assert f"coldboot: -loadvm {tmp_path / 'none'}: no such file\n" == done.stderr.decode()
