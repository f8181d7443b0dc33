"""The language of the golden scripts: one command a line, answered by messages and state, and nothing else.

nodes N [max-append BYTES]   a new cluster; the first command
disk N TERMS TERM            node N boots from a log with these terms ("1,1,2" or "-"), in TERM
tick N COUNT                 time passes for one node; nothing is delivered
run COUNT                    time passes for all, and everything is delivered after each tick
deliver [COUNT]              deliver the oldest messages, and the answers to them (all)
campaign N                   time passes for one node until it campaigns; nothing is delivered
elect N                      time passes until N leads; delivers
propose N DATA               nothing is delivered, as with all that follow
read N
transfer N TARGET
cut A B, isolate N, partition A,B C, heal
crash N, restart N
slow-disk N, flush N [WRITES], fast-disk N
status                       the state of every node; other commands show only what has changed
"""

from __future__ import annotations

from collections.abc import Callable

from raftkv.raft import Entry, EntryKind, Message, NodeId, Position, Role
from raftkv.raft.messages import (
    AppendRequest,
    AppendResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    InstallSnapshot,
    PreVoteRequest,
    PreVoteResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from tests.raft.network import Network
from tests.raft.node import Node


def entry_text(entry: Entry) -> str:
    text = entry.data.decode() if entry.kind is EntryKind.COMMANDS else entry.kind.name
    return f"{entry.index}@{entry.term}:{text}"


def message_text(message: Message) -> str:
    head = f"{message.sender}->{message.receiver} {type(message).__name__} term={message.term}"
    match message:
        case PreVoteRequest() | VoteRequest():
            transfer = " transfer" if isinstance(message, VoteRequest) and message.leadership_transfer else ""
            return f"{head} last={message.last_index}@{message.last_term}{transfer}"
        case PreVoteResponse() | VoteResponse():
            return f"{head} {'granted' if message.granted else 'refused'}"
        case AppendRequest():
            entries = " ".join(map(entry_text, message.entries))
            previous = f"{message.previous_index}@{message.previous_term}"
            return f"{head} previous={previous} commit={message.commit} [{entries}]"
        case AppendResponse(rejected=True):
            return f"{head} rejected {message.index} hint={message.hint_index}@{message.hint_term}"
        case AppendResponse():
            return f"{head} accepted {message.index}"
        case HeartbeatRequest():
            return f"{head} commit={message.commit} read={message.read_sequence}"
        case HeartbeatResponse():
            return f"{head} read={message.read_sequence}"
        case InstallSnapshot():
            return f"{head} snapshot={message.snapshot.index}@{message.snapshot.term}"
        case TimeoutNow():
            return head


def node_text(node: Node) -> str:
    if not node.up:
        return (
            f"node {node.id}: down, disk term={node.disk_hard_state.term} vote={node.disk_hard_state.vote or '-'} "
            + (f"log=[{' '.join(map(entry_text, node.disk_log))}]")
        )
    raft, log = node.raft, node.raft.log
    entries = log.slice(log.first_index, type(log.last_index)(log.last_index + 1), 1 << 40)
    lines = [
        f"node {node.id}: {raft.role.value} term={raft.term} leader={raft.leader or '-'} commit={log.commit} "
        f"applied={log.applied} durable={log.durable} writes={len(node.writes)} "
        f"log=[{' '.join(map(entry_text, entries))}]"
    ]
    if raft.role is Role.LEADER:
        followers = " ".join(f"{n}:{f.state.value}/{f.match}" for n, f in raft.followers().items())
        lines.append(f"        followers {followers}{' transferring' if raft.transferring else ''}")
    if node.reads or node.reads_dropped:
        confirmed = " ".join(f"{read.request}@{read.index}" for read in node.reads)
        dropped = " ".join(map(str, node.reads_dropped))
        lines.append(f"        reads confirmed=[{confirmed}] dropped=[{dropped}]")
    return "\n".join(lines)


class RecordedNetwork(Network):
    """Writes down every message that arrives or is lost."""

    lines: list[str]

    def deliver(self, message: Message) -> bool:
        position = len(self.lines)
        arrived = super().deliver(message)
        self.lines.insert(position, f"{message_text(message)}{'' if arrived else '  (lost)'}")
        return arrived


class Script:
    """Runs commands one after the other."""

    def __init__(self) -> None:
        self.network = RecordedNetwork(1)
        self.network.lines = []
        self._shown: dict[NodeId, str] = {}
        self._commands: dict[str, Callable[..., str | None]] = {
            "nodes": self._nodes,
            "disk": self._disk,
            "tick": self._tick,
            "run": lambda count: self.network.tick(int(count)),
            "deliver": self._deliver,
            "campaign": lambda node: self.network.start_campaign(int(node)),
            "elect": lambda node: self.network.elect(int(node)),
            "propose": self._propose,
            "read": lambda node: f"read {self.network.read(int(node), settle=False)}",
            "transfer": lambda node, target: self.network.transfer(int(node), int(target), settle=False),
            "cut": lambda a, b: self.network.cut.add((int(a), int(b))),
            "isolate": lambda node: self.network.isolate(int(node)),
            "partition": lambda *groups: self.network.partition(*([int(n) for n in g.split(",")] for g in groups)),
            "heal": self.network_heal,
            "crash": lambda node: self.network.crash(int(node)),
            "restart": lambda node: self.network.restart(int(node)),
            "slow-disk": lambda node: self._speed(node, slow=True),
            "fast-disk": lambda node: self._speed(node, slow=False),
            "flush": lambda node, writes=None: self.network.flush(int(node), writes=int(writes) if writes else None),
            "status": self._shown.clear,
        }

    def execute(self, line: str) -> list[str]:
        """Run one command; return what there is to see."""
        name, *arguments = line.split()
        self.network.lines = []
        answer = self._commands[name](*arguments)
        lines = [*self.network.lines, *([answer] if answer else [])]
        for node in self.network.nodes.values():
            text = node_text(node)
            if self._shown.get(node.id) != text:
                self._shown[node.id] = text
                lines.append(text)
        return lines

    def network_heal(self) -> None:
        self.network.heal()

    def _nodes(self, count: str, _: str = "max-append", size: str = str(1 << 20)) -> None:
        self.network = RecordedNetwork(int(count), max_append_bytes=int(size))
        self.network.lines = []
        self._shown.clear()

    def _disk(self, node: str, terms: str, term: str) -> None:
        self.network.start_with(int(node), [] if terms == "-" else map(int, terms.split(",")), term=int(term))

    def _tick(self, node: str, count: str) -> None:
        for _ in range(int(count)):
            self.network.tick_one(int(node))

    def _deliver(self, count: str | None = None) -> None:
        if count is None:
            self.network.settle()
            return
        for _ in range(int(count)):
            self.network.deliver(self.network.queue.popleft())

    def _propose(self, node: str, data: str) -> str:
        answer = self.network[int(node)].propose(data.encode())
        self.network.collect(int(node))
        return f"position {answer.index}@{answer.term}" if isinstance(answer, Position) else answer.value

    def _speed(self, node: str, *, slow: bool) -> None:
        self.network.node(int(node)).disk_is_slow = slow
        if not slow:
            self.network.flush(int(node))


def run_script(text: str) -> str:
    """Run the commands ("> ...") of a golden file; return the file as it should be."""
    script = Script()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            lines += ([""] if lines else []) + [line] if not (lines and lines[-1].startswith("#")) else [line]
        elif line.startswith("> "):
            if lines and not lines[-1].startswith("#"):
                lines.append("")
            lines += [line, *script.execute(line[2:])]
    return "\n".join(lines) + "\n"
