"""The simulator: whole clusters on one thread and in virtual time, under faults that a seed decides. docs/simulation.md

level   what is real                            where
l0      the consensus core                      tests/sim/l0
l1      also driver, state machine, storage     tests/sim/l1
"""
