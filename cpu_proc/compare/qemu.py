"""QEMU's `virt` with a scenario's program as its firmware.

The problem: what a guest asks of the outside world must come to QEMU at the moment the guest is
ready for it. The serial line is a socket; the host's writes and single steps are a debugger's, by
the stub for gdb; snapshots are the monitor's, by QMP.

Invariants:
- The program's bytes are those that run here, the options are the nearest that QEMU has, and
  multi-threaded TCG is QEMU's own default.
- Flash is unit 1 alone: a file in unit 0 would change where QEMU starts.

Read next: `qemu_link.py`, `peer.py`.
"""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

from cpu_proc.compare.peer import (
    DONE,
    KEPT,
    Cell,
    Dialogue,
    Guest,
    Impossible,
    Peer,
    Verb,
    end,
    reader,
)
from cpu_proc.compare.qemu_link import Debugger, Monitor
from cpu_proc.options import FLASH_BANK_SIZE, ICOUNT_SHIFT
from cpu_proc.stress.scenario import number

PROGRAM = "qemu-system-riscv64"
START = 30.0  # seconds until QEMU has opened its serial line
CLUSTER = 1 << 16


class Qemu(Peer):
    """A QEMU binary."""

    def __init__(self, path: str = PROGRAM, name: str = "qemu") -> None:
        self.name = name
        self._path = path

    def missing(self) -> str:
        """Whether there is such a program."""
        if shutil.which(self._path) is None:
            return f"{self._path} is not there: install Debian's qemu-system-misc, or give --qemu"
        return ""

    def version(self) -> str:
        """As the program says."""
        done = subprocess.run(
            [self._path, "--version"], capture_output=True, text=True, check=False, timeout=START
        )
        found = re.search(r"version (\d+\.\d+\.\d+)", done.stdout)
        return f"QEMU {found[1]}" if found else "QEMU"

    def run(self, guest: Guest) -> Cell:
        """Start QEMU on the guest's program and serve it."""
        if guest.needs("boot-remap"):
            return Cell("not possible", "no such device: boot-remap controller")
        with tempfile.TemporaryDirectory(prefix="coldboot-qemu-") as sockets:
            return _Run(self._path, guest, Path(sockets)).go()


class _Run:
    """One QEMU process and the lines to it. Sockets' paths must be short: a folder of their own."""

    def __init__(self, path: str, guest: Guest, sockets: Path) -> None:
        self._guest, self._sockets = guest, sockets
        self._program = guest.program()
        self._restorations = 0
        self._monitor: Monitor | None = None
        self._connections: list[socket.socket] = []
        self._command = [path, *self._options()]

    def _options(self) -> list[str]:
        guest, folder = self._guest, self._guest.folder
        image = folder / "program.bin"
        image.write_bytes(self._program.data)
        options = ["-machine", "virt", "-bios", str(image), "-display", "none", "-nodefaults"]
        options += ["-m", "6G" if guest.needs("bigram") else "64M", "-smp", str(guest.harts)]
        for name, use in (("serial", "-serial"), ("monitor", "-mon")):
            path = self._sockets / name
            options += ["-chardev", f"socket,id={name},path={path}"]
            options += [
                use,
                "chardev:serial" if name == "serial" else "chardev=monitor,mode=control",
            ]
        options += ["-gdb", f"unix:{self._sockets / 'debugger'},server=on,wait=off"]
        if guest.needs("pflash"):
            flash = folder / "flash1"
            with flash.open("wb") as file:
                file.truncate(FLASH_BANK_SIZE)
            options += ["-drive", f"if=pflash,unit=1,format=raw,file={flash}"]
        if guest.needs("disk"):
            disk = folder / "disk"
            disk.write_bytes(guest.disk(self._program))
            options += ["-drive", f"if=none,id=disk,format=raw,file={disk}"]
            options += ["-device", "virtio-blk-device,drive=disk"]
        if guest.needs("icount"):
            options += ["-icount", f"shift={ICOUNT_SHIFT}"]
        if '"save ' in guest.scenario.text:
            store = folder / "snapshots"
            store.write_bytes(empty_qcow2(1 << 20))
            options += ["-drive", f"if=none,id=snapshots,format=qcow2,file={store}"]
        return options

    def go(self) -> Cell:
        """Run it to its end."""
        lines = {name: _listen(self._sockets / name) for name in ("serial", "monitor")}
        self._lines = lines
        errors = self._guest.folder / "qemu.log"
        with errors.open("wb") as file:
            self._process = process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        try:
            self._serial = self._accept("serial")
            verbs: dict[str, Verb] = {
                "write": self._write,
                "step": self._step,
                "save": self._save,
                "restore": self._restore,
            }
            cell = Dialogue(
                self._guest, reader(self._serial.fileno()), self._serial.sendall, verbs
            ).go()
        except OSError as error:
            said = errors.read_text(errors="replace")[-KEPT:].strip().splitlines()
            cell = Cell("crashed", said[-1] if said else str(error))
        finally:
            end(process)
            for one in (*lines.values(), *self._connections):
                one.close()
        return cell

    def _accept(self, name: str) -> socket.socket:
        connection = _accept(self._lines[name], self._process)
        self._connections.append(connection)
        return connection

    # --- what a guest may ask for ------------------------------------------------------------

    def _write(self, address: str, data: str) -> bytes:
        with Debugger(self._sockets / "debugger") as debugger:
            debugger.write(number(self._program.symbols, address), bytes.fromhex(data))
        return DONE

    def _step(self, count: str) -> None:
        with Debugger(self._sockets / "debugger") as debugger:
            self._serial.sendall(DONE)
            debugger.wait_for_byte(0x1000_0005, 1)  # the answer is in the UART
            for _ in range(int(count)):
                debugger.step()

    def _save(self, name: str) -> bytes:
        self._snapshot(f"savevm {name}")
        return DONE

    def _restore(self, name: str) -> bytes:
        self._snapshot(f"loadvm {name}")
        self._restorations += 1
        return b"%d" % self._restorations

    def _snapshot(self, command: str) -> None:
        if self._monitor is None:  # not before it is needed: a short guest has ended by then
            self._monitor = Monitor(self._accept("monitor"))
        if problem := self._monitor.human(command).strip():
            raise Impossible(f"{command.split()[0]}: {problem.splitlines()[0]}")


def _listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)
    server.settimeout(0.2)
    return server


def _accept(server: socket.socket, process: subprocess.Popen[bytes]) -> socket.socket:
    """QEMU's connection. Raises ConnectionError when QEMU ended instead, TimeoutError."""
    for _ in range(int(START / 0.2)):
        try:
            connection, _ = server.accept()
        except TimeoutError:
            if process.poll() is not None:
                raise ConnectionError(f"QEMU ended with status {process.returncode}") from None
            continue
        connection.settimeout(START)
        return connection
    raise TimeoutError(f"QEMU did not open its lines within {START:.0f} s")


def empty_qcow2(size: int) -> bytes:
    """An image of version 2 with nothing in it, for snapshots: so that no qemu-img is needed.

    Clusters: the header, the table of reference counts, one block of them, the first-level table
    (QEMU's docs/interop/qcow2.txt).
    """
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(b"QFI\xfb", 2, 0, 0, 16, size, 0),
        *(1, 3 * CLUSTER, CLUSTER, 1, 0, 0),
    )
    table = struct.pack(">Q", 2 * CLUSTER)
    counts = struct.pack(">4H", 1, 1, 1, 1)
    clusters = (header, table, counts, b"")
    return b"".join(cluster.ljust(CLUSTER, b"\0") for cluster in clusters)
