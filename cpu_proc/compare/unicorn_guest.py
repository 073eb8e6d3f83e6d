"""A user of Unicorn: a serial line, a power switch and a clock around its RISC-V CPU.

The problem: what Unicorn retires by itself, and what its user must, is a contract between two. This
is that user. Its documentation says (FAQ, "Editing an instruction doesn't take effect"): code is
translated once; whoever edits it from outside calls `ctl_remove_cache`. So `write`, `restore` and
`reset`, which write memory from outside, do. A guest's own stores, `fence.i`, `sfence.vma` and CSR
writes are left to Unicorn.

Invariants: memory is written from outside only while emulation is stopped. Exceptions are handed to
Unicorn's user, who takes those that it can, as a hart would; another one ends the run as not
possible. The guest's lines go to standard output, but for its wishes, which are granted here.

Read next: `unicorn_peer.py`.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpu_proc.compare.peer import DONE, WAITS, Impossible
from cpu_proc.compare.unicorn_peer import MARK
from cpu_proc.stress.scenario import RAM_BASE, number

FINISHER, CLINT, UART = 0x10_0000, 0x200_0000, 0x1000_0000
MTIME = 0xBFF8
EVERYWHERE = (1 << 64) - 1  # no address to stop at
MACHINE_MODE = 3
INSTRUCTIONS_OWN = (2, 3, 8, 9, 11)  # illegal instruction, ebreak, ecall (privileged, 3.1.15)


class User:
    """The machine around one CPU."""

    def __init__(self, task: dict[str, Any]) -> None:
        unicorn: Any = importlib.import_module("unicorn")
        self._names: Any = importlib.import_module("unicorn.riscv_const")
        self._failure: type[Exception] = unicorn.UcError
        self._image = Path(task["image"]).read_bytes()
        self._symbols = dict(task["symbols"])
        self._ram = int(task["ram"])
        self.cpu: Any = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
        self.cpu.mem_map(RAM_BASE, self._ram)
        self.cpu.mem_write(RAM_BASE, self._image)
        self._device(UART, self._uart_read, self._uart_write)
        self._device(FINISHER, lambda offset, size: 0, self._finisher_write)
        self._device(CLINT, self._clint_read, self._clint_write, 0x10000)
        self.cpu.hook_add(unicorn.UC_HOOK_INTR, self._trap)
        self._line = b""
        self._answers = bytearray()
        self._pending: list[Callable[[], None]] = []
        self._kept: dict[str, tuple[Any, bytes]] = {}
        self._restorations = 0
        self._count = 0  # instructions of the next run; 0: no limit
        self._over = False
        self._cannot = ""

    def _device(
        self,
        base: int,
        read: Callable[[int, int], int],
        write: Callable[[int, int, int], None],
        size: int = 0x1000,
    ) -> None:
        self.cpu.mmio_map(
            base,
            size,
            lambda uc, offset, width, data: read(offset, width),
            None,
            lambda uc, offset, width, value, data: write(offset, width, value),
            None,
        )

    # --- its life ----------------------------------------------------------------------------

    def go(self) -> None:
        """Run to the end. Raises Impossible."""
        pc = RAM_BASE
        while not self._over:
            count, self._count = self._count, 0
            try:
                self.cpu.emu_start(pc, EVERYWHERE, count=count)
            except self._failure as error:
                raise Impossible(f"stopped: {error}") from None
            if self._cannot:
                raise Impossible(self._cannot)
            for action in self._pending:
                action()
            self._pending.clear()
            pc = self.cpu.reg_read(self._names.UC_RISCV_REG_PC)

    def _trap(self, cpu: Any, cause: int, data: Any) -> None:
        """Unicorn hands exceptions to its user: take this one as M-mode does (3.1.6, 3.1.15).

        Only those that are the instruction's own: of the others Unicorn does not say enough.
        """
        if cause not in INSTRUCTIONS_OWN:
            self._refuse(f"exception {cause} is not delivered")
            return
        read, write, names = cpu.reg_read, cpu.reg_write, self._names
        status, mode = read(names.UC_RISCV_REG_MSTATUS), read(names.UC_RISCV_REG_PRIV)
        enabled = status >> 3 & 1
        status = status & ~0x1888 | mode << 11 | enabled << 7
        behind = read(names.UC_RISCV_REG_PC)  # of an instruction that is not compressed
        write(names.UC_RISCV_REG_MEPC, behind - 4)
        write(names.UC_RISCV_REG_MCAUSE, cause)
        write(names.UC_RISCV_REG_MSTATUS, status)
        write(names.UC_RISCV_REG_PRIV, MACHINE_MODE)
        write(names.UC_RISCV_REG_PC, read(names.UC_RISCV_REG_MTVEC) & ~3)

    def _later(self, action: Callable[[], None]) -> None:
        """Do something as soon as emulation has stopped."""
        self._pending.append(action)
        self.cpu.emu_stop()

    def _refuse(self, why: str) -> None:
        self._cannot = why
        self.cpu.emu_stop()

    # --- devices -----------------------------------------------------------------------------

    def _uart_read(self, offset: int, size: int) -> int:
        if offset == 0 and self._answers:
            return self._answers.pop(0)
        return 0x60 | bool(self._answers) if offset == 5 else 0

    def _uart_write(self, offset: int, size: int, value: int) -> None:
        if offset != 0:
            return
        self._line += bytes([value & 0xFF])
        if value & 0xFF != 10:
            return
        line, self._line = self._line.decode("ascii", "replace").strip(), b""
        if line.startswith("!"):
            self._wish(*line[1:].split())
        else:
            print(line, flush=True)

    def _finisher_write(self, offset: int, size: int, value: int) -> None:
        if value & 0xFFFF == 0x7777:
            self._later(self._reset)
        else:
            self._over = True
            self.cpu.emu_stop()

    def _clint_read(self, offset: int, size: int) -> int:
        return time.monotonic_ns() // 100 if offset == MTIME else 0

    def _clint_write(self, offset: int, size: int, value: int) -> None:
        self._refuse("no interrupts")

    # --- what its user does ------------------------------------------------------------------

    def _wish(self, verb: str, *words: str) -> None:
        if verb in WAITS:
            self._answers += DONE
        elif verb == "write":
            address, data = number(self._symbols, words[0]), bytes.fromhex(words[1])
            self._later(lambda: self._write(address, data))
            self._later(lambda: self._answers.extend(DONE))
        elif verb == "retire":
            self._later(self.cpu.ctl_flush_tb)
            self._later(lambda: self._answers.extend(DONE))
        elif verb == "step":
            self._later(lambda: self._answers.extend(DONE))
            self._later(lambda: setattr(self, "_count", int(words[0])))
        elif verb == "save":
            self._later(lambda: self._save(words[0]))
            self._later(lambda: self._answers.extend(DONE))
        elif verb == "restore":
            self._later(lambda: self._restore(words[0]))
        else:
            self._refuse(f"no such event: {verb}")

    def _write(self, address: int, data: bytes) -> None:
        self.cpu.mem_write(address, data)
        self.cpu.ctl_remove_cache(address, address + len(data))

    def _save(self, name: str) -> None:
        memory = bytes(self.cpu.mem_read(RAM_BASE, self._ram))
        self._kept[name] = self.cpu.context_save(), memory

    def _restore(self, name: str) -> None:
        context, memory = self._kept[name]
        self._write(RAM_BASE, memory)
        self.cpu.context_restore(context)
        self._restorations += 1
        self._answers[:] = b"%d" % self._restorations

    def _reset(self) -> None:
        self._write(RAM_BASE, self._image)
        names = self._names
        self.cpu.reg_write(names.UC_RISCV_REG_SATP, 0)
        self.cpu.reg_write(names.UC_RISCV_REG_PRIV, MACHINE_MODE)
        self.cpu.reg_write(names.UC_RISCV_REG_PC, RAM_BASE)


def main() -> int:
    """Entry point of the process: the task comes on standard input, as JSON."""
    user = User(json.loads(sys.stdin.read()))
    try:
        user.go()
    except Impossible as reason:
        print(MARK, reason, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
