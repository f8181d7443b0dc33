"""`python -m tests.crash` (`make crash`): nodes die at every step of their disks. Or the steps are written anew."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from raftkv.testing.cluster import ClusterError
from tests.crash.cluster import REPOSITORY, CrashCluster, NeverStruck
from tests.crash.drives import FIRST_STARTS
from tests.crash.trials import Case, KnownSteps, all_cases, chains_of_first_starts, record, run

CASES_A_CLUSTER = 12
"""Then a new one: what many deaths have left may hide what one leaves."""


class Matrix:
    """Runs cases on some clusters at a time, until all have been run or the time is over."""

    def __init__(self, cases: list[Case], known: KnownSteps, seconds: float) -> None:
        self._known = known
        self._chains = chains_of_first_starts(cases)
        self._cases = [case for case in cases if case.drive not in FIRST_STARTS]
        self._ends_at = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    @property
    def left(self) -> int:
        return len(self._cases) + sum(len(chain.orders) for chain in self._chains)

    async def work(self) -> None:
        while self._chains and time.monotonic() < self._ends_at:
            chain = self._chains.pop(0)
            with tempfile.TemporaryDirectory(prefix="raftkv-crash-") as directory:
                cluster = chain.cluster(Path(directory))
                try:
                    await chain.run(cluster)
                    self.counts["passed"] += len(chain.orders)
                    _say(f"passed   {len(chain.orders)} deaths of a first start ({self.left} left)")
                except Exception as error:  # noqa: BLE001 - told at the end
                    self._failed(f"first starts: {[str(order) for order in chain.orders]}", error, cluster)
        while self._cases and time.monotonic() < self._ends_at:
            with tempfile.TemporaryDirectory(prefix="raftkv-crash-") as directory:
                await self._some(Path(directory))

    async def _some(self, directory: Path) -> None:
        cluster = CrashCluster(directory)
        try:
            await cluster.start()
        except ClusterError as error:
            self.counts["clusters that did not start"] += 1
            _say(f"a cluster did not start (is the machine overloaded?): {error}")
            return
        try:
            for number in range(CASES_A_CLUSTER):
                if not self._cases or time.monotonic() > self._ends_at:
                    return
                case = self._cases.pop(0)
                began = time.monotonic()
                try:
                    await run(cluster, case, f"{number}/")
                    self.counts["passed"] += 1
                    _say(f"{time.monotonic() - began:5.1f} s  {case}  ({self.left} left)")
                except NeverStruck as error:
                    if case.order.step in self._known.sometimes:
                        self.counts["steps that were not taken this time"] += 1
                        _say(f"  -      {case}: not taken this time")
                    else:
                        self._failed(str(case), error, cluster)
                    return
                except Exception as error:  # noqa: BLE001 - told at the end
                    self._failed(str(case), error, cluster)
                    return
        finally:
            await cluster.close()

    def _failed(self, what: str, error: Exception, cluster: CrashCluster) -> None:
        self.counts["failed"] += 1
        logs = "\n".join(f"node {node.id}: {node.log_tail(5)}" for node in cluster.nodes)
        self.failures.append(f"{what}\n{error!r}\n{logs}")
        _say(f"FAILED   {what}: {error!r}\n{logs}")


def keep_byte_code() -> None:
    """As tests/conftest.py does: nodes that need not compile start in a quarter of the time."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) is not None:
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(REPOSITORY / ".cache" / "bytecode"))


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write steps.txt anew")
    parser.add_argument("--seed", type=int, default=0, help="decides roles and times")
    parser.add_argument("--minutes", type=float, default=30.0, help="begin no case after so long")
    parser.add_argument("--clusters", type=int, default=2, help="so many at a time")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    keep_byte_code()
    known = KnownSteps.read()
    if options.record:
        with tempfile.TemporaryDirectory(prefix="raftkv-crash-") as directory:
            steps, everywhere = await record(Path(directory))
        for difference in known.differences(steps, everywhere):
            _say(difference)
        known.updated(steps).write()
        return 0
    cases = [case for case in all_cases(known, options.seed) if options.only in str(case)]
    matrix = Matrix(cases, known, 60 * options.minutes)
    await asyncio.gather(*(matrix.work() for _ in range(options.clusters)))
    steps_known = len(known.all)
    counts = ", ".join(f"{count} {what}" for what, count in matrix.counts.items())
    _say(f"steps={steps_known} cases={len(cases)} seed={options.seed}: {counts}, {matrix.left} not begun")
    return 1 if matrix.failures or not matrix.counts["passed"] else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
