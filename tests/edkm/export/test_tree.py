"""Names as a tree: nothing is lost, and equal layers stand once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edkm.export.tree import flatten, nest

PARTS = st.sampled_from(["a", "b", "0", "1", "2", "3", "10", "1-3", "shape"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map(".".join)
LEAVES = st.builds(lambda n: {"shape": [n]}, st.integers(0, 1))


def is_tree(names: list[str]) -> bool:
    """No name is another's parent, as in a model."""
    return not any(other.startswith(f"{name}.") for name in names for other in names)


@given(st.dictionaries(NAMES, LEAVES, max_size=12).filter(lambda d: is_tree(list(d))))
def test_names_come_back(leaves: dict[str, dict[str, object]]) -> None:
    stored = json.loads(json.dumps(nest(leaves)))
    assert flatten(stored) == leaves


def test_equal_layers_stand_once_and_in_order() -> None:
    alike = {f"layers.{i}.{n}.weight": {"shape": [4]} for i in range(12) for n in ("up", "norm")}
    other = {"layers.12.up.weight": {"shape": [5]}, "head.weight": {"shape": [3]}}
    tree = nest({**alike, **other})
    assert list(tree["layers"]) == ["0-11", "12"] and list(tree["layers"]["0-11"]) == ["up", "norm"]
    assert list(flatten(tree)) == [*alike, *other]


@pytest.mark.parametrize("tree", [{"a": 3}, {"5-2": {"a": {"shape": []}}}, {"a": {"b": "c"}}])
def test_what_is_no_tree_is_refused(tree: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        flatten(tree)
