from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from raftkv.client import Fence, FencingToken
from raftkv.errors import InvalidArgument, StaleFence, StorageError


def test_no_token_passes_after_a_newer_one() -> None:
    fence = Fence()
    fence.check(5)
    fence.check(5)
    fence.check(FencingToken(b"x", 7))
    with pytest.raises(StaleFence, match="token 6 is stale: 7") as raised:
        fence.check(6)
    assert raised.value.current_token == 7
    assert fence.newest == 7


@pytest.mark.parametrize("token", [0, -1, 2**64, True, "5", None, math.nan, 5.0])
def test_what_is_no_token_is_refused(token: int) -> None:
    with pytest.raises(InvalidArgument, match="token is"):
        Fence().check(token)


def test_a_restart_remembers(tmp_path: Path) -> None:
    path = tmp_path / "fence"
    Fence(path).check(41)
    fence = Fence(path)
    assert fence.newest == 41
    with pytest.raises(StaleFence):
        fence.check(40)
    fence.check(42)
    assert Fence(str(path)).newest == 42
    assert [one.name for one in tmp_path.iterdir()] == ["fence"]


@pytest.mark.parametrize(
    "content", [b"", b"7\n", b"raftkv fence 1\n", b"raftkv fence 1\n7", b"raftkv fence 1\n-7\n", b"\xff"]
)
def test_a_file_that_is_none_lets_nobody_in(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fence"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="fence"):
        Fence(path)


def test_a_token_that_cannot_be_written_does_not_pass(tmp_path: Path) -> None:
    fence = Fence(tmp_path / "none" / "fence")
    with pytest.raises(StorageError, match="cannot be written"):
        fence.check(7)
    assert fence.newest == 0
    fence_here = Fence(tmp_path / "fence")
    fence_here.check(3)


def test_of_many_threads_none_passes_after_a_newer_one() -> None:
    fence = Fence()
    passed: list[int] = []
    tokens = list(range(1, 2_001))
    Random(7).shuffle(tokens)

    def work(token: int) -> None:
        try:
            with fence.guard(token):
                passed.append(token)
        except StaleFence:
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, tokens))
    assert passed == sorted(passed)
    assert passed[-1] == fence.newest == 2_000


def test_a_newer_holder_waits_until_the_body_has_ended() -> None:
    fence = Fence()
    done: list[str] = []

    def newer() -> None:
        fence.check(2)
        done.append("newer")

    thread = threading.Thread(target=newer)
    with fence.guard(1):
        thread.start()
        thread.join(0.05)
        done.append("older")
    thread.join()
    assert done == ["older", "newer"]


def test_a_guard_within_a_guard_of_the_same_thread_is_refused_instead_of_waiting_for_itself() -> None:
    fence = Fence()
    with fence.guard(5):
        with pytest.raises(InvalidArgument, match="within a guard"):
            fence.check(6)
        assert fence.newest == 5
    fence.check(6)
