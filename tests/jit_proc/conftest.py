"""Services and machines that a test may start: all are gone when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jit_proc.fake_machine import FakeMachine
from tests.jit_proc.service_process import Connect, Service


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def start(*options: str) -> Service:
        services.append(Service(tmp_path, *options))
        return services[-1]

    yield start
    for service in services:
        service.process.kill()
        service.process.communicate()


@pytest.fixture
def connect() -> Iterator[Connect]:
    machines: list[FakeMachine] = []

    def connect(service: Service, **options: Any) -> FakeMachine:
        machines.append(FakeMachine(service.endpoint, **options))
        return machines[-1]

    yield connect
    for machine in machines:
        machine.close()
