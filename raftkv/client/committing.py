"""Transactions that know where to go: what `client.txn()` returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, Self, TypeVar

from raftkv.client.levels import Concern
from raftkv.client.results import TxnResult
from raftkv.client.tokens import Fences
from raftkv.client.txn import Branch, Condition, Operation

R = TypeVar("R")


class _Sentence(Generic[R]):
    """Conditions and operations, put together piece by piece. No method changes it; each returns another one."""

    __slots__ = ("_branch", "_commit")

    def __init__(
        self, commit: Callable[[Branch, Fences, Concern, float | None], R], branch: Branch | None = None
    ) -> None:
        self._commit = commit
        self._branch = Branch() if branch is None else branch

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._branch}>"

    def when(self, *conditions: Condition) -> Self:
        """Add conditions. All must hold; none at all hold. Each sees the state before the transaction.

        Raises InvalidArgument for what is no condition.

        Example::

            unchanged = client.txn().when(version("a") == 1, value("b") != "locked")
        """
        return type(self)(self._commit, self._branch.when(*conditions))

    def then(self, *operations: Operation | Branch) -> Self:
        """Add what is done, in this order, when all conditions hold. Each operation sees what those before it wrote.

        Example::

            await client.txn().then(put("a", "1"), get("a")).commit()
        """
        return type(self)(self._commit, self._branch.then(*operations))

    def otherwise(self, *operations: Operation | Branch) -> Self:
        """Add what is done, in this order, when a condition does not hold.

        Example::

            await client.txn().when(version("a") == 0).then(put("a", "1")).otherwise(get("a")).commit()
        """
        return type(self)(self._commit, self._branch.otherwise(*operations))


class AsyncTxn(_Sentence[Awaitable[TxnResult]]):
    """A transaction of AsyncClient; see AsyncClient.txn."""

    __slots__ = ()

    async def commit(self, *, fence: Fences = None, concern: Concern = None, timeout: float | None = None) -> TxnResult:
        """Do it: all at one revision, or nothing. Applied once, as any write; may be committed again, as another one.

        `fence`: refuse it with StaleFence, without effect, unless all of these tokens are good.
        `concern`: how many voters must have it on disk, a majority or more: "majority", "all", or a number. Where that
        many are not to be had in time, the result says so: `receipt.reached` is False, and it is committed.

        Raises InvalidArgument for more than 128 operations or conditions in all, for branches more than 8 deep, and for
        a key that is put twice, or put and deleted, on one way through it. LeaseNotFound, LimitExceeded and StaleFence:
        nothing is done.

        Example::

            result = await client.txn().when(version("a") == 0).then(put("a", "1")).commit()
            print(result.succeeded, result.revision)
        """
        return await self._commit(self._branch, fence, concern, timeout)


class Txn(_Sentence[TxnResult]):
    """A transaction of Client; see AsyncClient.txn."""

    __slots__ = ()

    def commit(self, *, fence: Fences = None, concern: Concern = None, timeout: float | None = None) -> TxnResult:
        """See AsyncTxn.commit."""
        return self._commit(self._branch, fence, concern, timeout)
