"""Another host, as far away as is asked for: a network namespace behind a line that delays and
loses packets.

The problem: what a program does over a bad line is only seen over one. Linux's own (`tc netem`) is
not in every kernel, so the line is made here: a TUN device on each side, and a process that carries
packets between them, each `delay` later, and some not at all. Above it is the kernel's own TCP.

It takes root, `ip` and /dev/net/tun; without them `FarHost` skips the test, and says so.

Invariant: namespace, devices and processes are gone when the `with` block ends.

Read next: `test_remote.py`.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from types import TracebackType

import pytest

from tests import oracle
from tests.system import runner

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_QUEUE = 1000  # packets on their way; what is beyond is lost, as on any line


class Unavailable(Exception):
    """This machine cannot have another host in a namespace; the message says why."""


class FarHost:
    """A namespace; `address` is its own, seen from here. Use it in a `with` statement."""

    def __init__(self, *, delay: float = 0.02, loss: float = 0.01, seed: int = 1) -> None:
        """`delay`: seconds in each direction; `loss`: share of packets, in each direction."""
        number = os.getpid() % 16000
        net = f"10.{203 + number // 8000}.{number % 8000 // 64}"
        host = number % 64 * 4
        self.address, self._here = f"{net}.{host + 2}", f"{net}.{host + 1}"
        self.name = f"coldboot-{os.getpid()}"
        self._devices = f"cbh{os.getpid()}", f"cbf{os.getpid()}"
        self._line = [delay, loss, seed]
        self._fds: list[int] = []
        self._relay: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> FarHost:
        try:
            self._open()
        except (OSError, subprocess.CalledProcessError) as error:
            self._close()
            said = getattr(error, "stderr", b"") or b""
            raise Unavailable(f"a network namespace: {error} {said.decode()}".strip()) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _open(self) -> None:
        here, far = self._devices
        _ip("netns", "add", self.name)
        self._fds = [_tun(here), _tun(far)]
        _ip("link", "set", far, "netns", self.name)
        for words, device, address in (
            ((), here, self._here),
            (("-n", self.name), far, self.address),
        ):
            _ip(*words, "addr", "add", f"{address}/30", "dev", device)
            _ip(*words, "link", "set", device, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        self._relay = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, [*self._fds, *self._line])],
            pass_fds=self._fds,
            env=runner.environment(),
        )

    def _close(self) -> None:
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()
            self._relay = None
        for fd in self._fds:
            os.close(fd)  # its device goes with it
        self._fds = []
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    @property
    def prefix(self) -> tuple[str, ...]:
        """What the command line of a program there begins with."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Nothing passes any more, until `mend`."""
        _ip("link", "set", self._devices[0], "down")

    def mend(self) -> None:
        """The line is as it was."""
        _ip("link", "set", self._devices[0], "up")


def far_host(**line: float) -> FarHost:
    """One that is there, or the test is skipped: loudly, for a kernel cannot be installed."""
    oracle.require("ip")
    try:
        with FarHost():
            pass
    except Unavailable as error:
        pytest.skip(f"{oracle.MISSING}{error}")
    return FarHost(**line)  # type: ignore[arg-type]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _tun(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd


def carry(fds: tuple[int, int], delay: float, loss: float, seed: int) -> None:
    """Carry packets between two devices for ever."""
    draw = random.Random(seed)
    way: tuple[deque[tuple[float, bytes]], ...] = (deque(), deque())
    for fd in fds:
        os.set_blocking(fd, False)
    while True:
        due = [packets[0][0] for packets in way if packets]
        wait = max(0.0, min(due) - time.monotonic()) if due else None
        for fd in select.select(fds, [], [], wait)[0]:
            packets = way[fds.index(fd)]
            for _ in range(64):
                try:
                    packet = os.read(fd, 65536)
                except OSError:  # nothing more, or the device is down
                    break
                if draw.random() >= loss and len(packets) < _QUEUE:
                    packets.append((time.monotonic() + delay, packet))
        now = time.monotonic()
        for packets, out in zip(way, reversed(fds), strict=True):
            while packets and packets[0][0] <= now:
                try:
                    os.write(out, packets.popleft()[1])
                except OSError:  # down: the packet is lost
                    continue


if __name__ == "__main__":
    first, second, *rest = sys.argv[1:]
    carry((int(first), int(second)), float(rest[0]), float(rest[1]), int(rest[2]))
