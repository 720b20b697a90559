"""What happens to a clustered model besides training: sharing, dtypes, copies."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import edkm
from edkm.clustering import Clustering
from edkm.dkm import DKMConfig
from edkm.layers import CodebookLinear


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))


class Twice(nn.Module):
    """One layer called twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Linear(16, 16)
        self.other = self.one

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.other(torch.tanh(self.one(x)))
        return out


def test_a_module_called_twice_is_clustered_in_both_places() -> None:
    model, x = Twice(), torch.randn(4, 16)
    clustering = edkm.cluster(model, bits=2)
    assert model.one is model.other and isinstance(model.other, CodebookLinear)
    (entry,) = clustering.weights.values()
    assert entry.modules == ("one", "other") == Clustering.of(model).weights["one.weight"].modules
    model(x).sum().backward()
    assert entry.codebook._steps == 1  # both calls are one step, on the same centroids
    hard, plain = entry.palette().dense(), Twice()
    with torch.no_grad():
        plain.one.weight.copy_(hard)
    assert torch.equal(model.eval()(x), plain(x))


def test_three_layers_tied_to_one_weight_share_its_gradient() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(40, 16)})
    for name in ("b", "c"):
        model[name] = nn.Linear(16, 40, bias=False)
        model[name].weight = model["a"].weight
    clustering = edkm.cluster(model, embedding_bits=4)
    assert [e.modules for e in clustering.weights.values()] == [("a", "b", "c")]
    rows = model["a"](torch.arange(5))
    (model["b"](rows) + 2 * model["c"](rows)).sum().backward()
    plain = clustering.weights["a.weight"].codebook.assign(model["a"].weight).requires_grad_()
    rows = F.embedding(torch.arange(5), plain)
    (rows @ plain.T + 2 * (rows @ plain.T)).sum().backward()
    torch.testing.assert_close(model["a"].weight.grad, plain.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("more", [{}, {"row_scale": True, "importance": True}, {"group_size": 4}])
def test_a_clustered_model_changes_its_dtype(dtype: torch.dtype, more: dict[str, object]) -> None:
    model, x = small(), torch.randn(4, 32)
    with torch.no_grad():
        model[0].weight.mul_(1e-3)  # its temperature is below the least float16
    clustering = edkm.cluster(model, **more)  # type: ignore[arg-type]
    model(x)
    before = {name: (b.dtype, b.clone()) for name, b in model[0].dkm.named_buffers()}
    model.to(dtype)
    for name, buffer in model[0].dkm.named_buffers():
        assert buffer.dtype == before[name][0] and torch.equal(buffer, before[name][1]), name
    again = small().to(dtype)
    edkm.cluster(again, **more)  # type: ignore[arg-type]
    again.load_state_dict(model.state_dict(), strict=True)
    again(x.to(dtype)).square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in again.parameters())
    model(x.to(dtype))
    for name, palette in clustering.palettes().items():
        entry = clustering.weights[name]
        assert torch.equal(palette.dense(), entry.codebook.assign(entry.weight))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("more", [{}, {"row_scale": True, "importance": True}, {"group_size": 8}])
def test_checkpointing_and_copies_change_no_bit(reentrant: bool, more: dict[str, object]) -> None:
    def gradients(model: nn.Module, run: object) -> list[Tensor]:
        run(x).square().sum().backward()  # type: ignore[operator]
        return [p.grad for p in model.parameters()]  # type: ignore[misc]

    model, x = small(), torch.randn(4, 32, requires_grad=True)
    edkm.cluster(model, **more)  # type: ignore[arg-type]
    twin, stored = copy.deepcopy(model), io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    third = torch.load(stored, weights_only=False)
    plain = gradients(model, model)
    again = gradients(twin, lambda x: checkpoint(twin, x, use_reentrant=reentrant))
    for one, other, last in zip(plain, again, gradients(third, third), strict=True):
        assert torch.equal(one, other) and torch.equal(one, last)


def saved_bytes(form: str, dtype: torch.dtype) -> tuple[int, Tensor]:
    """Bytes that autograd keeps of one forward, each storage once, and the weight's gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, dtype=dtype))
    edkm.cluster(model, bits=3, config=DKMConfig(iterations=1, form=form))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(torch.rand(2, 64, dtype=dtype)).sum()
    loss.backward()
    gradient = model[0].weight.grad
    assert gradient is not None
    return sum(kept.values()), gradient


def test_a_form_that_is_insisted_on_trains_alike_and_keeps_what_is_its_own() -> None:
    maps = 8 * 64 * 64 * torch.float64.itemsize
    dense, expected = saved_bytes("dense", torch.float64)
    streaming, found = saved_bytes("streaming", torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert dense > 2 * maps and streaming < maps / 4
    fused, found = saved_bytes("fused", torch.bfloat16)
    assert fused < 8 * 64 * 64 * 2 + 40 * 2**16 and found.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("form", "more", "words"),
    [
        ("fused", {}, "'0' has a weight of dtype torch.float32, but form is 'fused'"),
        ("dense", {"row_scale": True}, "form is 'dense' with importance, row_scale or group_size"),
        ("fused", {"importance": True}, "use form='auto', or none of the three"),
    ],
)
def test_a_form_that_cannot_is_refused(form: str, more: dict[str, bool], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        edkm.cluster(nn.Sequential(nn.Linear(64, 64)), config=DKMConfig(form=form), **more)
