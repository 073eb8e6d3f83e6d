"""The small root filesystem of `coldboot guests fetch`: busybox, an init, a few kernel modules.

Problem: a first boot should need nothing but a kernel: it must reach a shell, or run one command
and power off, so that people can look around and tests can drive it from the kernel's command line
alone.

Invariants: ``BOOT-OK`` is printed once everything is mounted and the applets are installed; the
machine powers off when the command or the shell ends, whatever its status. Modules lie
decompressed (busybox's insmod takes no .xz) and are not loaded by init: a boot pays for them only
when ``load-modules`` is asked for.

Source: Linux, Documentation/filesystems/ramfs-rootfs-initramfs.rst. Read next: `cpio`, then
`guests`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cpu_proc import cpio

# Linux hands each `name=value` of its command line that it does not know to init's environment,
# quotes resolved (Documentation/admin-guide/kernel-parameters.rst): that is how run="..." gets
# here as $run, blanks and all.
INIT = """\
#!/bin/busybox sh
export PATH=/sbin:/usr/sbin:/bin:/usr/bin HOME=/root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mkdir -p /dev/pts
/bin/busybox mount -t devpts devpts /dev/pts
/bin/busybox mount -t tmpfs tmpfs /tmp
/bin/busybox mount -t tmpfs tmpfs /run
/bin/busybox --install -s
cd /root
command=$run
unset run
echo BOOT-OK
if [ -n "$command" ]; then
    sh -c "$command"
    echo "RUN-EXIT $?"
else
    setsid cttyhack sh
fi
sync
poweroff -f
"""

LOAD_MODULES = """\
#!/bin/sh
# Loads the modules of this initramfs, each after what it depends on; those already there stay.
for module in {modules}; do
    [ -d /sys/module/$module ] || insmod /lib/modules/$module.ko || exit 1
done
"""


def recipe() -> str:
    """A name for what this module would make of the same inputs: it changes when the scripts do."""
    return hashlib.sha256((INIT + LOAD_MODULES).encode()).hexdigest()[:16]


def build(busybox: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """The initramfs as a cpio archive. `busybox`: a static riscv64 binary with all applets.

    `modules`: name (underscores, without ``.ko``) and content, each after what it depends on.
    """
    script = LOAD_MODULES.format(modules=" ".join(name for name, _ in modules))
    return cpio.archive(
        [
            *(cpio.directory(name) for name in ("dev", "proc", "sys", "run", "etc", "mnt", "sbin")),
            cpio.directory("root", 0o700),
            cpio.directory("tmp", 0o1777),
            cpio.directory("usr/bin"),
            cpio.directory("usr/sbin"),
            # Linux opens the console for init before init could mount devtmpfs.
            cpio.character_device("dev/console", 5, 1),
            cpio.file("init", INIT.encode(), 0o755),
            cpio.file("bin/busybox", busybox, 0o755),
            cpio.symlink("bin/sh", "busybox"),
            cpio.file("bin/load-modules", script.encode(), 0o755),
            *(cpio.file(f"lib/modules/{name}.ko", data) for name, data in modules),
        ]
    )
