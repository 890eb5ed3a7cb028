"""Builds what changed and saves it as a tar for the nodes.

An image carries the key of its inputs as a label, its tar has it in a file beside it: what has the right key is left
alone, and when all tars have it, no engine is needed at all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder import wheels
from builder.bases import ensure_base
from builder.cache import Cache
from builder.catalogue import Image, find, key_of
from builder.engine import Engine
from builder.process import output_of, run_logged

LABEL = "dev.fsm.mariadb.inputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What building needs: an engine, the cache, and somebody to tell."""

    engine: Engine
    cache: Cache
    on_line: Callable[[str], None]

    def make(self, image: Image) -> None:
        """See that the image's tar (if nodes need it) and the engine's image are up to date.

        Raises:
            BuildError: a step failed.
        """
        if not self.has(image):
            self._build(image)
        if image.for_nodes and not saved(image, self.cache):
            self._save(image)

    def provide(self, image: Image) -> None:
        """See that the engine has the image, from its tar if that is up to date."""
        if self.has(image):
            return
        if not saved(image, self.cache):
            self.make(image)
            return
        command = ["docker", "load", "--input", str(self.cache.tar(image.reference))]
        run_logged(command, log=self.cache.log(f"load-{image.reference}"), on_line=self.on_line)

    def has(self, image: Image) -> bool:
        """Whether the engine has the image as of today's inputs."""
        return self._engine_key(image) == key_of(image)

    def _engine_key(self, image: Image) -> str | None:
        label = f'{{{{index .Config.Labels "{LABEL}"}}}}'
        return output_of(["docker", "image", "inspect", "--format", label, image.reference])

    def _build(self, image: Image) -> None:
        for suite in image.suites:
            ensure_base(suite, engine=self.engine, cache=self.cache, on_line=self.on_line)
        if image.parent:
            self.provide(find(image.parent))
        found = (
            wheels.fetch(image.requirements, cache=self.cache, on_line=self.on_line)
            if image.requirements
            else None
        )
        before = self.engine.image_id(image.reference)
        with tempfile.TemporaryDirectory(prefix="context-", dir=self.cache.root) as folder:
            context = Path(folder)
            _lay_out(image, found, context)
            command = [
                *(
                    "docker",
                    "build",
                    *self.engine.build_options(),
                    "--tag",
                    image.reference,
                    "--label",
                    f"{LABEL}={key_of(image)}",
                ),
                *(
                    word
                    for name, value in image.arguments.items()
                    for word in ("--build-arg", f"{name}={value}")
                ),
                *("--file", str(context / image.dockerfile.relative_to(image.root)), str(context)),
            ]
            log = self.cache.log(f"build-{image.reference}")
            run_logged(command, log=log, on_line=self.on_line, environment=self.engine.environment())
        if before and before != self.engine.image_id(image.reference):
            # Nobody finds it any more. One that is in use stays.
            output_of(["docker", "image", "rm", before])

    def _save(self, image: Image) -> None:
        self.on_line("saving")
        target = self.cache.tar(image.reference)
        partial = target.with_suffix(".partial")
        command = ["docker", "save", "--output", str(partial), image.reference]
        run_logged(command, log=self.cache.log(f"save-{image.reference}"), on_line=self.on_line)
        partial.rename(target)
        self.cache.key(image.reference).write_text(key_of(image))


def saved(image: Image, cache: Cache) -> bool:
    """Whether the image's tar is there and of today's inputs."""
    key = cache.key(image.reference)
    return cache.tar(image.reference).exists() and key.exists() and key.read_text() == key_of(image)


def _lay_out(image: Image, found: Path | None, context: Path) -> None:
    for name, path in image.inputs().items():
        target = context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    if found:
        shutil.copytree(found, context / "wheels", copy_function=shutil.copy2)
