"""Service discovery for code without an event loop."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from types import TracebackType
from typing import Self

from raftkv.client.blocking import Run, stepped
from raftkv.client.results import Instance, InstanceEvent
from raftkv.client.service import DEFAULT_TTL_S, AsyncRegistration, AsyncService
from raftkv.errors import RaftKVError


class Service:
    """The twin of AsyncService.

        service = client.service("api")
        with service.register("10.0.0.7:8000", {"zone": "a"}, ttl=10.0):
            print(service.instances())

    Made by `client.service`.
    """

    def __init__(self, run: Run, service: AsyncService) -> None:
        """Made by the client."""
        self._run = run
        self._async = service

    @property
    def name(self) -> str:
        """See AsyncService.name."""
        return self._async.name

    @property
    def prefix(self) -> str:
        """See AsyncService.prefix."""
        return self._async.prefix

    def register(
        self,
        address: str,
        meta: Mapping[str, str] | None = None,
        *,
        ttl: float = DEFAULT_TTL_S,
        instance_id: str | None = None,
    ) -> Registration:
        """See AsyncService.register."""
        return Registration(self._run, self._async.register(address, meta, ttl=ttl, instance_id=instance_id))

    def instances(self, *, timeout: float | None = None) -> tuple[Instance, ...]:
        """See AsyncService.instances."""
        return self._run(self._async.instances(timeout=timeout))

    def watch(self, *, timeout: float | None = None) -> Generator[InstanceEvent, None, None]:
        """See AsyncService.watch."""
        return stepped(self._run, self._async.watch(timeout=timeout))


class Registration:
    """The twin of AsyncRegistration.

        with client.service("api").register("10.0.0.7:8000", instance_id="7") as registration:
            registration.update({"load": "0.7"})

    The client's thread keeps it alive, and registers anew what was lost.
    """

    def __init__(self, run: Run, registration: AsyncRegistration) -> None:
        """Made by Service."""
        self._run = run
        self._async = registration

    @property
    def instance_id(self) -> str:
        """See AsyncRegistration.instance_id."""
        return self._async.instance_id

    @property
    def registered(self) -> bool:
        """See AsyncRegistration.registered."""
        return self._run(self._registered())

    def __enter__(self) -> Self:
        return self.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    def join(self, *, timeout: float | None = None) -> Self:
        """See AsyncRegistration.join."""
        try:
            self._run(self._async.join(timeout=timeout))
        except RaftKVError:
            raise
        except BaseException:
            self.leave()  # an interrupt may come when it is registered already: nobody would end that
            raise
        return self

    def update(self, meta: Mapping[str, str], *, timeout: float | None = None) -> None:
        """See AsyncRegistration.update."""
        self._run(self._async.update(meta, timeout=timeout))

    def leave(self) -> bool:
        """See AsyncRegistration.leave."""
        return self._run(self._async.leave())

    async def _registered(self) -> bool:
        return self._async.registered
