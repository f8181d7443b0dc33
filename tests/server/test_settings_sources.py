"""Names that are no settings, in files and in the environment, and where settings come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from raftkv.errors import ConfigurationError
from raftkv.server.settings import ServerSettings, Source, load_settings, load_with_sources
from raftkv.server.settings_sources import unknown_variables

FLAGS: dict[str, Any] = {"id": 1, "data_dir": Path("/data")}
MEMBERS = {1: "10.0.0.1:7101", 2: "10.0.0.2:7101"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("RAFTKV_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "raftkv.toml"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tick_ms = 10\nelecton-ms = 300\n", "line 2: unknown setting 'electon-ms'; did you mean 'election_ms'?"),
        ("colour = 'red'\n", "line 1: unknown setting 'colour'"),
        ("lisen = 'a:1'\ncolour = 1\n", "line 1: unknown setting 'lisen'; did you mean 'listen'?; line 2: unknown"),
        ("tick-ms = 10\ntick_ms = 20\n", "line 2: 'tick_ms' is set twice, once as 'tick-ms'"),
        ("[server]\nid = 1\n", "line 1: unknown table [server]: settings stand at the top of the file; tables are"),
        ("[listen]\nhost = 'a'\n", "line 1: 'listen' is a value, not a table"),
        ("[member]\n1 = 'a:1'\nlisten = 'a:2'\n", "line 1: 'listen' in the table [member]: settings stand before"),
        ("[member]\none = 'a:1'\n", "member: 'one' is not the id of a node"),
        ("[member]\n1 = 'a'\n", "member: 'a' is not HOST:PORT"),
        ("tick_ms = 0\n", "tick_ms: Input should be greater than or equal to 1"),
    ],
)
def test_files_that_are_wrong_name_the_file_the_line_and_what_was_meant(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load_settings(FLAGS, file)
    assert f"configuration file {file}: {complaint}" in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    "text",
    [
        'member = ["1=10.0.0.1:7101", "2=10.0.0.2:7101"]\n',
        'member = "1=10.0.0.1:7101,2=10.0.0.2:7101"\n',
        'member = {1 = "10.0.0.1:7101", 2 = "10.0.0.2:7101"}\n',
        '[member]\n1 = "10.0.0.1:7101"\n2 = "10.0.0.2:7101"\n',
    ],
)
def test_members_in_a_file(file: Path, text: str) -> None:
    file.write_text(text)
    assert load_settings(FLAGS, file).member == MEMBERS


def test_a_table_by_its_name_as_a_flag(file: Path) -> None:
    file.write_text('[peer-dial]\n2 = "127.0.0.1:9"\n')
    assert load_settings(FLAGS, file).peer_dial == {2: "127.0.0.1:9"}


def test_where_each_setting_comes_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("tick_ms = 5\nheartbeat_ms = 40\nelection_ms = 400\n")
    monkeypatch.setenv("RAFTKV_HEARTBEAT_MS", "50")
    monkeypatch.setenv("RAFTKV_ELECTION_MS", "500")
    settings, sources = load_with_sources({**FLAGS, "election_ms": 600}, file)
    assert (settings.tick_ms, settings.heartbeat_ms, settings.election_ms) == (5, 50, 600)
    assert sources.keys() == ServerSettings.model_fields.keys()
    assert sources["tick_ms"] == Source("file", str(file))
    assert sources["heartbeat_ms"] == Source("environment", "RAFTKV_HEARTBEAT_MS")
    assert sources["election_ms"] == Source("flag", "--election-ms")
    assert sources["listen"].kind == "default"


def test_what_is_wrong_in_the_environment_is_named_as_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTKV_TICK_MS", "often")
    with pytest.raises(ConfigurationError, match=r"^RAFTKV_TICK_MS: Input should be a valid integer"):
        load_settings(FLAGS)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("RAFTKV_ELECTON_MS", "RAFTKV_ELECTION_MS"),
        ("RAFTKV_MEMBERS", "RAFTKV_MEMBER"),
        ("raftkv_data_dirs", "RAFTKV_DATA_DIR"),
        ("RAFTKV_FAVOURITE_COLOUR", None),
    ],
)
def test_variables_that_are_no_settings(variable: str, meant: str | None) -> None:
    (found,) = unknown_variables([variable, "RAFTKV_ID", "PATH"], ServerSettings.model_fields)
    assert (found.name, found.nearest) == (variable, meant)
    assert ("did you mean" in found.describe()) == (meant is not None)


@pytest.mark.parametrize(
    "variable",
    [
        "RAFTKV_ID", "raftkv_id", "RAFTKV_ENDPOINTS", "RAFTKV_CACERT", "RAFTKV_KEY", "RAFTKV_DEBUG", "RAFTKV_LOCK",
        "RAFTKV_FENCING_TOKEN", "RAFTKV_WATCH_KEY", "RAFTKV_JEPSEN_LEVERS", "_RAFTKV_COMPLETE",
        # what Kubernetes sets for Services called raftkv and raftkv-client
        "RAFTKV_SERVICE_HOST", "RAFTKV_SERVICE_PORT", "RAFTKV_SERVICE_PORT_CLIENTS", "RAFTKV_PORT",
        "RAFTKV_PORT_7001_TCP", "RAFTKV_PORT_7001_TCP_ADDR", "RAFTKV_CLIENT_SERVICE_HOST", "RAFTKV_CLIENT_PORT",
    ],
)  # fmt: skip
def test_variables_of_others_are_left_alone(variable: str) -> None:
    assert unknown_variables([variable], ServerSettings.model_fields) == []


def test_every_variable_that_the_code_reads_is_known() -> None:
    """A new one must be added to the list, or nodes would warn of it."""
    import re

    import raftkv

    root = Path(raftkv.__file__).parent
    named = {
        found for path in root.rglob("*.py") for found in re.findall(r"[\"'](RAFTKV_[A-Z0-9_]+)[\"']", path.read_text())
    }
    assert {"RAFTKV_ENDPOINTS", "RAFTKV_FENCING_TOKEN"} <= named
    assert unknown_variables(sorted(named), ServerSettings.model_fields) == []
