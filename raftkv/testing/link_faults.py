"""What can be wrong with a link, and what is wrong with it when several faults are on at once. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from raftkv.testing.toxiproxy import ProxyState, Stream, Toxic

How = Literal["blackhole", "cut", "reset"]
HOWS: Final[tuple[How, ...]] = ("blackhole", "cut", "reset")
BOTH: Final[tuple[Stream, Stream]] = ("upstream", "downstream")


def drop(stream: Stream) -> Toxic:
    return Toxic(kind="timeout", stream=stream, attributes=(("timeout", 0),))


def reset(stream: Stream) -> Toxic:
    return Toxic(kind="reset_peer", stream=stream, attributes=(("timeout", 0),))


BLOCKED: Final[dict[How, ProxyState]] = {
    "blackhole": ProxyState(toxics=frozenset(map(drop, BOTH))),
    "cut": ProxyState(enabled=False),
    "reset": ProxyState(toxics=frozenset(map(reset, BOTH))),
}


def dropping(*streams: Stream) -> ProxyState:
    """Lose all bytes of these directions."""
    return ProxyState(toxics=frozenset(map(drop, streams)))


def _both_ways(kind: str, **attributes: int) -> ProxyState:
    said = tuple(sorted(attributes.items()))
    return ProxyState(toxics=frozenset(Toxic(kind=kind, stream=stream, attributes=said) for stream in BOTH))


def delayed(latency_ms: int, jitter_ms: int) -> ProxyState:
    return _both_ways("latency", latency=latency_ms, jitter=jitter_ms)


def narrowed(kilobytes_per_s: int) -> ProxyState:
    return _both_ways("bandwidth", rate=kilobytes_per_s)


def sliced(average_bytes: int, variation_bytes: int, pause_us: int) -> ProxyState:
    return _both_ways("slicer", average_size=average_bytes, size_variation=variation_bytes, delay=pause_us)


def combine(states: Iterable[ProxyState]) -> ProxyState:
    """Return what a link is like on which all of these act: each fault as bad as the worst of its kind.

    A direction that is reset is not dropped too: which of the two then acted would depend on which came first.
    """
    enabled = True
    toxics: dict[str, Toxic] = {}
    for state in states:
        enabled = enabled and state.enabled
        for toxic in state.toxics:
            other = toxics.get(toxic.name)
            toxics[toxic.name] = toxic if other is None else _worse(toxic, other)
    for stream in BOTH:
        if reset(stream).name in toxics:
            toxics.pop(drop(stream).name, None)
    return ProxyState(enabled=enabled, toxics=frozenset(toxics.values()))


def attribute(state: ProxyState, kind: str, name: str) -> int:
    """Return one attribute of the toxics of a kind, the greatest; 0 without such a toxic."""
    return max((dict(toxic.attributes)[name] for toxic in state.toxics if toxic.kind == kind), default=0)


def _worse(one: Toxic, other: Toxic) -> Toxic:
    ours, theirs = dict(one.attributes), dict(other.attributes)
    match one.kind:
        case "bandwidth":
            return min(one, other, key=lambda toxic: dict(toxic.attributes)["rate"])
        case "slicer":
            return min(one, other, key=lambda toxic: dict(toxic.attributes)["average_size"])
        case _:
            worst = tuple(sorted((name, max(value, theirs[name])) for name, value in ours.items()))
            return Toxic(kind=one.kind, stream=one.stream, attributes=worst)
