"""Transactions as JSON documents, in the words of the client's builder.

    {"when":      [{"key": "a", "version": 0}, {"prefix": "b/", "mod_revision": {"<": 40}}],
     "then":      [{"put": "a", "value": "1"}, {"get": "c"}],
     "otherwise": [{"get": "a"}]}

A condition names keys (`key`, `prefix`, or `start` and `end`) and what must hold of each: `value`, `version`,
`create_revision`, `mod_revision` or `lease`, equal to a literal, or {"OPERATOR": literal} with ==, !=, <, >, and for
numbers <= and >= too. An operation names itself by its first word; a document within is a nested transaction. Bytes are
text, or {"base64": "..."} as in results.
"""

from __future__ import annotations

import json
import operator
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from typing import Any, Final

import typer

from raftkv.cli.pairs import described
from raftkv.client import Branch, Condition, DeleteResult, KeyValue, Operation, PutResult, RangeResult, TxnResult, txn

_SUBJECTS: Final[Mapping[str, Callable[..., Any]]] = {
    "value": txn.value,
    "version": txn.version,
    "create_revision": txn.create_revision,
    "mod_revision": txn.mod_revision,
    "lease": txn.lease_of,
}
_OPERATORS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
}  # fmt: skip
_WORDS: Final = ("when", "then", "otherwise")
_OPERATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "put": ("value", "lease", "previous"),
    "get": ("revision",),
    "get_prefix": ("limit", "revision", "keys_only"),
    "get_range": ("limit", "revision", "keys_only"),
    "count": ("revision",),
    "delete": ("previous",),
    "delete_prefix": ("previous",),
    "delete_range": ("previous",),
}


def parse(text: bytes) -> Branch:
    """Return the transaction that a document describes. Raises typer.BadParameter, InvalidArgument."""
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"the transaction is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise typer.BadParameter('the transaction is not an object with "when", "then" and "otherwise"')
    return _branch(document, "the transaction")


def show(result: TxnResult) -> dict[str, object]:
    """Return what a transaction did, as JSON shows it."""
    return {"revision": result.revision, **_shown_branch(result)}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a name occurs twice in {sorted(name for name, _ in pairs)}")
    return found


def _branch(document: dict[str, Any], where: str) -> Branch:
    _only(document, _WORDS, where)
    for word in _WORDS:
        if not isinstance(document.get(word, []), list):
            raise typer.BadParameter(f"{word!r} of {where} is not an array")
    branch = Branch()
    for number, one in enumerate(document.get("when", [])):
        branch = branch.when(*_conditions(one, f"condition {number} of {where}"))
    then = [_operation(one, f"operation {number} of {where}") for number, one in enumerate(document.get("then", []))]
    otherwise = [
        _operation(one, f"operation {number} (otherwise) of {where}")
        for number, one in enumerate(document.get("otherwise", []))
    ]
    return branch.then(*then).otherwise(*otherwise)


def _conditions(one: Any, where: str) -> list[Condition]:
    if not isinstance(one, dict):
        raise typer.BadParameter(f'{where} is not an object, as {{"key": "a", "version": 0}}')
    _only(one, ("key", "prefix", "start", "end", *_SUBJECTS), where)
    span = {
        name: _bytes(one[name], f"{name!r} of {where}") for name in ("key", "prefix", "start", "end") if name in one
    }
    key = span.pop("key", None)
    if (key is not None) + ("prefix" in span) + ("start" in span) != 1 or ("end" in span and "start" not in span):
        raise typer.BadParameter(f'{where} needs one of "key", "prefix" and "start" (with "end", if there is one)')
    subjects = [name for name in one if name in _SUBJECTS]
    if not subjects:
        raise typer.BadParameter(f"{where} says nothing: it needs one of {', '.join(_SUBJECTS)}")
    found: list[Condition] = []
    for name in subjects:
        asked, here = one[name], f"{name!r} of {where}"
        if not isinstance(asked, dict) or "base64" in asked:
            asked = {"==": asked}
        _only(asked, tuple(_OPERATORS) if name != "value" else ("==", "!=", "<", ">"), here)
        for sign, literal in asked.items():
            operand = _bytes(literal, here) if name == "value" else _number(literal, here)
            found.append(_OPERATORS[sign](_SUBJECTS[name](key, **span), operand))
    return found


def _operation(one: Any, where: str) -> Operation | Branch:
    if not isinstance(one, dict):
        raise typer.BadParameter(f'{where} is not an object, as {{"put": "a", "value": "1"}}')
    if any(word in one for word in _WORDS):
        return _branch(one, where)
    names = [name for name in one if name in _OPERATIONS]
    if len(names) != 1:
        raise typer.BadParameter(f"{where} needs one of {', '.join(_OPERATIONS)}, or a transaction of its own")
    (name,) = names
    _only(one, (name, *_OPERATIONS[name]), where)
    options: dict[str, Any] = {}
    for option in _OPERATIONS[name]:
        if option in one and option != "value":
            check = _flag if option in ("previous", "keys_only") else _number
            options[option] = check(one[option], f"{option!r} of {where}")
    if name in ("get_range", "delete_range"):
        ends = one[name]
        if not isinstance(ends, list) or len(ends) != 2:
            raise typer.BadParameter(f'{name!r} of {where} is not ["START", "END"] (END null: no end)')
        keys = [_bytes(ends[0], where), None if ends[1] is None else _bytes(ends[1], where)]
    else:
        keys = [_bytes(one[name], f"{name!r} of {where}")]
    if name == "put":
        if "value" not in one:
            raise typer.BadParameter(f'{where} puts no "value"')
        keys.append(_bytes(one["value"], f"'value' of {where}"))
        options["lease"] = options.get("lease") or None
    made: Operation = getattr(txn, name)(*keys, **options)
    return made


def _only(found: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in found:
        if name not in known:
            raise typer.BadParameter(f"{where} has {name!r}; known are {', '.join(known)}")


def _bytes(found: Any, where: str) -> bytes:
    if isinstance(found, str):
        try:
            return found.encode()
        except UnicodeEncodeError:
            raise typer.BadParameter(f"{where} has half a character") from None
    if isinstance(found, dict) and list(found) == ["base64"] and isinstance(found["base64"], str):
        try:
            return b64decode(found["base64"], validate=True)
        except (Base64Error, ValueError):
            raise typer.BadParameter(f"{where} is not base64") from None
    raise typer.BadParameter(f'{where} is neither text nor {{"base64": "..."}}')


def _number(found: Any, where: str) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 2**64:
        raise typer.BadParameter(f"{where} is not a number from 0 to 2**64 - 1")
    return found


def _flag(found: Any, where: str) -> bool:
    if not isinstance(found, bool):
        raise typer.BadParameter(f"{where} is neither true nor false")
    return found


def _shown_branch(result: TxnResult) -> dict[str, object]:
    return {"succeeded": result.succeeded, "results": [_shown(one) for one in result.results]}


def _shown(outcome: object) -> object:
    match outcome:
        case PutResult():
            return {"put": {"previous": described(outcome.previous) if outcome.previous else None}}
        case DeleteResult():
            return {"deleted": outcome.deleted, "previous": [described(pair) for pair in outcome.previous]}
        case KeyValue():
            return described(outcome)
        case RangeResult():
            return {"pairs": [described(pair) for pair in outcome.pairs], "more": outcome.more}
        case TxnResult():
            return _shown_branch(outcome)
        case int():
            return {"count": outcome}
        case _:
            return None
