"""Fetching guests: mirrors, packages, folders kept whole, and what Linux makes of the result."""

from __future__ import annotations

import argparse
import json
import lzma
import os
import subprocess
from pathlib import Path

import pytest

from cpu_proc import debian, guest_programs, guests, initramfs, kernel_modules
from protocol.errors import UserError
from tests.oracle import QEMU, require

# --- the machine's own sources ------------------------------------------------------------------


def sources(etc: Path, **files: str) -> list[debian.Source]:
    (etc / "sources.list.d").mkdir()
    for name, text in files.items():
        place = etc if name == "sources_list" else etc / "sources.list.d"
        (place / name.replace("_", ".")).write_text(text)
    return debian.mirrors(etc)


def test_mirrors_of_the_one_line_form(tmp_path):
    text = """\
# deb http://commented/debian bookworm main
deb-src http://source/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://optioned/debian bookworm main contrib  # trailing words
deb cdrom:[Debian]/ bookworm main
deb http://security/debian-security bookworm-security main
"""
    found = sources(tmp_path, sources_list=text)
    assert found == [debian.Source("http://optioned/debian", "bookworm", "/k.gpg")]


def test_mirrors_of_the_deb822_form(tmp_path):
    text = """\
Types: deb deb-src
# a comment within a stanza
URIs: http://first/debian
 http://second/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://disabled/debian
Suites: trixie
Components: main
"""
    found = sources(tmp_path, debian_sources=text)
    assert [source.uri for source in found] == ["http://first/debian", "http://second/debian"]
    assert [source.signed_by for source in found] == ["", ""]


def test_debian_comes_before_vendors_who_call_their_suite_stable(tmp_path):
    found = sources(
        tmp_path,
        aaa_list="deb [signed-by=/usr/share/keyrings/vendor.gpg] http://vendor/apt stable main\n",
        debian_sources="Types: deb\nURIs: http://mirror/debian\nSuites: trixie\nComponents: main\n",
        node_sources="Types: deb\nURIs: http://node\nSuites: nodistro\nComponents: main\n",
    )
    assert [source.uri for source in found] == ["http://mirror/debian", "http://vendor/apt"]


def test_files_that_apt_ignores_are_ignored(tmp_path):
    assert sources(tmp_path, old_disabled="deb http://mirror/debian bookworm main\n") == []
    assert debian.mirrors(tmp_path / "nowhere") == []


# --- kernel modules -----------------------------------------------------------------------------


def module(depends: str, compiler: Path) -> bytes:
    """An object file that says of itself what a module does."""
    source = f'.section .modinfo,"a"\n.asciz "license=GPL"\n.asciz "depends={depends}"\n'
    target = compiler / "module.o"
    subprocess.run(["as", "-o", target, "-"], input=source.encode(), check=True, timeout=240)
    return target.read_bytes()


def test_modules_load_after_what_they_depend_on(tmp_path):
    require("as")
    tree = tmp_path / "kernel"
    tree.mkdir()
    for name, depends in {
        "ext4": "jbd2,crc-sixteen",
        "jbd2": "crc-sixteen",
        "crc-sixteen": "",
    }.items():
        (tree / f"{name}.ko.xz").write_bytes(lzma.compress(module(depends, tmp_path)))
    (tree / "plain.ko").write_bytes(module("jbd2", tmp_path))
    order = kernel_modules.in_load_order(kernel_modules.find(tree), ["ext4", "plain"])
    assert [name for name, _ in order] == ["crc_sixteen", "jbd2", "ext4", "plain"]
    assert all(data.startswith(b"\x7fELF") for _, data in order)


def test_a_module_that_is_not_there_is_named(tmp_path):
    require("as")
    (tmp_path / "ext4.ko").write_bytes(module("jbd2", tmp_path))
    with pytest.raises(debian.AptError, match="no module jbd2, which ext4 needs"):
        kernel_modules.in_load_order(kernel_modules.find(tmp_path), ["ext4"])


def test_a_module_that_is_none_is_refused():
    with pytest.raises(debian.AptError, match="not an ELF file"):
        kernel_modules.dependencies(b"#!/bin/sh")


# --- fetching -----------------------------------------------------------------------------------


def silent(step: str, done: float) -> None:
    pass


