"""Make nodes members of the cluster, and voters once they have caught up. Safe to repeat. usage: grow.py ID..."""

import json
import subprocess
import sys
import time

PATIENCE_S = 120.0
"""The nodes are started at the same time as this, and their engine starts them again until they are members."""


def raftkv(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of raftkv."""
    return subprocess.run(["raftkv", *arguments], capture_output=True, text=True, check=False, timeout=60)


def kinds() -> dict[int, str]:
    """Return what each member is."""
    listed = raftkv("member", "list", "-o", "json")
    if listed.returncode:
        sys.exit(listed.stderr.strip())
    return {member["id"]: member["kind"] for member in json.loads(listed.stdout)["members"]}


def main(wanted: list[int]) -> None:
    """Add those that are missing, then promote all learners of them in one step."""
    members = kinds()
    for node in wanted:
        if node not in members:
            added = raftkv("member", "add", str(node), f"peer{node}:7101")
            if added.returncode:
                sys.exit(added.stderr.strip())
            print(f"added node {node} as a learner", flush=True)  # noqa: T201
    deadline = time.monotonic() + PATIENCE_S
    while learners := [str(node) for node, kind in kinds().items() if node in wanted and kind == "learner"]:
        promoted = raftkv("member", "promote", *learners)
        if promoted.returncode and time.monotonic() > deadline:
            sys.exit(f"not promoted after {PATIENCE_S:.0f} s: {promoted.stderr.strip()}")
        time.sleep(1)
    voters = ", ".join(str(node) for node, kind in sorted(kinds().items()) if kind == "voter")
    print(f"voters: {voters}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
