"""Equal layers become one line; a layer that differs anywhere keeps lines of its own."""

from __future__ import annotations

from profiler.analyses.fold import fold, fold_names


def labels(table: dict[str, int]) -> list[str]:
    return [line.label for line in fold(list(table), str, table.__getitem__)]


def test_equal_layers_fold_with_everything_in_them() -> None:
    table = {"embed": 9}
    for layer in range(5):
        table |= {f"m.layers.{layer}.attn": 1, f"m.layers.{layer}.mlp": 2}
    assert labels(table) == ["embed", "m.layers.0-4.attn (x5)", "m.layers.0-4.mlp (x5)"]
    table["m.layers.2.mlp"] = 7  # then layer 2 stands alone, whole
    assert labels(table) == [
        "embed", "m.layers.0-1,3-4.attn (x4)", "m.layers.0-1,3-4.mlp (x4)",
        "m.layers.2.attn", "m.layers.2.mlp",
    ]  # fmt: skip
    lines = fold(list(table), str, table.__getitem__)
    assert sorted(m for line in lines for m in line.members) == sorted(table)


def test_numbers_inside_numbers_fold_too() -> None:
    table = {f"l.{a}.experts.{b}.up": 0 for a in range(3) for b in range(4)}
    assert labels(table) == ["l.0-2.experts.0-3.up (x12)"]
    table["l.1.experts.3.up"] = 1
    assert labels(table) == [
        "l.0,2.experts.0-3.up (x8)", "l.1.experts.0-2.up (x3)", "l.1.experts.3.up",
    ]  # fmt: skip


def test_names_fold_in_natural_order() -> None:
    assert fold_names(["a.10", "a.9", "b", "a.2", "", "b"]) == ["", "a.2,9-10 (x3)", "b"]
    assert fold_names([]) == []
