"""Service discovery for asyncio: instances that are found as long as they live.

An instance is a key, `raftkv.services/<service>/<instance id>`, on a lease of its own. The value is a JSON object of
"address" and "meta". Other keys under that prefix are no instances, and are not shown.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Final, Self

from raftkv.client import tenure
from raftkv.client.patience import answered
from raftkv.client.results import Instance, InstanceEvent, InstanceEventKind, KeyValue
from raftkv.client.spans import Pages
from raftkv.errors import Compacted, ConnectionFailed, InvalidArgument, RaftKVError

if TYPE_CHECKING:
    from raftkv.client.aio import AsyncClient
    from raftkv.client.lease import AsyncLease

PREFIX: Final = "raftkv.services/"
DEFAULT_TTL_S: Final = 10.0
MAX_NAME_BYTES: Final = 200
RETRY_S: Final = 1.0
"""How long an instance that lost its registration waits between two attempts to register again."""


class AsyncService:
    """The instances of one service: `client.service(name)` makes one.

    Instances are found by everybody who asks for a service of that name.

    Example::

        service = client.service("api")
        async with service.register("10.0.0.7:8000", {"zone": "a"}, ttl=10.0):
            for instance in await service.instances():
                print(instance.address)
    """

    def __init__(self, client: AsyncClient, name: str) -> None:
        """`name`: 1 to 200 bytes of UTF-8 without a slash, else InvalidArgument."""
        self._client = client
        self._name = _part("name of the service", name)

    @property
    def name(self) -> str:
        """Of the service."""
        return self._name

    @property
    def prefix(self) -> str:
        """What the keys of its instances begin with."""
        return f"{PREFIX}{self._name}/"

    def register(
        self,
        address: str,
        meta: Mapping[str, str] | None = None,
        *,
        ttl: float = DEFAULT_TTL_S,
        instance_id: str | None = None,
    ) -> AsyncRegistration:
        """Make a registration; `async with` (or its `join`) registers. See AsyncRegistration.

        `address`: how to reach the instance, as callers shall see it. `meta`: further text by name. `ttl`: seconds
        after which an instance that is gone is not found any more (0.5 to 31,536,000). `instance_id`: 1 to 200 bytes
        without a slash; a random one if not given. Of two instances with one id the later one is found.

        Example::

            async with client.service("api").register("10.0.0.7:8000", {"zone": "a"}, ttl=10.0) as registration:
                print(registration.instance_id)
        """
        number = uuid.uuid4().hex if instance_id is None else _part("id of the instance", instance_id)
        return AsyncRegistration(self._client, self.prefix, number, address=address, meta=meta or {}, ttl=ttl)

    async def instances(self, *, timeout: float | None = None) -> tuple[Instance, ...]:
        """Return the instances that are registered now, by id. Linearizable; `timeout` is for each 1,000.

        Example::

            for instance in await client.service("api").instances():
                print(instance.address, dict(instance.meta))
        """
        _, found = await self._look(timeout)
        return tuple(found.values())

    async def watch(self, *, timeout: float | None = None) -> AsyncGenerator[InstanceEvent, None]:
        """Yield a JOIN for each instance that is there, and then every change, without gap, for ever.

        Only a watcher that is cut off for so long that the store's history is compacted meanwhile is told the
        difference instead of every step. While the store cannot be reached it waits, at the beginning too: there for
        `timeout` seconds at most, if given, for each 1,000 instances, and then raises NoLeader, ConnectionFailed,
        Overloaded or DeadlineExceeded. Raises ConnectionFailed when the client is closed.

        Example::

            async with client.service("api").register("10.0.0.7:8000"):
                async for event in client.service("api").watch():
                    print(event.kind, event.instance.address)
                    break
        """
        known: dict[str, Instance] | None = None
        while True:
            try:
                revision, found = await answered(
                    self._look, lambda: self._client.closed, timeout if known is None else None
                )
                for told in _differences(known or {}, found, revision):
                    yield told
                known = found
                async with self._client.watch(prefix=self.prefix, start_revision=revision + 1) as events:
                    async for event in events:
                        now = self._instance(event.key, event.pair)
                        change = _change(known, self._id(event.key), now, event.revision)
                        if change is not None:
                            yield change
            except Compacted:
                continue  # as the docstring says
            except ConnectionFailed:
                if known is None or self._client.closed:
                    raise
                # No node has opened the watch in time: until then there may be news.

    async def _look(self, timeout: float | None) -> tuple[int, dict[str, Instance]]:
        pages = Pages(self.prefix, 1000, 0)
        found: dict[str, Instance] = {}
        while not pages.done:
            page = await self._client.range(
                pages.start, pages.end, limit=pages.size, revision=pages.revision, cursor=pages.cursor, timeout=timeout
            )
            for pair in pages.take(page):
                instance = self._instance(pair.key, pair)
                if instance is not None:
                    found[instance.id] = instance
        return pages.revision, found

    def _id(self, key: bytes) -> str:
        return key[len(self.prefix.encode()) :].decode(errors="replace")

    def _instance(self, key: bytes, pair: KeyValue | None) -> Instance | None:
        return None if pair is None else _parsed(self._id(key), pair)


class AsyncRegistration:
    """One instance of a service that is found as long as this is entered: `service.register(...)` makes one.

    It lives on a lease, which the client renews. When that is lost (the client was cut off for longer than its ttl),
    the instance is not found any more, and is registered anew as soon as the store can be reached.

    Example::

        async with client.service("api").register("10.0.0.7:8000", instance_id="7") as registration:
            await registration.update({"load": "0.7"})
    """

    def __init__(
        self, client: AsyncClient, prefix: str, instance_id: str, *, address: str, meta: Mapping[str, str], ttl: float
    ) -> None:
        tenure.ttl_ms(ttl)
        self._client = client
        self._key = f"{prefix}{instance_id}"
        self._instance_id = instance_id
        self._address = address
        self._meta = dict(meta)
        self._value = _encoded(address, self._meta)
        self._ttl = ttl
        self._lease: AsyncLease | None = None
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def instance_id(self) -> str:
        """Its id."""
        return self._instance_id

    @property
    def registered(self) -> bool:
        """Whether it is found, as far as this client can tell."""
        return self._lease is not None and self._lease.remaining() > 0

    async def __aenter__(self) -> Self:
        return await self.join()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.leave()

    async def join(self, *, timeout: float | None = None) -> Self:
        """Register, and stay registered until `leave`. Raises InvalidArgument when it is.

        Example::

            registration = await client.service("api").register("10.0.0.7:8000").join()
            await registration.leave()
        """
        if self._task is not None:
            raise InvalidArgument("the instance is registered already")
        # Set first: of two that join at a time, one is refused.
        self._task = asyncio.ensure_future(self._stay(joined := asyncio.Event()))
        try:
            await self._register(timeout)
        except BaseException:
            await self.leave()
            raise
        joined.set()
        return self

    async def update(self, meta: Mapping[str, str], *, timeout: float | None = None) -> None:
        """Show other `meta`. Takes effect with the next registration where there is none at the moment.

        Raises InvalidArgument when it was not registered or has left, and what a put raises.

        Example::

            async with client.service("api").register("10.0.0.7:8000") as registration:
                await registration.update({"load": "0.7"})
        """
        value = _encoded(self._address, dict(meta))
        if self._task is None:
            raise InvalidArgument("the instance is not registered")
        async with self._writing:
            self._meta, self._value = dict(meta), value
            if self.registered:
                await self._client.put(self._key, value, lease=self._lease, timeout=timeout)

    async def leave(self) -> bool:
        """Be found no more. Idempotent, and shielded from cancellation. Return whether the store has confirmed it.

        If not, the registration ends with its lease.

        Example::

            registration = await client.service("api").register("10.0.0.7:8000").join()
            print(await registration.leave())
        """
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        lease, self._lease = self._lease, None
        confirmed = await lease.revoke() if lease is not None else False
        if task is not None:
            await asyncio.wait({task})
        return confirmed

    async def _register(self, timeout: float | None) -> None:
        async with self._writing:
            lease = self._client.lease(self._ttl)
            await lease.grant(timeout=timeout)
            try:
                await self._client.put(self._key, self._value, lease=lease, timeout=timeout)
            except BaseException:
                await lease.revoke()
                raise
            self._lease = lease

    async def _stay(self, joined: asyncio.Event) -> None:
        await joined.wait()
        while True:
            if self._lease is not None:
                await self._lease.lost.wait()
            if self._client.closed:
                return
            try:
                await self._register(None)
            except RaftKVError:
                # Tried again until it works: what is wrong with the store is told to those who ask it something.
                await asyncio.sleep(min(RETRY_S, self._ttl))


def _part(what: str, text: str) -> str:
    if not isinstance(text, str) or not text or "/" in text or len(text.encode()) > MAX_NAME_BYTES:
        raise InvalidArgument(f"the {what} is {text!r}, not 1 to {MAX_NAME_BYTES} bytes of text without a slash")
    return text


def _encoded(address: str, meta: Mapping[str, str]) -> str:
    if not isinstance(address, str) or not address:
        raise InvalidArgument(f"address is {address!r}, not a text of at least one character")
    for name, text in meta.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise InvalidArgument(f"meta has {name!r}: {text!r}; names and texts are str")
    return json.dumps({"address": address, "meta": meta}, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def _parsed(number: str, pair: KeyValue) -> Instance | None:
    """Decode an instance; None where somebody else has written something else."""
    try:
        found = json.loads(pair.value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not number or "/" in number:
        return None
    address, meta = found.get("address"), found.get("meta")
    if not isinstance(address, str) or not isinstance(meta, dict):
        return None
    if not all(isinstance(text, str) for text in meta.values()):
        return None
    return Instance(number, address, MappingProxyType(meta), pair.mod_revision, pair.lease)


def _change(known: dict[str, Instance], number: str, now: Instance | None, revision: int) -> InstanceEvent | None:
    """Return what is to be told of one instance, and know it from now on."""
    before = known.pop(number, None)
    if now is not None:
        known[number] = now
        kind = InstanceEventKind.CHANGE if before is not None else InstanceEventKind.JOIN
        return InstanceEvent(kind, now, revision)
    return None if before is None else InstanceEvent(InstanceEventKind.LEAVE, before, revision)


def _differences(
    known: Mapping[str, Instance], found: Mapping[str, Instance], revision: int
) -> Iterator[InstanceEvent]:
    for number, instance in known.items():
        if number not in found:
            yield InstanceEvent(InstanceEventKind.LEAVE, instance, revision)
    for number, instance in found.items():
        if number not in known:
            yield InstanceEvent(InstanceEventKind.JOIN, instance, revision)
        elif known[number] != instance:
            yield InstanceEvent(InstanceEventKind.CHANGE, instance, revision)
