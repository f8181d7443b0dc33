"""What is made of a run for people: how long each fault was felt, rates and latencies over time, one page of HTML.

Pure but for `write_report`, which writes one file. `rto` pairs remarks into faults and measures them, `series` counts,
`timeline` packs operations, `words` says them, `html` makes the page out of all that.
"""

from raftkv.jepsen.report.html import write_report
from raftkv.jepsen.report.rto import Fault, Felt, faults_of, leaders_of, rto_of, worst_pause_ms

__all__ = ["Fault", "Felt", "faults_of", "leaders_of", "rto_of", "worst_pause_ms", "write_report"]
