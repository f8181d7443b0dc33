"""What clients were told, and whether a correct store can have told them that.

Pure: histories in, verdicts out; no clock, no network, no raftkv. `history` is what all checks read, and the format of
`history.jsonl`; `verdict` what they return. One module a check; each has a function `check`.
"""
