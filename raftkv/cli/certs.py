"""`raftkv certs`: an authority for one cluster, and the certificates of its nodes and clients."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from raftkv.cli.options import Format, Output
from raftkv.cli.output import print_json, print_line, print_table

app = typer.Typer(
    help="Certificates for a cluster of one's own: an authority, nodes, clients. A test set-up, and enough for many a "
    "private one; where there is an authority already, let that one issue them (docs/tls.md).",
    no_args_is_help=True,
)

COMPOSE_NODES: Final = tuple(f"{node}=node{node}" for node in range(1, 6))
"""The nodes of docker-compose.yml."""

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Where the certificates are.", file_okay=False)]
Nodes = Annotated[
    list[str] | None,
    typer.Option(
        "--node",
        metavar="ID=HOST[,HOST...]",
        help="A node, and the host names and addresses at which clients and peers reach it. May be repeated.",
    ),
]
Clients = Annotated[
    list[str] | None,
    typer.Option("--client", metavar="NAME", help="A client, as its files are called. May be repeated."),
]
ClusterName = Annotated[
    str,
    typer.Option(
        "--cluster-name",
        envvar="RAFTKV_CLUSTER_NAME",
        help="That of `raftkv serve`: it is part of the names by which peers know each other.",
    ),
]


@app.command("init")
def init(
    directory: Directory,
    *,
    node: Nodes = None,
    client: Clients = None,
    cluster_name: ClusterName = "raftkv",
    force: Annotated[bool, typer.Option("--force", help="Replace what is there, the authority included.")] = False,
    output: Format = Output.TABLE,
) -> None:
    """Make an authority (10 years), and certificates of nodes and clients (1 year). Without --node: those of the
    compose file, nodes 1 to 5 at node1 to node5.

    DIR gets ca.crt and ca.key, node-ID.crt and node-ID.key for each node, client.crt and client.key (or those
    of --client). Keys are readable to you alone. Keep ca.key away from the nodes: whoever has it can be any of them.
    """
    from raftkv.tls.directory import DEFAULT_CLIENT, CertificateDirectory  # noqa: PLC0415 - loads for long

    _require_label(cluster_name)
    made = CertificateDirectory(directory).init(
        cluster_name, _parsed(node or COMPOSE_NODES), client or [DEFAULT_CLIENT], _now(), force=force
    )
    _print_made(made, output)


@app.command("renew")
def renew(
    directory: Directory,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="node-1, client, ...: only these; none: all.")
    ] = None,
    *,
    node: Nodes = None,
    client: Clients = None,
    cluster_name: ClusterName = "raftkv",
    output: Format = Output.TABLE,
) -> None:
    """Issue certificates anew, for another year, by the same authority. Nodes take them up without a restart.

    With --node or --client: make these, which are new or get other hosts, and leave the others as they are.
    """
    from raftkv.tls.directory import CertificateDirectory  # noqa: PLC0415 - as above

    _require_label(cluster_name)
    made = CertificateDirectory(directory).renew(
        cluster_name, _parsed(node or ()), client or (), _now(), only=names or ()
    )
    _print_made(made, output)


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="A directory with *.crt, or one certificate.")],
    *,
    output: Format = Output.TABLE,
) -> None:
    """Show whom certificates are for, and when they end. Exit code 1 when one has ended, or is not yet valid."""
    from raftkv.tls.directory import describe  # noqa: PLC0415 - as above

    now = _now()
    found = describe(path)
    good = [one.not_before <= now <= one.not_after for one in found]
    if output is Output.JSON:
        print_json(
            [
                {
                    "file": str(one.file),
                    "subject": one.subject,
                    "issuer": one.issuer,
                    "names": list(one.names),
                    "not_before": one.not_before.timestamp(),
                    "not_after": one.not_after.timestamp(),
                    "valid": valid,
                }
                for one, valid in zip(found, good, strict=True)
            ]
        )
    else:
        print_table(
            ("FILE", "SUBJECT", "ISSUER", "ENDS", "DAYS", "NAMES"),
            (
                (
                    one.file.name,
                    one.subject,
                    one.issuer,
                    f"{one.not_after:%Y-%m-%d}",
                    (one.not_after - now).days,
                    ", ".join(one.names) or None,
                )
                for one in found
            ),
            right=("DAYS",),
        )
    if not all(good):
        raise typer.Exit(1)


def _parsed(texts: list[str] | tuple[str, ...]) -> dict[int, list[str]]:
    """Return the hosts of each node. Raises typer.BadParameter."""
    from raftkv.tls.authority import check_host  # noqa: PLC0415 - as above

    found: dict[int, list[str]] = {}
    for text in texts:
        node, separator, hosts = text.partition("=")
        if not separator or not (node.isascii() and node.isdigit() and 0 < int(node) < 2**64):
            raise typer.BadParameter(f"{text!r} is not ID=HOST[,HOST...] (for example 1=10.0.0.1,kv1.example)")
        if int(node) in found:
            raise typer.BadParameter(f"node {node} is named twice")
        try:
            found[int(node)] = [check_host(host.strip()) for host in hosts.split(",")]
        except ValueError as error:
            raise typer.BadParameter(f"--node {text}: {error}") from None
    return found


def _require_label(cluster_name: str) -> None:
    from raftkv.tls.names import is_label  # noqa: PLC0415 - as above

    if not is_label(cluster_name):
        raise typer.BadParameter(
            f"--cluster-name {cluster_name!r} is no part of a DNS name: up to 63 letters, digits and hyphens"
        )


def _print_made(made: list[Path], output: Output) -> None:
    if output is Output.JSON:
        print_json([str(path) for path in made])
        return
    for path in made:
        print_line(f"{path} and {path.with_suffix('.key').name}")


def _now() -> datetime:
    return datetime.now(UTC)
