"""`python -m raftkv.testing.release`: a node that passes for one of another release, to test upgrades with.

    python -m raftkv.testing.release --release 0.0.9 --speaks 1 -- --id 1 --data-dir ...
    LocalCluster(3, program=release("0.2.0", speaks=Versions(1, 2)))

It is this release's node in all else: it greets its peers as if it spoke these versions of the protocol. With `--early`
it greets as releases did before they spoke more than one version, and listens to those alone that speak exactly that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from raftkv.cli import main
from raftkv.raft import NodeId
from raftkv.transport.greetings import Versions


def release(name: str, *, speaks: Versions, early: bool = False) -> tuple[str, ...]:
    """Return the program that runs a node of such a release; flags of `raftkv serve` go behind it."""
    versions = f"{speaks.oldest}-{speaks.newest}"
    flags = ("--release", name, "--speaks", versions, *(("--early",) if early else ()))
    return (sys.executable, "-m", "raftkv.testing.release", *flags, "--")


def run(arguments: Sequence[str] | None = None) -> None:
    """Take the release from the command line and run the node."""
    parser = argparse.ArgumentParser(prog="raftkv.testing.release", description=__doc__)
    parser.add_argument("--release", required=True)
    parser.add_argument("--speaks", required=True, type=_versions, metavar="OLDEST-NEWEST")
    parser.add_argument("--early", action="store_true")
    parser.add_argument("serve", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    _pass_for(given.release, given.speaks)
    if given.early:
        _greet_as_early_releases(given.speaks)
    sys.argv[1:] = ["serve", *(given.serve[1:] if given.serve[:1] == ["--"] else given.serve)]
    main()


def _versions(text: str) -> Versions:
    oldest, _, newest = text.partition("-")
    return Versions(int(oldest), int(newest or oldest))


def _pass_for(name: str, speaks: Versions) -> None:
    import raftkv  # noqa: PLC0415 - before anything reads what is changed here
    from raftkv.transport import greetings  # noqa: PLC0415

    raftkv.__version__ = name
    greetings.OLDEST_PROTOCOL_VERSION, greetings.PROTOCOL_VERSION = speaks.oldest, speaks.newest


def _greet_as_early_releases(speaks: Versions) -> None:
    from raftkv.transport import grpc_peer  # noqa: PLC0415
    from raftkv.v1 import peer_pb2  # noqa: PLC0415

    hello_to, judge = grpc_peer.hello_to, grpc_peer.PeerStreams.judge

    def early_hello_to(peer: NodeId, identity: grpc_peer.Identity) -> peer_pb2.Hello:
        hello = hello_to(peer, identity)
        for later in ("oldest_protocol_version", "release", "agreed_settings"):
            hello.ClearField(later)
        return hello

    def early_judge(streams: grpc_peer.PeerStreams, hello: peer_pb2.Hello) -> grpc_peer.Refusal | None:
        if hello.protocol_version != speaks.newest:
            return grpc_peer.Refusal(
                f"protocol version {hello.protocol_version}; this node speaks version {speaks.newest}"
            )
        return judge(streams, hello)

    setattr(grpc_peer, "hello_to", early_hello_to)  # noqa: B010 - it is no variable to mypy
    setattr(grpc_peer.PeerStreams, "judge", early_judge)  # noqa: B010


if __name__ == "__main__":
    run()
