"""Fetches the locked wheels on the host, for the Python of Debian trixie, so that no container needs an index.

pip runs in an environment of its own: the one that we run in may have been made without it.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from builder.cache import Cache
from builder.catalogue import TRIXIE_PYTHON
from builder.process import run_logged

# What trixie's glibc (2.41) can load; pip takes the list as given and derives nothing from it.
_GLIBC_MINORS = (17, 24, 26, 27, 28, 31, 34, 35, 36, 38, 39, 41)


def fetch(requirements: Sequence[Path], *, cache: Cache, on_line: Callable[[str], None]) -> Path:
    """A folder with a wheel for each line of the requirements, fetched unless they were before.

    Raises:
        BuildError: pip found no wheel for one, or reaches no index.
    """
    content = b"".join(path.read_bytes() for path in requirements)
    folder = cache.root / "wheels" / hashlib.sha256(content).hexdigest()[:16]
    if folder.exists():
        return folder
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pip = _pip(cache, on_line)
    for path in requirements:
        command = [
            *(
                str(pip),
                "download",
                "--no-deps",
                "--require-hashes",
                "--only-binary=:all:",
                "--dest",
                str(partial),
            ),
            *("--implementation", "cp", "--python-version", TRIXIE_PYTHON),
            *("--abi", f"cp{TRIXIE_PYTHON.replace('.', '')}", "--abi", "abi3", "--abi", "none"),
            *(word for tag in _platforms() for word in ("--platform", tag)),
            *("--requirement", str(path)),
        ]
        run_logged(command, log=cache.log(f"wheels-{path.stem}"), on_line=on_line)
    partial.rename(folder)
    return folder


def _platforms() -> list[str]:
    machine = platform.machine()
    return [*(f"manylinux_2_{minor}_{machine}" for minor in _GLIBC_MINORS), f"manylinux2014_{machine}", "any"]


def _pip(cache: Cache, on_line: Callable[[str], None]) -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    tools = cache.root / "tools" / version
    pip = tools / "bin" / "pip"
    if not pip.exists():
        command = [sys.executable, "-m", "venv", "--clear", str(tools)]
        run_logged(command, log=cache.log("tools"), on_line=on_line)
    return pip
