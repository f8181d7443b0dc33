"""Commands and results as msgpack arrays: [tag, *fields], the fields those of the NamedTuple, in order.

The tables below are the format. A new kind gets a new tag, a changed one too, and no tag is ever used again. A decoder
takes exactly what the encoder of this build writes: every field of the right type, none too few and none too many;
`codec` says why that strictness is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, Final, NoReturn

import msgpack

from raftkv.errors import ErrorCode
from raftkv.kv import commands as c

MAX_NESTING: Final = 32
"""Branches of a transaction within one another, so that no bytes exhaust the stack. Far above what is ever proposed
(`limits.MAX_TXN_DEPTH`): a transaction that breaks that limit is rejected, it does not stop the node."""

Decode = Callable[[Any, str], Any]
"""Turns what msgpack gave into a field. Raises ValueError, which names what it is not."""


def unpack(payload: bytes) -> Any:
    """Return the one msgpack value in `payload`, arrays as tuples. Raises ValueError, also for maps and extensions."""
    try:
        return msgpack.unpackb(payload, use_list=False, object_pairs_hook=_refuse, ext_hook=_refuse)
    except (msgpack.UnpackException, TypeError) as error:
        raise ValueError(f"not one msgpack value: {error}") from error


def pack_command(command: c.Command) -> tuple[Any, ...]:
    """Return [tag, *fields] of a command."""
    if type(command) is c.Txn:
        sequence, fences, branch = command
        return _TXN, sequence, fences, _pack_branch(branch)
    return _COMMAND_TAGS[type(command)], *command


def pack_results(results: Iterable[tuple[int, c.Result]]) -> list[tuple[Any, ...]]:
    """Return [sequence, tag, *fields] of each."""
    return [
        (sequence, _TXN_DONE, result.revision, _pack_branch_done(result.branch))
        if type(result) is c.TxnDone
        else (sequence, _RESULT_TAGS[type(result)], *result)
        for sequence, result in results
    ]


def array(packed: Any, what: str) -> tuple[Any, ...]:
    """Return `packed`, an array. Raises ValueError."""
    if type(packed) is not tuple:
        raise ValueError(f"{what} is a {type(packed).__name__}, not an array")
    return packed


def fields(packed: Any, count: int, what: str) -> tuple[Any, ...]:
    """Return `packed`, an array of `count` fields. Raises ValueError."""
    found = array(packed, what)
    if len(found) != count:
        raise ValueError(f"{what} of {len(found)} fields instead of {count}")
    return found


def number(packed: Any, what: str) -> int:
    """Return `packed`, an unsigned number. Raises ValueError."""
    if type(packed) is not int or packed < 0:
        raise ValueError(f"{what} is {packed!r:.40}, not an unsigned number")
    return packed


def raw(packed: Any, what: str) -> bytes:
    """Return `packed`, bytes. Raises ValueError."""
    if type(packed) is not bytes:
        raise ValueError(f"{what} is a {type(packed).__name__}, not bytes")
    return packed


def _flag(packed: Any, what: str) -> bool:
    if type(packed) is not bool:
        raise ValueError(f"{what} is a {type(packed).__name__}, not a boolean")
    return packed


def _text(packed: Any, what: str) -> str:
    if type(packed) is not str:
        raise ValueError(f"{what} is a {type(packed).__name__}, not text")
    return packed


def _raw_or_number(packed: Any, what: str) -> bytes | int:
    return packed if type(packed) is bytes else number(packed, what)


def _code(packed: Any, what: str) -> ErrorCode:
    return ErrorCode(number(packed, what))


def _refuse(*_: object) -> NoReturn:
    raise ValueError("maps and extension types have no place here")


def _many(decode: Decode) -> Decode:
    def decode_all(packed: Any, what: str) -> tuple[Any, ...]:
        if type(packed) is not tuple:
            packed = array(packed, what)
        return tuple([decode(one, what) for one in packed])

    return decode_all


def _optional(decode: Decode) -> Decode:
    return lambda packed, what: None if packed is None else decode(packed, what)


def _record(kind: Any, *decoders: Decode) -> Decode:
    name = kind.__name__
    named = [(decode, f"{name}.{field}") for decode, field in zip(decoders, kind._fields, strict=True)]
    count = len(named)

    def decode(packed: Any, _: str) -> Any:
        if type(packed) is not tuple or len(packed) != count:
            packed = fields(packed, count, name)
        return _new_tuple(kind, [one(value, what) for (one, what), value in zip(named, packed, strict=True)])

    return decode


def _plain_record(kind: Any, *types: tuple[type, ...]) -> Decode:
    """A record of scalars, given each field's types: the same as `_record`, at a third of its cost.

    What does not fit at once takes the long way, which says what is wrong.
    """
    numbers = {
        signature: tuple(place for place, one in enumerate(signature) if one is int) for signature in product(*types)
    }
    """Where numbers stand, by what types the fields may have."""
    careful = _record(kind, *[_SCALARS[one] for one in types])

    def decode(packed: Any, what: str) -> Any:
        places = numbers.get(tuple(map(type, packed))) if type(packed) is tuple else None
        if places is None:
            return careful(packed, what)
        for place in places:
            if packed[place] < 0:
                return careful(packed, what)
        return _new_tuple(kind, packed)

    return decode


_new_tuple: Final = tuple.__new__

_SCALARS: Final[dict[tuple[type, ...], Decode]] = {
    (int,): number,
    (bytes,): raw,
    (bool,): _flag,
    (bytes, int): _raw_or_number,
}
_NUMBER: Final = (int,)
_RAW: Final = (bytes,)
_FLAG: Final = (bool,)


def _tagged(what: str, kinds: dict[int, Decode]) -> Callable[..., Any]:
    def decode(packed: Any, _: str = "") -> Any:
        if type(packed) is tuple and packed and type(packed[0]) is int:
            one = kinds.get(packed[0])
            if one is not None:
                return one(packed[1:], what)
        parts = array(packed, what)
        raise ValueError(f"unknown {what} tag {parts[0] if parts else None!r:.40}")

    return decode


# --- nested values -------------------------------------------------------------------------------------------------

_PUT_OPERATION: Final = 1
_DELETE_OPERATION: Final = 2
_RANGE_OPERATION: Final = 3
_BRANCH_OPERATION: Final = 4
"""The tags of operations of a transaction, and of what they gave."""

_OPERATION_TAGS: Final[dict[Any, int]] = {
    c.TxnPut: _PUT_OPERATION,
    c.TxnDelete: _DELETE_OPERATION,
    c.TxnRange: _RANGE_OPERATION,
    c.PutDone: _PUT_OPERATION,
    c.DeleteDone: _DELETE_OPERATION,
    c.RangeDone: _RANGE_OPERATION,
}

_fence: Final = _record(c.Fence, raw, number, number)
_compare: Final = _record(c.Compare, raw, raw, number, number, _raw_or_number)
_pair: Final = _plain_record(c.KeyValue, _RAW, _NUMBER, _NUMBER, _NUMBER, _NUMBER, _RAW)

_OPERATIONS: Final[dict[int, Decode]] = {
    _PUT_OPERATION: _record(c.TxnPut, raw, raw, number, _flag),
    _DELETE_OPERATION: _plain_record(c.TxnDelete, _RAW, _RAW, _FLAG),
    _RANGE_OPERATION: _plain_record(c.TxnRange, _RAW, _RAW, _NUMBER, _NUMBER, _FLAG, _FLAG),
}
_OPERATIONS_DONE: Final[dict[int, Decode]] = {
    _PUT_OPERATION: _record(c.PutDone, _optional(_pair)),
    _DELETE_OPERATION: _record(c.DeleteDone, number, _many(_pair)),
    _RANGE_OPERATION: _record(c.RangeDone, _many(_pair), _flag, number),
}


def _pack_branch(branch: c.Branch) -> tuple[Any, ...]:
    compares, then, otherwise = branch
    return compares, _pack_side(then) if then else (), _pack_side(otherwise) if otherwise else ()


def _pack_side(side: tuple[c.TxnOperation, ...]) -> list[tuple[Any, ...]]:
    return [
        (_PUT_OPERATION, *one)  # most of them
        if type(one) is c.TxnPut
        else (_BRANCH_OPERATION, *_pack_branch(one))
        if type(one) is c.Branch
        else (_OPERATION_TAGS[type(one)], *one)
        for one in side
    ]


def _unpack_branch(depth: int) -> Decode:
    if depth == 0:
        return _too_deep
    operations = _operations(_unpack_branch(depth - 1))

    def decode(packed: Any, _: str) -> Any:
        if type(packed) is not tuple or len(packed) != 3:
            packed = fields(packed, 3, "Branch")
        compares, then, otherwise = packed
        return _new_tuple(
            c.Branch,
            (
                _compares(compares, "Branch.compares"),
                operations(then, "Branch.then"),
                # Few have anything to do otherwise.
                otherwise if otherwise == () else operations(otherwise, "Branch.otherwise"),
            ),
        )

    return decode


def _compares(packed: Any, what: str) -> tuple[c.Compare, ...]:
    found = []
    for one in array(packed, what):
        # Read in place, as puts are in `codec`: what does not fit takes the long way, which says what is wrong.
        if type(one) is tuple and len(one) == 5:
            key, range_end, target, relation, operand = one
            if (
                type(key) is bytes
                and type(range_end) is bytes
                and type(target) is int
                and target >= 0
                and type(relation) is int
                and relation >= 0
                and (type(operand) is bytes or (type(operand) is int and operand >= 0))
            ):
                found.append(_new_tuple(c.Compare, one))
                continue
        found.append(_compare(one, what))
    return tuple(found)


def _operations(branch: Decode) -> Decode:
    operation = _operation(_OPERATIONS, branch)

    def decode(packed: Any, what: str) -> Any:
        found = []
        for one in array(packed, what):
            # As in `_compares`: most operations are puts.
            if type(one) is tuple and len(one) == 5:
                tag, key, value, lease, with_previous = one
                if (
                    type(tag) is int
                    and tag == _PUT_OPERATION
                    and type(key) is bytes
                    and type(value) is bytes
                    and type(lease) is int
                    and lease >= 0
                    and type(with_previous) is bool
                ):
                    found.append(_new_tuple(c.TxnPut, (key, value, lease, with_previous)))
                    continue
            found.append(operation(one, what))
        return tuple(found)

    return decode


def _pack_branch_done(branch: c.BranchDone) -> tuple[Any, ...]:
    succeeded, results = branch
    packed: list[tuple[Any, ...]] = []
    for one in results:
        if type(one) is c.PutDone:  # most of them
            packed.append((_PUT_OPERATION, *one))
        elif isinstance(one, c.BranchDone):
            packed.append((_BRANCH_OPERATION, *_pack_branch_done(one)))
        else:
            packed.append((_OPERATION_TAGS[type(one)], *one))
    return succeeded, packed


def _unpack_branch_done(depth: int) -> Decode:
    if depth == 0:
        return _too_deep
    return _record(c.BranchDone, _flag, _many(_operation(_OPERATIONS_DONE, _unpack_branch_done(depth - 1))))


def _operation(kinds: dict[int, Decode], branch: Decode) -> Decode:
    return _tagged("operation", {**kinds, _BRANCH_OPERATION: branch})


def _too_deep(packed: Any, what: str) -> NoReturn:
    raise ValueError(f"a transaction nested more than {MAX_NESTING} deep")


# --- commands and results ------------------------------------------------------------------------------------------

PUT: Final = 1
_TXN: Final = 4
_TXN_DONE: Final = 5

_COMMAND_TAGS: Final[dict[type[c.Command], int]] = {
    c.Put: PUT,
    c.Delete: 2,
    c.RegisterSession: 3,
    c.Txn: _TXN,
    c.GrantLease: 5,
    c.KeepAlive: 6,
    c.RevokeLease: 7,
    c.Expire: 8,
    c.Acquire: 9,
    c.Release: 10,
    c.Proclaim: 11,
    c.Compact: 12,
    c.Sweep: 13,
    c.CheckState: 14,
}
_COMMAND_FIELDS: Final[dict[type[c.Command], tuple[Decode, ...]]] = {
    c.Put: (number, raw, raw),
    c.Delete: (number, raw, raw),
    c.RegisterSession: (number,),
    c.GrantLease: (number, number, number),
    c.KeepAlive: (number, _many(number)),
    c.RevokeLease: (number, number),
    c.Expire: (number,),
    c.Acquire: (number, raw, number, number, _flag, number, raw, _flag),
    c.Release: (number, raw, number),
    c.Proclaim: (number, raw, number, number, raw),
    c.Compact: (number, number),
    c.Sweep: (number,),
    c.CheckState: (number,),
}
_branch: Final = _unpack_branch(MAX_NESTING)
_fences: Final = _many(_fence)


def _unpack_txn(packed: tuple[Any, ...], _: str) -> c.Txn:
    if len(packed) != 3:
        packed = fields(packed, 3, "Txn")
    sequence, fences, branch = packed
    if type(sequence) is not int or sequence < 0:
        sequence = number(sequence, "Txn.sequence")
    # Few have fences.
    return _new_tuple(c.Txn, (sequence, fences if fences == () else _fences(fences, "Txn.fences"), _branch(branch, "")))


_COMMANDS: Final = {_COMMAND_TAGS[kind]: _record(kind, *decoders) for kind, decoders in _COMMAND_FIELDS.items()}
_COMMANDS[_TXN] = _unpack_txn

_RESULT_TAGS: Final[dict[type[c.Result], int]] = {
    c.Written: 1,
    c.Deleted: 2,
    c.SessionRegistered: 3,
    c.Rejected: 4,
    c.TxnDone: _TXN_DONE,
    c.LeaseGranted: 6,
    c.KeptAlive: 7,
    c.Revoked: 8,
    c.Expired: 9,
    c.Place: 10,
    c.Released: 11,
    c.Proclaimed: 12,
    c.Compacted: 13,
    c.Swept: 14,
    c.StateChecked: 15,
}
_RESULT_FIELDS: Final[dict[type[c.Result], tuple[Decode, ...]]] = {
    c.Written: (number,),
    c.Deleted: (number, number),
    c.SessionRegistered: (number,),
    c.Rejected: (_code, _text, number),
    c.TxnDone: (number, _unpack_branch_done(MAX_NESTING)),
    c.LeaseGranted: (number, number),
    c.KeptAlive: (_many(number),),
    c.Revoked: (number, number),
    c.Expired: (number,),
    c.Place: (number, number, number),
    c.Released: (_flag, number),
    c.Proclaimed: (number,),
    c.Compacted: (number,),
    c.Swept: (number, _flag),
    c.StateChecked: (number,),
}
_RESULTS: Final = {tag: _record(kind, *_RESULT_FIELDS[kind]) for kind, tag in _RESULT_TAGS.items()}

unpack_command: Final[Callable[[Any], c.Command]] = _tagged("command", _COMMANDS)
"""Returns what `pack_command` was given. Raises ValueError."""

unpack_result: Final[Callable[[Any], c.Result]] = _tagged("result", _RESULTS)
"""Returns the result of [tag, *fields], as `pack_results` writes them. Raises ValueError."""