def fake_package(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    root = folder / name
    (root / "DEBIAN").mkdir(parents=True)
    control = (
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    )
    (root / "DEBIAN" / "control").write_text(control)
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    command = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", str(root), str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=240)
    return next(folder.glob(f"{name}_*.deb"))


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Packages laid out like Debian's, instead of fetched ones; gives the list of fetches."""
    require("dpkg-deb", "as")
    made = tmp_path / "made"
    kernel = {"boot/vmlinux-6.12": bytes(0x30) + b"RISCV\0\0\0RSC\x05" + bytes(64)}
    for name in guests.INITRAMFS_MODULES + guests.MORE_MODULES:
        kernel[f"usr/lib/modules/6.12/kernel/{name}.ko.xz"] = lzma.compress(module("", tmp_path))
    debs = [
        fake_package(made, "linux-image-6.12", kernel),
        fake_package(made, "busybox-static", {"usr/bin/busybox": b"busy"}),
        fake_package(
            made,
            "firmware",
            {
                path: name.encode() + bytes(100 if name.endswith(".fd") else 0)
                for name, path in guests.FIRMWARE_FILES.items()
            },
        ),
    ]
    calls: list[Path] = []

    def download(work: Path, report: guests.Report) -> list[Path]:
        calls.append(work)
        return debs

    monkeypatch.setattr(guests, "_download", download)
    return calls


def test_a_folder_is_filled_once(tmp_path, packages):
    folder = tmp_path / "some folder" / "guests"
    assert guests.fetch(folder, silent) is True
    assert guests.fetch(folder, silent) is False
    assert len(packages) == 1
    assert (folder / "u-boot.bin").read_bytes() == b"u-boot.bin"
    assert (folder / "edk2-vars.fd").read_bytes() == b"edk2-vars.fd" + bytes(100)
    assert (folder / "Image").read_bytes()[0x30:0x35] == b"RISCV"
    assert b"busy" in (folder / "initramfs.cpio").read_bytes()
    assert (folder / "modules" / "ext4.ko").exists()
    assert json.loads((folder / "manifest.json").read_text())["packages"] == [
        "busybox-static 1.0",
        "firmware 1.0",
        "linux-image-6.12 1.0",
    ]
    assert [path.name for path in folder.glob(".fetch-*")] == []


@pytest.mark.parametrize("harm", ["truncate", "remove", "manifest", "recipe", "less"])
def test_a_harmed_folder_is_filled_again(tmp_path, packages, harm):
    guests.fetch(tmp_path / "guests", silent)
    manifest = tmp_path / "guests" / "manifest.json"
    match harm:
        case "truncate":
            os.truncate(tmp_path / "guests" / "Image", 10)
        case "remove":
            (tmp_path / "guests" / "modules" / "ext4.ko").unlink()
        case "manifest":
            manifest.write_text("[]")
        case "recipe":
            manifest.write_text(manifest.read_text().replace(initramfs.recipe(), "older"))
        case "less":  # of a version that did not fetch it
            content = json.loads(manifest.read_text())
            del content["files"]["u-boot.bin"]
            manifest.write_text(json.dumps(content))
    assert guests.fetch(tmp_path / "guests", silent) is True
    assert guests.is_complete(tmp_path / "guests")


def test_a_failure_leaves_the_old_files_and_nothing_half_made(tmp_path, packages, monkeypatch):
    folder = tmp_path / "guests"
    guests.fetch(folder, silent)
    (folder / "manifest.json").unlink()

    def fail(work: Path, report: guests.Report) -> list[Path]:
        raise debian.AptError("Could not resolve 'mirror'")

    monkeypatch.setattr(guests, "_download", fail)
    with pytest.raises(UserError, match=r"Could not resolve 'mirror'; look at the network"):
        guests.fetch(folder, silent)
    assert (folder / "Image").exists()
    assert not guests.is_complete(folder)
    assert [path.name for path in folder.glob(".fetch-*")] == []


def test_the_command_prints_the_files_and_plain_progress(tmp_path, packages, capsys, monkeypatch):
    monkeypatch.setattr(guest_programs, "PROGRAMS", {})
    monkeypatch.setattr(guest_programs, "_download", lambda work, report: [])
    parser = argparse.ArgumentParser()
    guests.add_arguments(parser)
    arguments = parser.parse_args(["fetch", "--dir", str(tmp_path / "g")])
    assert guests.run(arguments) == 0
    output = capsys.readouterr()
    assert str(tmp_path / "g" / "Image") in output.out.splitlines()
    assert output.err.splitlines() == [
        "guests: unpacking",
        "guests: making the initramfs",
        "guests: making the programs' archives",
    ]
    assert guests.run(arguments) == 0
    assert capsys.readouterr().err == ""


def test_the_default_folder_follows_xdg(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert guests.default_folder() == Path("/somewhere/coldboot/guests")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/paths/are/ignored")
    assert guests.default_folder() == Path.home() / ".cache/coldboot/guests"


# --- errors -------------------------------------------------------------------------------------


def test_no_mirror_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(debian, "mirrors", list)
    with pytest.raises(UserError, match="no Debian mirror is configured in /etc/apt"):
        guests.fetch(tmp_path / "guests", silent)


def test_no_apt_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(
        debian, "mirrors", lambda: [debian.Source("http://mirror/debian", "trixie")]
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get is not on this machine"):
        guests.fetch(tmp_path / "guests", silent)


def test_a_mirror_that_is_not_there_is_said_in_one_line(tmp_path, monkeypatch):
    require("apt-get", "apt-cache", "dpkg-deb")
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(debian, "KEYRING", keyring)
    mirror = debian.Source(f"file:{tmp_path}/no-mirror", "trixie")
    monkeypatch.setattr(debian, "mirrors", lambda: [mirror])
    with pytest.raises(
        UserError, match=r"apt could not get riscv64 packages of trixie: .*no-mirror"
    ) as caught:
        guests.fetch(tmp_path / "guests", silent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codename", ["trixie", "forky"])
def test_another_name_of_the_release_is_asked_where_one_is_out_of_step(
    tmp_path, monkeypatch, codename
):
    require("apt-cache", "dpkg-deb")
    (tmp_path / "keyring.gpg").touch()
    monkeypatch.setattr(debian, "KEYRING", tmp_path / "keyring.gpg")
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text(
        f"""#!/bin/sh
        folder=$(dirname "$2")
        if grep -q " trixie main" "$folder/sources.list"; then
          echo "E: Packages.xz has unexpected size. Mirror sync in progress?"
          exit 100
        fi
        grep -q " stable main" "$folder/sources.list" || exit 101
        echo "Codename: {codename}" >"$folder/lists/mirror_debian_dists_stable_InRelease"
        """
    )
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:{os.environ['PATH']}")
    mine = debian.PrivateApt(tmp_path / "apt", "riscv64")
    mirror = debian.Source("http://mirror/debian", "bookworm")
    if codename == "trixie":
        mine.update(mirror, [guests.GUEST_SUITE], lambda done: None)
    else:
        with pytest.raises(debian.AptError, match="Mirror sync in progress"):
            mine.update(mirror, [guests.GUEST_SUITE], lambda done: None)


def test_without_a_keyring_nothing_is_fetched(tmp_path, monkeypatch):
    require("apt-get", "apt-cache", "dpkg-deb")
    monkeypatch.setattr(debian, "KEYRING", tmp_path / "none.gpg")
    monkeypatch.setattr(
        debian, "mirrors", lambda: [debian.Source("http://mirror/debian", "trixie")]
    )
    with pytest.raises(UserError, match="install the package debian-archive-keyring"):
        guests.fetch(tmp_path / "guests", silent)


def test_a_folder_that_is_a_file_is_said_in_one_line(tmp_path):
    (tmp_path / "guests").write_text("a file")
    with pytest.raises(UserError, match="name another folder with --dir"):
        guests.fetch(tmp_path / "guests", silent)


def test_a_full_disk_is_found_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(guests, "SPACE_BYTES", 1 << 60)
    with pytest.raises(UserError, match="MiB are needed"):
        guests.fetch(tmp_path / "guests", silent)


def test_an_apt_that_stands_still_is_ended(tmp_path, monkeypatch):
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "apt-get").chmod(0o755)
    for name in ("apt-cache", "dpkg-deb"):
        (tmp_path / name).symlink_to("apt-get")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(debian, "STALL_SECONDS", 0.3)
    apt = debian.PrivateApt(tmp_path / "state", "riscv64")
    with pytest.raises(debian.AptError, match="no progress"):
        apt.download(["hello"], tmp_path, lambda done: None)


# --- the real thing -----------------------------------------------------------------------------


def boot(folder: Path, command: str) -> tuple[int, str]:
    """Boot the fetched guests in QEMU with run="command": its exit status and console."""
    append = f'console=ttyS0 panic=-1 cryptomgr.notests quiet run="{command}"'
    words = [require(QEMU), "-machine", "virt", "-nographic", "-no-reboot", "-m", "512M"]
    words += ["-kernel", str(folder / "Image"), "-initrd", str(folder / "initramfs.cpio")]
    done = subprocess.run(
        [*words, "-bios", str(folder / "fw_dynamic.bin"), "-append", append],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout


def test_linux_boots_the_initramfs_runs_a_command_and_powers_off(guests_folder):
    command = "echo four words of text; load-modules && lsmod; exit 3"
    code, console = boot(guests_folder, command)
    lines = console.splitlines()
    begin = lines.index("BOOT-OK")
    assert lines[begin + 1] == "four words of text"
    loaded = {line.split()[0] for line in lines[begin + 3 :] if line and not line.startswith("[")}
    assert set(guests.INITRAMFS_MODULES) < loaded
    assert "RUN-EXIT 3" in lines
    assert "reboot: Power down" in console
    assert code == 0
