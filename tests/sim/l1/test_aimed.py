from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.l1.aimed import ALL_WORK, run_aimed
from tests.sim.l1.plan import make_plan

SEEDS = (2, 6)


@pytest.mark.timeout(300)
def test_power_is_lost_in_the_middle_of_all_that_disks_do() -> None:
    """Torn, reordered and lost unsynced writes, and lost names: of appends, new segments, replaced suffixes,
    checkpoints, compactions and each step of an installation."""
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        result = run_aimed(make_plan(seed))
        assert result.violation is None, f"seed {seed}: {result.violation}"
        counts += result.operations
    wanted = {f"power lost: {what}" for what in (*ALL_WORK, "unsynced writes", "names")}
    assert wanted - counts.keys() == set(), "where the code has moved, `disk.WORK` has to follow"
