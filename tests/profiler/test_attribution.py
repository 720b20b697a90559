"""Modules and stacks: names, nesting, exceptions, and one description per stack."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from profiler.attribution import ModuleTracker, module_of_nodes
from profiler.events import OUTSIDE


class _Inner(nn.Module):
    def __init__(self, seen: list[str], tracker: ModuleTracker) -> None:
        super().__init__()
        self.seen, self.tracker = seen, tracker

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.tracker.current)
        return x * 2


@pytest.fixture
def tracker():
    tracker = ModuleTracker()
    tracker.start()
    yield tracker
    tracker.stop()


def test_current_module_is_the_innermost_one_by_its_qualified_name(tracker: ModuleTracker) -> None:
    seen: list[str] = []
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(_Inner(seen, tracker)))
    rows = tracker.register(model)
    model(torch.ones(1))
    assert seen == ["1.0"]
    assert tracker.current == OUTSIDE
    assert [row.module for row in rows] == ["", "0", "1", "1.0"]
    assert rows[3].parent == "1"


def test_a_second_model_has_its_class_before_its_names(tracker: ModuleTracker) -> None:
    first, second, third = (nn.Sequential(nn.Linear(1, 1)) for _ in range(3))
    for model in (first, second, third, nn.CrossEntropyLoss()):
        tracker.register(model)
    assert [tracker.name_of(m[0]) for m in (first, second, third)] == [
        "0",
        "Sequential.0",
        "Sequential2.0",
    ]


def test_an_unregistered_module_goes_by_its_class(tracker: ModuleTracker) -> None:
    seen: list[str] = []
    _Inner(seen, tracker)(torch.ones(1))
    assert seen == ["_Inner"]


def test_an_exception_in_forward_leaves_no_module_behind(tracker: ModuleTracker) -> None:
    class Fails(nn.Module):
        def forward(self) -> None:
            raise KeyError("no")

    with pytest.raises(KeyError):
        Fails()()
    assert tracker.current == OUTSIDE


def test_nodes_belong_to_the_innermost_span_also_when_two_are_equal() -> None:
    inner_first = [(2, 4, "a.b"), (2, 4, "a"), (0, 9, "")]
    assert module_of_nodes(inner_first) == {
        **dict.fromkeys((0, 1, 4, 5, 6, 7, 8), ""),
        **dict.fromkeys((2, 3), "a.b"),
    }
