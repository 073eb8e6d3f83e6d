"""`coldboot metrics`: what a translator and the machines of this host count, for Prometheus.

Problem: who runs a translator for many machines wants their load on a dashboard, and neither should
have any business with TCP. So this is a process of its own: it asks for the counts when it is
scraped (the translator by STATS, each machine by its socket), and answers HTTP.

Invariants: a translator that does not answer is told as `coldboot_translator_up 0`, never as an
error of the scrape or as counts of before; a machine that does not answer is not told at all;
counts keep their own names.

Read next: docs/metrics.md (every name), `protocol/session_book.py` (`counters`), `counts.py`,
`deploy/`.
"""

from __future__ import annotations

import signal
import threading
import time
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpu_proc.counts import machines as counts_of_machines
from cpu_proc.latency import BOUNDS
from protocol.errors import UserError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.core import CollectorRegistry, Metric

DEADLINE = 5.0  # seconds for the translator to answer: half of Prometheus' own
DEFAULT_LISTEN = "127.0.0.1:9464"
GAUGES = {
    "sessions": "machines attached",
    "queued": "requests waiting for a worker",
    "running": "requests a worker is at",
    "modules": "translations in code segments",
    "code_bytes": "bytes used of code segments",
    "workers": "worker processes wanted",
    "store_regions": "translations kept in memory",
    "store_memory_bytes": "bytes of them",
    "store_disk_bytes": "bytes of translations on disk",
}
"""What goes up and down; everything else the translator counts only grows."""
PREFIX = "coldboot_translator"
MACHINE_GAUGES = {
    "seconds": "seconds since power-on",
    "epoch": "the epoch: all translations of an earlier one are dead",
    "map_generation": "how often the memory map was changed",
    "regions": "regions published now",
}
HART_COUNTERS = {
    "instructions": "instructions retired, as of the hart's last look up from its work",
    "traps": "exceptions and interrupts taken",
    "decodes": "records filled",
    "walks": "TLB misses that walked",
    "tracked_stores": "stores to tracked lines",
    "device_accesses": "accesses to devices",
}
HART_STATES = ("native", "python", "sleeps")
LATENCY = "how long retirements took that Python had a part in"
MACHINE = "coldboot_machine"


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `coldboot metrics`."""
    parser.add_argument("endpoint", nargs="?", help="the translator's (default: the user's own)")
    parser.add_argument(
        "--listen",
        default=DEFAULT_LISTEN,
        metavar="ADDRESS:PORT",
        help="where to answer HTTP (default %(default)s)",
    )
    parser.add_argument(
        "--machines",
        type=Path,
        metavar="FOLDER",
        help="where machines have their sockets (default: in the user's runtime folder)",
    )
    parser.add_argument("--once", action="store_true", help="print the counts once, and end")


def run(arguments: Namespace) -> int:
    """Serve, or print once. Raises UserError."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest, start_http_server
    except ImportError as error:
        raise UserError(
            "metrics: the package prometheus-client is missing: pip install coldboot[metrics]"
        ) from error
    from protocol.transport import default_endpoint

    collector = Collector(arguments.endpoint or default_endpoint(), arguments.machines)
    registry = CollectorRegistry(auto_describe=False)
    collector.register(registry)
    if arguments.once:
        text = generate_latest(registry).decode()
        print(text, end="")
        return 0 if f"{PREFIX}_up 1.0" in text else 1
    address, port = listen_address(arguments.listen)
    try:
        start_http_server(port, address, registry)
    except OSError as error:
        raise UserError(f"metrics --listen {arguments.listen}: {error.strerror}") from error
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    return 0


