"""Shows what is going on: a line per running step on a terminal, a line per begun and ended step in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

# Told each line of a step's output.
OnLine = Callable[[str], None]
Step = Callable[[OnLine], None]


@dataclass(frozen=True, slots=True)
class Board:
    """Runs steps beside each other and shows them on `console`."""

    console: Console

    def run(self, steps: Sequence[tuple[str, Step]], *, at_once: int = 2) -> None:
        """Run all steps, `at_once` of them at a time.

        Raises:
            BuildError: a step failed; the others that were running came to their end before.
        """
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:24}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[line]}", markup=True),
        )
        live = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        with live, ThreadPoolExecutor(at_once) as pool:
            running = [pool.submit(self._one, live, title, step) for title, step in steps]
            try:
                for future in running:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def _one(self, live: Progress, title: str, step: Step) -> None:
        begun = time.monotonic()
        shown = live.add_task(title, total=None, line="")
        if not self.console.is_terminal:
            self.say(f"... {title}")

        def on_line(line: str) -> None:
            room = max(20, self.console.width - 45)
            live.update(shown, line=line[:room].replace("[", "\\["))

        try:
            step(on_line)
        finally:
            live.remove_task(shown)
        self.say(f"[green]ok[/green]  {title:28} {time.monotonic() - begun:6.1f} s")
