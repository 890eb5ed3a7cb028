"""Debian packages: beside other runs of apt, once for all who ask, and with what apt said when it fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy import packages

# A machine's dpkg and apt-get: what is installed, and each call, are lines of files in the folder $FAKE.
_DPKG = """\
#!/bin/sh
for package; do :; done
grep -qx "$package" "$FAKE/installed" && printf installed
"""
_APT = """\
#!/bin/sh
for word; do case $word in update | install) verb=$word ;; esac; done
echo "$verb" >>"$FAKE/calls"
if [ -s "$FAKE/held" ]; then
    sed -i 1d "$FAKE/held"
    echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (apt-get)'
    exit 100
fi
[ ! -e "$FAKE/broken" ] || { echo 'E: No space left on device'; exit 100; }
[ "$verb" = update ] || for word; do echo "$word"; done >>"$FAKE/installed"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, script in (("dpkg-query", _DPKG), ("apt-get", _APT)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(script)
        program.chmod(0o755)
    (tmp_path / "installed").write_text("present\n")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return tmp_path


def calls(machine: Path) -> list[str]:
    path = machine / "calls"
    return path.read_text().split() if path.exists() else []


def test_what_is_installed_needs_no_apt(machine: Path) -> None:
    packages.install(["present"], locked=machine)
    assert calls(machine) == []


def test_an_apt_that_holds_the_lists_is_waited_for(machine: Path) -> None:
    (machine / "held").write_text("twice\nthen free\n")
    pauses: list[float] = []
    packages.install(["absent"], locked=machine, pause=pauses.append)
    assert calls(machine) == ["update", "update", "update", "install"]
    assert len(pauses) == 2
    assert "absent" in (machine / "installed").read_text().split()


def test_two_who_need_the_same_install_it_once(machine: Path) -> None:
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(packages.install, ["absent"], locked=machine) for _ in range(2)]:
            done.result()
    assert calls(machine) == ["update", "install"]


def test_another_failure_is_not_repeated_and_says_what_apt_said(machine: Path) -> None:
    (machine / "broken").touch()
    with pytest.raises(packages.PackageError, match="No space left"):
        packages.install(["absent"], locked=machine, pause=lambda _: pytest.fail("waits for nothing"))
    assert calls(machine) == ["update"]


TABLE = """\
# program package what-for
sh        dash    lint
nowhere   nothing lint
elsewhere other   docs
"""


def test_a_program_that_can_not_be_installed_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(packages, "_SYSTEM_PATHS", ("/bin",))
    with pytest.raises(packages.PackageError) as raised:
        packages.provide("lint", TABLE)
    assert "lint needs nowhere, not found on PATH" in str(raised.value)
    assert "install --no-install-recommends nothing;" in str(raised.value)
    packages.provide("unit", TABLE)


def test_every_line_of_the_table_has_a_program_its_package_and_what_for() -> None:
    rows = [line.split() for line in packages._TABLE.read_text().splitlines() if not line.startswith("#")]
    assert rows
    assert all(len(row) == 3 for row in rows)
