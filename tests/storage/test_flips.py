"""See `tests.storage.flips`; `make fuzz` tries more of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raftkv.server import disk_kind, peer_book
from raftkv.storage import corrupt_mark, data_dir
from tests.storage import flips

FLIPS = 300


async def test_a_flipped_byte_or_a_misdirected_write_is_named_or_harmless() -> None:
    ends, wrong = await flips.run(range(FLIPS))
    assert not wrong
    assert sum(ends.values()) == FLIPS
    hit: Counter[str] = Counter()
    for (kind, end), count in ends.items():
        hit[f"{kind} {end}"] += count
    # Each kind of file was struck, and what is vital was refused where it cannot be had from elsewhere.
    for expected in (
        "*.wal refused",
        "base refused",
        "identity.json refused",
        "boot.json refused",
        "kind.json refused",
    ):
        assert hit[expected], hit
    for expected in ("*.data harmless", "*.manifest harmless", "data.mdb harmless", "store.sums harmless"):
        assert hit[expected], hit


async def test_control_without_checksums_a_changed_digit_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusting(data: bytes) -> dict[str, Any]:
        stored: dict[str, Any] = json.loads(data)
        stored.pop("crc32c", None)
        return stored

    for module in (data_dir, disk_kind, peer_book, corrupt_mark):
        monkeypatch.setattr(module, "unseal", trusting)
    _, wrong = await flips.run(range(FLIPS))
    assert wrong
    assert "recovered another" in wrong[0] or "without naming" in wrong[0]


def test_a_number_names_one_fault(tmp_path: Path) -> None:
    for name in ("a", "b.json"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 10)
    faults = [flips.draw(tmp_path, number) for number in range(50)]
    assert faults == [flips.draw(tmp_path, number) for number in range(50)]
    assert len(set(faults)) > 40
    for fault in faults:
        before = (tmp_path / fault.file).read_bytes()
        fault.strike(tmp_path)
        changed = sum(one != other for one, other in zip(before, (tmp_path / fault.file).read_bytes(), strict=True))
        assert changed == 1 if fault.other < 0 else changed <= 2 * flips.SECTOR
        fault.strike(tmp_path)
        assert (tmp_path / fault.file).read_bytes() == before
