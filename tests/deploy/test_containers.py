"""The compose file and the manifests: valid, closed, and with command lines that we understand.

No container is started here.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cpu_proc import options
from jit_proc.__main__ import _parser as translator_arguments
from protocol.errors import UserError
from tests.oracle import require
from tests.system import runner

FOLDER = runner.REPOSITORY / "deploy"
MANIFESTS = sorted((FOLDER / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.31"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The services, as docker-compose understands them."""
    words = [require("docker-compose"), "-f", str(FOLDER / "compose.yaml"), "config"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    found = yaml.safe_load(done.stdout)["services"]
    assert isinstance(found, dict)
    return found


def pods() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        for one in documents(path):
            if one["kind"] in ("DaemonSet", "Job"):
                yield one["spec"]["template"]["spec"]


def understood(words: Sequence[str], folder: Path) -> None:
    """Fails unless a container's arguments are a command line of ours."""
    command, *rest = words
    if command == "run":
        (folder / "file").write_bytes(b"guest")
        there = [str(folder / "file") if word.startswith("/guests/") else word for word in rest]
        assert options.parse(there).translator == "ipc:///run/coldboot/translator"
    elif command == "translator":
        translator_arguments().parse_args(rest)
    else:
        assert "metrics" == command
        done = subprocess.run(
            runner.command(*words, "--once", "--help"), env=runner.environment(),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert 0 == done.returncode, done.stderr


def test_compose_services_are_closed(compose: dict[str, Any]):
    assert {"processes", "translator", "machine", "metrics"} == set(compose)
    for name, service in compose.items():
        assert service["read_only"] is True, name
        assert ["ALL"] == service["cap_drop"], name
        assert ["no-new-privileges:true"] == service["security_opt"], name
        assert "10001:10001" == service["user"], name
        assert ("none" if name != "metrics" else "bridge") == service["network_mode"], name
        if name != "processes":
            assert "service:processes" == service["pid"], "memory is opened by /proc/PID/fd"


def test_manifests_are_valid():
    for path in MANIFESTS:
        for one in documents(path):
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_a_mistake_in_a_manifest_is_found():
    wrong = copy.deepcopy(documents(FOLDER / "kubernetes" / "machine.yaml")[0])
    wrong["spec"]["template"]["spec"]["containers"][0]["securityContxt"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_pods_are_closed():
    assert 2 == len(list(pods()))
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert {"type": "RuntimeDefault"} == pod["securityContext"]["seccompProfile"]
        assert pod["automountServiceAccountToken"] is False
        for one in pod["containers"]:
            context = one["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, one["name"]
            assert context["readOnlyRootFilesystem"] is True, one["name"]
            assert {"drop": ["ALL"]} == context["capabilities"], one["name"]
            assert "memory" in one["resources"]["limits"], one["name"]


def test_only_the_translator_writes_the_store(compose: dict[str, Any]):
    writers = {
        one["name"]
        for pod in pods()
        for one in pod["containers"]
        for mount in one["volumeMounts"]
        if mount["name"] == "store" and not mount.get("readOnly")
    }
    assert {"translator"} == writers
    mounts = {name: json.dumps(one.get("volumes", [])) for name, one in compose.items()}
    assert "/var/cache/coldboot:rw" in mounts["translator"]
    assert "/var/cache/coldboot:ro" in mounts["machine"]
    assert "/var/cache" not in mounts["metrics"]


def test_command_lines_are_ours(compose: dict[str, Any], tmp_path: Path):
    for name, service in compose.items():
        if name != "processes":
            understood(service["command"], tmp_path)
    for pod in pods():
        for one in pod["containers"]:
            understood(one["args"], tmp_path)
    with pytest.raises(UserError):
        understood(["translator", "--no-such-option"], tmp_path)


def test_the_image_has_what_the_others_name():
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert "--require-hashes -r /src/requirements.lock" in text
    assert "USER 10001:10001" in text
    for line in text.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (runner.REPOSITORY / name).exists(), name
