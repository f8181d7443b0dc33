"""Metrics as text: in Prometheus' format or in OpenMetrics, as the one who asks accepts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Metric, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector


class _Collected(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def encode(families: Sequence[Metric], accept: str) -> tuple[bytes, str]:
    """Return the metrics, those of the process too, and their content type. Blocks for some milliseconds."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(families))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
