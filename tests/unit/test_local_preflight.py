"""What a machine lacks for a local cluster is said precisely, and before anything is changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from localkube import preflight, programs
from localkube.cgroups import Cgroups
from localkube.errors import LocalClusterError

ROOT = Path(__file__).parents[2]


def first(root: Path, *, controllers: Sequence[str]) -> Cgroups:
    for name in controllers:
        (root / name).mkdir(parents=True)
        (root / name / "cpuset.cpus").write_text("0-1")
    return Cgroups(root)


def second(root: Path, *, controllers: str) -> Cgroups:
    (root / "system.slice").mkdir(parents=True)
    (root / "cgroup.controllers").write_text(controllers)
    (root / "cgroup.subtree_control").touch()
    return Cgroups(root)


def test_cgroup_v1_needs_a_hierarchy_for_each_controller(tmp_path: Path) -> None:
    whole = first(tmp_path / "whole", controllers=["cpu", "cpuset", "memory", "devices", "pids"])
    assert list(preflight.cgroup_problems(whole)) == []
    (problem,) = preflight.cgroup_problems(first(tmp_path / "half", controllers=["cpu", "cpuset"]))
    assert "memory, pids, devices below" in problem


def test_cgroup_v2_needs_its_controllers_and_says_how_to_boot_with_them(tmp_path: Path) -> None:
    whole = second(tmp_path / "whole", controllers="cpuset cpu io memory hugetlb pids rdma\n")
    assert list(preflight.cgroup_problems(whole)) == []
    (problem,) = preflight.cgroup_problems(second(tmp_path / "half", controllers="cpuset cpu io pids"))
    assert "cgroup_enable=memory" in problem


def test_a_machine_has_its_group_in_every_hierarchy_of_v1(tmp_path: Path) -> None:
    cgroups = first(tmp_path, controllers=["cpuset", "memory"])
    cgroups.create("it-node1")
    assert (tmp_path / "cpuset/it-node1").is_dir()
    assert (tmp_path / "memory/it-node1").is_dir()
    cgroups.remove("it-node1")
    assert not (tmp_path / "cpuset/it-node1").exists()
    assert not (tmp_path / "memory/it-node1").exists()


def test_a_machine_has_one_group_in_v2_and_no_other_group_is_touched(tmp_path: Path) -> None:
    cgroups = second(tmp_path, controllers="cpuset cpu memory pids")
    cgroups.create("it-node1")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"it-node1", "system.slice"}
    (tmp_path / "it-node1/kubepods").mkdir()
    cgroups.remove("it-node1")
    cgroups.remove("it-node1")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"system.slice"}


def test_in_v2_the_controllers_are_handed_down_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroups = second(tmp_path, controllers="cpuset cpu memory pids hugetlb io")
    written: list[str] = []
    monkeypatch.setattr(Path, "write_text", lambda path, text: written.append(f"{path.name} {text}"))
    cgroups.create("it-node1")
    wanted = ("cpu", "cpuset", "memory", "pids", "hugetlb")
    assert written == [f"cgroup.subtree_control +{controller}" for controller in wanted]


def test_a_controller_that_is_not_ours_to_hand_down_is_named(tmp_path: Path) -> None:
    cgroups = second(tmp_path, controllers="cpuset cpu memory pids")
    (tmp_path / "cgroup.subtree_control").unlink()
    (tmp_path / "cgroup.subtree_control").mkdir()
    with pytest.raises(LocalClusterError, match="controller cpu can't"):
        cgroups.create("it-node1")


@pytest.mark.parametrize(
    ("said", "enough"),
    [
        ("go version go1.26.0 linux/amd64", True),
        ("go version go1.27rc1 linux/arm64", True),
        ("go version go2.0 linux/amd64", True),
        ("go version go1.24.4 linux/amd64", False),
        ("gccgo (Debian) 12", False),
    ],
)
def test_go_has_to_be_new_enough(said: str, enough: bool) -> None:
    assert programs.is_new_enough(said) is enough


def test_go_is_wanted_only_until_everything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "_OTHER_GO", str(tmp_path))
    assert "Go 1.26 or later" in (programs.go_problem(tmp_path) or "")
    for group in programs.BUILT:
        for name in group.names:
            (tmp_path / group.folder).mkdir(exist_ok=True)
            (tmp_path / group.folder / name).touch()
    assert programs.go_problem(tmp_path) is None


def test_an_old_go_is_shown_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"{go} is go version go1.19.8" in (programs.go_problem(tmp_path / "cache") or "")


def test_too_little_disk_or_memory_is_said_with_what_there_is(tmp_path: Path) -> None:
    assert list(preflight.room_problems(tmp_path, disk=1, memory=4 * 2**30)) == []
    disk, memory = preflight.room_problems(tmp_path, disk=2**60, memory=2**30)
    assert f"free below {tmp_path}" in disk
    assert "has 1.0 GiB" in memory


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "_OTHER_GO", str(tmp_path))
    monkeypatch.setattr(programs, "DEBIAN", {"etcd-server": "/nonexistent"})
    with pytest.raises(LocalClusterError) as raised:
        preflight.check(tmp_path)
    for expected in ("util-linux", "Debian, for its packages etcd-server", "Go 1.26", "KUBECONFIG"):
        assert expected in str(raised.value)


@pytest.mark.parametrize("tool", ["deploy/local", "deploy/images"])
def test_a_python_without_the_tools_gets_a_hint_and_no_traceback(tool: str) -> None:
    # -S: without site-packages, like Debian's own.
    command = [sys.executable, "-S", str(ROOT / tool), "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert answer.returncode == 1
    assert f".nox/cluster/bin/python {tool}" in answer.stderr
    assert "Traceback" not in answer.stderr
