"""python -m tests.sim.l1 --seeds N | --seed N"""

# ruff: noqa: T201 - it talks to a person

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tests.sim.l1 import Result, run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.l1", description="Simulate whole nodes.")
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one and show what happens")
    parser.add_argument("--hash", action="store_true", help="print only the hash of the trace")
    options = parser.parse_args()
    if options.seed is not None:
        result = run_seed(options.seed, trace=not options.hash)
        print(result.trace_hash if options.hash else _describe(result))
        return result.violation is not None
    faults: Counter[str] = Counter()
    steps, violations, real_s, virtual_s = 0, 0, 0.0, 0.0
    for seed in range(options.start, options.start + options.seeds):
        result = run_seed(seed)
        steps += result.steps
        faults += result.faults
        real_s += result.real_s
        virtual_s += result.virtual_s
        if result.violation is not None:
            violations += 1
            print(f"seed {seed}: {result.violation}\n    python -m tests.sim.l1 --seed {seed}", flush=True)
    print(", ".join(f"{kind} {count}" for kind, count in faults.most_common()))
    print(f"virtual={virtual_s:.0f}s real={real_s:.0f}s ratio={virtual_s / max(real_s, 0.001):.1f}")
    print(f"seeds={options.seeds} steps={steps} faults={faults.total()} violations={violations}")
    return violations > 0


def _describe(result: Result) -> str:
    parts = [
        f"steps={result.steps} virtual={result.virtual_s:.1f}s real={result.real_s:.1f}s hash={result.trace_hash}",
        "faults: " + ", ".join(f"{kind} {count}" for kind, count in sorted(result.faults.items())),
        "clients and messages: " + ", ".join(f"{kind} {count}" for kind, count in sorted(result.operations.items())),
        f"seed {result.seed}: {result.violation or 'no violation'}",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
