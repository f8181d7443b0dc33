"""Quorum reads that the client coordinates: it asks the voters itself what their logs end with. No leader takes part.

The rules are those of `raftkv.quorum.reading`, as on the nodes; here is who is asked, and how often.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from raftkv.client.backoff import backoff_s
from raftkv.client.dispatcher import Dispatcher
from raftkv.client.receipts import ReadReceipt, ReadToken
from raftkv.client.unary import answer_of
from raftkv.client.wire_quorum import receipt_of, to_token
from raftkv.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    FailedPrecondition,
    QuorumUnavailable,
    RaftKVError,
)
from raftkv.quorum import (
    Answer,
    Begin,
    LogEnd,
    Membership,
    Target,
    Wait,
    decide,
    is_rinsed,
    of_quorum_read,
    required_replicas,
)
from raftkv.v1 import kv_pb2


class _Heard(NamedTuple):
    """What one node said."""

    address: str
    member_id: int
    answer: Answer
    applied: tuple[int, int]
    cluster_id: int


class _Agreed(NamedTuple):
    """The end of step 2."""

    target: Target
    membership: Membership
    addresses: tuple[str, ...]
    """Who may answer, the most promising first. Any other replica may as well."""
    cluster_id: int
    """Of which cluster all of this is."""


async def quorum_read(
    dispatcher: Dispatcher, request: kv_pb2.RangeRequest, replicas: int, token: ReadToken | None, deadline: float
) -> tuple[kv_pb2.RangeResponse, ReadReceipt]:
    """Read what `replicas` voters (0: a majority) know to be committed. `token`: not less than this.

    Raises InvalidArgument for more replicas than there are voters, QuorumUnavailable at the deadline, and what makes no
    read of this kind possible.
    """
    agreed = await _agree(dispatcher, replicas, deadline)
    return await _rinsed(dispatcher, request, agreed, token, deadline)


async def _agree(dispatcher: Dispatcher, replicas: int, deadline: float) -> _Agreed:
    """Steps 1 and 2: ask until enough voters of one configuration have answered. Again and again until the deadline."""
    rounds = 0
    why: QuorumUnavailable | None = None
    while True:
        found = await _ask_once(dispatcher, replicas, deadline)
        if isinstance(found, _Agreed):
            return found
        rounds += 1
        # The last round may have no time for an answer: what an earlier one met with tells more.
        why = found or why or QuorumUnavailable("no node has told the end of its log")
        await _pause(dispatcher, rounds, deadline, why)


async def _ask_once(dispatcher: Dispatcher, replicas: int, deadline: float) -> _Agreed | QuorumUnavailable | None:
    """One round. None: nobody answered."""
    await dispatcher.wait_ready(deadline)  # who the members are is learned from whoever is reached first
    heard: dict[int, _Heard] = {}
    membership: Membership | None = None
    answers: dict[int, Answer] = {}
    missing = 0
    cluster_id = dispatcher.seen.cluster_id
    while True:
        begin: Membership | None = None
        async with aclosing(_log_ends(dispatcher, dispatcher.router.known_addresses(), cluster_id, deadline)) as ends:
            async for one in ends:
                cluster_id = cluster_id or one.cluster_id
                if one.cluster_id != cluster_id:
                    continue  # places and members of one cluster mean nothing in another
                heard[one.member_id] = one
                answers[one.member_id] = one.answer
                if membership is None:
                    membership = one.answer.membership
                decision = decide(membership, answers, required_replicas(replicas, len(membership.voters)))
                if isinstance(decision, Begin):
                    begin = decision.membership
                    break
                if membership.joint:
                    return QuorumUnavailable("a change of the members is under way: no quorum read until it is over")
                if isinstance(decision, Wait):
                    missing = decision.missing
                else:
                    return _Agreed(decision, membership, _by_promise(heard.values(), membership), cluster_id)
        if begin is None:
            break
        membership, answers = begin, {}
    if membership is None:
        return None
    needed = required_replicas(replicas, len(membership.voters))
    silent = sorted(membership.voters - answers.keys())
    answered = {one.address for one in heard.values()}
    if heard:
        # Some of them may be at addresses that this client has never heard of.
        await dispatcher.learn_members_from(next(iter(heard.values())).address)
    return QuorumUnavailable(
        f"{needed - missing} of {len(membership.voters)} voters told the end of their logs, {needed} are needed"
        f"{_who_is_silent(silent, dispatcher.router.unknown_members(silent, answered))}"
    )


def _who_is_silent(silent: Sequence[int], unknown: Collection[int]) -> str:
    asked = [voter for voter in silent if voter not in unknown]
    unasked = [voter for voter in silent if voter in unknown]
    return (f"; no answer from {asked}" if asked else "") + (
        f"; not asked, as they are not among the endpoints: {unasked}" if unasked else ""
    )


async def _log_ends(
    dispatcher: Dispatcher, addresses: Collection[str], cluster_id: int, deadline: float
) -> AsyncGenerator[_Heard, None]:
    """Ask all of them at once; yield what they say, as it comes. Those that fail are left out."""
    left_s = min(dispatcher.attempt_timeout, max(deadline - dispatcher.loop.time(), 0.0))
    asked = {asyncio.create_task(_log_end(dispatcher, address, cluster_id, left_s)) for address in addresses}
    waiting = asked
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                found = task.result()
                if found is not None:
                    yield found
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def _log_end(dispatcher: Dispatcher, address: str, cluster_id: int, left_s: float) -> _Heard | None:
    asked = kv_pb2.LogEndRequest(cluster_id=cluster_id)
    rpc = dispatcher.connections.get(address).kv.LogEnd(asked, timeout=left_s)
    try:
        said = await answer_of(address, rpc)
    except RaftKVError:
        return None  # too few answers are told of by who is missing
    membership = Membership(said.configuration_index, frozenset(said.voters), frozenset(said.witnesses), said.joint)
    answer = Answer(LogEnd(said.last_term, said.last_index), membership)
    applied = said.applied_term, said.applied_index
    return _Heard(address, said.header.member_id, answer, applied, said.header.cluster_id)


def _by_promise(heard: Collection[_Heard], membership: Membership) -> tuple[str, ...]:
    holders = [one for one in heard if one.member_id not in membership.witnesses]
    return tuple(one.address for one in sorted(holders, key=lambda one: one.applied[1], reverse=True))


async def _rinsed(
    dispatcher: Dispatcher, request: kv_pb2.RangeRequest, agreed: _Agreed, token: ReadToken | None, deadline: float
) -> tuple[kv_pb2.RangeResponse, ReadReceipt]:
    """Step 3: the state of a node that has applied the target, or an entry of a later term."""
    end = agreed.target.end
    asked = kv_pb2.RangeRequest()
    asked.CopyFrom(request)
    asked.level = kv_pb2.ReadLevel.AT_LEAST
    asked.after.term, asked.after.index = end
    if token is not None:
        asked.at_least.CopyFrom(to_token(token))
    rounds = 0
    why: RaftKVError | None = None
    addresses = agreed.addresses
    while True:
        for address in addresses:
            left_s = deadline - dispatcher.loop.time()
            if left_s <= 0:
                break
            rpc = dispatcher.connections.get(address).kv.Range(asked, timeout=min(left_s, dispatcher.attempt_timeout))
            try:
                answer = await answer_of(address, rpc)
            except RaftKVError as error:
                if not (error.retryable or isinstance(error, DeadlineExceeded | FailedPrecondition)):
                    raise
                why = error
                continue
            receipt = receipt_of(answer)
            # Judged by what the answer says of itself: a claim is not made because it was asked for.
            behind = token is not None and token.committed and receipt.applied_index < token.index
            mine = receipt.cluster_id == agreed.cluster_id
            if mine and is_rinsed(end, *receipt.applied) and not behind:
                guarantee, sees = of_quorum_read(agreed.target.replicas, len(agreed.membership.voters))
                return answer, replace(
                    receipt,
                    guarantee=guarantee,
                    replicas=agreed.target.replicas,
                    sees_writes_at=sees,
                    configuration_index=agreed.membership.configuration_index,
                )
        rounds += 1
        addresses = tuple(dict.fromkeys((*agreed.addresses, *dispatcher.router.known_addresses())))
        because = "" if why is None else f"; last error: {why.message}"
        await _pause(
            dispatcher,
            rounds,
            deadline,
            QuorumUnavailable(
                f"index {end.last_index} of term {end.last_term}, the end of a log, is applied by no node that was "
                f"asked: whether it is committed is not known without a leader{because}"
            ),
        )


async def _pause(dispatcher: Dispatcher, rounds: int, deadline: float, error: QuorumUnavailable) -> None:
    """Wait before the next round, or raise `error` where there is no time for one."""
    pause_s = backoff_s(min(rounds, 4), dispatcher.random)
    if dispatcher.closed:
        raise ConnectionFailed("the client is closed")
    if dispatcher.loop.time() + pause_s >= deadline:
        raise error
    await asyncio.sleep(pause_s)
