"""A translator's counts for Prometheus, from a real translator over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cpu_proc.metrics import listen_address
from protocol.errors import UserError
from tests.system import programs, runner

DEADLINE = 30.0


@contextmanager
def service(*words: str, ready: str, env: dict[str, str] | None = None) -> Iterator[int]:
    """A command of ours as a service of a manager that waits for its word; its process id."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(ready)
        manager.settimeout(DEADLINE)
        process = subprocess.Popen(
            runner.command(*words), env={**runner.environment(), "NOTIFY_SOCKET": ready}
        )
        try:
            assert manager.recv(100) == b"READY=1"
            yield process.pid
            process.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
            process.wait()


def counts(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def once(endpoint: str) -> tuple[int, dict[str, float]]:
    done = subprocess.run(
        runner.command("metrics", "--once", endpoint),
        capture_output=True, text=True, timeout=60, check=False, env=runner.environment(),
    )  # fmt: skip
    return done.returncode, counts(done.stdout)


def test_what_a_translator_did_is_counted(tmp_path: Path):
    endpoint = f"ipc://{tmp_path}/translator"
    tmp_path.chmod(0o700)
    with service("translator", "--endpoint", endpoint, ready=str(tmp_path / "notify")):
        status, before = once(endpoint)
        assert status == 0
        assert before["coldboot_translator_up"] == 1
        assert before["coldboot_translator_translated_total"] == 0
        text = "main:\n    li s6, 3000\n1:\n    addi s6, s6, -1\n    bnez s6, 1b\n    j PASS\n"
        done = programs.run(text, tmp_path, "-translator", endpoint, "-threshold", "1")
        assert done.returncode == 0
        _, after = once(endpoint)
        assert after["coldboot_translator_translated_total"] > 0
        assert after["coldboot_translator_phase_seconds_totalcodegen"] > 0
    status, gone = once(endpoint)
    assert status == 1
    assert gone == {"coldboot_translator_up": 0}


def test_over_http(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        runner.command("metrics", "--listen", f"127.0.0.1:{port}", f"ipc://{tmp_path}/nobody"),
        env=runner.environment(),
    )
    try:
        found: dict[str, float] = {}
        end = os.times().elapsed + DEADLINE
        while not found:
            assert process.poll() is None
            assert os.times().elapsed < end
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                    found = counts(answer.read().decode())
            except OSError:
                continue
        assert found == {"coldboot_translator_up": 0}
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("text", ["9464", ":9464", "host:0", "host:70000", "host:http"])
def test_an_address_that_cannot_be(text: str):
    with pytest.raises(UserError, match="ADDRESS:PORT is expected"):
        listen_address(text)
