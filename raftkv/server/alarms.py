"""What a node wants somebody to look at. Each kind is on or off; its message says what it is about and the way out."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from raftkv.v1 import cluster_pb2 as pb

log = structlog.get_logger("raftkv.alarms")


class Alarms:
    """The alarms of one node that are on."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        """`now_s` gives seconds since 1970, for people to read."""
        self._now_s = now_s
        self._raised: dict[pb.Alarm.ValueType, pb.RaisedAlarm] = {}

    def raised(self) -> list[pb.RaisedAlarm]:
        """Return those that are on, in the order of their numbers."""
        return [self._raised[alarm] for alarm in sorted(self._raised)]

    def __contains__(self, alarm: pb.Alarm.ValueType) -> bool:
        return alarm in self._raised

    def set(self, alarm: pb.Alarm.ValueType, message: str) -> None:
        """Raise an alarm, or give one that is on another message; it is logged when it goes on."""
        since_ms = int(self._now_s() * 1000)
        if (known := self._raised.get(alarm)) is not None:
            since_ms = known.since_ms
        else:
            log.error("alarm", alarm=pb.Alarm.Name(alarm), message=message)
        self._raised[alarm] = pb.RaisedAlarm(alarm=alarm, message=message, since_ms=since_ms)

    def clear(self, alarm: pb.Alarm.ValueType) -> None:
        """End an alarm; nothing happens when it is off."""
        if self._raised.pop(alarm, None) is not None:
            log.info("alarm over", alarm=pb.Alarm.Name(alarm))
