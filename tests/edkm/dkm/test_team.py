"""A C function run by torch's own threads, or by others where those cannot be had."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from edkm.dkm.kernels import team

THREADS = ["torch's threads", "threads after a fork", "threads without libgomp"]


def called(member: Callable[[], None], argument: int, threads: int) -> list[int]:
    """The arguments that ``member`` was called with by ``team.run``."""
    seen: list[int] = []

    def call(given: int) -> None:
        seen.append(given)
        member()

    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(call)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    team.run(address, argument, threads)
    return seen


@pytest.fixture(autouse=True, params=THREADS)
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == THREADS[1]:
        monkeypatch.setattr(team, "_PROCESS", -1)
    elif request.param == THREADS[2]:
        monkeypatch.setattr(ctypes, "CDLL", missing)
        team._parallel.cache_clear()
    elif team._parallel() is None:
        pytest.skip("torch was built without an OpenMP runtime that can be called")
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)
    monkeypatch.undo()
    team._parallel.cache_clear()


def missing(name: str, mode: int = 0) -> None:
    raise OSError(f"{name}: cannot open shared object file")


def test_two_threads_take_part_and_are_given_the_argument() -> None:
    meeting, names = threading.Barrier(2), set()  # opens only when two threads wait at it

    def member() -> None:
        meeting.wait(60)
        names.add(threading.get_ident())

    assert called(member, 1 << 40, 2) == [1 << 40] * 2
    assert len(names) == 2 and threading.get_ident() in names


def test_one_thread_is_the_callers() -> None:
    names: list[int] = []
    assert called(lambda: names.append(threading.get_ident()), 7, 1) == [7]
    assert names == [threading.get_ident()]


def test_several_callers_at_once() -> None:
    found: dict[int, set[int]] = {}

    def call(caller: int) -> None:
        for _ in range(20):
            found.setdefault(caller, set()).update(called(lambda: None, caller, 2))

    callers = [threading.Thread(target=call, args=(1000 + i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == {1000 + i: {1000 + i} for i in range(4)}


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_is_not_left_waiting() -> None:
    torch.ones(1 << 22).sum()  # the runtime's threads exist
    called(lambda: None, 1, 2)
    child = os.fork()
    if child == 0:
        os._exit(0 if set(called(lambda: None, 1, 2)) == {1} else 1)
    assert os.waitpid(child, 0)[1] == 0


WHOSE = """
import ctypes, os, threading
import torch
from edkm.dkm.kernels import team

torch.set_num_threads(2)
threads = lambda: {int(name) for name in os.listdir("/proc/self/task")}
torch.ones(1 << 24).sum()  # torch's team is there now
before, took, meeting = threads(), set(), threading.Barrier(2)

@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def member(_):
    meeting.wait(60)
    took.add(threading.get_native_id())

team.run(ctypes.cast(member, ctypes.c_void_p).value, 0, 2)
assert len(took) == 2 and took <= before and threads() == before, (before, took, threads())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed in /proc")
@pytest.mark.parametrize("both", THREADS[:1], indirect=True)
def test_the_threads_are_those_that_torch_had() -> None:
    run = subprocess.run([sys.executable, "-c", WHOSE], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
