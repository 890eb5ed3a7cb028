"""One shell that runs command after command, as somebody who copies them from a page would: variables stay.

Not for tests' own work: kube.py.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.local import ROOT, HarnessError
from tests.harness.processes import tied

_END = "end-of-command-"


class Shell:
    """A bash that is alive. Made by `opened_shell`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def run(self, command: str, *, seconds: float) -> str:
        """What the command printed, errors included. Raises HarnessError when it fails or takes longer."""
        assert self._process.stdin is not None
        # Nothing that it calls may read what is typed next.
        self._process.stdin.write(f"{{ {command}\n}} < /dev/null 2>&1\nprintf '{_END}%d\\n' $?\n".encode())
        self._process.stdin.flush()
        printed, code = self._read(command, seconds)
        if code != "0":
            raise HarnessError(f"`{command}` ended with {code}: {printed}")
        return printed

    def _read(self, command: str, seconds: float) -> tuple[str, str]:
        assert self._process.stdout is not None
        deadline, seen = time.monotonic() + seconds, b""
        while not (seen.endswith(b"\n") and _END.encode() in seen):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not more:
                how = "the shell ended" if ready else f"not within {seconds:.0f} s"
                raise HarnessError(f"`{command}`: {how}: {seen.decode(errors='replace')}")
            seen += more
        printed, _, code = seen.decode(errors="replace").rpartition(_END)
        return printed, code.strip()


@contextmanager
def opened_shell(kubeconfig: Path) -> Iterator[Shell]:
    """A shell in the root of the repository, for this Kubernetes."""
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    with subprocess.Popen(
        tied(["bash", "--noprofile", "--norc"]), cwd=ROOT, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        shell = Shell(process)
        try:
            shell.run("set -uo pipefail", seconds=10)
            yield shell
        finally:
            process.kill()
