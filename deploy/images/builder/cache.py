"""Where things are kept between runs, and how one run keeps out of another's way."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder of this builder below the user's cache folder."""

    root: Path

    @classmethod
    def of_user(cls) -> Cache:
        """`${XDG_CACHE_HOME:-~/.cache}/mariadb-operator/images`, made if absent."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = cls(home / "mariadb-operator" / "images")
        cache.root.mkdir(parents=True, exist_ok=True)
        return cache

    def tar(self, reference: str) -> Path:
        """The saved image `name:tag`."""
        return self.root / (reference.replace(":", "_") + ".tar")

    def key(self, reference: str) -> Path:
        """The hash of all that the saved image was made of."""
        return self.root / (reference.replace(":", "_") + ".key")

    def log(self, step: str) -> Path:
        """The output of a step."""
        return self.root / "logs" / (step.replace(":", "_").replace("/", "_") + ".log")

    def base(self, suite: str) -> Path:
        """A base system's files."""
        return self.root / "bases" / f"{suite}.tar"

    @property
    def engine(self) -> Path:
        """State of an engine that we started."""
        return self.root / "engine"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One builder at a time; a second one waits."""
        with (self.root / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
