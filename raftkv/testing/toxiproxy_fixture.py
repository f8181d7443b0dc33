"""The pytest fixture behind every test that needs a Toxiproxy server. Import it into a conftest.py.

Such tests carry the mark `toxiproxy`. Where there is no server and none can be had they are skipped, with every way
that was tried in the summary; under RAFTKV_REQUIRE_TOXIPROXY=1 they fail instead.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raftkv.testing.toxiproxy import ToxiproxyServer
from raftkv.testing.toxiproxy_install import ToxiproxyUnavailable, find_toxiproxy, toxiproxy_required


@pytest.fixture(scope="session")
def toxiproxy_server() -> Iterator[ToxiproxyServer]:
    """A server for the whole run; each test names its own proxies and deletes them."""
    try:
        program = find_toxiproxy()
    except ToxiproxyUnavailable as error:
        if toxiproxy_required():
            pytest.fail(f"RAFTKV_REQUIRE_TOXIPROXY is set, but: {error}", pytrace=False)
        pytest.skip(f"PARTITION TESTS NOT RUN: {error}")
    with ToxiproxyServer(program) as server:
        yield server
