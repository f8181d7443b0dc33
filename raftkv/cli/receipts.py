"""What answers say of themselves, as results show it."""

from __future__ import annotations

from raftkv.cli.exits import say
from raftkv.client import Guarantee, ReadReceipt, WriteReceipt


def described_read(receipt: ReadReceipt) -> dict[str, object]:
    """Return the receipt of a read as JSON shows it. What does not belong to its guarantee is null."""
    at_w = receipt.guarantee is Guarantee.SEES_WRITES_AT_W_GE
    bounded = receipt.guarantee is Guarantee.BOUNDED
    return {
        "guarantee": receipt.guarantee.name.lower(),
        "words": receipt.words,
        "served_by": receipt.served_by or None,
        "applied_term": receipt.applied_term or None,
        "applied_index": receipt.applied_index or None,
        "replicas": receipt.replicas or None,
        "sees_writes_at": receipt.sees_writes_at if at_w else None,
        "staleness_ms": round(receipt.staleness * 1000) if bounded else None,
        "configuration_index": receipt.configuration_index or None,
        "token": _text(receipt.token),
    }


def described_write(receipt: WriteReceipt) -> dict[str, object]:
    """Return the receipt of a write as JSON shows it. What is not known is null."""
    return {
        "committed": receipt.committed,
        "words": receipt.words,
        "durable_on": receipt.durable_on or None,
        "wanted": receipt.wanted or None,
        "reached": receipt.reached,
        "term": receipt.term or None,
        "index": receipt.index or None,
        "configuration_index": receipt.configuration_index or None,
        "token": _text(receipt.token),
    }


def say_read(receipt: ReadReceipt, *, verbose: bool) -> None:
    """Say on stderr what a read is worth: always where it is not linearizable, in full if `verbose`."""
    if verbose:
        say(f"{receipt.words}; {_where(receipt)}")
    elif receipt.guarantee is not Guarantee.LINEARIZABLE:
        say(receipt.words)


def weaker(receipt: ReadReceipt) -> str:
    """Return what to add to what was found missing, where it is not certain: in parentheses, after a blank."""
    return "" if receipt.guarantee is Guarantee.LINEARIZABLE else f" ({receipt.words})"


def say_write(receipt: WriteReceipt, *, asked: str | None, verbose: bool) -> None:
    """Say on stderr that a write has not, or may not have, reached what was `asked` for (None: nothing by name).

    If `verbose`: whatever is known of it. What is committed, a majority has, whoever counted.
    """
    if verbose:
        say(f"{receipt.words}; token {receipt.token or 'unknown'}")
    elif receipt.committed and receipt.reached is False:
        say(receipt.words)
    elif receipt.committed and receipt.reached is None and asked not in (None, "majority"):
        say(f"{receipt.words}, {receipt.wanted} were asked for")


def _where(receipt: ReadReceipt) -> str:
    node = f"node {receipt.served_by}" if receipt.served_by else "an unknown node"
    voters = f", {receipt.replicas} voters took part" if receipt.replicas > 1 else ""
    return f"{node}{voters}, token {receipt.token or 'unknown'}"


def _text(token: object) -> str | None:
    return None if token is None else str(token)
