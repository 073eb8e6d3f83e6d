"""`coldboot metrics`: a translator's counts for Prometheus.

Problem: who runs a translator for many machines wants its load on a dashboard, and the translator
itself should have no business with TCP. So this is a process of its own: it asks for the counts
(STATS) when it is scraped, and answers HTTP.

Invariants: a translator that does not answer is told as `coldboot_translator_up 0`, never as an
error of the scrape or as counts of before; counts keep the translator's own names.

Read next: `protocol/session_book.py` (`counters`), `deploy/`.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

from protocol.errors import UserError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import CollectorRegistry, Metric

DEADLINE = 2.0  # seconds for the translator to answer
DEFAULT_LISTEN = "127.0.0.1:9464"
GAUGES = {
    "sessions": "machines attached",
    "queued": "requests waiting for a worker",
    "running": "requests a worker is at",
    "modules": "translations in code segments",
    "code_bytes": "bytes used of code segments",
    "workers": "worker processes wanted",
}
"""What goes up and down; everything else the translator counts only grows."""
PREFIX = "coldboot_translator"


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `coldboot metrics`."""
    parser.add_argument("endpoint", nargs="?", help="the translator's (default: the user's own)")
    parser.add_argument(
        "--listen",
        default=DEFAULT_LISTEN,
        metavar="ADDRESS:PORT",
        help="where to answer HTTP (default %(default)s)",
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

    collector = Collector(arguments.endpoint or default_endpoint())
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
    """Asks one translator, each time it is scraped."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
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
