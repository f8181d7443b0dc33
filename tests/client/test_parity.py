from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from raftkv.client import AsyncClient, Client

# Names that differ by nature, in the asynchronous client and in its twin.
RENAMED = {"__aenter__": "__enter__", "__aexit__": "__exit__"}
RETURNS = {"AsyncIterator[KeyValue]": "Iterator[KeyValue]"}


def api(kind: type) -> dict[str, Callable[..., Any]]:
    """Return the methods that a class defines itself, private helpers left out."""
    found: dict[str, Callable[..., Any]] = {}
    for name, member in vars(kind).items():
        function = member.__func__ if isinstance(member, classmethod) else member
        function = function.fget if isinstance(function, property) else function
        if inspect.isfunction(function) and (not name.startswith("_") or name.startswith("__")) and name != "__del__":
            found[RENAMED.get(name, name)] = function
    return found


def test_the_twins_have_the_same_names_parameters_and_results() -> None:
    asynchronous, synchronous = api(AsyncClient), api(Client)
    assert asynchronous.keys() == synchronous.keys()
    assert {"put", "get", "scan", "from_env", "close", "__enter__"} <= asynchronous.keys()
    for name, function in asynchronous.items():
        signature = inspect.signature(function)
        result = RETURNS.get(signature.return_annotation, signature.return_annotation)
        assert inspect.signature(synchronous[name]) == signature.replace(return_annotation=result), name


def test_every_call_of_the_twin_names_where_it_is_described() -> None:
    for name, function in api(Client).items():
        if not name.startswith("__"):
            assert inspect.getdoc(function), name
            assert inspect.getdoc(api(AsyncClient)[name]), name
