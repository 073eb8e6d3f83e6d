"""A machine that attaches and waits to be killed: `python -m cpu_proc.conformance.victim JSON`.

Read next: `lifetime.py`, which starts and kills it.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from cpu_proc.conformance.peer import Peer
from cpu_proc.conformance.programs import HEAVY_ENTRIES, heavy
from cpu_proc.conformance.rules import Bench, Violation
from cpu_proc.conformance.target import Target


def main(text: str) -> int:
    """Attach, ask for something long, say so, and stay."""
    asked = json.loads(text)
    peer = Peer(Bench(Target(asked["endpoint"]), asked["backend"]))
    try:
        peer.attach()
    except Violation as error:
        print(error.text, file=sys.stderr)
        return 1
    assert peer.welcome is not None
    peer.write(1, heavy(os.getpid()))
    peer.translate(1, HEAVY_ENTRIES)
    print(json.dumps({"mark": peer.mark, "translator": peer.welcome.pid}), flush=True)
    signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
