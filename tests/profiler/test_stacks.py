"""Stacks: one description per stack, equal to what a walk over every frame would find."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from profiler import events
from profiler.attribution import BOUNDARY, ModuleTracker
from profiler.stacks import StackTable


@pytest.fixture
def tracker() -> Iterator[ModuleTracker]:
    tracker = ModuleTracker()
    tracker.start()
    yield tracker
    tracker.stop()


class _Watch:
    """Asks for the stack at many places, and walks all frames beside it."""

    def __init__(self, tracker: ModuleTracker) -> None:
        self.tracker = tracker
        self.described: list[events.Stack] = []
        self.stacks = StackTable(self.described.append)
        self.numbers: list[int] = []
        self.walked: list[list[str]] = []

    def __call__(self, *_: object) -> None:
        self.numbers.append(self.stacks.here(0, self.tracker.running))
        frame, texts = sys._getframe(1), []
        while frame is not None:
            code = frame.f_code
            if code is not BOUNDARY:
                texts.append(f"{code.co_filename}:{frame.f_lineno}:{code.co_qualname}")
            frame = frame.f_back
        self.walked.append(texts)


class _Leaf(nn.Module):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def forward(self, x: Tensor) -> Tensor:
        self.watch()
        self._deeper(x)
        for _ in range(2):
            self.watch()
        return x

    def _deeper(self, x: Tensor) -> None:
        [self.watch() for _ in range(2)]


class _Tree(nn.Module):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch
        self.first, self.second = _Leaf(watch), _Leaf(watch)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.watch()
        return self._twice(self.second, x)

    def _twice(self, module: nn.Module, x: Tensor) -> Tensor:
        return module(module(x))


def test_every_stack_equals_a_walk_over_all_frames(tracker: ModuleTracker) -> None:
    watch = _Watch(tracker)
    tree = _Tree(watch)
    tracker.register(tree)
    tree.first.register_forward_pre_hook(watch)
    tree.second.register_forward_hook(watch)
    tree.second.forward(torch.ones(1))  # not a call: no boundary on the stack
    for _ in range(3):
        tree(torch.ones(1))
    frames = {row.stack_id: row.frames for row in watch.described}
    for number, walked in zip(watch.numbers, watch.walked, strict=True):
        found = frames[number]
        assert 1 < len(found) <= 24 and found[0].endswith("_Watch.__call__")
        assert found[1:] == walked[: len(found) - 1]


def test_the_same_place_has_one_number_and_another_caller_another(tracker: ModuleTracker) -> None:
    watch = _Watch(tracker)
    tree = _Tree(watch)
    tracker.register(tree)
    for _ in range(3):
        tree(torch.ones(1))
    once = len(watch.numbers) // 3
    rounds = [watch.numbers[i * once : (i + 1) * once] for i in range(3)]
    assert rounds[0] == rounds[1] == rounds[2]
    leaf = once // 3  # first, second, second: the same lines, called from three places
    assert not set(watch.numbers[:leaf]) & set(watch.numbers[leaf + 1 : once])


def test_a_stack_is_described_once_and_names_this_line() -> None:
    described: list[events.Stack] = []
    stacks = StackTable(described.append)
    numbers = [stacks.here(skip=0) for _ in range(3)]
    other = stacks.here(skip=0)
    assert numbers == [0, 0, 0] and other == 1
    assert [row.stack_id for row in described] == [0, 1]
    file, line, function = described[1].frames[0].rsplit(":", 2)
    assert file == __file__ and function.endswith("names_this_line")
    assert "other = stacks.here" in Path(__file__).read_text().splitlines()[int(line) - 1]
