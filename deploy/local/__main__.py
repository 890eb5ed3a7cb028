"""`.nox/cluster/bin/python deploy/local COMMAND`: see docs/local-kubernetes.md."""

import sys

if __name__ == "__main__":
    try:
        from localkube.cli import main
    except ImportError as error:
        sys.exit(
            f"{error}: {sys.executable} has not got what this needs. `make cluster` makes an environment that has; "
            "then: .nox/cluster/bin/python deploy/local ..."
        )
    main()
