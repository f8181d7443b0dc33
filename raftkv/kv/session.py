"""Client sessions: how a write that is sent again is applied once (Ongaro's thesis, 6.3; raft-bugs 31, 44).

A client registers a session and numbers its writes. The session remembers the result of each, until the client says
that it has it (`acknowledged_below`), and answers a repeated sequence from memory.

    sequence < low                 Rejected(SEQUENCE_OUT_OF_WINDOW): acknowledged, so its result may be forgotten
    sequence with a result         that result again; nothing is applied
    sequence >= low + WINDOW       Rejected(SEQUENCE_OUT_OF_WINDOW): the client runs too far ahead
    results of SESSION_RESULT_BYTES are remembered    Rejected(OVERLOADED): acknowledge some, and try again; never a
                                   plain put, or delete of one key: its result takes a few bytes, and the window bounds
                                   how many of these there are
    otherwise                      applied, and the result remembered, rejections included

A session ends `SESSION_TTL_MS` of cluster time after the last write that named it. That is judged when somebody looks:
at the next write that names it, and for all sessions whenever one is registered. When `MAX_SESSIONS` are open, a new
one ends the least recently active one (ties: the older id), and so do results of more than ALL_RESULTS_BYTES in all
sessions; but for the sake of bytes, none that was active within SESSION_SAFE_MS: while there is no other to end, writes
that may have long results are Rejected(OVERLOADED) instead. Refusing a new session would let clients that died lock out
those that live, for an hour. A write in a session that ended is Rejected(SESSION_EXPIRED), never applied.

The table is kept in memory and, row by row, in the store: one head row per session and one results row per session and
entry. **Invariant: the memory is what loading the rows would give.** So every change is made to both inside the
machine's write transaction, and when that fails the table is not to be used again (machine.StateMachine sees to it).
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from raftkv.errors import ErrorCode
from raftkv.invariant import invariant
from raftkv.kv.commands import Command, Delete, Put, Rejected, Result
from raftkv.kv.keys import RESULTS, SESSIONS, index_of, results_key, session_key, session_of
from raftkv.kv.limits import (
    ALL_RESULTS_BYTES,
    MAX_SESSIONS,
    SESSION_RESULT_BYTES,
    SESSION_SAFE_MS,
    SESSION_TTL_MS,
    SESSION_WINDOW,
)
from raftkv.kv.records import (
    CorruptRow,
    SessionHead,
    decode_results,
    decode_session_head,
    encode_results,
    encode_session_head,
)
from raftkv.kv.store import Reader, Writer

EXPIRED = Rejected(ErrorCode.SESSION_EXPIRED, "the session is unknown or has expired")


class Session:
    """What one session remembers."""

    __slots__ = ("_results", "_rows", "fresh", "last_active_ms", "low", "size_bytes")

    def __init__(self, last_active_ms: int, low: int = 1) -> None:
        self.last_active_ms = last_active_ms
        self.low = low
        self.fresh: list[tuple[int, Result]] = []
        """What the entry under way has added; `SessionTable.end_entry` makes it a row."""
        self._results: dict[int, Result] = {}
        self._rows: list[tuple[int, int, list[int], int]] = []
        """A heap of the rows of RESULTS: (highest sequence, log index, sequences, size in bytes)."""
        self.size_bytes = 0
        """What the rows take, together. What the entry under way adds does not count yet: it is bounded by itself."""

    def judge(self, sequence: int) -> Result | None:
        """Return the answer to a sequence that must not be applied, or None: apply it and `remember`."""
        if sequence < self.low:
            return Rejected(
                ErrorCode.SEQUENCE_OUT_OF_WINDOW,
                f"sequence {sequence} was acknowledged: the session has acknowledged all below {self.low}",
            )
        remembered = self._results.get(sequence)
        if remembered is None and sequence >= self.low + SESSION_WINDOW:
            return Rejected(
                ErrorCode.SEQUENCE_OUT_OF_WINDOW,
                f"sequence {sequence} is too far ahead: at most {SESSION_WINDOW - 1} above the first that is not "
                f"acknowledged, {self.low}",
            )
        return remembered

    def remember(self, sequence: int, result: Result) -> None:
        """Keep the result of a sequence that was just applied."""
        self._results[sequence] = result
        self.fresh.append((sequence, result))

    def add_row(self, index: int, results: list[tuple[int, Result]], size_bytes: int) -> None:
        """Account for a row of RESULTS."""
        self._results.update(results)
        self.size_bytes += size_bytes
        sequences = [sequence for sequence, _ in results]
        heappush(self._rows, (max(sequences), index, sequences, size_bytes))

    def forget_acknowledged(self) -> list[int]:
        """Drop the rows that are acknowledged as a whole; return their log indexes."""
        forgotten = []
        while self._rows and self._rows[0][0] < self.low:
            _, index, sequences, size_bytes = heappop(self._rows)
            self.size_bytes -= size_bytes
            forgotten.append(index)
            for sequence in sequences:
                del self._results[sequence]
        return forgotten

    def row_indexes(self) -> list[int]:
        """Return the log indexes of all its rows of RESULTS."""
        return [index for _, index, _, _ in self._rows]


class SessionTable:
    """All sessions: in memory, and in the tables SESSIONS and RESULTS."""

    __slots__ = ("_by_activity", "_dirty", "_fresh", "_result_bytes", "_sessions")

    def __init__(self, reader: Reader) -> None:
        """Load the table. Raises CorruptRow."""
        self._sessions: dict[int, Session] = {}
        for stored_key, row in reader.scan(SESSIONS, RESULTS):
            self._sessions[session_of(stored_key)] = Session(*decode_session_head(row))
        for stored_key, row in reader.scan(RESULTS, bytes((RESULTS[0] + 1,))):
            session = self._sessions.get(session_of(stored_key))
            results = decode_results(row)
            if session is None or not results:
                raise CorruptRow(f"results row {stored_key.hex()} is empty or of no session")
            session.add_row(index_of(stored_key), results, len(row))
        self._result_bytes = sum(session.size_bytes for session in self._sessions.values())
        self._by_activity = [(session.last_active_ms, key) for key, session in self._sessions.items()]
        """A heap of (last_active_ms when pushed, id) with an item for each session. The time may be out of date: early.

        So activity costs nothing here; who looks for the least recently active brings the items it meets up to date,
        and drops those of sessions that have ended.
        """
        heapify(self._by_activity)
        self._dirty: dict[int, Session] = {}
        self._fresh: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def register(self, writer: Writer, session_id: int, time_ms: int) -> None:
        """Open a session under an id that was never used."""
        self._end_expired(writer, time_ms)
        if len(self._sessions) >= MAX_SESSIONS:
            self._end(writer, self._least_recently_active())
        session = Session(time_ms)
        self._sessions[session_id] = self._dirty[session_id] = session
        heappush(self._by_activity, (time_ms, session_id))

    def touch(self, writer: Writer, session_id: int, time_ms: int, acknowledged_below: int) -> Session | None:
        """Return the session for a write at `time_ms`, forgetting what is acknowledged; None: it has ended."""
        session = self._sessions.get(session_id)
        if session is None:
            return None
        if time_ms - session.last_active_ms >= SESSION_TTL_MS:
            self._end(writer, session_id)
            return None
        session.last_active_ms = time_ms
        # A message that was overtaken carries an older mark: it never goes down.
        session.low = max(session.low, acknowledged_below)
        before = session.size_bytes
        for index in session.forget_acknowledged():
            writer.delete(results_key(session_id, index))
        self._result_bytes -= before - session.size_bytes
        self._dirty[session_id] = self._fresh[session_id] = session
        return session

    def judge(self, session: Session, command: Command) -> Result | None:
        """Return the answer to a command that must not be applied, or None: apply it and `Session.remember`."""
        answer = session.judge(command.sequence)
        if answer is not None or is_short(command):
            return answer
        if session.size_bytes > SESSION_RESULT_BYTES:
            return Rejected(
                ErrorCode.OVERLOADED,
                f"the session's results take more than {SESSION_RESULT_BYTES} bytes: acknowledge those that have been "
                "received, then try again",
            )
        if self._result_bytes > ALL_RESULTS_BYTES:
            return Rejected(
                ErrorCode.OVERLOADED,
                f"the results of all sessions take more than {ALL_RESULTS_BYTES} bytes: acknowledge those that have "
                "been received, then try again",
            )
        return None

    def admits(self, session_id: int, sequences: Iterable[int], time_ms: int, ahead: int) -> bool:
        """Return whether commands that are `is_short` will be applied, whatever is applied before them.

        They are in an entry that was put into the log at cluster time `time_ms`, and between this state and them there
        are at most `ahead` commands, of entries with no later time. So of what could refuse them

          - the window does not: its low end, which only the client itself moves, never goes down;
          - the bounds of bytes do not: they are not for short results;
          - nothing ends the session: its last activity only becomes later, so when any of those entries is applied it
            is less than SESSION_SAFE_MS ago, which is less than SESSION_TTL_MS, and it is not ended for the sake of
            bytes either; and for a new session one is only ended when MAX_SESSIONS are open, which so many commands
            cannot bring about, even if each of them registers one.
        """
        session = self._sessions.get(session_id)
        if session is None or time_ms - session.last_active_ms >= SESSION_SAFE_MS:
            return False
        if len(self._sessions) + ahead > MAX_SESSIONS:
            return False
        return all(session.judge(sequence) is None for sequence in sequences)

    def knows(self, session_id: int, sequence: int) -> bool:
        """Return whether an open session would not take a sequence as a new one."""
        session = self._sessions.get(session_id)
        return session is not None and session.judge(sequence) is not None

    def end_entry(self, writer: Writer, index: int, time_ms: int) -> None:
        """Write what entry `index`, of cluster time `time_ms`, added to the sessions it named."""
        for session_id, session in self._fresh.items():
            if session.fresh:
                row = encode_results(session.fresh)
                writer.put(results_key(session_id, index), row)
                session.add_row(index, session.fresh, len(row))
                self._result_bytes += len(row)
                session.fresh = []
        self._fresh.clear()
        while self._result_bytes > ALL_RESULTS_BYTES:
            session_id = self._least_recently_active(time_ms - SESSION_SAFE_MS)
            if session_id == 0:
                break
            self._end(writer, session_id)

    def end_transaction(self, writer: Writer) -> None:
        """Write the heads of the sessions that were touched: last thing before the commit."""
        for session_id, session in self._dirty.items():
            writer.put(session_key(session_id), encode_session_head(SessionHead(session.last_active_ms, session.low)))
        self._dirty.clear()

    def _end_expired(self, writer: Writer, time_ms: int) -> None:
        while self._sessions:
            session_id = self._least_recently_active(time_ms - SESSION_TTL_MS)
            if session_id == 0:
                return
            self._end(writer, session_id)

    def _least_recently_active(self, until_ms: int | None = None) -> int:
        """Return the session that was active longest ago (ties: the lowest id), or 0: active after `until_ms`."""
        heap = self._by_activity
        while heap and (until_ms is None or heap[0][0] <= until_ms):
            pushed_ms, session_id = heap[0]
            session = self._sessions.get(session_id)
            if session is not None and session.last_active_ms == pushed_ms:
                return session_id
            heappop(heap)
            if session is not None:
                heappush(heap, (session.last_active_ms, session_id))
        invariant(until_ms is not None, "every open session is in the heap of activity")
        return 0

    def _end(self, writer: Writer, session_id: int) -> None:
        session = self._sessions.pop(session_id)
        self._result_bytes -= session.size_bytes
        # An entry that is under way may have named it: what it added must not become a row without a head.
        self._dirty.pop(session_id, None)
        self._fresh.pop(session_id, None)
        for index in session.row_indexes():
            writer.delete(results_key(session_id, index))
        writer.delete(session_key(session_id))


def is_short(command: Command) -> bool:
    """Return whether the result of a command takes a few bytes, whatever the state is."""
    return isinstance(command, Put) or (isinstance(command, Delete) and not command.range_end)
