"""The Debian base systems that the Dockerfiles start FROM.

An engine that was here before us pulls them, as everywhere. Where that fails, and for an engine of ours, debootstrap
makes the same from Debian's packages, under the same tag and with the slim image's settings: one Dockerfile for both.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from builder.cache import Cache
from builder.engine import Engine, install_packages
from builder.process import BuildError, run_logged

SUITES = ("bookworm", "trixie")

# As in Docker's slim images. Copyright files stay: distribution asks for them.
_DPKG = """force-unsafe-io
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/groff/*
path-exclude /usr/share/lintian/*
path-exclude /usr/share/linda/*
"""
_APT = """APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb || true"; };
"""
_NO_SERVICES = "#!/bin/sh\nexit 101\n"
_EMPTIED = (
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/groff",
    "usr/share/lintian",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log",
)


def reference(suite: str) -> str:
    """The tag that Dockerfiles name."""
    return f"debian:{suite}-slim"


def ensure_base(suite: str, *, engine: Engine, cache: Cache, on_line: Callable[[str], None]) -> None:
    """See that the engine has the base of `suite`: as it is, pulled, or made by debootstrap.

    Raises:
        BuildError: none of these works here.
    """
    if engine.image_id(reference(suite)):
        return
    if not engine.ours and _pulled(suite, cache=cache, on_line=on_line):
        return
    archive = cache.base(suite)
    if not archive.exists():
        _debootstrap(suite, archive, cache=cache, on_line=on_line)
    on_line("importing")
    command = ["docker", "import", "--change", 'CMD ["bash"]', str(archive), reference(suite)]
    run_logged(command, log=cache.log(f"import-{suite}"), on_line=on_line)


def _pulled(suite: str, *, cache: Cache, on_line: Callable[[str], None]) -> bool:
    log = cache.log(f"pull-{suite}")
    try:
        run_logged(["docker", "pull", reference(suite)], log=log, on_line=on_line)
    except BuildError as error:
        if os.geteuid() == 0 and shutil.which("apt-get"):
            return False
        raise BuildError(
            f"{reference(suite)} can't be pulled, and making it needs root on Debian\n{error}"
        ) from error
    return True


def _debootstrap(suite: str, archive: Path, *, cache: Cache, on_line: Callable[[str], None]) -> None:
    # The other suite's thread may do the same at this moment.
    install_packages({"debootstrap": "debootstrap"}, log=cache.log(f"install-{suite}"), on_line=on_line)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{suite}-", dir=archive.parent) as folder:
        root = Path(folder) / "root"
        # In mounts of its own: killed, it leaves none of them below a folder that somebody will remove.
        command = ["unshare", "--mount", "debootstrap", "--variant=minbase", suite, str(root)]
        run_logged(command, log=cache.log(f"debootstrap-{suite}"), on_line=on_line)
        slim(root)
        partial = Path(folder) / "base.tar"
        run_logged(
            ["tar", "--numeric-owner", "--exclude=./dev/*", "-C", str(root), "-cf", str(partial), "."],
            log=cache.log(f"tar-{suite}"),
            on_line=on_line,
        )
        partial.rename(archive)


def slim(root: Path) -> None:
    """Bring a fresh debootstrap folder to what the slim image of the same suite is."""
    (root / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True, exist_ok=True)
    (root / "etc/dpkg/dpkg.cfg.d/docker").write_text(_DPKG)
    (root / "etc/apt/apt.conf.d/docker").write_text(_APT)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text(_NO_SERVICES)
    policy.chmod(0o755)
    _add_updates(root / "etc/apt/sources.list")
    for folder in _EMPTIED:
        _empty(root / folder)
    for path in (root / "usr/share/doc").rglob("*"):
        if path.is_symlink() or (path.is_file() and path.name != "copyright"):
            path.unlink()
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/resolv.conf").unlink(missing_ok=True)


def _add_updates(sources: Path) -> None:
    """debootstrap knows one suite; stable updates and security live beside it."""
    _, mirror, suite, *components = sources.read_text().split()
    parts = " ".join(components)
    sources.write_text(
        f"deb {mirror} {suite} {parts}\n"
        f"deb {mirror} {suite}-updates {parts}\n"
        f"deb {mirror}-security {suite}-security {parts}\n"
    )


def _empty(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
