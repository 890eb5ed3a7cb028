"""Which images there are and what each is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.process import BuildError

ROOT = Path(__file__).resolve().parents[3]
RECIPES = ROOT / "deploy" / "images"
# The interpreter of Debian trixie, which the operator's image starts from.
TRIXIE_PYTHON = "3.13"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image: `files` are folders and files below `root` that its build may read."""

    reference: str
    dockerfile: Path
    root: Path
    files: tuple[str, ...]
    suites: tuple[str, ...]
    parent: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    requirements: tuple[Path, ...] = ()
    for_nodes: bool = True

    def inputs(self) -> dict[str, Path]:
        """Every file of the build context, by its path in it."""
        return {
            str(path.relative_to(self.root)): path for name in self.files for path in _files(self.root / name)
        }

    def key(self, parent_key: str = "") -> str:
        """Hash of all that the image is made of; unchanged, it need not be built again."""
        digest = hashlib.sha256(repr((sorted(self.arguments.items()), self.suites, parent_key)).encode())
        for name, path in sorted(self.inputs().items()):
            executable = path.stat().st_mode & 0o100
            digest.update(repr((name, executable, hashlib.sha256(path.read_bytes()).hexdigest())).encode())
        return digest.hexdigest()


def _mariadb(series: str) -> Image:
    return Image(
        reference=f"mariadb:{series}",
        dockerfile=RECIPES / "mariadb" / "Dockerfile",
        root=RECIPES / "mariadb",
        files=("Dockerfile",),
        # Both: the Dockerfile names both and takes one.
        suites=("bookworm", "trixie"),
        arguments={"MARIADB_SERIES": series},
    )


LOOKALIKE = Image(
    reference="mariadb-lookalike:10.11",
    dockerfile=RECIPES / "lookalike" / "Dockerfile",
    root=RECIPES / "lookalike",
    files=("Dockerfile", "docker-entrypoint.sh"),
    suites=(),
    parent="mariadb:10.11",
)
OPERATOR = Image(
    reference="mariadb-operator:dev",
    dockerfile=RECIPES / "operator" / "Dockerfile",
    root=ROOT,
    files=(
        "LICENSE",
        "README.md",
        "deploy/images/operator/Dockerfile",
        "deploy/images/operator/build-requirements.txt",
        "mariadb_operator",
        "pyproject.toml",
        "requirements/operator.txt",
        "statemachines",
    ),
    suites=("trixie",),
    requirements=(ROOT / "requirements/operator.txt", RECIPES / "operator/build-requirements.txt"),
)
PYTHON = Image(
    reference="python-trixie:dev",
    dockerfile=RECIPES / "python-trixie" / "Dockerfile",
    root=ROOT,
    files=("deploy/images/python-trixie/Dockerfile", "requirements/dev.txt"),
    suites=("trixie",),
    requirements=(ROOT / "requirements/dev.txt",),
    for_nodes=False,
)
# A parent comes before what is built on it.
IMAGES = (_mariadb("10.11"), _mariadb("11.8"), LOOKALIKE, OPERATOR, PYTHON)


def find(reference: str) -> Image:
    """The image of that name.

    Raises:
        BuildError: there is none.
    """
    for image in IMAGES:
        if image.reference == reference:
            return image
    raise BuildError(f"no image {reference}; there are {', '.join(image.reference for image in IMAGES)}")


def choose(references: Iterable[str], *, everything: bool) -> list[Image]:
    """The images asked for, parents included and first; with none named, those that go to nodes (or all)."""
    named = [find(reference) for reference in references]
    if not named:
        return [image for image in IMAGES if everything or image.for_nodes]
    wanted = {image.reference for image in named} | {image.parent for image in named}
    return [image for image in IMAGES if image.reference in wanted]


def key_of(image: Image) -> str:
    """The image's key, its parent's included."""
    return image.key(key_of(find(image.parent)) if image.parent else "")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    if not found:
        raise BuildError(f"{path} is missing or empty: the build needs it")
    return sorted(found)
