from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import raftkv.client as package
from raftkv.client import AsyncClient, Client

# Names that differ by nature, in the asynchronous classes and in their twins.
RENAMED = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}
RETURNS = {
    "AsyncIterator[KeyValue]": "Iterator[KeyValue]",
    "AsyncGenerator[Leader | None, None]": "Generator[Leader | None, None, None]",
    "AsyncGenerator[InstanceEvent, None]": "Generator[InstanceEvent, None, None]",
    "AsyncGenerator[tuple[Event, ...], None]": "Generator[tuple[Event, ...], None, None]",
    "asyncio.Event": "threading.Event",
}
TWINS = [name.removeprefix("Async") for name in package.__all__ if name.startswith("Async")]


def api(kind: type) -> dict[str, Callable[..., Any]]:
    """Return the methods that a class has of this package, private helpers left out."""
    found: dict[str, Callable[..., Any]] = {}
    for base in kind.__mro__:
        if not base.__module__.startswith("raftkv.client"):
            continue
        for name, member in vars(base).items():
            function = member.__func__ if isinstance(member, classmethod) else member
            function = function.fget if isinstance(function, property) else function
            if inspect.isfunction(function) and (not name.startswith("_") or name.startswith("__")):
                found.setdefault(RENAMED.get(name, name), function)
    found.pop("__del__", None)
    return found


def result(annotation: str) -> str:
    """Return what the twin returns."""
    for name in TWINS:
        annotation = annotation.replace(f"Async{name}", name)
    return RETURNS.get(annotation, annotation)


@pytest.mark.parametrize("name", TWINS)
def test_the_twins_have_the_same_names_parameters_and_results(name: str) -> None:
    asynchronous, synchronous = api(getattr(package, f"Async{name}")), api(getattr(package, name))
    assert asynchronous.keys() == synchronous.keys()
    assert len(asynchronous) > 3
    for method, function in asynchronous.items():
        if method == "__init__" and name != "Client":
            continue  # made by the clients
        signature = inspect.signature(function)
        expected = signature.replace(return_annotation=result(signature.return_annotation))
        assert inspect.signature(synchronous[method]) == expected, method


@pytest.mark.parametrize("name", TWINS)
def test_every_call_of_a_twin_names_where_it_is_described(name: str) -> None:
    asynchronous = api(getattr(package, f"Async{name}"))
    for method, function in api(getattr(package, name)).items():
        if not method.startswith("__"):
            assert inspect.getdoc(function), method
            assert inspect.getdoc(asynchronous[method]), method


def test_the_groups_of_calls_make_up_the_clients() -> None:
    calls = {"put", "get", "scan", "txn", "from_env", "close", "__enter__", "lock", "lease", "service", "status"}
    assert calls <= api(AsyncClient).keys()
    assert calls <= api(Client).keys()


def test_every_exported_name_is_there() -> None:
    assert sorted(package.__all__) == package.__all__
    for name in package.__all__:
        assert hasattr(package, name), name
