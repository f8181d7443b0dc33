"""Simulator level L1: the real driver, request layer, state machine and log under virtual time.

Simulated are time, the network, the disk and the processes' deaths; everything in between is the product's own code.
`run_seed` runs one seed; `python -m tests.sim.l1 --seed N` shows one, line by line. `tape` and `run` are for the runner
of all levels (`tests.sim.levels`).

    loop        the virtual-time event loop, and processes that can be paused and killed
    network     connections and calls over links that fail
    disk        the log's files, the state store, and who works on them
    process     a node's process and its machine
    client      the workload
    plan        what a seed decides
    nemesis     does the faults
    operators   change the members
    oracle      sees everything, and says what must not be
    simulation  one run
"""

from tests.sim.l1.simulation import Result, run, run_seed, tape

__all__ = ["Result", "run", "run_seed", "tape"]
