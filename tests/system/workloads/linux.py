"""Workloads under Debian's kernel: a script in an initramfs that checks itself.

Problem: the kernel patches itself (function tracer, static keys, modules), compiles (eBPF), and its
programs do (LuaJIT, stress-ng). Each of these is a shell script here, put with what it needs into
an archive behind the initramfs, and run by its init.

Invariants: a script ends at its first failure with another status than 0; the kernel's log is
searched for complaints at the end, and every hundred rounds of a long run; times are the guest's
own, from /proc/uptime, so that booting is not in them.

Source: Linux, Documentation/trace/ftrace.rst; lib/test_bpf.c. Read next: `emulators`,
`cpu_proc/initramfs.py`, `cpu_proc/guest_programs.py`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpu_proc import cpio, guest_programs
from tests.system import runner
from tests.system.workloads import emulators
from tests.system.workloads.emulators import WorkloadError

PROLOGUE = """\
now() { read up rest < /proc/uptime; echo "$up"; }
# time NAME BEGIN COUNT: what one of COUNT rounds since BEGIN took.
took() { echo "WORKLOAD took $1 $2 $(now) $3"; }
fail() { echo "WORKLOAD failed: $*"; exit 1; }
# The kernel's complaints since the last call. Its own echo of the command line has none.
complaints() {
    dmesg -c > /tmp/kernel.log
    grep -E 'Oops|BUG|WARNING|Call Trace|Unable to handle|[Ss]tall|rror:|ftrace fail|FAIL ' \\
        /tmp/kernel.log && fail "the kernel complained"
    return 0
}
complaints
"""
EPILOGUE = """
complaints
echo "WORKLOAD done on $(nproc)"
"""

TRACER = """
mount -t tracefs nodev /sys/kernel/tracing || fail tracefs
cd /sys/kernel/tracing
BUSY
begin=$(now)
i=0
while [ $i -lt COUNT ]; do
    echo function > current_tracer || fail "on, round $i"
    [ $i -gt 0 ] || traced=$(head -n 2000 trace | grep -c -e '<-')
    echo nop > current_tracer || fail "off, round $i"
    i=$((i+1))
    [ $((i % 100)) -gt 0 ] || { complaints; echo "WORKLOAD round $i $(now)"; }
done
took "tracer on and off" $begin COUNT
[ $traced -gt 100 ] || fail "only $traced calls were traced"
"""

# Processes that begin, map, fault and end on the other harts meanwhile.
BUSY = """
(while :; do cat /proc/stat /proc/self/maps > /dev/null; ls /sys/kernel > /dev/null; done) &
"""

BPF = """
echo 1 > /proc/sys/net/core/bpf_jit_enable || fail "no eBPF compiler"
begin=$(now)
i=0
while [ $i -lt COUNT ]; do
    insmod /lib/modules/test_bpf.ko test_suite=test_bpf test_range=0,260 || fail insmod
    rmmod test_bpf || fail rmmod
    dmesg | grep -q "test_bpf: Summary: 261 PASSED, 0 FAILED, \\[254/254 JIT'ed\\]" ||
        fail "$(dmesg | grep -e Summary -e 'FAIL ')"
    complaints
    i=$((i+1))
done
took "test_bpf 0 to 260" $begin COUNT
"""

MODULES = """
insmod /lib/modules/test_static_key_base.ko || fail insmod
begin=$(now)
i=0
while [ $i -lt COUNT ]; do
    insmod /lib/modules/test_static_keys.ko || fail "insmod, round $i"
    rmmod test_static_keys || fail "rmmod, round $i"
    i=$((i+1))
done
took "static keys: insmod and rmmod" $begin COUNT
begin=$(now)
load-modules || fail load-modules
took "load-modules" $begin 1
"""

LUA_PROGRAM = """\
local count, sum = tonumber(arg[1]), 0
for i = 1, count do
    local text = "local s = 0; for j = 1, 100 do s = s + j * " .. i .. " end; return s"
    local result = assert(loadstring(text))()
    assert(result == 5050 * i, "round " .. i .. ": " .. tostring(result))
    sum = sum + result
end
assert(sum == 5050 * count * (count + 1) / 2)
assert(jit.status() == (arg[2] == "on"))
print("LUA", count, jit.status())
"""

LUA = """
for time in first second third; do
    begin=$(now)
    luajit /root/program.lua COUNT on || fail "with the JIT"
    took "loadstring with the JIT, $time run" $begin COUNT
