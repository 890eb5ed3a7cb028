"""Finding the server's tools in the files of another container, with that container's links, and saying what lacks."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from mariadb_operator.node import tools
from mariadb_operator.node.tools import ContainerGone, ToolMissing, ToolStopped

OWN = Path("/proc/self/root")


def elf(loader: str, *, machine: int = 62) -> bytes:
    text = loader.encode() + b"\0"
    head = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9) + struct.pack("<HHI", 2, machine, 1)
    head += struct.pack("<QQQIHHHHHH", 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(text), len(text), 1) + text


def image(root: Path, program: bytes, *, loader: str | None = None) -> Path:
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/mariadb-binlog").write_bytes(program)
    if loader is not None:
        target = root / loader.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"loader")
    return root


@pytest.mark.parametrize(
    ("links", "path", "expected"),
    [
        ({}, "usr/bin/tool", "usr/bin/tool"),
        ({"bin": "usr/bin"}, "bin/tool", "usr/bin/tool"),
        ({"bin": "/usr/bin"}, "bin/tool", "usr/bin/tool"),
        ({"usr/lib64": "../usr/bin", "l": "/usr/lib64/tool"}, "l", "usr/bin/tool"),
        ({"up": "../../../../usr/bin/tool"}, "up", "usr/bin/tool"),
        ({"a": "b", "b": "a"}, "a", None),
        ({}, "usr/bin/none", None),
    ],
)
def test_links_are_followed_as_in_the_container(
    tmp_path: Path, links: dict[str, str], path: str, expected: str | None
) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/tool").touch()
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    assert tools._inside(tmp_path, path) == (tmp_path / expected if expected else None)


@pytest.mark.parametrize(
    ("machine", "loader", "triplet"),
    [
        (62, "/lib64/ld-linux-x86-64.so.2", "x86_64-linux-gnu"),
        (183, "/lib/ld-linux-aarch64.so.1", "aarch64-linux-gnu"),
    ],
)
@pytest.mark.parametrize("layout", ["debian", "red hat"])
def test_loader_and_libraries_of_either_machine_and_layout_are_found(
    tmp_path: Path, machine: int, loader: str, triplet: str, layout: str
) -> None:
    root = image(tmp_path, elf(loader, machine=machine), loader=loader)
    folder = f"usr/lib/{triplet}" if layout == "debian" else "usr/lib64"
    (root / folder).mkdir(parents=True)
    (root / "opt/own").mkdir(parents=True)
    (root / "etc/ld.so.conf.d").mkdir(parents=True)
    (root / "etc/ld.so.conf").write_text("include /etc/ld.so.conf.d/*.conf\n")
    (root / "etc/ld.so.conf.d/own.conf").write_text("# ours\n/opt/own\n/not/there\n")
    tool = tools._located(root, "mariadb-binlog")
    assert tool.loader == root / loader[1:]
    assert tool.libraries[0] == root / "opt/own"
    assert root / folder in tool.libraries
    assert all(str(path).startswith(str(root)) for path in tool.libraries)
    command = tool.command("--version")
    assert command[0] == str(root / loader[1:])
    assert command[-2:] == [str(root / "usr/bin/mariadb-binlog"), "--version"]


@pytest.mark.parametrize(
    ("program", "loader", "message"),
    [
        (b"#!/bin/sh\n", None, "a script"),
        (elf("/lib64/ld-linux-x86-64.so.2"), None, "no /lib64/ld-linux-x86-64.so.2"),
        (elf("/lib/ld-musl-x86_64.so.1"), "/lib/ld-musl-x86_64.so.1", "only glibc"),
        (elf("/lib/ld.so.1", machine=22), None, "another machine"),
        (elf("")[:70], None, "names no loader"),
    ],
)
async def test_what_can_not_be_run_is_named(
    tmp_path: Path, program: bytes, loader: str | None, message: str
) -> None:
    root = image(tmp_path, program, loader=loader)
    with pytest.raises(ToolMissing, match=message):
        await tools.find(root, "mariadb-binlog")


async def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="no mariadb-backup in /usr/bin"):
        await tools.find(image(tmp_path, b""), "mariadb-backup")


async def test_a_container_that_is_gone_is_no_missing_tool() -> None:
    with pytest.raises(ContainerGone):
        await tools.find(Path("/proc/2147483647/root"), "mariadb-binlog")


async def test_a_library_from_outside_of_the_image_is_not_used(tmp_path: Path) -> None:
    """The real loader and program, but not their libraries: the loader would take this machine's."""
    own = tools._located(OWN, "env")
    root = tmp_path
    loader = root / str(own.loader).removeprefix(f"{OWN}/")
    (root / "usr/bin").mkdir(parents=True)
    loader.parent.mkdir(parents=True)
    loader.write_bytes(own.loader.read_bytes())
    loader.chmod(0o755)
    (root / "lib64").symlink_to("usr/lib64") if not (root / "lib64").exists() else None
    (root / "usr/lib64").mkdir(parents=True, exist_ok=True)
    if not (root / "usr/lib64/ld-linux-x86-64.so.2").exists():
        (root / "usr/lib64/ld-linux-x86-64.so.2").symlink_to("/" + str(loader.relative_to(root)))
    (root / "usr/bin/env").write_bytes(own.program.read_bytes())
    with pytest.raises(ToolMissing, match=r"libc\.so\.6"):
        await tools.find(root, "env")


def test_options_are_in_a_file_that_is_on_no_disk_and_nobody_else_reads() -> None:
    descriptor = tools._option_file("[client]\npassword=secret\n")
    try:
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600
        assert os.read(descriptor, 100) == b"[client]\npassword=secret\n"
    finally:
        os.close(descriptor)


async def test_a_tool_that_does_not_end_is_killed_and_its_outcome_is_uncertain(tmp_path: Path) -> None:
    tool = await tools.find(OWN, "sleep")
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer), pytest.raises(ToolStopped):
        await tools._run(tool.command("60"), 0.2, (), reader, writer)
