"""Registrations, over the scripted cluster; being found is tested on real nodes."""

from __future__ import annotations

import asyncio
import json

import pytest

from raftkv.client import AsyncClient, AsyncRegistration
from raftkv.errors import ErrorCode, InvalidArgument, RaftKVError
from tests.client.fake import FakeCluster, execute, refusal

KEY = b"raftkv.services/api/7"


def found_by_itself(registration: AsyncRegistration) -> bool:
    return registration.registered


def registered(cluster: FakeCluster) -> dict[str, object] | None:
    pair = cluster.store.pairs.get(KEY)
    return None if pair is None else json.loads(pair.value)


async def test_an_instance_is_a_key_on_a_lease(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        service = client.service("api")
        assert service.prefix == "raftkv.services/api/"
        registration = service.register("h:1", {"zone": "a"}, instance_id="7")
        assert not found_by_itself(registration)
        async with registration:
            assert registered(single) == {"address": "h:1", "meta": {"zone": "a"}}
            assert found_by_itself(registration)
            (found,) = await service.instances()
            assert (found.id, found.address, dict(found.meta)) == ("7", "h:1", {"zone": "a"})
            assert found.lease in single.store.locks.ttls_ms
            with pytest.raises(InvalidArgument, match="already"):
                await registration.join()
            await registration.update({})
            assert registered(single) == {"address": "h:1", "meta": {}}
        assert not found_by_itself(registration)
        assert single.store.locks.ttls_ms == {}
        assert not await registration.leave()
        await registration.join()  # it may come back
        assert found_by_itself(registration)
        await registration.leave()
        with pytest.raises(InvalidArgument, match="not registered"):
            await registration.update({})


async def test_what_is_no_instance_is_not_shown(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        service = client.service("api")
        for number, value in enumerate(
            ("", "{", "[]", "7", '{"address": 7, "meta": {}}', '{"address": "h"}', '{"address": "h", "meta": {"a": 1}}')
        ):
            await client.put(f"{service.prefix}{number}", value)
        await client.put(f"{service.prefix}a/b", '{"address": "h", "meta": {}}')
        await client.put(f"{service.prefix}", '{"address": "h", "meta": {}}')
        await client.put(f"{service.prefix}deep", "[" * 100_000)
        assert await service.instances() == ()
        await client.put(f"{service.prefix}x", '{"address": "h", "meta": {}, "more": 1}')
        assert [one.id for one in await service.instances()] == ["x"]


async def test_a_registration_that_fails_leaves_nothing(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        await client.put("warm", "up")
        registration = client.service("api").register("h:1", instance_id="7")
        single[1].script = refusal(ErrorCode.SPACE_EXCEEDED)
        with pytest.raises(RaftKVError, match="SPACE_EXCEEDED"):
            await registration.join()
        single[1].script = execute
        assert single.store.locks.ttls_ms == {}
        async with registration:
            assert registered(single) is not None


async def test_closing_the_client_ends_a_registration_without_a_trace(single: FakeCluster) -> None:
    before = asyncio.all_tasks()
    client = AsyncClient(single.addresses)
    registration = client.service("api").register("h:1", instance_id="7")
    await registration.join()
    await client.close()
    assert client.closed
    await asyncio.sleep(0)
    assert {task for task in asyncio.all_tasks() - before if "AsyncRegistration" in repr(task)} == set()
    assert not found_by_itself(registration)
    assert not await registration.leave()


@pytest.mark.parametrize("name", ["", "a/b", "n" * 201, 7])
async def test_nonsense_is_refused(name: str) -> None:
    client = AsyncClient("h:1")
    with pytest.raises(InvalidArgument, match="name of the service"):
        client.service(name)
    service = client.service("api")
    with pytest.raises(InvalidArgument, match="id of the instance"):
        service.register("h:1", instance_id=name)
    with pytest.raises(InvalidArgument, match="address"):
        service.register("")
    with pytest.raises(InvalidArgument, match="meta has"):
        service.register("h:1", {"a": 1})  # type: ignore[dict-item]
    with pytest.raises(InvalidArgument, match="ttl"):
        service.register("h:1", ttl=0.1)
