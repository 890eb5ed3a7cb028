"""Many seeds, or one with its story: `python -m tests.simulation --seeds 200`, `python -m tests.simulation --seed 7`.

Not for what happens in a seed (scenario.py).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation import faults
from tests.simulation.scenario import Options, Result, play

CHUNK = 5  # seeds that a process plays before it reports


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one and print its story")
    parser.add_argument("--seeds", type=int, default=100, help="how many to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=Options().rounds, help="of faults in each")
    parser.add_argument("--faults", default="", help="only these, by name, separated by commas")
    arguments = parser.parse_args()
    named = tuple(getattr(faults, name) for name in filter(None, arguments.faults.split(",")))
    options = Options(rounds=arguments.rounds, faults=named or None)
    if arguments.seed is not None:
        return tell(play(arguments.seed, options))
    return many(range(arguments.first, arguments.first + arguments.seeds), arguments.processes, options)


def tell(result: Result) -> int:
    """The story of one seed."""
    for at, text in result.story:
        print(f"{at:10.4f}  {text}")
    if result.bug is not None:
        traceback.print_exception(result.bug)
    print(f"seed {result.seed}: {result.shape}")
    print(f"  {result.counts}, {result.virtual_seconds:.0f} s, {result.steps} steps")
    print(result.violation or "no invariant is broken")
    return int(bool(result.violation))


def many(seeds: range, processes: int, options: Options) -> int:
    """All of them, over some processes; every seed that fails is named."""
    began, failed, failovers, virtual = time.monotonic(), 0, 0, 0.0
    reasons: Counter[str] = Counter()
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(max_workers=processes) as pool:
        for done in as_completed([pool.submit(play_all, chunk, options) for chunk in chunks]):
            for result in done.result():
                failovers += result.counts.failovers
                virtual += result.virtual_seconds
                reasons += result.reasons
                if result.violation:
                    failed += 1
                    print(f"seed {result.seed}: {result.violation}", flush=True)
    seconds = time.monotonic() - began
    print(
        f"{len(seeds)} seeds, {failovers} failovers in {virtual / 3600:.1f} simulated hours and {seconds:.0f} s:"
        f" {failovers / seconds:.1f} failovers a second, {failed} seeds failed"
    )
    for reason, count in reasons.most_common():
        print(f"  waited for a person {count} times: {reason}")
    if failed:
        print("again, with its story: python -m tests.simulation --seed N")
    return int(bool(failed))


def play_all(seeds: range, options: Options) -> list[Result]:
    """What came of them, without their stories."""
    results = []
    for seed in seeds:
        result = play(seed, options)
        result.story = []
        if result.bug is not None:
            result.violation += "\n" + "".join(traceback.format_exception(result.bug))
            result.bug = None
        results.append(result)
    return results


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of texts have the same order every time
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
