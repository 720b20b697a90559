"""Clustering a model in place: what is chosen, what stays tied, what trains, what is refused."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

import edkm
from edkm.clustering import Clustering
from edkm.dkm import assign_hard
from edkm.layers import CodebookEmbedding, CodebookLinear


class Tied(nn.Module):
    """A language model in small: embedding, two projections, a head tied to the embedding."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(40, 16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16, bias=False)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.down(torch.relu(self.up(self.embed(ids)))))
        return out


IDS = torch.arange(40).view(4, 10)


def loss_of(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(IDS).flatten(0, 1), IDS.roll(-1).flatten())


def test_layers_keep_their_parameters_and_tied_weights_share_a_codebook() -> None:
    model = Tied()
    before = dict(model.named_parameters())
    clustering = edkm.cluster(model, bits=3, embedding_bits=5)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert isinstance(model.embed, CodebookEmbedding) and isinstance(model.up, CodebookLinear)
    assert model.head.weight is model.embed.weight and model.head.dkm is model.embed.dkm
    bits = {name: e.codebook.config.bits for name, e in clustering.weights.items()}
    assert bits == {"embed.weight": 5, "up.weight": 3, "down.weight": 3}
    assert clustering.weights["embed.weight"].modules == ("embed", "head")
    assert Clustering.of(model).weights.keys() == clustering.weights.keys()


def test_eval_uses_what_is_shipped() -> None:
    model = Tied()
    clustering = edkm.cluster(model, bits=2, embedding_bits=4)
    model.eval()
    logits = model(IDS)
    plain = Tied().eval()
    with torch.no_grad():
        for name, palette in clustering.palettes().items():
            assert palette.dense().unique().numel() <= 2**palette.bits
            plain.get_parameter(name).copy_(palette.dense())
    assert torch.equal(logits, plain(IDS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["straight", "soft"])
def test_a_plain_loop_learns(mode: str, dtype: torch.dtype) -> None:
    model = Tied().to(dtype)
    clustering = edkm.cluster(model, bits=3, embedding_bits=4, embedding_mode=mode)  # type: ignore
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    plan = edkm.schedule(clustering, 30, straight=0.2)
    first = float(loss_of(model.eval()).detach())
    model.train()
    for step in range(30):
        plan.step(step)
        loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert clustering.metrics()["soft_hard_gap_max"] == 0.0 or mode == "soft"
    assert float(loss_of(model.eval()).detach()) < 0.8 * first


def test_the_straight_gradient_is_that_of_the_hard_weight() -> None:
    model = Tied()
    clustering = edkm.cluster(model, bits=3, embedding_bits=4)
    clustering.set_mode("straight", soft_only=False)
    loss = loss_of(model)
    loss.backward()
    plain = Tied()
    with torch.no_grad():
        for entry in clustering.weights.values():
            hard = assign_hard(entry.weight, entry.codebook.centroids)
            plain.get_parameter(entry.name).copy_(hard)
    expected = loss_of(plain)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for (name, ours), (_, theirs) in zip(
        model.named_parameters(), plain.named_parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_off_is_the_plain_model_and_frozen_chooses_the_weights() -> None:
    model, plain = Tied(), Tied()
    clustering = edkm.cluster(model, bits=1, embedding_bits=2)
    edkm.schedule(clustering, 10, begin=0.5).step(0)
    assert torch.equal(loss_of(model), loss_of(plain))
    with clustering.frozen("dense"):
        assert torch.equal(model(IDS), plain(IDS))
    clustering.start()
    with clustering.frozen("hard"):
        inside = model(IDS)
    assert torch.equal(inside, model.eval()(IDS))


def test_gradient_accumulation_sees_one_clustering() -> None:
    model = Tied()
    clustering = edkm.cluster(model, bits=3, embedding_bits=3, embedding_mode="soft")
    assert torch.equal(loss_of(model), loss_of(model))
    clustering.set_mode("straight", soft_only=False)
    assert torch.equal(loss_of(model), loss_of(model))


def test_metrics_follow_the_codebooks() -> None:
    model = Tied()
    clustering = edkm.cluster(model, bits=3, embedding_bits=4)
    assert clustering.metrics() == {}
    loss_of(model)
    soft = clustering.metrics()
    assert 0 < soft["soft_hard_gap"] <= soft["soft_hard_gap_max"] < 1
    assert soft["centroids_used_min"] == 1.0 and soft["centroid_movement"] >= 0
    clustering.set_tau_factor(1e-4)
    assert clustering.metrics()["soft_hard_gap"] < 0.1 * soft["soft_hard_gap"]


def test_state_resumes_exactly() -> None:
    def step(model: nn.Module, plan: edkm.schedule, optimizer: torch.optim.Optimizer) -> None:  # type: ignore
        plan.step(step.index)  # type: ignore
        loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad()
        step.index += 1  # type: ignore

    def make() -> tuple[nn.Module, object, torch.optim.Optimizer]:
        model = Tied()
        plan = edkm.schedule(edkm.cluster(model, bits=3, embedding_bits=4), 10, straight=0.3)
        return model, plan, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)

    step.index = 0  # type: ignore
    one = make()
    for _ in range(5):
        step(*one)
    other = make()
    other[0].load_state_dict(copy.deepcopy(one[0].state_dict()))
    other[2].load_state_dict(copy.deepcopy(one[2].state_dict()))
    for _ in range(5):
        step(*one)
    step.index = 5  # type: ignore
    for _ in range(5):
        step(*other)
    for (name, a), (_, b) in zip(
        one[0].state_dict().items(), other[0].state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def test_choice_by_name_bits_and_conv() -> None:
    def names(**settings: object) -> dict[str, int]:
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(16, 16), nn.LSTM(4, 4))
        made = edkm.cluster(model, **settings)  # type: ignore
        return {n: e.codebook.config.bits for n, e in made.weights.items()}

    assert names() == {"1.weight": 3}
    assert names(conv=True, bits=2) == {"0.weight": 2, "1.weight": 2}
    assert names(include=["0"]) == {"0.weight": 3}
    assert names(conv=True, exclude=["1"]) == {"0.weight": 3}
    assert names(conv=True, per_module={"*": 4, "0": 5}) == {"0.weight": 5, "1.weight": 4}
    assert names(conv=True, per_module={"0": 0}) == {"1.weight": 3}


def test_conv_is_parametrized_and_trains() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    clustering = edkm.cluster(conv, bits=2, conv=True)
    assert parametrize.is_parametrized(conv[0], "weight")
    conv(torch.randn(1, 3, 5, 5)).sum().backward()
    (entry,) = clustering.weights.values()
    assert entry.weight.grad is not None and bool(entry.weight.grad.abs().sum() > 0)
    conv.eval()
    assert conv[0].weight.unique().numel() <= 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 9}, "bits"),
        ({"bits": 0}, "bits"),
        ({"include": "up"}, r"include is the text 'up'; give a list of names: \['up'\]"),
        ({"embedding_bits": 12}, "embedding_bits"),
        ({"include": ["nothing*"]}, "matches no module"),
        ({"exclude": ["*"]}, "no layer to cluster"),
        ({"per_module": {"up": 9}}, "bits of 'up'"),
        ({"per_module": {"embed": 4, "head": 5}}, r"share one weight but are asked for \[4, 5\]"),
        ({"bits": 8, "include": ["down"], "per_module": {"down": 8}}, None),
    ],
)
def test_refusals_name_the_layer_and_the_rule(
    settings: dict[str, object], message: str | None
) -> None:
    if message is None:
        edkm.cluster(Tied(), **settings)  # type: ignore
        return
    with pytest.raises(ValueError, match=message):
        edkm.cluster(Tied(), **settings)  # type: ignore


