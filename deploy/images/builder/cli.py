"""The commands: build images, run the engine, run something under trixie's Python."""

from __future__ import annotations

import os
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from builder import bases, wheels
from builder.board import Board, OnLine, Step
from builder.building import Workshop, saved
from builder.cache import Cache
from builder.catalogue import IMAGES, PYTHON, ROOT, Image, choose
from builder.engine import Engine, ensure_engine, running_engine, stop_engine
from builder.process import BuildError

CONTAINER_SECONDS = 1800

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Builds the project's container images.")
Only = Annotated[list[str] | None, typer.Option(help="One image, as name:tag; may be given several times.")]


@app.command()
def build(
    only: Only = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the image for tests under trixie's Python.")
    ] = False,
) -> None:
    """Build what changed; save what nodes need as tars in the cache folder."""
    cache, board = Cache.of_user(), Board(Console())
    with cache.locked():
        images = choose(only or [], everything=everything)
        outdated = [image for image in images if not saved(image, cache)]
        if outdated:
            engine = _engine(board, cache)
            prepare(outdated, engine=engine, cache=cache, board=board)
            make(outdated, engine=engine, cache=cache, board=board)
    for image in images:
        if image.for_nodes:
            board.say(_line(image, cache))


@app.command()
def engine(only: Only = None) -> None:
    """Start an engine if none runs and give it the images, for tests that run containers."""
    cache, board = Cache.of_user(), Board(Console())
    with cache.locked():
        running = _engine(board, cache)
        for image in choose(only or [], everything=False):
            board.run([(image.reference, partial(_provide, image, engine=running, cache=cache))])


@app.command()
def stop() -> None:
    """Stop the engine, if it is one that we started and nothing runs in it."""
    cache = Cache.of_user()
    with cache.locked():
        Console().print(stop_engine(cache), highlight=False, soft_wrap=True)


@app.command("list")
def show() -> None:
    """Say which images there are, where their tars are and whether they are up to date."""
    cache, board = Cache.of_user(), Board(Console())
    for image in IMAGES:
        if image.for_nodes:
            state = "up to date" if saved(image, cache) else "to be built"
            board.say(f"{image.reference:28} {state:12} {cache.tar(image.reference)}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def python313(context: typer.Context) -> None:
    """Run a command under Debian trixie's Python, with the locked development environment and our sources.

    For example: .nox/cluster/bin/python deploy/images python313 -- python -m pytest tests/unit
    """
    if not context.args:
        raise typer.BadParameter("no command; for example: -- python -m pytest tests/unit")
    cache, board = Cache.of_user(), Board(Console(stderr=True))
    with cache.locked():
        running = _engine(board, cache)
        workshop = Workshop(engine=running, cache=cache, on_line=lambda _: None)
        if not workshop.has(PYTHON):
            prepare([PYTHON], engine=running, cache=cache, board=board)
            make([PYTHON], engine=running, cache=cache, board=board)
    command = [
        *(
            "docker",
            "run",
            "--rm",
            "--init",
            "--network=none",
            "--tmpfs=/tmp:exec",
            f"--volume={ROOT}:/src:ro",
        ),
        # The container outlives a client that is killed, so it has an end of its own.
        *(PYTHON.reference, "timeout", "--kill-after=10", str(CONTAINER_SECONDS), *context.args),
    ]
    os.execvp(command[0], command)  # noqa: S606


def prepare(images: list[Image], *, engine: Engine, cache: Cache, board: Board) -> None:
    """Fetch and make what several images need, beside each other: bases, wheels."""
    missing = [
        suite
        for suite in sorted({suite for image in images for suite in image.suites})
        if not engine.image_id(bases.reference(suite))
    ]
    steps: list[tuple[str, Step]] = [
        *((bases.reference(suite), partial(_base, suite, engine=engine, cache=cache)) for suite in missing),
        *(
            (f"wheels of {image.reference}", partial(_wheels, image, cache=cache))
            for image in images
            if image.requirements
        ),
    ]
    board.run(steps)


def make(images: list[Image], *, engine: Engine, cache: Cache, board: Board) -> None:
    """Build the images: those that stand on a base first, then those that stand on another image."""
    for group in ([i for i in images if not i.parent], [i for i in images if i.parent]):
        board.run([(image.reference, partial(_make, image, engine=engine, cache=cache)) for image in group])


def run() -> None:
    """Entry point: a failed step is a message, not a traceback."""
    # A root shell that began as somebody else's lacks the system's own programs.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH") or os.defpath, "/usr/sbin", "/sbin"])
    try:
        app()
    except BuildError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


def _engine(board: Board, cache: Cache) -> Engine:
    found = running_engine()
    if found:
        return found
    board.run([("Docker engine", partial(_start, cache=cache))])
    return ensure_engine(cache, board.say)


def _start(on_line: OnLine, *, cache: Cache) -> None:
    ensure_engine(cache, on_line)


def _base(suite: str, on_line: OnLine, *, engine: Engine, cache: Cache) -> None:
    bases.ensure_base(suite, engine=engine, cache=cache, on_line=on_line)


def _wheels(image: Image, on_line: OnLine, *, cache: Cache) -> None:
    wheels.fetch(image.requirements, cache=cache, on_line=on_line)


def _make(image: Image, on_line: OnLine, *, engine: Engine, cache: Cache) -> None:
    Workshop(engine=engine, cache=cache, on_line=on_line).make(image)


def _provide(image: Image, on_line: OnLine, *, engine: Engine, cache: Cache) -> None:
    Workshop(engine=engine, cache=cache, on_line=on_line).provide(image)


def _line(image: Image, cache: Cache) -> str:
    tar = cache.tar(image.reference)
    return f"{image.reference:28} {tar.stat().st_size / 1e6:4.0f} MB  {tar}"
