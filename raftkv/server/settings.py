"""What a node is told: flags > environment (RAFTKV_*) > TOML file > defaults."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from raftkv.errors import ConfigurationError, InvalidArgument
from raftkv.quorum import concern_name, parse_concern
from raftkv.raft import NodeId
from raftkv.server.lease import PPM, lease_ms
from raftkv.server.setting_marks import About
from raftkv.server.settings_sources import PREFIX, read_file
from raftkv.server.tls_settings import check_tls
from raftkv.server.upkeep import AutoCompaction, CompactionMode
from raftkv.server.watch_hub import WatchLimits

_ADDRESS = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})$")


def check_address(text: str) -> str:
    """Return `text` if it is HOST:PORT. Raises ValueError, which says what is wrong."""
    found = _ADDRESS.match(text)
    if found is None:
        raise ValueError(f"{text!r} is not HOST:PORT (for example 10.0.0.1:7001 or [::1]:7001)")
    if not 1 <= int(found.group(2)) <= 65535:
        raise ValueError(f"{text!r}: the port must be 1..65535")
    return text


def parse_addresses(value: object) -> object:
    """Turn "1=host:port,2=host:port", a list of such, or a mapping into a mapping from node id to address."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        found: dict[int, str] = {}
        for part in (part for item in value for part in str(item).split(",") if part.strip()):
            node, separator, address = part.strip().partition("=")
            if not separator or not (node.isascii() and node.isdigit() and 0 < int(node) < 2**64):
                raise ValueError(f"{part!r} is not ID=HOST:PORT (for example 1=10.0.0.1:7101)")
            if int(node) in found:
                raise ValueError(f"node {node} is named twice")
            found[int(node)] = address
        value = found
    if isinstance(value, Mapping):
        for node in value:
            if not str(node).isascii() or not str(node).isdigit() or not 0 < int(node) < 2**64:
                raise ValueError(f"{node!r} is not the id of a node")
        return {int(node): check_address(str(address)) for node, address in value.items()}
    return value


DEFAULT_AGE: Final = "1h"
DEFAULT_DISK_RESERVE: Final = 256 << 20
SEGMENTS_IN_RESERVE: Final = 2
"""So many segments of the log the reserve must hold: the one that may be begun, and the one that is made ahead."""
LEAST_SEND_BYTES_PER_S: Final = 64 << 10
DEFAULT_REVISIONS: Final = 100_000
_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MOST_AGE_MS: Final = 3650 * _UNITS_MS["d"]


def parse_retention(mode: CompactionMode, text: str | None) -> AutoCompaction:
    """Return what the two settings of automatic compaction say together. Raises ValueError."""
    if mode is CompactionMode.OFF:
        if text is not None:
            raise ValueError("auto_compaction_retention is set, but auto_compaction_mode is off")
        return AutoCompaction()
    if mode is CompactionMode.REVISIONS:
        text = str(DEFAULT_REVISIONS) if text is None else text
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) == 0:
            raise ValueError(f"auto_compaction_retention {text!r} is no number of revisions (for example 10000)")
        return AutoCompaction(mode, int(text))
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", DEFAULT_AGE if text is None else text)
    if found is None or not 0 < (age_ms := int(found.group(1)) * _UNITS_MS[found.group(2)]) <= _MOST_AGE_MS:
        raise ValueError(f"auto_compaction_retention {text!r} is no age from 1s to 3650d, as in 90s, 30m, 1h, 7d")
    return AutoCompaction(mode, age_ms)


AddressMap = Annotated[dict[int, str], NoDecode]


