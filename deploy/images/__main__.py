"""`.nox/cluster/bin/python deploy/images`: builds the project's container images; see `--help`."""

import sys

if __name__ == "__main__":
    try:
        from builder.cli import run
    except ImportError as error:
        sys.exit(
            f"{error}: {sys.executable} has not got what this needs. `make cluster` makes an environment that has; "
            "then: .nox/cluster/bin/python deploy/images ..."
        )
    run()
