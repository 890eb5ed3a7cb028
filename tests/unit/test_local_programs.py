"""Programs of the local cluster: what has to be installed, and what must stand alone in an image."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from localkube import programs


def elf(path: Path, *, order: str, segments: list[int]) -> Path:
    """The header and program header table of a 64-bit program; no code."""
    header = struct.pack(
        f"{order}4sBB10xHHIQQQIHHH",
        *(b"\x7fELF", 2, 1 if order == "<" else 2, 2, 62, 1, 0, 64, 0, 0, 64, 56, len(segments)),
    )
    table = b"".join(struct.pack(f"{order}I52x", kind) for kind in segments)
    path.write_bytes(header.ljust(64, b"\0") + table)
    return path


LOAD, DYNAMIC, INTERPRETER = 1, 2, 3


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_program_with_a_loader_is_not_static(tmp_path: Path, order: str) -> None:
    assert programs.is_static(elf(tmp_path / "static", order=order, segments=[LOAD, LOAD]))
    assert programs.is_static(elf(tmp_path / "static-pie", order=order, segments=[LOAD, DYNAMIC]))
    assert not programs.is_static(elf(tmp_path / "dynamic", order=order, segments=[LOAD, INTERPRETER]))


def test_a_script_is_not_static(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert not programs.is_static(script)


def test_debians_dynamic_busybox_at_the_same_path_does_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busybox = elf(tmp_path / "busybox", order="<", segments=[INTERPRETER, LOAD])
    monkeypatch.setattr(programs, "DEBIAN", {"busybox-static": str(busybox)})
    assert programs.missing_packages() == ["busybox-static"]
    elf(busybox, order="<", segments=[LOAD])
    assert programs.missing_packages() == []
