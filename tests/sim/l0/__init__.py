"""Level L0: the cores of a whole cluster, with everything around them simulated.

plan      what a seed decides: parameters and tape       cluster   the heap of events; network, disk, driver
faults    the tape's faults and inputs, brought about    machine   one node and what surrounds it
clients   what clients may rely on (K1 to K6)            run       safety phase, liveness phase, trials
The oracle (C1 to C13) is that of tests/raft.
"""

from tests.sim.l0.run import run, tape

__all__ = ["run", "tape"]
