"""A translator's counts for Prometheus, from a real translator over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cpu_proc import counts as machine_counts
from cpu_proc.metrics import listen_address
from protocol.errors import UserError
from tests.system import programs, runner

DEADLINE = 240.0
NOBODY = {"coldboot_translator_up": 0, "coldboot_machines": 0}


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
    done = asked_once(endpoint, "/nowhere")
    return done.returncode, counts(done.stdout)


def asked_once(endpoint: str, machines: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        runner.command("metrics", "--once", "--machines", machines, endpoint),
        capture_output=True, text=True, timeout=240, check=False, env=runner.environment(),
    )  # fmt: skip


def test_what_a_translator_did_is_counted(tmp_path: Path):
    endpoint = f"ipc://{tmp_path}/translator"
    tmp_path.chmod(0o700)
    words = ("translator", "--endpoint", endpoint, "--store", "off")
    with service(*words, ready=str(tmp_path / "notify")):
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
    assert gone == NOBODY


RESTLESS = """
main:
    li t0, 0x80800000       # beyond the image: it stays through a reset
    ld t1, 0(t0)
    bnez t1, again
    li t1, 1
    sd t1, 0(t0)
    li t2, 0x7777
    li t3, FINISHER
    sw t2, 0(t3)
    j .
again:
    addi s6, s6, 1
    bnez s6, again
    j again
"""
"""Resets the system once, and then counts for ever."""

PATCHED = RESTLESS.replace(
    "again:",
    """
again:
    mv t4, s7
    slli s7, s7, 1          # in the end it runs long enough for its region to come
1:
    addi t4, t4, -1
    bnez t4, 1b
    la t5, 1b               # code that was hot: the same bytes again
    lw t6, 0(t5)
    sw t6, 0(t5)
    fence.i
    j again
""",
).replace("main:", "main:\n    li s7, 3000000")
"""The same, but that it writes to its loop again and again."""


def test_what_a_machine_does_is_counted_and_the_dashboard_shows_it(tmp_path: Path):
    endpoint = f"ipc://{tmp_path}/coldboot/translator"
    (tmp_path / "coldboot").mkdir(0o700)
    machines = tmp_path / "coldboot" / "machines"
    with service("translator", "--endpoint", endpoint, ready=str(tmp_path / "notify")):
        words = ("-m", "32M", "-serial", "null", "-threshold", "2", "-translator", endpoint)
        machine = subprocess.Popen(
            runner.command("run", *words, programs.elf(PATCHED, tmp_path)),
            env={**runner.environment(), "XDG_RUNTIME_DIR": str(tmp_path)},
        )
        try:
            name, _ = runner.until(
                lambda: next(
                    (
                        (name, one)
                        for name, one in machine_counts.machines(machines)
                        if one["resets"] and one["retirements"].get("guest_store")
                    ),
                    None,
                ),
                "a machine that was reset, and wrote to its region",
            )
            assert name == str(machine.pid)
            done = asked_once(endpoint, machines)
        finally:
            machine.terminate()
            machine.wait(DEADLINE)
    assert done.returncode == 0
    assert not list(machines.iterdir()), "who ends by itself leaves nothing"
    found = counts(done.stdout)
    of = "coldboot_machine_"
    assert found["coldboot_machines"] == 1
    assert found[f"{of}info" + "".join(sorted([name, "program.elf", "llvm"]))] == 1
    assert found[f"{of}resets_total{name}"] == 1
    assert found[f"{of}retirements_total{name}system_reset"] == 1
    assert f"{of}regions{name}" in found
    assert found[f"{of}requests_total{name}published"] >= 1
    assert found[f"{of}instructions_total0{name}"] > 1000
    assert found[f"{of}leaves_total0{name}hot"] >= 1
    for part in ("harts_out", "records", "translator", "whole"):
        timed = f"{of}retirement_seconds_count" + "".join(sorted([name, "system_reset", part]))
        assert found[timed] == 1
    caused = {key for key in found if key.startswith(f"{of}retirements_total{name}")}
    assert {f"{of}retirements_total{name}{c}" for c in ("guest_store", "system_reset")} <= caused
    for key in caused:
        cause = key.removeprefix(f"{of}retirements_total{name}")
        timed = f"{of}retirement_seconds_count" + "".join(sorted([name, cause, "whole"]))
        assert found[timed] >= found[key], "it is told later than the count"
    told = {re.split(r"[^a-z_]", line)[0] for line in done.stdout.splitlines()}
    for path in ("dashboard.json", "alerts.yml"):
        text = (runner.REPOSITORY / "deploy" / "prometheus" / path).read_text()
        asked = set(re.findall(r"\bcoldboot_[a-z_]+", text))
        assert asked, path
        assert asked - told == set(), f"{path} asks for what nobody tells"
    for expression in expressions():
        assert asked_labels(expression) <= labels_of(expression, done.stdout), expression


def expressions() -> list[str]:
    """All queries of the dashboard and of the alerts."""
    folder = runner.REPOSITORY / "deploy" / "prometheus"
    panels = json.loads((folder / "dashboard.json").read_text())["panels"]
    alerts = re.findall(r"expr: (?:>-\s+)?(.+)", (folder / "alerts.yml").read_text())
    found = [target["expr"] for panel in panels for target in panel["targets"]] + alerts
    assert len(found) > 20
    return found


def asked_labels(expression: str) -> set[str]:
    """The labels by which a query selects or sums."""
    chosen = re.findall(r"[{,]\s*([a-z]+)\s*[=!]", expression)
    sums = ",".join(re.findall(r"by \(([^)]*)\)", expression))
    return {*chosen, *filter(None, re.split(r"[, ]+", sums))}


def labels_of(expression: str, text: str) -> set[str]:
    """The labels that what it asks for has, in a scrape."""
    asked = set(re.findall(r"\bcoldboot_[a-z_]+", expression))
    return {
        label
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in asked
        for label in sample.labels
    }


def test_the_dashboard_is_one():
    path = runner.REPOSITORY / "deploy" / "prometheus" / "dashboard.json"
    board = json.loads(path.read_text())
    variables = {one["name"] for one in board["templating"]["list"]}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in board["panels"]]
    assert len(places) == len(set(places))
    for panel in board["panels"]:
        assert panel["title"]
        for target in panel["targets"]:
            used = set(re.findall(r"\$([a-z]+)\b", target["expr"]))
            assert used <= variables, target
            assert target["expr"].count("(") == target["expr"].count(")")
            assert target["expr"].count("{") == target["expr"].count("}")


def test_a_machine_that_was_killed_is_told_no_more(tmp_path: Path):
    (tmp_path / "coldboot").mkdir(0o700)
    machines = tmp_path / "coldboot" / "machines"
    words = ("-m", "32M", "-serial", "null", "-translator", "none")
    line = runner.command("run", *words, programs.elf(RESTLESS, tmp_path))
    environment = {**runner.environment(), "XDG_RUNTIME_DIR": str(tmp_path)}
    for _ in range(2):
        machine = subprocess.Popen(line, env=environment)
        try:
            runner.until(lambda: list(machine_counts.machines(machines)), "a machine that answers")
        finally:
            machine.kill()
            machine.wait(DEADLINE)
        left = [path.name for path in machines.iterdir()]
        assert [str(machine.pid)] == left, "the next one tidies up what the last one left"
        assert [] == list(machine_counts.machines(machines))


@contextmanager
def over_http(machines: Path, endpoint: str) -> Iterator[tuple[int, int]]:
    """A process that answers HTTP, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ("metrics", "--listen", f"127.0.0.1:{port}", "--machines", machines, endpoint)
    process = subprocess.Popen(runner.command(*words), env=runner.environment())
    try:
        yield process.pid, port
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()


