"""Options of the whole test suite. They must be here: pytest reads options only from the conftest of its arguments."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Timings are never asserted: machines are noisy.
settings.register_profile("raftkv", deadline=None)
settings.load_profile("raftkv")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write what the golden scripts print now into tests/raft/golden"
    )