done
begin=$(now)
luajit -joff /root/program.lua COUNT off || fail "without the JIT"
took "loadstring without" $begin COUNT
"""

STRESSORS = ("icache", "dynlib", "mprotect", "tlb-shootdown", "sigill", "fork", "opcode")

STRESS = """
for name in STRESSORS; do
    begin=$(now)
    stress-ng --temp-path /tmp --verify --timeout 600 --$name $(nproc) --$name-ops COUNT \\
        > /tmp/said 2>&1 || { cat /tmp/said; fail "stress-ng --$name: status $?"; }
    grep -q "passed: $(nproc): $name" /tmp/said || { cat /tmp/said; fail "$name did not pass"; }
    took "stress-ng $name" $begin COUNT
done
"""


@dataclass(frozen=True)
class Workload:
    """A script with COUNT and what it needs. `count`: rounds of a full run on one or two harts."""

    about: str
    script: str
    count: int
    programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()


WORKLOADS = {
    "tracer": Workload(
        "the kernel's function tracer on and off", TRACER.replace("BUSY", ""), count=1000
    ),
    "tracer-busy": Workload(
        "the same while processes begin and end", TRACER.replace("BUSY", BUSY), count=100
    ),
    "bpf": Workload("the kernel's tests of its eBPF compiler", BPF, count=1, modules=("test_bpf",)),
    "modules": Workload(
        "static keys, modules loaded and removed",
        MODULES,
        count=10,
        modules=("test_static_key_base", "test_static_keys"),
    ),
    "lua": Workload(
        "LuaJIT compiles a text a round",
        LUA,
        count=2000,
        programs=("luajit",),
        files=(("root/program.lua", LUA_PROGRAM),),
    ),
    "stress": Workload(
        "stress-ng: " + ", ".join(STRESSORS),
        STRESS.replace("STRESSORS", " ".join(STRESSORS)),
        count=50,
        programs=("stress-ng",),
    ),
}


@dataclass(frozen=True)
class Result:
    """What a run took: guest seconds a round by name, and the whole run's wall clock and CPU."""

    rounds: dict[str, float]
    seconds: float
    cpu: float


def initramfs(names: Sequence[str], script: str, guests: Path) -> bytes:
    """The guests' initramfs, the programs, and an archive with the script and its files."""
    workloads = [WORKLOADS[name] for name in names]
    modules = {m: guests / "modules" / f"{m}.ko" for w in workloads for m in w.modules}
    parts = [(guests / "initramfs.cpio").read_bytes()]
    for program in dict.fromkeys(p for w in workloads for p in w.programs):
        parts.append(guest_programs.archive_path(guests, program).read_bytes())
    files = dict(file for w in workloads for file in w.files)
    entries = [cpio.file("workload", script.encode(), 0o755)]
    entries += [cpio.file(name, text.encode()) for name, text in files.items()]
    entries += [cpio.file(f"lib/modules/{n}.ko", p.read_bytes()) for n, p in modules.items()]
    return b"".join([*parts, cpio.archive(entries)])


def run(
    names: Sequence[str],
    guests: Path,
    *,
    emulator: str = "coldboot",
    harts: int = 1,
    count: Callable[[str], int] = lambda name: WORKLOADS[name].count,
    words: Sequence[object] = (),
    deadline: float = runner.DEADLINE,
) -> Result:
    """Run workloads, one after the other in one machine. Raises `WorkloadError`."""
    body = "\n".join(
        f"(\n{WORKLOADS[n].script.replace('COUNT', str(count(n)))}) || exit 1\n" for n in names
    )
    script = f"#!/bin/sh\n{PROLOGUE}{body}{EPILOGUE}"
    with tempfile.NamedTemporaryFile(suffix=".cpio") as archive:
        archive.write(initramfs(names, script, guests))
        archive.flush()
        line = runner.linux(guests, "-no-reboot", "-smp", str(harts), append="run=/workload")
        line[line.index("-initrd") + 1] = archive.name
        done = emulators.run(emulator, [*line, *words], deadline)
    if done.status != 0 or f"WORKLOAD done on {harts}\nRUN-EXIT 0\n" not in done.console:
        raise WorkloadError(f"{emulator}: status {done.status}\n{done.console[-6000:]}")
    rounds = {
        name: (float(end) - float(begin)) / int(number)
        for name, begin, end, number in re.findall(
            r"^WORKLOAD took (.+) ([\d.]+) ([\d.]+) (\d+)$", done.console, re.M
        )
    }
    return Result(rounds, done.seconds, done.cpu)