def scraped(port: int) -> dict[str, float] | None:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return counts(answer.read().decode())
    return None


def descriptors(pid: int) -> list[tuple[int, str, bool]]:
    """What a process has open: its number, what it leads to, and whether to write."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            info = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
            mode = int(info.split("flags:")[1].split()[0], 8) & os.O_ACCMODE
            found.append((int(link.name), os.readlink(link), mode != os.O_RDONLY))
    return found


def test_who_looks_on_holds_nothing_and_can_say_nothing(tmp_path: Path):
    (tmp_path / "coldboot").mkdir(0o700)
    machines = tmp_path / "coldboot" / "machines"
    words = ("-m", "32M", "-serial", "null", "-translator", "none")
    machine = subprocess.Popen(
        runner.command("run", *words, programs.elf(RESTLESS, tmp_path)),
        env={**runner.environment(), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    try:
        runner.until(lambda: list(machine_counts.machines(machines)), "a machine that answers")
        assert 0o700 == stat.S_IMODE(machines.stat().st_mode)
        path = machines / str(machine.pid)
        deaf = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for one in deaf:  # they ask, and do not listen, or talk
            one.connect(str(path))
            with suppress(OSError):
                one.sendall(b'{"execute": "quit"}' * 1000)
        with over_http(machines, f"ipc://{tmp_path}/nobody") as (onlooker, port):
            found = runner.until(lambda: scraped(port), "an answer over HTTP", DEADLINE)
            assert found["coldboot_translator_up"] == 0
            assert found[f"coldboot_machine_resets_total{machine.pid}"] == 1
            held = descriptors(onlooker)
            targets = [target for _, target, _ in held]
            assert [] == [target for target in targets if target.startswith("/memfd")]
            assert [] == [name for _, name in runner.maps(onlooker) if "memfd:coldboot" in name]
            inodes = {target[8:-1] for target in targets if target.startswith("socket:[")}
            for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
                rows = Path(f"/proc/{onlooker}/net/{kind}").read_text().splitlines()[1:]
                own = [row.split() for row in rows if row.split()[9] in inodes]
                listening = {row[1] for row in own if row[3] == "0A"}
                assert listening == ({f"0100007F:{port:04X}"} if kind == "tcp" else set())
            written = [t for number, t, writes in held if number > 2 and writes and t[0] == "/"]
            assert [] == written
        for one in deaf:
            one.close()
        assert machine.poll() is None
        assert list(machine_counts.machines(machines))
    finally:
        machine.kill()
        machine.wait(DEADLINE)


@pytest.mark.parametrize("text", ["9464", ":9464", "host:0", "host:70000", "host:http"])
def test_an_address_that_cannot_be(text: str):
    with pytest.raises(UserError, match="ADDRESS:PORT is expected"):
        listen_address(text)
