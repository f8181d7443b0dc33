"""`python -m tests.sim`; behind `make sim`. docs/simulation.md"""

from __future__ import annotations

import argparse
import random
import sys

from tests.sim import runner
from tests.sim.levels import MODULES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--level", choices=sorted(MODULES), default="l0")
    parser.add_argument("--seeds", type=int, default=200, help="run so many fresh seeds on all cores")
    parser.add_argument("--first", type=int, help="the first of the seeds; default: a random one")
    parser.add_argument("--seed", type=int, help="replay this one, with its trace")
    parser.add_argument(
        "--keep", help="with --seed: numbers of the tape's items that happen (1-3,7), or 'none'; default: all"
    )
    arguments = parser.parse_args()
    if arguments.seed is not None:
        kept = runner.numbers(arguments.keep) if arguments.keep else None
        return runner.replay(arguments.level, arguments.seed, kept)
    if arguments.keep or arguments.seeds < 1:
        parser.error("--keep needs --seed, and --seeds is at least 1")
    first = arguments.first if arguments.first is not None else random.SystemRandom().randrange(1 << 40)
    return runner.run_seeds(arguments.level, range(first, first + arguments.seeds))


if __name__ == "__main__":
    sys.exit(main())
