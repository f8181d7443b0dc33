"""docs/configuration.md says what the code does."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from raftkv.server.setting_facts import Kind, facts, facts_by_name
from raftkv.server.settings import ServerSettings, load_settings
from raftkv.server.settings_reference import BEGIN, END, renewed

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_table_is_fresh() -> None:
    text = DOCUMENT.read_text()
    assert text == renewed(text), "make settings"
    table = text.partition(BEGIN)[2].partition(END)[0]
    assert table.count("\n| `--") == len(ServerSettings.model_fields)


def test_a_document_without_a_place_for_it() -> None:
    with pytest.raises(ValueError, match="begin"):
        renewed("# Configuration\n")


def test_the_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAFTKV_")]:
        monkeypatch.delenv(name)
    (example,) = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    file = tmp_path / "raftkv.toml"
    file.write_text(example)
    settings = load_settings({}, file)
    assert settings.member[3] == "node3.example.org:7101"
    assert (settings.election_ms, settings.quota, settings.tls_client_auth) == (500, 4 << 30, True)
    assert settings.model_fields_set >= {"id", "advertise", "peer_tls_ca"}


@pytest.mark.parametrize(
    ("name", "kind", "unit", "bounds", "default"),
    [
        ("id", Kind.NUMBER, "", "1 or more", ""),
        ("tick_ms", Kind.NUMBER, "ms", "1 to 1000", "10 ms"),
        ("watch_progress_s", Kind.FRACTION, "s", "0.1 or more", "10 s"),
        ("wal_segment_bytes", Kind.NUMBER, "bytes", "64 KiB or more", "64 MiB"),
        ("scrub_bytes_per_s", Kind.NUMBER, "bytes/s", "0 or more", "4 MiB/s"),
        ("store_map_size", Kind.NUMBER, "bytes", "1 MiB or more", "64 GiB"),
        ("lease_drift_ppm", Kind.NUMBER, "ppm", "0 to 999999", "0 ppm"),
        ("insecure", Kind.SWITCH, "", "", "no"),
        ("member", Kind.MAP, "", "", ""),
        ("join", Kind.LIST, "", "", ""),
        ("tls_cert", Kind.PATH, "", "", ""),
        ("auto_compaction_mode", Kind.CHOICE, "", "", "age"),
        ("advertise", Kind.TEXT, "", "", "that of --listen"),
    ],
)
def test_what_is_read_from_a_declaration(name: str, kind: Kind, unit: str, bounds: str, default: str) -> None:
    fact = facts_by_name()[name]
    assert (fact.kind, fact.unit, fact.range_text, fact.default_text) == (kind, unit, bounds, default)


def test_sizes_are_readable_and_exact() -> None:
    quota = facts_by_name()["quota_bytes"]
    assert [quota.in_words(size) for size in (0, 1, 1000, 1024, 3 << 19, 8 << 30)] == [
        "0", "1 bytes", "1000 bytes", "1 KiB", "1536 KiB", "8 GiB",
    ]  # fmt: skip


def test_every_setting_has_help_and_a_group() -> None:
    assert all(fact.help.endswith(".") and fact.group for fact in facts())
