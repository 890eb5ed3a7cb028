"""Image tars of the local cluster: names as containerd has them, our own tars reproducible, bad ones refused."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from localkube import archives
from localkube.errors import LocalClusterError
from localkube.images import Containerd


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("mariadb:11.8", "docker.io/library/mariadb:11.8"),
        ("mariadb", "docker.io/library/mariadb:latest"),
        ("fsm/operator:1", "docker.io/fsm/operator:1"),
        ("localhost/pause:1", "localhost/pause:1"),
        ("registry.example:5000/a/b", "registry.example:5000/a/b:latest"),
    ],
)
def test_image_names_are_completed_as_containerd_does(name: str, full: str) -> None:
    assert archives.full_name(name) == full


def write_image(path: Path, program: Path) -> None:
    archives.write(
        path,
        name="localhost/it:1",
        files={"/bin/it": program},
        links={"/bin/also": "it"},
        command=["/bin/it"],
    )


def test_the_same_content_gives_the_same_tar(tmp_path: Path) -> None:
    program = tmp_path / "it"
    program.write_bytes(b"program")
    write_image(tmp_path / "first.tar", program)
    program.touch()
    write_image(tmp_path / "second.tar", program)
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()


def test_a_written_image_reads_back_under_its_name_and_changes_with_its_content(tmp_path: Path) -> None:
    program, path = tmp_path / "it", tmp_path / "it.tar"
    program.write_bytes(b"program")
    write_image(path, program)
    before = archives.read(path)
    program.write_bytes(b"another")
    write_image(path, program)
    after = archives.read(path)
    assert list(before.images) == list(after.images) == ["localhost/it:1"]
    assert before.images != after.images


@pytest.mark.parametrize(
    ("machine", "named"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")]
)
def test_an_image_is_of_the_machines_architecture(machine: str, named: str) -> None:
    assert archives.architecture(machine) == named


def test_an_image_is_loaded_only_where_it_is_missing_or_another(tmp_path: Path) -> None:
    containerd = Containerd(socket=tmp_path / "none", record=tmp_path / "images.json")
    archive = archives.Archive(path=tmp_path, images={"localhost/it:1": "abc"})
    assert containerd.missing(archive)
    containerd.record.write_text('{"localhost/it:1": "abc"}')
    assert not containerd.missing(archive)
    containerd.record.write_text('{"localhost/it:1": "def"}')
    assert containerd.missing(archive)


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.tar", tmp_path / "empty.tar"
    text.write_text("no tar")
    with tarfile.open(empty, "w"):
        pass
    for path in (text, empty):
        with pytest.raises(LocalClusterError, match=path.name):
            archives.read(path)
