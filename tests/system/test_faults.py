"""Translators that are killed, stopped, restarted or missing: the guest goes on all the same.

Read next: `test_bad_input`, for translators and machines that talk nonsense.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
from pathlib import Path

import pytest

from tests.system import runner
from tests.system.runner import PROMPT, Machine, Translator, linux, stopped

BEFORE_SHELL = "Platform Name"


def works(machine: Machine) -> None:
    """The shell comes, and computes."""
    machine.expect("BOOT-OK")
    machine.expect(PROMPT)
    computes(machine)


def computes(machine: Machine) -> None:
    """At the prompt: thousands of numbers, and their sum as this host knows it."""
    numbers = "".join(f"{n}\n" for n in range(1, 5001)).encode()
    expected = hashlib.sha256(numbers).hexdigest()
    assert [expected] == machine.command("seq 1 5000 | sha256sum | cut -c-64").split()


def power_off(machine: Machine) -> None:
    machine.send("poweroff -f\r")
    assert 0 == machine.wait()
    assert "Traceback" not in machine.errors


def test_killing_the_translator_at_random_moments_of_a_boot(guests_folder: Path, tmp_path: Path):
    moments = random.Random(5)
    with Machine(linux(guests_folder), tmp_path) as machine:
        killed = []
        for attached in range(1, 6):
            event = machine.wait_event("translator_attached", attached)
            killed.append(event["pid"])
            wait_for_regions(machine, moments.randrange(8))
            os.kill(event["pid"], signal.SIGKILL)
        machine.wait_event("translator_attached", 6)
        machine.pump()
        machine.send("\r")
        machine.expect(PROMPT)
        computes(machine)
        power_off(machine)

        attached_events = machine.events("translator_attached")
        assert 6 == len({event["incarnation"] for event in attached_events})
        epochs = [event["epoch"] for event in attached_events]
        assert epochs == sorted(set(epochs)), "each incarnation under an epoch of its own"
        assert 5 <= len(machine.events("translator_lost"))
        assert set(killed) <= {event["pid"] for event in machine.events("translator_started")}


def wait_for_regions(machine: Machine, count: int) -> None:
    """Wait until so many more were published, or the prompt is there: then none may come."""
    wanted = len(machine.events("region_published")) + count
    runner.until(
        lambda: len(machine.events("region_published")) >= wanted or at_prompt(machine),
        "more regions",
        also=machine.pump,
    )


def at_prompt(machine: Machine) -> bool:
    return re.search(PROMPT, machine.transcript_path.read_bytes()) is not None


def test_workers_that_are_killed(guests_folder: Path, tmp_path: Path):
    # A job whose worker died is tried again; translator and machine go on.
    with Machine(linux(guests_folder, "-cold"), tmp_path) as machine:
        translator = machine.translator()
        for _ in range(3):
            regions = len(machine.events("region_published"))
            machine.wait_event("region_published", regions + 1)
            os.kill(runner.children(translator)[0], signal.SIGKILL)
        machine.wait_event("region_published", regions + 2)
        machine.send("\r")
        machine.expect(PROMPT)
        computes(machine)
        power_off(machine)
        assert [] == machine.events("translator_lost")


def test_a_reset_while_the_translator_is_stopped(guests_folder: Path, tmp_path: Path):
    with Machine(linux(guests_folder), tmp_path) as machine:
        machine.expect("BOOT-OK")
        machine.expect(PROMPT)
        first = machine.translator()
        with stopped(first):
            machine.send("reboot -f\r")
            lost = machine.wait_event("translator_lost")
            assert "retire_timed_out" == lost["reason"]
            machine.wait_event("system_reset_done")
            works(machine)
        again = machine.wait_event("translator_attached", 2)
        assert first != again["pid"]
        assert again["epoch"] > machine.wait_event("system_reset_done")["epoch"]
        power_off(machine)


def test_a_stopped_translator_is_replaced(guests_folder: Path, tmp_path: Path):
    with Machine(linux(guests_folder), tmp_path) as machine:
        first = machine.translator()
        with stopped(first):
            works(machine)
            assert "no_answer" == machine.wait_event("translator_lost")["reason"]
            machine.wait_event("translator_attached", 2)
        power_off(machine)


def test_a_separate_translator_is_restarted(guests_folder: Path, tmp_path: Path):
    with Translator(tmp_path) as first:
        words = linux(guests_folder, "--translator", first.endpoint)
        with Machine(words, tmp_path) as machine:
            machine.expect("BOOT-OK")
            machine.expect(PROMPT)
            before = machine.wait_event("translator_attached")
            first.kill()
            machine.wait_event("translator_lost")
            assert "alive" == machine.command("echo alive")
            with Translator(tmp_path, endpoint=first.endpoint) as second:
                after = machine.wait_event("translator_attached", 2)
                assert second.process.pid == after["pid"]
                assert before["incarnation"] != after["incarnation"]
                assert before["epoch"] < after["epoch"]
                second.wait_event("block_translated")
                assert "alive" == machine.command("echo alive")
                second.process.terminate()  # and one that says goodbye
                machine.wait_event("translator_lost", 2)
            with Translator(tmp_path, endpoint=first.endpoint):
                machine.wait_event("translator_attached", 3)
                power_off(machine)


def test_a_machine_may_come_before_its_translator(guests_folder: Path, tmp_path: Path):
    endpoint = f"ipc://{runner.socket_folder()}/late"
    with Machine(linux(guests_folder, "--translator", endpoint), tmp_path) as machine:
        machine.expect(BEFORE_SHELL)
        with Translator(tmp_path, endpoint=endpoint):
            machine.wait_event("translator_attached")
            works(machine)
            power_off(machine)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_the_embedded_translator_ends_with_its_machine(
    signal_number: int, guests_folder: Path, tmp_path: Path
):
    # With what it kept from earlier a translator starts workers when they are needed.
    with Machine(linux(guests_folder, "-cold"), tmp_path) as machine:
        machine.translator()
        processes = runner.children(machine.pid)
        assert 2 <= len(processes)
        os.kill(machine.pid, signal_number)
        machine.wait()
        runner.until(
            lambda: not any(is_alive(process) for process in processes),
            f"processes {processes} gone",
        )


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
