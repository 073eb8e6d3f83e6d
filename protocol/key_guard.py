"""Who may speak to a `Server` that is guarded by keys, for as long as their keys are authorized.

Problem: CURVE proves a key when a connection is made, and a connection lasts for days. Who is no
longer trusted must be out at once, not when its next connection is made.

Invariants:
- A message counts only if the key of its connection was authorized within the last `LOOK` seconds.
- Who was refused is told so: no session of its is known; what it said is not looked at.
- A folder of keys that cannot be read authorizes nobody.
- No socket: `transport.Server` asks, and sends.

Read next: `protocol.keys`, `protocol.transport`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from protocol.keys import Keys
from protocol.logs import get_logger
from protocol.messages import Error

LOOK: Final = 0.5
"""Seconds between two looks at the folder while connections stand; who comes is looked up anew."""

PEERS: Final = 4096

REFUSED: Final = Error(0, "unknown_session", 0, "this side's key is no longer authorized there")

log = get_logger("transport")


class Guard:
    """The keys of those who are connected."""

    def __init__(self, keys: Keys, spell: Callable[[bytes], bytes]) -> None:
        """`spell`: the text of a key's 32 bytes (ZeroMQ RFC 32)."""
        self._keys = keys
        self._spell = spell
        self._authorized: dict[str, str] = {}
        self._looked = float("-inf")
        self._peers: dict[bytes, tuple[str, str]] = {}
        self.refused = 0
        """Connections refused for their keys."""

    def judge(self, asked: Sequence[bytes]) -> list[bytes]:
        """The answer to a question by ZeroMQ RFC 27, whose user is the public key."""
        version, request, _domain, address, _identity, mechanism = (*asked, *[b""] * 6)[:6]
        key = asked[6] if len(asked) == 7 and mechanism == b"CURVE" else b""
        public = self._spell(key).decode() if len(key) == 32 else ""
        where = address.decode("ascii", "replace")
        self._look()
        name = self._authorized.get(public)
        if name is None:
            self.refused += 1
            if self.refused & (self.refused - 1) == 0:
                log.warning("key_refused", address=where, key=public, count=self.refused)
            return [version, request, b"400", b"this key is not authorized", b"", b""]
        log.info("key_accepted", address=where, name=name)
        return [version, request, b"200", b"", public.encode(), b""]

    def admits(self, peer: bytes, public: str) -> bool:
        """Whether a message of this peer, which proved this key, may be looked at."""
        name = self._now().get(public)
        if name is None:
            return False
        if peer not in self._peers and len(self._peers) >= PEERS:  # they come and go: the oldest
            del self._peers[next(iter(self._peers))]
        self._peers[peer] = public, name
        return True

    def revoked(self) -> list[bytes]:
        """Peers whose keys are authorized no longer, each once."""
        now = self._now()
        gone = [peer for peer, (public, _) in self._peers.items() if public not in now]
        for peer in gone:
            public, name = self._peers.pop(peer)
            log.warning("key_revoked", name=name, key=public)
        return gone

    def _now(self) -> dict[str, str]:
        if time.monotonic() - self._looked >= LOOK:
            self._look()
        return self._authorized

    def _look(self) -> None:
        self._authorized = self._keys.authorized()
        self._looked = time.monotonic()
