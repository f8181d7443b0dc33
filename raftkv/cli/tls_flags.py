"""The flags of TLS, which every command has that takes --endpoints.

They are added to the finished commands, and travel beside them: what a command does is the same with TLS and without.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from raftkv.client.tls import CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE, SERVER_NAME_VARIABLE, Tls

_GIVEN: ContextVar[Tls | None] = ContextVar("_GIVEN", default=None)
_PANEL: Final = "TLS"


def given_tls() -> Tls | None:
    """Return what the flags and the environment of this command line say; None: nothing."""
    return _GIVEN.get()


def tls_environment() -> dict[bytes, bytes]:
    """Return what a command that is run with a cluster's endpoints needs to speak TLS with it too."""
    tls = _GIVEN.get()
    return {} if tls is None else {name.encode(): value.encode() for name, value in tls.variables().items()}


def add_tls_flags(group: Any) -> None:
    """Give the flags to each command in a group, and in the groups in it, that has --endpoints."""
    flags = _flags()
    for command in getattr(group, "commands", {}).values():
        if hasattr(command, "commands"):
            add_tls_flags(command)
        elif any("--endpoints" in getattr(parameter, "opts", ()) for parameter in command.params):
            command.params += flags
            command.callback = _taking_tls(command.callback)


def _taking_tls(callback: Callable[..., object]) -> Callable[..., object]:
    def with_tls(**values: object) -> object:
        ca, cert, key, server_name = (cast("Any", values.pop(name)) for name in _NAMES)
        token = _GIVEN.set(Tls.said(ca, cert, key, server_name))
        try:
            return callback(**values)
        finally:
            _GIVEN.reset(token)

    return with_tls


_NAMES: Final = ("cacert", "cert", "key_file", "tls_server_name")


def _flags() -> list[Any]:
    """Return the flags as typer makes them."""

    def holder(
        *,
        cacert: Annotated[
            Path | None,
            typer.Option(
                "--cacert",
                envvar=CA_VARIABLE,
                metavar="FILE",
                rich_help_panel=_PANEL,
                help="Speak TLS; nodes' certificates must be issued by an authority in here. raftkvs://: by one that "
                "this machine trusts.",
            ),
        ] = None,
        cert: Annotated[
            Path | None,
            typer.Option(
                "--cert",
                envvar=CERT_VARIABLE,
                metavar="FILE",
                rich_help_panel=_PANEL,
                help="Certificate to show to nodes that ask for one; with --key.",
            ),
        ] = None,
        key_file: Annotated[
            Path | None,
            typer.Option(
                "--key", envvar=KEY_VARIABLE, metavar="FILE", rich_help_panel=_PANEL, help="The private key of --cert."
            ),
        ] = None,
        tls_server_name: Annotated[
            str | None,
            typer.Option(
                "--tls-server-name",
                envvar=SERVER_NAME_VARIABLE,
                metavar="NAME",
                rich_help_panel=_PANEL,
                help="The name that nodes' certificates must be in, where that is not the host of --endpoints.",
            ),
        ] = None,
    ) -> None:
        pass

    alone = typer.Typer(add_completion=False)
    alone.command()(holder)
    command: Any = typer.main.get_command(alone)
    return [parameter for parameter in command.params if parameter.name in _NAMES]