def founded_cluster_id(name: str, members: Iterable[tuple[int, str]]) -> int:
    """Return the identity of the cluster that these members found under this name."""
    listed = ",".join(f"{node}={address}" for node, address in sorted(members))
    digest = hashlib.blake2b(f"{name}\n{listed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class ServerSettings(BaseSettings):
    """Everything that `raftkv serve` can be told."""

    model_config = SettingsConfigDict(env_prefix="RAFTKV_", extra="forbid", frozen=True)

    id: Annotated[int, About(group="Identity", restart="never: the data directory belongs to one id")] = Field(
        ge=1, lt=2**64, description="This node's id, unique in the cluster and never used again."
    )
    data_dir: Annotated[Path, About(metavar="DIR", restart="yes, when the directory moves with it")] = Field(
        description="Where this node keeps its log and state."
    )
    cluster_name: Annotated[str, About(metavar="NAME", restart="never: it is part of the cluster's id")] = Field(
        "raftkv", min_length=1, description="Part of the cluster's identity; must be equal on all members."
    )
    member: Annotated[AddressMap, About(restart="no: say the same or nothing; members change by `raftkv member`")] = (
        Field(
            default_factory=dict,
            description="The peer address of every member that the cluster is founded with, this node's included.",
        )
    )
    join: Annotated[
        tuple[str, ...], NoDecode, About(metavar="HOST:PORT", restart="ignored: the data directory knows its cluster")
    ] = Field(
        (), description="Client addresses of a running cluster that this node was added to (`raftkv member add`)."
    )
    priority: int = Field(
        0, ge=0, lt=2**32, description="A leader hands over to a voter of higher priority that is caught up."
    )
    listen: Annotated[str, About(group="Addresses", metavar="HOST:PORT")] = Field(
        "127.0.0.1:7001", description="Where clients are served."
    )
    advertise: Annotated[str | None, About(metavar="HOST:PORT", default="that of --listen")] = Field(
        None, description="The address that clients are told to use."
    )
    peer_listen: Annotated[str | None, About(metavar="HOST:PORT", default="this node's address as a member")] = Field(
        None, description="Where peers are served."
    )
    peer_dial: AddressMap = Field(
        default_factory=dict,
        description="Dial a peer at another address than its --member one (fault proxies, NAT).",
    )
    http_listen: Annotated[str | None, About(metavar="HOST:PORT", default="no such server")] = Field(
        None,
        description="Where health, metrics and state are served over HTTP, with the clients' certificate where there "
        "is one.",
    )
    tls_cert: Annotated[
        Path | None, About(group="TLS", agree="a client that trusts one node must be able to talk to the others")
    ] = Field(
        None, description="Certificate (chain) that clients are shown, PEM; they must speak TLS then. With --tls-key."
    )
    tls_key: Path | None = Field(None, description="The private key of --tls-cert, PEM, without a passphrase.")
    tls_ca: Annotated[Path | None, About(default="the system's, for nodes that are asked on --join")] = Field(
        None,
        description="Certificates of the authorities, PEM, that clients' certificates, and those of nodes that are "
        "asked on --join, are verified against.",
    )
    tls_client_auth: Annotated[bool, About(agree="else whoever is refused at one node enters at another")] = Field(
        False, description="Clients must show a certificate that --tls-ca vouches for."
    )
    peer_tls_cert: Path | None = Field(
        None,
        description="Certificate that this node shows to its peers, PEM, in the name of node-ID.peer.CLUSTER_NAME; "
        "peers then speak TLS and prove who they are, both ways. With --peer-tls-key and --peer-tls-ca.",
    )
    peer_tls_key: Path | None = Field(
        None, description="The private key of --peer-tls-cert, PEM, without a passphrase."
    )
    peer_tls_ca: Path | None = Field(
        None, description="Certificates of the authorities that peers' certificates are verified against, PEM."
    )
    insecure: bool = Field(
        False,
        description="Allow plain text on addresses that other machines can reach: whoever reaches them can read "
        "and write everything.",
    )
    tick_ms: Annotated[
        int, About(group="Elections", agree="time-outs are counted in ticks: rounding makes others of them")
    ] = Field(10, ge=1, le=1000, description="Length of the consensus clock's tick.")
    heartbeat_ms: Annotated[int, About(agree="the leader's counts against its followers' election_ms")] = Field(
        50, ge=1, description="Time between a leader's heartbeats."
    )
    election_ms: Annotated[
        int,
        About(
            agree="the shortest one begins the elections; a follower with a shorter one than the leader's promises too "
            "little for leases"
        ),
    ] = Field(250, ge=1, description="A follower that hears no leader for 1 to 2 times this long starts an election.")
    lease_drift_ppm: Annotated[
        int,
        About(
            agree="the guarantee is as weak as the smallest bound, and nodes without one promise no leases",
        ),
    ] = Field(
        0,
        ge=0,
        lt=PPM,
        description="Let leaders hold leases, for LEASE reads, relying on no node's clock being too fast or slow by "
        "more than this many millionths; 0: no leases. A dead leader is then noticed only by its silence.",
    )
    write_concern: Annotated[
        str, About(group="Writes and history", metavar="majority|all|leader|N", agree="the leader's counts")
    ] = Field(
        "majority",
        description="How many voters must have a write on disk before it is acknowledged, unless it says so itself. "
        "Fewer than a majority: acknowledged writes can be lost; only plain puts and deletes heed that, the others "
        "take a majority.",
    )
    auto_compaction_mode: Annotated[CompactionMode, About(agree="the leader's counts")] = Field(
        CompactionMode.AGE,
        description="Give up history by age or by number of revisions, or never (off). On by default, unlike etcd's: "
        "what nobody compacts grows until the quota stops all writes.",
    )
    auto_compaction_retention: Annotated[
        str | None,
        About(
            metavar="AGE|NUMBER",
            default=f"{DEFAULT_AGE}, or {DEFAULT_REVISIONS} revisions",
            agree="the leader's counts",
        ),
    ] = Field(
        None,
        description="How much history is kept for reads of the past and for watches that resume: by age 30m, 1h, 7d "
        "(of cluster time, since the node runs), by revisions their number.",
    )
    compare_states_s: Annotated[float, About(agree="the leader's counts")] = Field(
        600.0,
        ge=0,
        allow_inf_nan=False,
        description="Time between comparisons of the members' whole states, which the leader sees to; one whose "
        "state is not that of a majority goes out of service. 0: only on demand (`raftkv endpoint compare`).",
    )
    quota_bytes: Annotated[
        int,
        About(
            group="Room",
            default="8 GiB, or three quarters of a smaller --store-map-size",
            agree="the leader's counts, so it would change with the leader",
        ),
    ] = Field(
        8 << 30,
        ge=0,
        description="What makes the state grow is refused once it takes so many bytes, until some are free again; "
        "0: no quota. Well below --store-map-size and the disk, so that deletes still find room.",
    )
    store_map_size: Annotated[int, About(unit="bytes")] = Field(
        64 << 30, ge=1 << 20, description="Upper bound of the state store (address space, not disk)."
    )
    disk_reserve_bytes: Annotated[int, About(default="256 MiB, or two segments of the log, if more")] = Field(
        DEFAULT_DISK_RESERVE,
        ge=0,
        description="With less than so much free on the data directory's file system, the node takes no further "
        "writes, and does not want to lead; 0: never. At least two segments of the log.",
    )
    slow_disk_ms: int = Field(
        100,
        ge=0,
        le=60_000,
        description="A node whose writes to the log take longer on average does not want to lead; 0: however long they "
        "take.",
    )
    wal_segment_bytes: Annotated[int, About(restart="yes, for segments that are made from then on")] = Field(
        64 << 20, ge=1 << 16, description="Size of a log segment."
    )
    scrub_bytes_per_s: int = Field(
        4 << 20,
        ge=0,
        description="How fast closed segments of the log and checkpoints are read again in search of rot; 0: never.",
    )
    checkpoint_log_bytes: Annotated[int, About(group="Checkpoints")] = Field(
        64 << 20,
        ge=1 << 16,
        description="Log after a checkpoint that makes another one due (or a quarter of the store, if more).",
    )
    checkpoint_entries: int = Field(
        100_000,
        ge=1,
        description="Entries after a checkpoint that make another one due (more in the same measure for a store of "
        "more than four times --checkpoint-log-bytes).",
    )
    snapshot_send_bytes_per_s: int = Field(
        100 << 20,
        ge=0,
        description="Checkpoints are sent to followers that are too far behind no faster than this, all together: "
        "65536 or more; 0: as fast as it goes.",
    )
    max_watches: Annotated[int, About(group="Watches")] = Field(
        100_000,
        ge=1,
        description="Watches that this node serves at a time; one more is refused with a retryable error.",
    )
    max_stream_watches: Annotated[int, About(default="20000, or --max-watches, if less")] = Field(
        20_000,
        ge=1,
        description="Watches of one stream, which is all of one client: it has one for every lock it waits for too.",
    )
    watch_ring_bytes: int = Field(
        32 << 20,
        ge=0,
        description="Recent changes kept in memory for watches, roughly; watches that lag further behind are caught up "
        "from the store.",
    )
    watch_progress_s: float = Field(
        10.0,
        ge=0.1,
        allow_inf_nan=False,
        description="A watch that asks for progress, and was told nothing for so long, is told how far it is.",
    )
    shutdown_timeout_s: Annotated[float, About(group="The process")] = Field(
        5.0, ge=0, description="How long a stopping node waits for a new leader and for open requests."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line shown.")
    log_format: Literal["text", "json"] = Field("text", description="How log lines look.")

    @field_validator("member", "peer_dial", mode="before")
    @classmethod
    def _addresses(cls, value: object) -> object:
        return parse_addresses(value)

    @field_validator("write_concern", mode="before")
    @classmethod
    def _write_concern(cls, value: object) -> object:
        if not isinstance(value, str | int):
            return value
        try:
            return concern_name(parse_concern(value))
        except InvalidArgument as error:
            raise ValueError(error.message) from error

    @field_validator("join", mode="before")
    @classmethod
    def _join(cls, value: object) -> object:
        parts = value.split(",") if isinstance(value, str) else value
        if isinstance(parts, list | tuple):
            return tuple(check_address(str(part).strip()) for part in parts if str(part).strip())
        return parts

    @field_validator("listen", "advertise", "peer_listen", "http_listen")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return value if value is None else check_address(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.join and self.member:
            raise ValueError("--member founds a cluster and --join enters one: give one of them")
        if self.member and self.id not in self.member:
            known = ", ".join(str(node) for node in sorted(self.member)) or "none"
            raise ValueError(f"node {self.id} (id) is not among the members ({known})")
        if self.id in self.peer_dial:
            raise ValueError(f"peer_dial names node {self.id}, which is this node")
        if len(set(self.member.values())) != len(self.member):
            raise ValueError("two members have the same address")
        if self.heartbeat_ticks * 2 >= self.election_ticks:
            raise ValueError(
                f"election_ms ({self.election_ms}) must exceed twice heartbeat_ms ({self.heartbeat_ms}), or one lost "
                "heartbeat starts an election"
            )
        if self.lease_drift_ppm and self.lease_ms < 2 * self.heartbeat_ms:
            raise ValueError(
                f"lease_drift_ppm ({self.lease_drift_ppm}) leaves leases of {self.lease_ms} ms, less than two "
                f"heartbeats of {self.heartbeat_ms} ms: one late answer would end them"
            )
        if 0 < self.compare_states_s < 1:
            raise ValueError(f"compare_states_s ({self.compare_states_s:g}) is less than 1 s; 0: only on demand")
        parse_retention(self.auto_compaction_mode, self.auto_compaction_retention)
        check_tls(
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            tls_ca=self.tls_ca,
            tls_client_auth=self.tls_client_auth,
            peer_tls_cert=self.peer_tls_cert,
            peer_tls_key=self.peer_tls_key,
            peer_tls_ca=self.peer_tls_ca,
            cluster_name=self.cluster_name,
        )
        if "quota_bytes" in self.model_fields_set and self.quota_bytes > self.store_map_size:
            raise ValueError(
                f"quota_bytes ({self.quota_bytes}) exceeds store_map_size ({self.store_map_size}): the store would be "
                "full before its quota is reached, and the node would stop"
            )
        least = SEGMENTS_IN_RESERVE * self.wal_segment_bytes
        if "disk_reserve_bytes" in self.model_fields_set and 0 < self.disk_reserve_bytes < least:
            raise ValueError(
                f"disk_reserve_bytes ({self.disk_reserve_bytes}) must be at least {least}, room for "
                f"{SEGMENTS_IN_RESERVE} segments of the log (wal_segment_bytes {self.wal_segment_bytes}), or 0 for no "
                "reserve"
            )
        if 0 < self.snapshot_send_bytes_per_s < LEAST_SEND_BYTES_PER_S:
            raise ValueError(
                f"snapshot_send_bytes_per_s ({self.snapshot_send_bytes_per_s}) must be at least "
                f"{LEAST_SEND_BYTES_PER_S}, or followers that are far behind never catch up; 0: as fast as it goes"
            )
        if self.max_stream_watches > self.max_watches and "max_stream_watches" in self.model_fields_set:
            raise ValueError(
                f"max_stream_watches ({self.max_stream_watches}) exceeds max_watches ({self.max_watches}), which "
                "bounds all streams of the node together"
            )
        return self

    @property
    def watch_limits(self) -> WatchLimits:
        """What bounds the watches of this node."""
        return WatchLimits(
            max_watches=self.max_watches,
            max_stream_watches=min(self.max_stream_watches, self.max_watches),
            ring_bytes=self.watch_ring_bytes,
            progress_s=self.watch_progress_s,
        )

    @property
    def quota(self) -> int:
        """The quota in force, in bytes; 0: none. The default one leaves a quarter of a small store free."""
        if "quota_bytes" in self.model_fields_set:
            return self.quota_bytes
        return min(self.quota_bytes, self.store_map_size // 4 * 3)

    @property
    def disk_reserve(self) -> int:
        """The reserve in force, in bytes; 0: none. The default one grows with the segments of the log."""
        if "disk_reserve_bytes" in self.model_fields_set:
            return self.disk_reserve_bytes
        return max(self.disk_reserve_bytes, SEGMENTS_IN_RESERVE * self.wal_segment_bytes)

    def in_force(self, name: str) -> object:
        """Return what holds for a setting: its value, or what its default comes to."""
        derived = {
            "advertise": self.own_advertise,
            "quota_bytes": self.quota,
            "disk_reserve_bytes": self.disk_reserve,
            "max_stream_watches": self.watch_limits.max_stream_watches,
        }
        return derived.get(name, getattr(self, name))

    @property
    def default_write_concern(self) -> int:
        """The write concern of writes that name none, as on the wire."""
        return parse_concern(self.write_concern)

    @property
    def auto_compaction(self) -> AutoCompaction:
        """How much history the leader keeps."""
        return parse_retention(self.auto_compaction_mode, self.auto_compaction_retention)

    @property
    def lease_ms(self) -> int:
        """How long a leader's lease lasts, by its own clock; 0: there are none."""
        return lease_ms(self.election_ticks, self.tick_ms, self.lease_drift_ppm) if self.lease_drift_ppm else 0

    @property
    def promise_ms(self) -> int:
        """For how long this node votes for nobody after it has heard a leader, whatever happens; 0: no promise."""
        return self.election_ticks * self.tick_ms if self.lease_drift_ppm else 0

    @property
    def heartbeat_ticks(self) -> int:
        return max(1, self.heartbeat_ms // self.tick_ms)

    @property
    def election_ticks(self) -> int:
        return max(1, self.election_ms // self.tick_ms)

    @property
    def own_advertise(self) -> str:
        return self.advertise or self.listen

    @property
    def founded_cluster_id(self) -> int:
        """The identity of the cluster that these members found: the same on all that are started with the same ones."""
        return founded_cluster_id(self.cluster_name, self.member.items())


TABLES: Final = ("member", "peer_dial")
"""Settings that may be tables in a TOML file."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a setting comes from."""

    kind: Literal["flag", "environment", "file", "default"]
    where: str
    """The flag, the variable or the file; empty for a default."""


DEFAULT_SOURCE: Final = Source("default", "")


def load_settings(flags: Mapping[str, Any], config_file: Path | None = None) -> ServerSettings:
    """Return the settings from flags (those that are not None), the environment, and a TOML file.

    Raises ConfigurationError, in one line that names the setting.
    """
    return load_with_sources(flags, config_file)[0]


def load_with_sources(
    flags: Mapping[str, Any], config_file: Path | None = None
) -> tuple[ServerSettings, dict[str, Source]]:
    """Return the same, and where each setting comes from. Raises ConfigurationError."""
    names = ServerSettings.model_fields
    from_file = read_file(config_file, names, TABLES) if config_file is not None else {}

    class Settings(ServerSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, from_file)

    given = {name: value for name, value in flags.items() if value not in (None, [], ())}
    variables = {variable.upper(): variable for variable in os.environ}
    sources = dict.fromkeys(names, DEFAULT_SOURCE)
    for name in names:
        variable = variables.get(f"{PREFIX}{name.upper()}")
        if name in given:
            sources[name] = Source("flag", _flag(name))
        elif variable is not None:
            sources[name] = Source("environment", variable)
        elif name in from_file:
            sources[name] = Source("file", str(config_file))
    try:
        return Settings(**given), sources
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(problem, sources) for problem in error.errors())) from error


_AS_FIELD: Final = re.compile(r"\b(" + "|".join(name for name in ServerSettings.model_fields if "_" in name) + r")\b")
"""Names of settings as they are in code: whoever reads a message knows them as flags."""


def _explain(problem: Any, sources: Mapping[str, Source]) -> str:
    name = ".".join(str(part) for part in problem["loc"][:1])
    message = _AS_FIELD.sub(lambda found: _flag(found.group()), str(problem["msg"]).removeprefix("Value error, "))
    if problem["type"] == "missing":
        return f"{name} is missing: give {_flag(name)} or {PREFIX}{name.upper()}"
    source = sources.get(name, DEFAULT_SOURCE)
    match source.kind:
        case "environment":
            return f"{source.where}: {message}"
        case "file":
            return f"configuration file {source.where}: {name}: {message}"
    return f"{_flag(name)}: {message}" if name else message


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def parse_members(texts: Iterable[str]) -> dict[NodeId, str]:
    """Return the members in texts like ID=HOST:PORT, alone or separated by commas. Raises ConfigurationError."""
    try:
        found = parse_addresses(list(texts))
    except ValueError as error:
        raise ConfigurationError(f"--member: {error}") from error
    assert isinstance(found, dict)
    if not found:
        raise ConfigurationError("--member: no member is named")
    if len(set(found.values())) != len(found):
        raise ConfigurationError("--member: two members have the same address")
    return {NodeId(node): address for node, address in found.items()}
