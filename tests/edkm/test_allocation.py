"""Bits by sensitivity: within the budget, where they matter, and as good as can be."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

import edkm
from edkm.allocation import Allocation, allocate, spend

pytest.importorskip("transformers")
from edkm.export import save
from tests.tiny_llama import tiny_llama


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(64, (4, 32), generator=generator)} for _ in range(2)]


def test_greedy_spending_is_the_best_where_returns_diminish() -> None:
    curves = [[8.0, 4.0, 2.0, 1.0], [16.0, 4.0, 1.0, 0.25], [1.0, 0.5, 0.3, 0.2]]
    sizes = [[1, 2, 3, 4]] * 3
    for budget in range(3, 13):
        given = spend(curves, sizes, budget)
        assert sum(given) + 3 <= budget
        best = min(
            sum(curve[at] for curve, at in zip(curves, every, strict=True))
            for every in itertools.product(range(4), repeat=3)
            if sum(every) + 3 <= budget
        )
        assert sum(curve[at] for curve, at in zip(curves, given, strict=True)) == best


def test_a_step_over_several_widths_is_found() -> None:
    assert spend([[4.0, 4.0, 0.0], [4.0, 3.9, 3.8]], [[1, 2, 3], [1, 2, 3]], 4) == [2, 0]


def test_a_model_gets_its_bits_within_the_uniform_bytes(tmp_path: Path) -> None:
    model = tiny_llama()
    layer = model.model.layers[1].self_attn
    with torch.no_grad():
        layer.v_proj.weight.mul_(1e-6)  # so that o_proj has next to nothing to multiply
        model.model.layers[0].mlp.down_proj.weight.mul_(20)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    found = allocate(model, batches(), 3, embedding_bits=6)
    assert model.training
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert allocate(model, batches(), 3, embedding_bits=6) == found
    assert Allocation.from_json(found.as_json()) == found
    bits = found.per_module
    assert bits["lm_head"] == bits["model.embed_tokens"]
    assert bits["model.layers.1.self_attn.o_proj"] < 3 < bits["model.layers.0.mlp.down_proj"]
    assert sum(share.predicted for share in found.shares) < sum(s.cost for s in found.shares)
    files: list[int] = []
    for per_module in ({}, bits):
        torch.manual_seed(0)
        one = tiny_llama()
        edkm.cluster(one, 3, embedding_bits=6, per_module=per_module)
        save(one, tmp_path / str(len(files)))
        files.append((tmp_path / str(len(files)) / "model.safetensors").stat().st_size)
    assert found.bytes <= found.uniform_bytes
    assert files[1] <= files[0]


def test_no_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="no batches"):
        allocate(tiny_llama(), [])
