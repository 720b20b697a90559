"""A program that trains on threads of its own: hooks belong to a thread, so each is given them."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from profiler import Tracer, open_run


def _step(model: nn.Module) -> list[torch.Tensor]:
    model.zero_grad()
    loss = model(torch.ones(4, 8)).square().sum()
    loss.backward()
    return [loss.detach(), *[p.grad.clone() for p in model.parameters()]]


class Trainer(threading.Thread):
    """A thread with a `run` of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def run(self) -> None:
        self.found = _step(self.model)


def _in_thread(model: nn.Module) -> list[torch.Tensor]:
    thread = Trainer(model)
    thread.start()
    thread.join()
    return thread.found


def _in_pool(model: nn.Module) -> list[torch.Tensor]:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_step, model).result()


@pytest.mark.parametrize("level", ["summary", "full"])
@pytest.mark.parametrize("train", [_in_thread, _in_pool])
def test_training_on_another_thread_is_recorded_as_on_the_first(tmp_path, train, level) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    with Tracer(tmp_path / "here", model=model, level=level) as tracer, tracer.step():
        here = _step(model)
    with Tracer(tmp_path / "there", model=model, level=level) as tracer, tracer.step():
        there = train(model)
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    table = "totals" if level == "summary" else "saves"
    wanted = "module, saves, logical_bytes" if level == "summary" else "module, op, phase, shape"
    found = []
    for name in ("here", "there"):
        with open_run(tmp_path / name) as run:
            found.append(run.sql(f"select {wanted} from {table} order by all").to_pylist())
    assert found[0] == found[1] and found[0]


def test_a_thread_is_left_as_it_was_and_dies_at_once(tmp_path) -> None:
    start = threading.Thread.start
    with Tracer(tmp_path / "run"):
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        assert "run" not in vars(thread)
        gone = weakref.ref(thread)
        gc.disable()
        try:
            del thread
            assert gone() is None
        finally:
            gc.enable()
        with pytest.raises(RuntimeError, match="threads can only be started once"):
            again = threading.Thread(target=lambda: None)
            again.start()
            again.start()
    assert threading.Thread.start is start
