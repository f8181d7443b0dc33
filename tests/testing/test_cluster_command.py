"""What a LocalCluster tells its nodes. No processes."""

from __future__ import annotations

from pathlib import Path

from raftkv.testing.cluster import LocalCluster


def test_founders_are_told_of_all_founders_though_one_has_left(tmp_path: Path) -> None:
    """A directory remembers the list that its cluster was founded with, and refuses another."""
    cluster = LocalCluster(3, directory=tmp_path)
    before = cluster.node(1).command()
    cluster.nodes.remove(cluster.node(2))
    assert cluster.node(1).command() == before
    assert before.count("--member") == 3
