"""The command `mariadb-operator`: run the operator, in a Pod or from a shell."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Annotated

import typer
import uvloop
from pydantic import ValidationError

from mariadb_operator.controllers.operator import run_operator
from mariadb_operator.settings import LogFormat, Settings
from mariadb_operator.telemetry.logs import configure_logging

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Kubernetes operator for MariaDB.")


@app.callback()
def main() -> None:
    """Kubernetes operator for MariaDB."""


@app.command()
def run(
    log_format: Annotated[LogFormat | None, typer.Option(help="json or console; json by default.")] = None,
) -> None:
    """Look after the MariaDBClusters of the Kubernetes cluster in KUBECONFIG, or of the one this Pod runs in."""
    try:
        settings = Settings() if log_format is None else Settings(log_format=log_format)
        configure_logging(json=settings.log_format is LogFormat.JSON, level=settings.log_level)
    except (ValidationError, ValueError) as error:
        typer.echo(f"a setting can't be used: {error}", err=True)
        raise typer.Exit(2) from None
    with _event_loop() as runner:
        runner.run(_until_terminated(settings))


def _event_loop() -> asyncio.Runner:
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _until_terminated(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; the Lease is given back then, and a second signal does not interrupt that."""
    task = asyncio.create_task(run_operator(settings), name="operator")
    loop = asyncio.get_running_loop()

    def leave() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    with contextlib.suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    app()
