"""One example of every message, and the golden bytes that hold their encoding fixed.

``python -m tests.protocol.examples`` writes the golden file anew: to be done only together with a
new `PROTOCOL_VERSION`, or before the first release.
"""

from __future__ import annotations

from pathlib import Path

from protocol.codec import encode
from protocol.messages import (
    PROTOCOL_VERSION,
    Attach,
    Attached,
    Bye,
    Cancel,
    Counter,
    Engine,
    EngineReady,
    Entry,
    Error,
    Hello,
    JobCancel,
    JobCode,
    JobDone,
    JobHello,
    JobRefused,
    JobRequest,
    JobWelcome,
    Message,
    Ping,
    Pong,
    Rejected,
    Retire,
    Retired,
    Segment,
    Span,
    Stats,
    StatsReply,
    Swap,
    Swapped,
    Timings,
    Translate,
    Translated,
    Welcome,
    tag_of,
)

GOLDEN = Path(__file__).parent / "golden" / f"messages-v{PROTOCOL_VERSION}.txt"

S = 0x1122334455667788
STAMP = (7, 3, 0x200, 5, 0x13)

EXAMPLES: tuple[Message, ...] = (
    Hello(S, "0123456789abcdef", "fedcba9876543210", "x86_64", ("avx2", "bmi2"), "", 4711),
    Welcome(
        S,
        "0123456789abcdef",
        "fedcba9876543210",
        ("avx2", "bmi2"),
        ("llvm", "reference"),
        2**64 - 1,
        4712,
    ),
    Attach(
        S,
        7,
        Segment("/proc/4711/fd/5", 0x20000000),
        0x80000000,
        Segment("/proc/4711/fd/6", 4096),
        4711,
    ),
    Attached(S, 7, Segment("/proc/4712/fd/9", 0x4000000), "llvm", 4712),
    Engine(S, "engine-0123456789abcdef"),
    EngineReady(S, "engine-0123456789abcdef", "/var/cache/coldboot/engine-0123456789abcdef.o"),
    Translate(S, 1, *STAMP, (0, 4, 2047), 1000),
    Translated(
        S,
        1,
        *STAMP,
        bytes(range(16)),
        0x1000,
        0x200,
        (Entry(0, 0x1000), Entry(4, 0x1040)),
        0b11,
        (Span(0, 62), Span(64, 2)),
        17,
        Timings(120, 90, 800, 300, 700, 9000, 200, 40, 11000),
    ),
    Rejected(S, 1, *STAMP, (0, 4, 2047), "bytes_moved", ""),
    Cancel(S, 1),
    Retire(S, 8, "system_reset"),
    Retired(S, 8, 3, 1, 12, 6144, 0, Segment("/proc/4712/fd/10", 0x4000000), "llvm", 4712),
    Swap(S, "reference"),
    Swapped(S, "reference"),
    Ping(S, 42),
    Pong(S, 42, 2**64 - 1),
    Stats(0),
    StatsReply(0, (Counter("sessions", 2), Counter("code_bytes", 6144))),
    Error(S, "engine_failed", 0, "the compiler refused the engine: see the translator's log"),
    Bye(S, "the guest powered off"),
    JobHello(S, "0123456789abcdef", "fedcba9876543210", "00ff", "x86_64", "x86-64-v3", "llvm"),
    JobWelcome(S, 64, 2**64 - 1),
    JobRequest(S, 1, 0x200, b"\x13\0\0\0" * 1024, (0, 4), 0x13, 0, (2,), b"\xff" * 256),
    JobCode(S, 1, 0, b"\xc3" * 100),
    JobDone(
        S,
        1,
        100,
        (Entry(0, 0), Entry(4, 64)),
        0b11,
        (Span(0, 62), Span(64, 2)),
        17,
        Timings(0, 90, 800, 300, 700, 9000, 200, 0, 11000),
    ),
    JobRefused(S, 1, "unsupported", ""),
    JobCancel(S, 1),
)


def golden_text() -> str:
    """The golden file as it should be: a tag and its example's bytes a line."""
    lines = [f"{tag_of(message)} {encode(message).hex()}" for message in EXAMPLES]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
