"""Image tars: reads what a tar holds, and writes our own small images without a Docker engine.

The format is that of `docker save`, which containerd imports.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localkube.errors import LocalClusterError


@dataclass(frozen=True, slots=True)
class Archive:
    """An image tar: `images` maps each full image name in it to the digest of its configuration."""

    path: Path
    images: Mapping[str, str]


def read(path: Path) -> Archive:
    """What the tar at `path` holds.

    Raises:
        LocalClusterError: it is no image tar, or an image in it has no name.
    """
    try:
        with tarfile.open(path) as tar:
            member = tar.extractfile("manifest.json")
            manifests = json.load(member) if member else []
    except (OSError, KeyError, tarfile.TarError, ValueError) as error:
        raise LocalClusterError(f"{path} is no image tar as `docker save` writes it: {error}") from error
    images = {
        full_name(name): Path(manifest["Config"]).name.removesuffix(".json")
        for manifest in manifests
        for name in manifest.get("RepoTags") or []
    }
    if not images:
        raise LocalClusterError(
            f"{path} names no image; save it by name: docker save --output {path} NAME:TAG"
        )
    return Archive(path=path, images=images)


def full_name(name: str) -> str:
    """The name as containerd keeps it: `mariadb:11.8` is docker.io/library/mariadb:11.8."""
    repository, _, tag = name.partition(":") if "/" not in name else _split(name)
    first, slash, _ = repository.partition("/")
    if not slash:
        repository = f"docker.io/library/{repository}"
    elif "." not in first and ":" not in first and first != "localhost":
        repository = f"docker.io/{repository}"
    return f"{repository}:{tag or 'latest'}"


def architecture(machine: str) -> str:
    """What images call a machine that the kernel calls `machine`."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def write(
    path: Path, *, name: str, files: Mapping[str, Path], links: Mapping[str, str], command: list[str]
) -> None:
    """Write an image of one layer; the same content gives the same bytes.

    Args:
        path: the tar, replaced at once when it is whole.
        name: the image's name with its tag.
        files: programs by their absolute path in the image.
        links: symbolic links and their targets.
        command: the entry point.
    """
    layer = _layer(files, links)
    configuration = json.dumps(
        {
            "architecture": architecture(platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": command, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    configuration_name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    manifest: list[dict[str, Any]] = [
        {"Config": configuration_name, "RepoTags": [name], "Layers": ["layer.tar"]},
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    with tarfile.open(unfinished, "w") as tar:
        for member, content in (
            ("manifest.json", json.dumps(manifest).encode()),
            (configuration_name, configuration),
            ("layer.tar", layer),
        ):
            tar.addfile(_member(member, size=len(content)), io.BytesIO(content))
    unfinished.rename(path)


def _split(name: str) -> tuple[str, str, str]:
    head, slash, last = name.rpartition("/")
    repository, colon, tag = last.partition(":")
    return f"{head}{slash}{repository}", colon, tag


def _layer(files: Mapping[str, Path], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folders = sorted({str(Path(path).parent) for path in (*files, *links)} - {"/"})
        for folder in [*folders, "/tmp"]:  # noqa: S108 (inside the image)
            member = _member(folder.lstrip("/"), size=0)
            member.type = tarfile.DIRTYPE
            member.mode = 0o1777 if folder == "/tmp" else 0o755  # noqa: S108
            tar.addfile(member)
        for path, source in files.items():
            content = source.read_bytes()
            tar.addfile(_member(path.lstrip("/"), size=len(content)), io.BytesIO(content))
        for path, target in links.items():
            member = _member(path.lstrip("/"), size=0)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return buffer.getvalue()


def _member(name: str, *, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o755
    return member
