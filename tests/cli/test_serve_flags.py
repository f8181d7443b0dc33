"""The flags of `raftkv serve` are the settings of a node, as declared; nothing else pays for making them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from raftkv.cli import node
from raftkv.cli.app import app
from raftkv.server.setting_facts import facts
from raftkv.server.settings import ServerSettings
from tests.cli.conftest import Cli


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a node would be run with."""
    found: dict[str, Any] = {}

    def run_node(flags: Mapping[str, object], config: Path | None) -> None:
        found.update(flags, config=config)

    monkeypatch.setattr(node, "run_node", run_node)
    return found


@pytest.fixture
def shown(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> str:
    """The help of `serve`, on lines wide enough."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    return re.sub(r" +", " ", cli("serve", "--help").text)


def test_every_setting_is_a_flag_with_its_help_and_default(shown: str) -> None:
    assert [fact.name for fact in facts()] == list(ServerSettings.model_fields)
    for fact in facts():
        line = next(line for line in shown.splitlines() if re.search(rf"^\W*{fact.flag}\s", line))
        assert fact.help in line
        assert fact.default_text == "" or f"[default: ({fact.default_text})]" in line
        assert fact.metavar in line or fact.name in ("tls_client_auth", "insecure")


def test_defaults_are_shown_with_units(shown: str) -> None:
    assert "(64 MiB)" in shown
    assert "(4 MiB/s)" in shown
    assert "(250 ms)" in shown
    assert "ID=HOST:PORT" in shown


def test_flags_become_settings(cli: Cli, given: dict[str, Any], tmp_path: Path) -> None:
    cli(
        *("serve", "--id", "3", "--data-dir", str(tmp_path), "--member", "1=a:1", "--member", "3=b:1"),
        *("--join", "h:1", "--watch-progress-s", "2.5", "--auto-compaction-mode", "off", "--log-format", "json"),
        *("--write-concern", "2", "--tls-cert", "a.crt", "--tls-client-auth", "--no-insecure", "--config", "x.toml"),
    )
    assert given == {
        "id": 3,
        "data_dir": tmp_path,
        "member": ["1=a:1", "3=b:1"],
        "join": ["h:1"],
        "watch_progress_s": 2.5,
        "auto_compaction_mode": "off",
        "log_format": "json",
        "write_concern": "2",
        "tls_cert": Path("a.crt"),
        "tls_client_auth": True,
        "insecure": False,
        "config": Path("x.toml"),
    }


def test_nothing_is_given_that_was_not_said(cli: Cli, given: dict[str, Any]) -> None:
    assert cli("serve").code == 0
    assert given == {"config": None}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--electon-ms", "250"), "--election-ms"),
        (("--log-level", "loud"), "'debug', 'info', 'warning', 'error'"),
        (("--tick-ms", "0"), "'--tick-ms': Input should be greater than or equal to 1"),
        (("--watch-progress-s", "often"), "'--watch-progress-s'"),
        (("--insecure=maybe",), "--insecure"),
    ],
)
def test_flags_that_are_wrong(cli: Cli, flags: tuple[str, ...], said: str) -> None:
    result = cli("serve", *flags)
    assert result.code == 2
    assert said in result.error


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("raftkv serve --log-level ", {"debug", "info", "warning", "error"}),
        ("raftkv serve --auto-compaction-mode r", {"revisions"}),
        ("raftkv serve --tls-c", {"--tls-cert", "--tls-ca", "--tls-client-auth"}),
    ],
)
def test_completion(
    typed: str, offered: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_RAFTKV_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split(" ")) - 1))
    with pytest.raises(SystemExit):
        get_command(app)(args=[], prog_name="raftkv")
    assert set(capsys.readouterr().out.split()) == offered


def test_the_other_commands_do_not_load_settings() -> None:
    """Else every `raftkv get` would wait for what only a node needs."""
    program = (
        "import sys\nfrom raftkv.cli.app import run\n"
        "for line in (['--help'], ['get', '--help']):\n    run(line)\n"
        "heavy = {'pydantic_settings', 'raftkv.server.settings', 'lmdb'}\n"
        "sys.stderr.write(' '.join(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
