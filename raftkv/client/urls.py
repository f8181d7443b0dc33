"""Where the cluster is: endpoints out of a URL, a list or the environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from raftkv.errors import ConfigurationError

SCHEME: Final = "raftkv"
TLS_SCHEME: Final = "raftkvs"
EXAMPLE: Final = "raftkv://host1:7001,host2:7001"
ENVIRONMENT_VARIABLE: Final = "RAFTKV_ENDPOINTS"


def parse_endpoints(source: str | Sequence[str]) -> tuple[str, ...]:
    """Return the endpoints in `source` as "host:port" or "[v6]:port", in order, each once, hosts in lower case.

    `source` is a URL (raftkv://h1:7001,h2:7001, or raftkvs:// for TLS), a comma-separated text of endpoints, or a
    sequence of endpoints.
    Raises ConfigurationError, which says what is wrong and shows a right example.
    """
    if isinstance(source, str):
        items = _split(source)
    else:
        items = list(source)
        if not items:
            raise _malformed("the list of endpoints is empty")
    return tuple(dict.fromkeys(parse_endpoint(item) for item in items))


def parse_endpoint(text: str) -> str:
    """Return one endpoint as "host:port" or "[v6]:port", host in lower case. Raises ConfigurationError."""
    endpoint = text.strip()
    if not endpoint:
        raise _malformed("an endpoint is empty")
    if "@" in endpoint:
        raise _malformed(f"endpoint {endpoint!r} has a user name; there are none")
    for mark in "/?# \t":
        if mark in endpoint:
            raise _malformed(f"endpoint {endpoint!r} has something other than host:port (at {mark!r})")
    host, separator, port = endpoint.rpartition(":")
    if not separator or (host.startswith("[") and not host.endswith("]")):
        raise _malformed(f"endpoint {endpoint!r} has no port")
    bracketed = host.startswith("[") and host.endswith("]")
    if not (host[1:-1] if bracketed else host):
        raise _malformed(f"endpoint {endpoint!r} has no host")
    if ":" in host and not bracketed:
        raise _malformed(f"endpoint {endpoint!r}: an IPv6 address stands in brackets, as in [::1]:7001")
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= 65_535):
        raise _malformed(f"endpoint {endpoint!r}: port {port!r} is not a number from 1 to 65535")
    return f"{host.lower()}:{int(port)}"


def asks_for_tls(source: str | Sequence[str]) -> bool:
    """Whether `source` is a URL that says that its nodes speak TLS."""
    return isinstance(source, str) and source.strip().lower().startswith(f"{TLS_SCHEME}://")


def endpoints_from_environment(environment: Mapping[str, str]) -> str:
    """Return what is in RAFTKV_ENDPOINTS: comma-separated or a URL. Raises ConfigurationError."""
    value = environment.get(ENVIRONMENT_VARIABLE, "")
    if not value.strip():
        raise ConfigurationError(f"{ENVIRONMENT_VARIABLE} is not set; for example {ENVIRONMENT_VARIABLE}={EXAMPLE}")
    parse_endpoints(value)
    return value


def _split(source: str) -> list[str]:
    text = source.strip()
    scheme, separator, rest = text.partition("://")
    if separator:
        if scheme.lower() not in (SCHEME, TLS_SCHEME):
            raise _malformed(f"{source!r} has the scheme {scheme!r}, not {SCHEME!r} or {TLS_SCHEME!r}")
        text = rest.removesuffix("/")
    if not text:
        raise _malformed(f"{source!r} names no endpoint")
    return text.split(",")


def _malformed(what: str) -> ConfigurationError:
    return ConfigurationError(f"{what}; for example {EXAMPLE}")
