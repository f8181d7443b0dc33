"""`raftkv txn`: several conditions and operations at one revision, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raftkv.cli import txn_document
from raftkv.cli.exits import Exit
from raftkv.cli.fences import fences_of
from raftkv.cli.levels import Verbose, WriteOption, concern_of
from raftkv.cli.options import (
    DEFAULT_ENDPOINTS,
    DEFAULT_TIMEOUT_S,
    Endpoints,
    Fence,
    Format,
    Hex,
    Output,
    Timeout,
    read_stdin,
)
from raftkv.cli.output import print_json, print_line, printable
from raftkv.cli.receipts import described_write, say_write
from raftkv.cli.session import run_with_client
from raftkv.client import AsyncClient, DeleteResult, KeyValue, PutResult, RangeResult, TxnResult


def txn(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The document; - reads it from stdin.")] = "-",
    *,
    fence: Fence = None,
    write: WriteOption = None,
    verbose: Verbose = False,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> int:
    """Do what a JSON document says, at one revision: raftkv txn transfer.json

    {"when": [{"key": "a", "version": 0}], "then": [{"put": "a", "value": "1"}], "otherwise": [{"get": "a"}]}

    If all conditions of `when` hold, `then` is done, else `otherwise`. A condition is about a `key`, a `prefix`, or all
    keys from `start` to `end`, and compares `value`, `version`, `create_revision`, `mod_revision` or `lease`, as in
    {"key": "a", "mod_revision": {"<=": 7}} (a literal alone: equal). Operations: put (value, lease, previous), get
    (revision), get_prefix, get_range, count, delete, delete_prefix, delete_range, and a transaction within. Bytes that
    are not text: {"base64": "..."}.

    The exit code says whether the conditions held: 0 for `then`, 4 for `otherwise`. Both are committed.
    """
    fences, concern = fences_of(fence), concern_of(write)
    branch = txn_document.parse(read_stdin() if file == "-" else Path(file).read_bytes())

    async def commit(client: AsyncClient) -> TxnResult:
        return (
            await client.txn()
            .when(*branch.conditions)
            .then(*branch.success)
            .otherwise(*branch.failure)
            .commit(fence=fences, concern=concern)
        )

    result = run_with_client(endpoints, timeout, commit, writes=True)
    if output is Output.JSON:
        print_json(txn_document.show(result) | {"receipt": described_write(result.receipt)})
    else:
        acknowledged = "" if write is None else f", {result.receipt.words}"
        print_line(f"{_verdict(result)}, revision {result.revision}{acknowledged}")
        for line in _lines(result, "", hexadecimal=hexadecimal):
            print_line(line)
    say_write(result.receipt, asked=write, verbose=verbose)
    return Exit.OK if result.succeeded else Exit.CONFLICT


def _verdict(result: TxnResult) -> str:
    return "the conditions hold" if result.succeeded else "the conditions do not hold"


def _lines(result: TxnResult, indent: str, *, hexadecimal: bool) -> list[str]:
    def pair(found: KeyValue) -> str:
        key, value = (printable(data, hexadecimal=hexadecimal) for data in (found.key, found.value))
        return f"{key} {value} (revision {found.mod_revision})"

    lines: list[str] = []
    for outcome in result.results:
        match outcome:
            case PutResult():
                before = f", previous {pair(outcome.previous)}" if outcome.previous else ""
                lines.append(f"{indent}put{before}")
            case DeleteResult():
                lines.append(f"{indent}deleted {outcome.deleted}")
                lines += [f"{indent}  previous {pair(one)}" for one in outcome.previous]
            case KeyValue():
                lines.append(f"{indent}got {pair(outcome)}")
            case RangeResult():
                lines.append(f"{indent}got {outcome.count} keys{', and there are more' if outcome.more else ''}")
                lines += [f"{indent}  {pair(one)}" for one in outcome.pairs]
            case TxnResult():
                lines.append(f"{indent}{_verdict(outcome)}")
                lines += _lines(outcome, indent + "  ", hexadecimal=hexadecimal)
            case int():
                lines.append(f"{indent}counted {outcome}")
            case None:
                lines.append(f"{indent}got nothing: no such key")
    return lines