def listen_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:9464` or `[::1]:9464` as address and port. Raises UserError."""
    address, colon, port = text.rpartition(":")
    if not colon or not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"metrics --listen {text}: ADDRESS:PORT is expected, as {DEFAULT_LISTEN}")
    return address.strip("[]"), int(port)


def ask(endpoint: str, deadline: float = DEADLINE) -> Mapping[str, int] | None:
    """A translator's counts over all machines; None when it does not answer."""
    from protocol.messages import Stats, StatsReply
    from protocol.transport import Client

    end = time.monotonic() + deadline
    try:
        client = Client(endpoint)
    except UserError:
        return None
    try:
        client.send(Stats(0))
        while (left := end - time.monotonic()) > 0:
            client.poll(left)
            for message in client.receive():
                if isinstance(message, StatsReply):
                    return {counter.name: counter.value for counter in message.counters}
    finally:
        client.close()
    return None


class Collector:
    """Asks one translator and all machines, each time it is scraped."""

    def __init__(self, endpoint: str, machines: Path | None = None) -> None:
        self._endpoint = endpoint
        self._machines = machines
        self._asking = threading.Lock()

    def register(self, registry: CollectorRegistry) -> None:
        """Have `registry` scrape this."""
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: what a translator counts is its own."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._asking:
            counts = ask(self._endpoint)
        yield GaugeMetricFamily(
            f"{PREFIX}_up", "whether the translator answers", value=int(counts is not None)
        )
        phases = CounterMetricFamily(
            f"{PREFIX}_phase_seconds", "where the time of translations went", labels=["phase"]
        )
        for name, value in (counts or {}).items():
            if name in GAUGES:
                yield GaugeMetricFamily(f"{PREFIX}_{name}", GAUGES[name], value=value)
            elif name.endswith("_us"):
                phases.add_metric([name.removesuffix("_us")], value / 1e6)
            else:
                yield CounterMetricFamily(f"{PREFIX}_{name}", name.replace("_", " "), value=value)
        if counts is not None:
            yield phases
        yield from machine_metrics(list(counts_of_machines(self._machines)))


def machine_metrics(told: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Metric]:
    """What the machines tell, each by its name."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    def family(kind: type[Any], name: str, text: str, *labels: str) -> Any:
        return kind(f"{MACHINE}_{name}", text, labels=["machine", *labels])

    gauge, counter = GaugeMetricFamily, CounterMetricFamily
    yield GaugeMetricFamily("coldboot_machines", "machines that answer", value=len(told))
    info = family(
        gauge, "info", "1; what the machine runs, and what translates", "guest", "backend"
    )
    single = {name: family(gauge, name, text) for name, text in MACHINE_GAUGES.items()}
    resets = family(counter, "resets", "system resets")
    harts = {name: family(counter, name, text, "hart") for name, text in HART_COUNTERS.items()}
    states = family(gauge, "hart_state", "1 for what the hart is at", "hart", "state")
    leaves = family(counter, "leaves", "times a hart left native code for Python", "hart", "cause")
    devices = family(counter, "device_calls", "times Python was called for a device", "device")
    retired = family(counter, "retirements", "what was retired", "cause")
    requests = family(counter, "requests", "what became of requests for regions", "outcome")
    phases = family(counter, "phase_seconds", "where the time of regions went", "phase")
    latency = family(HistogramMetricFamily, "retirement_seconds", LATENCY, "cause", "part")
    for name, one in told:
        info.add_metric([name, one["guest"], one["backend"]], 1)
        for key, metric in single.items():
            metric.add_metric([name], one[key])
        resets.add_metric([name], one["resets"])
        for number, hart in enumerate(one["harts"]):
            at = [name, str(number)]
            for key, metric in harts.items():
                metric.add_metric(at, hart[key])
            for state in HART_STATES:
                states.add_metric([*at, state], int(hart["state"] == state))
            for cause, value in hart["leaves"].items():
                leaves.add_metric([*at, cause], value)
        for metric, values in (
            (devices, one["devices"]),
            (retired, one["retirements"]),
            (requests, one["requests"]),
        ):
            for key, value in values.items():
                metric.add_metric([name, key], value)
        for phase, microseconds in one["phases_us"].items():
            phases.add_metric([name, phase], microseconds / 1e6)
        for histogram in one["latency"]:
            ends = [*map(str, BOUNDS), "+Inf"]
            buckets = list(zip(ends, accumulate(histogram["buckets"]), strict=True))
            at = [name, histogram["cause"], histogram["part"]]
            latency.add_metric(at, buckets, histogram["sum"])
    yield from (info, *single.values(), resets, *harts.values(), states, leaves, devices, retired)
    yield from (requests, phases, latency)
