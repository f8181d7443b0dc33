"""`raftkv drill`: take the leader away from a running cluster, on purpose, and measure what that costs.

measure        what is pure
  record       what was seen: writes, reads, looks at nodes, faults
  fitness      why a cluster is not to be drilled now
  rounds       one round: detection, election, first write, RTO, MTTR
  verdict      all rounds: the figures, and whether it passed
  chart        a round as a drawing
load           the writers and the reader
lookout        asks every node for its status, again and again
ledger         what was acknowledged against what is there afterwards
faults         what is done to the leader; local_process and compose: how, where it is not our own
drill          the rounds, in order, and everything put back however they end
report         one page of HTML
"""
