"""The command tree, and how a command ends: its exit code and its one line of error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated

import typer
from typer.exceptions import TyperException

import raftkv
from raftkv.cli import (
    bench,
    certs,
    config,
    demo,
    doctor,
    drill,
    elect,
    endpoint,
    jepsen,
    kv,
    leader,
    lease,
    lock,
    ls,
    member,
    quorum,
    repair,
    serve,
    snapshot,
    txn,
    watch,
)
from raftkv.cli.command import TakesCommand
from raftkv.cli.exits import INTERRUPTED, Exit, asks_for_json, complain, errors_as, exit_code, usage_error
from raftkv.cli.settings_flags import TakesSettings
from raftkv.cli.tls_flags import add_tls_flags
from raftkv.errors import RaftKVError

app = typer.Typer(
    name="raftkv",
    help="A Raft-based replicated key-value store.",
    epilog="Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 unreachable or no leader, 6 timeout with "
    "unknown outcome, 130 interrupted. Data goes to stdout, everything said about it to stderr.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("serve", cls=TakesSettings)(serve.serve)
app.add_typer(config.app, name="config")
app.command("put")(kv.put)
app.command("get")(kv.get)
app.command("del")(kv.delete)
app.command("ls")(ls.ls)
app.command("txn")(txn.txn)
app.command("watch", cls=TakesCommand)(watch.watch)
app.add_typer(lease.app, name="lease")
app.command("lock", cls=TakesCommand)(lock.lock)
app.command("elect", cls=TakesCommand)(elect.elect)
app.command("compact")(kv.compact)
app.add_typer(endpoint.app, name="endpoint")
app.add_typer(leader.app, name="leader")
app.add_typer(member.app, name="member")
app.command("doctor")(doctor.doctor)
app.command("repair")(repair.repair)
app.add_typer(quorum.app, name="quorum")
app.add_typer(snapshot.app, name="snapshot")
app.add_typer(certs.app, name="certs")
app.command("demo")(demo.demo)
app.add_typer(bench.app, name="bench")
app.command("drill")(drill.drill)
app.command("jepsen")(jepsen.jepsen)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raftkv {raftkv.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@cache
def _tree(of: typer.Typer) -> Callable[..., object]:
    """Return the commands, built: once for all command lines of a process, as tests have many."""
    tree = typer.main.get_command(of)
    add_tls_flags(tree)
    return tree


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line in `arguments`, or that of the process. Return the exit code.

    Whatever goes wrong is one line on stderr, of JSON with `-o json`. RAFTKV_DEBUG=1 shows the stack trace of an error
    that is ours.
    """
    with errors_as(as_json=asks_for_json(sys.argv[1:] if arguments is None else arguments)):
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = _tree(app)(args=arguments, prog_name="raftkv", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except TyperException as error:
        return usage_error(error)
    except RaftKVError as error:
        complain(error, Exit.ERROR.name)
        return exit_code(error, writes=True)
    except BrokenPipeError:
        # Whoever read our output has gone. Nor can Python flush it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.ERROR
    except OSError as error:
        complain(f"{error.filename or 'cannot write the output'}: {error.strerror or error}", "OS_ERROR")
        return Exit.ERROR
    except Exception as error:
        # The last line of defence: people get no stack traces.
        if os.environ.get("RAFTKV_DEBUG"):
            raise
        where = f"{type(error).__name__}: {error} (RAFTKV_DEBUG=1 shows where)"
        complain(f"internal error, please report it: {where}", "INTERNAL")
        return Exit.ERROR
    return code if isinstance(code, int) else Exit.OK
