"""Two libraries, one answer: RTN by llmcompressor and torchao, DKM by coremltools and by us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edkm.dkm import dense_dkm

# These libraries deprecate and warn while they are imported; what they compute is asserted.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def ao() -> Any:
    pytest.importorskip("llmcompressor")
    return pytest.importorskip("torchao.quantization")


def torchao_rtn(folder: Path, ao: Any, group: int) -> Any:
    """The model with 4-bit linear layers and 8-bit embeddings, by torchao."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    for bits, inner in ((4, True), (8, False)):

        def chosen(module: nn.Module, name: str, inner: bool = inner) -> bool:
            outer = isinstance(module, nn.Embedding) or name.endswith("lm_head")
            return isinstance(module, nn.Linear) and not outer if inner else outer

        config = ao.IntxWeightOnlyConfig(
            getattr(torch, f"int{bits}"),
            ao.PerGroup(group),
            mapping_type=ao.MappingType.ASYMMETRIC,
        )
        ao.quantize_(model, config, filter_fn=chosen)
    return model


@pytest.mark.realdata
@pytest.mark.timeout(300)
def test_rtn_by_two_libraries_is_one(realdata: Path, tmp_path: Path, ao: Any) -> None:
    from transformers import AutoTokenizer

    from edkm.baselines import Job, compress
    from edkm.baselines.job import read_rows
    from edkm.baselines.packed import load, read_integers
    from edkm.evaluate import perplexity

    source, text = realdata / "models" / "stories260K", realdata / "text"
    job = Job(
        method="rtn",
        model=source,
        text_train=text / "tinystories_train.txt",
        text_heldout=text / "tinystories_heldout.txt",
        out=tmp_path,
        bits=4,
        group_size=4,
    )
    folder = compress(job)
    other = torchao_rtn(source, ao, group=4)
    weights, _ = read_integers(folder)
    assert len(weights) == 5 * 7 + 1  # the tied head is stored once
    for name, weight in weights.items():
        theirs: Any = other.get_submodule(name).weight
        assert torch.equal(weight.values, theirs.qdata), name
        assert weight.zero is not None
        assert torch.equal(weight.zero.int(), theirs.zero_point.int()), name
        half = 2.0**-11  # scales are stored in 16 bits
        torch.testing.assert_close(weight.scale.float(), theirs.scale, rtol=half, atol=2.0**-25)
    rows = read_rows(job.text_heldout, AutoTokenizer.from_pretrained(source), 256)[:24]
    assert perplexity(load(folder), rows) == pytest.approx(perplexity(other, rows), rel=1e-4)


@pytest.mark.parametrize("updates", [1, 3])
def test_dkm_by_its_authors_is_ours(updates: int) -> None:
    pytest.importorskip("coremltools")
    from coremltools.optimize.torch.palettization import FakePalettize

    torch.manual_seed(0)
    weight = torch.randn(24, 16, requires_grad=True)
    start = torch.linspace(-2, 2, 8).unsqueeze(1)
    theirs = FakePalettize(
        torch.ao.quantization.MinMaxObserver,
        dtype=torch.qint8,  # of the table, which stays as it is (lut_dtype f32)
        n_bits=3,
        cluster_dim=1,
        advanced_options={
            "palett_tau": 0.05,
            "kmeans_max_iter": updates,
            "prune_threshold": 0.0,
            "palett_epsilon": 0.0,
        },
    )
    theirs.enable_fake_palett()
    theirs.create_partitions(weight.detach())
    theirs.centroids = [start.clone()]
    theirs.train()
    pull = torch.randn(24, 16)
    out = theirs(weight)
    (expected,) = torch.autograd.grad((out * pull).sum(), weight)

    ours = dense_dkm(weight, start, tau=0.05, iterations=updates)
    (found,) = torch.autograd.grad((ours.clustered * pull).sum(), weight)
    torch.testing.assert_close(ours.centroids, theirs.centroids[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.clustered, out, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
