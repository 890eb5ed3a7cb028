"""`python -m statemachines export [--check]`."""

import sys

from statemachines.export import main

if __name__ == "__main__":
    sys.exit(main())