def test_unsupported_layers_are_refused_by_name() -> None:
    model = nn.ModuleDict({"norm": nn.LayerNorm(8), "tiny": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"'norm' \(LayerNorm\) has a weight of shape \(8,\)"):
        edkm.cluster(model, include=["norm"])
    with pytest.raises(ValueError, match="'tiny' has 4 weights, fewer than the 8 centroids"):
        edkm.cluster(model)
    with pytest.raises(ValueError, match="no clustered weight"):
        Clustering.of(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="max_norm"):
        edkm.cluster(nn.Sequential(nn.Embedding(20, 20, max_norm=1.0)))


def test_weights_that_have_no_values_are_named() -> None:
    model = Tied()
    with torch.no_grad():
        model.down.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="layer 'down': weight holds 1 NaN or infinite values"):
        edkm.cluster(model).start()
    with pytest.raises(ValueError, match="layer 'down': weight holds 1 NaN"):
        loss_of(model)
    with torch.device("meta"):
        empty = Tied()
    clustering = edkm.cluster(empty)
    for use in (clustering.start, clustering.palettes, lambda: empty(IDS.to("meta"))):
        with pytest.raises(ValueError, match="layer 'embed': weight is on the meta device"):
            use()


def test_a_second_call_says_what_is_clustered_already() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(16, 16))
    edkm.cluster(model)
    with pytest.raises(ValueError, match=r"clustered already \(1 layers, the first is '1'\)"):
        edkm.cluster(model, bits=4)
    with pytest.raises(ValueError, match="include names '1', which is clustered already"):
        edkm.cluster(model, include=["1"])
    assert list(edkm.cluster(model, conv=True).weights) == ["0.weight"]  # what is left
    assert set(Clustering.of(model).weights) == {"0.weight", "1.weight"}
    with pytest.raises(ValueError, match="2 layers, the first is '0'"):
        edkm.cluster(model, conv=True)


@pytest.mark.parametrize("mode", ["straight", "soft"])
def test_scales_and_importance_train_and_ship(mode: str) -> None:
    model = Tied()
    clustering = edkm.cluster(
        model, bits=2, embedding_bits=4, importance=True, row_scale=True,
    )  # fmt: skip
    scaled = [e.name for e in clustering.weights.values() if e.codebook.scale is not None]
    assert scaled == ["up.weight", "down.weight"]  # embeddings are looked up row by row
    clustering.set_mode(mode)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(20):
        clustering.new_step(step)
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    metrics = clustering.metrics()
    assert metrics["centroids_used_min"] > 0.4 and metrics["soft_hard_gap"] < 0.5
    logits, plain = model.eval()(IDS), Tied().eval()
    with torch.no_grad():
        plain.up.bias.copy_(model.up.bias)
        for name, palette in clustering.palettes().items():
            plain.get_parameter(name).copy_(palette.dense())
    assert torch.equal(logits, plain(IDS))


def test_schedules_refuse_what_cannot_be() -> None:
    clustering = edkm.cluster(Tied())
    with pytest.raises(ValueError, match="overlap"):
        edkm.schedule(clustering, 10, begin=0.6, straight=0.6)
    with pytest.raises(ValueError, match=r"begin is 2\.0"):
        edkm.schedule(clustering, 10, begin=2.0)
    with pytest.raises(ValueError, match="at least one"):
        edkm.schedule(clustering, 0)
    factors = [edkm.schedule(clustering, 5, tau_start=2.0, tau_end=0.5).step(i) for i in range(5)]
    assert (
        factors[0] == 2.0 and factors[-1] == pytest.approx(0.5) and factors == sorted(factors)[::-1]
    )


def test_importing_the_package_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, edkm; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    code += "; edkm.export.save"  # as the documents write it
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
