"""Parts run on torch's own threads: all of them once, in order, errors included."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
import torch

from edkm.dkm.kernels import team

PARTS = [slice(10 * i, 10 * i + 10) for i in range(9)]


@pytest.fixture(autouse=True, params=["torch's threads", "our threads"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "our threads":
        monkeypatch.setattr(team, "_PROCESS", -1)
    elif team._parallel() is None:
        pytest.skip("torch was built without an OpenMP runtime that can be called")
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_every_part_is_done_once_and_results_keep_their_order() -> None:
    done: list[int] = []

    def work(part: slice) -> int:
        done.append(part.start)
        return int(torch.arange(100)[part].sum())

    assert team.share(work, PARTS, 2) == [sum(range(p.start, p.stop)) for p in PARTS]
    assert sorted(done) == [p.start for p in PARTS]


def test_two_threads_take_part() -> None:
    meeting = threading.Barrier(2)  # opens only when two threads wait at it
    names = team.share(lambda part: (meeting.wait(60), threading.get_ident())[1], PARTS[:2], 2)
    assert len(set(names)) == 2 and threading.get_ident() in names


def test_the_first_error_reaches_the_caller_and_the_next_call_works() -> None:
    def work(part: slice) -> int:
        if part.start == 30:
            raise KeyError("no such part")
        return 1

    with pytest.raises(KeyError, match="no such part"):
        team.share(work, PARTS, 2)
    assert team.share(lambda part: 1, PARTS, 2) == [1] * 9


def test_several_callers_at_once() -> None:
    found: dict[int, list[int]] = {}

    def call(caller: int) -> None:
        for _ in range(20):
            found[caller] = team.share(lambda part: caller + part.start, PARTS, 2)

    callers = [threading.Thread(target=call, args=(1000 * i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == {1000 * i: [1000 * i + p.start for p in PARTS] for i in range(4)}


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_is_not_left_waiting() -> None:
    torch.ones(1 << 22).sum()  # the runtime's threads exist
    team.share(lambda part: 1, PARTS, 2)
    child = os.fork()
    if child == 0:
        os._exit(0 if team.share(lambda part: 1, PARTS, 2) == [1] * 9 else 1)
    assert os.waitpid(child, 0)[1] == 0
