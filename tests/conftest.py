"""What holds for every test. Options must be here: pytest reads them only from the conftest of its arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.pki import Pki

# A test never fails because the machine is busy.
settings.register_profile("raftkv", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("raftkv")


def pytest_configure(config: pytest.Config) -> None:
    """Let the nodes that tests start, some two hundred, find our modules compiled: a quarter of the time to start one.

    Matters only where the environment forbids byte code; then it is kept apart from the sources.
    """
    if "PYTHONDONTWRITEBYTECODE" in os.environ:
        del os.environ["PYTHONDONTWRITEBYTECODE"]
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(config.rootpath, ".cache", "bytecode")))


FOR_JEPSEN_CI = ("tests/jepsen/", "tests/partition/")


@pytest.hookimpl(tryfirst=True)  # before some are left out for their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What has whole clusters behind proxies is for `make jepsen-ci`, as `make test` has eight minutes.

    So are the longer of all other tests, which bear the mark themselves.
    """
    for item in items:
        where = item.path.relative_to(config.rootpath).as_posix()
        if where.startswith(FOR_JEPSEN_CI) and item.get_closest_marker("processes") is not None:
            item.add_marker(pytest.mark.jepsen)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Certificates, good and bad."""
    from tests.pki import Pki

    return Pki(tmp_path_factory.mktemp("pki"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write what the golden scripts print now into tests/raft/golden"
    )
