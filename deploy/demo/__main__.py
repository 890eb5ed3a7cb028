"""`python deploy/demo`: the demo, with the tests' harness for its client and its judge."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.harness.demo import main

if __name__ == "__main__":
    sys.exit(main())
