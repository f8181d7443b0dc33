from __future__ import annotations

import pytest

from raftkv.client import AsyncClient, Client
from raftkv.client.urls import endpoints_from_environment, parse_endpoints
from raftkv.errors import ConfigurationError


@pytest.mark.parametrize(
    ("source", "endpoints"),
    [
        ("raftkv://h1:7001,h2:7002", ("h1:7001", "h2:7002")),
        ("raftkv://H1.Example:7001/", ("h1.example:7001",)),
        ("RAFTKV://h1:7001", ("h1:7001",)),
        ("h1:7001, h2:7001", ("h1:7001", "h2:7001")),
        ("raftkv://[::1]:7001,[FE80::2]:7002", ("[::1]:7001", "[fe80::2]:7002")),
        (["h1:7001", "h1:7001", "h2:07001"], ("h1:7001", "h2:7001")),
        (("127.0.0.1:65535",), ("127.0.0.1:65535",)),
    ],
)
def test_endpoints(source: str | list[str], endpoints: tuple[str, ...]) -> None:
    assert parse_endpoints(source) == endpoints


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("", "names no endpoint"),
        ("raftkv://", "names no endpoint"),
        ([], "list of endpoints is empty"),
        ("raftkv://h1:7001,,h2:7001", "an endpoint is empty"),
        ("http://h1:7001", "scheme 'http'"),
        ("raftkv://h1", "'h1' has no port"),
        ("raftkv://[::1]", "'[::1]' has no port"),
        ("raftkv://::1:7001", "IPv6 address stands in brackets"),
        ("raftkv://:7001", "no host"),
        ("raftkv://[]:7001", "no host"),
        ("raftkv://h1:0", "'0' is not a number from 1 to 65535"),
        ("raftkv://h1:65536", "'65536' is not a number"),
        ("raftkv://h1:http", "'http' is not a number"),
        ("raftkv://h1:\N{ARABIC-INDIC DIGIT ONE}", "is not a number"),
        ("raftkv://me:secret@h1:7001", "user name"),
        ("raftkv://h1:7001/db", "something other than host:port"),
        ("raftkv://h1:7001?x=1", "something other than host:port"),
    ],
)
def test_what_is_malformed_is_named_in_one_line_with_a_right_example(source: str | list[str], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        AsyncClient(source)
    assert complaint in raised.value.message
    assert raised.value.message.endswith("; for example raftkv://host1:7001,host2:7001")
    assert "\n" not in raised.value.message


def test_environment() -> None:
    assert endpoints_from_environment({"RAFTKV_ENDPOINTS": "raftkv://a:1,b:2"}) == "raftkv://a:1,b:2"
    assert endpoints_from_environment({"RAFTKV_ENDPOINTS": "a:1,b:2"}) == "a:1,b:2"
    for unset in ({}, {"RAFTKV_ENDPOINTS": " "}):
        with pytest.raises(ConfigurationError, match="RAFTKV_ENDPOINTS is not set; for example"):
            endpoints_from_environment(unset)


@pytest.mark.parametrize("kind", [AsyncClient, Client])
def test_from_url_and_from_env(kind: type[AsyncClient] | type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTKV_ENDPOINTS", "a:1,b:2")
    assert kind.from_env().endpoints == ("a:1", "b:2")
    assert kind.from_url("raftkv://c:3").endpoints == ("c:3",)
