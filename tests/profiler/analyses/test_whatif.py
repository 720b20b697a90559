"""What is predicted from one run is what another run measures: M, S, U, offload, checkpoint."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edkm.dkm import dense_dkm
from edkm.saved import SavedTensorPolicy, offload
from profiler import Tracer, open_run
from profiler.analyses.whatif import Measured, Prediction, Scenario, measured, what_if
from profiler.layer_run import LayerRun, run_layer
from profiler.query import Run
from tests.profiler.analyses.runs import float32, run_of

FIGURES = ("peak", "device", "host", "peer", "d2h", "h2d")
LLAMA = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


def agrees(one: Prediction, real: Measured | None, tolerance: float) -> None:
    assert real is not None
    for name in FIGURES:
        expected = getattr(real, f"measured_{name}_bytes")
        got = getattr(one, f"predicted_{name}_bytes")
        assert abs(got - expected) <= tolerance * expected, (one.scenario, name, got, expected)


def test_the_ablation_is_predicted_from_its_first_row(tmp_path: Path) -> None:
    rows = ("none", "M", "M+S", "S")
    layer = LayerRun(
        layer="attn0", model="llama-tiny", matrix="q_proj", bits=3, iterations=2, learners=4,
        configs=rows, text=None, batch=1, length=8, dtype="bfloat16", device="cpu", tau=None,
        seed=0,
    )  # fmt: skip
    run_layer(layer, tmp_path / "run", lambda _: None, force=False, pictures=False)
    scenarios = [
        Scenario(), Scenario(dedupe=True), Scenario(dedupe=True, shard=4), Scenario(shard=4),
    ]  # fmt: skip
    with open_run(tmp_path / "run") as run:
        found = what_if(run, scenarios, 0)
        (other,) = what_if(run, [Scenario(dedupe=True, shard=8)], 0).predictions
        asked = [one.scenario for one in what_if(run, step=0).predictions]
    assert other.beside is None  # the run sharded over 4
    assert "M+S over 4 learners" in asked
    assert [one.beside and one.beside.name for one in found.predictions] == list(rows)
    for one in found.predictions:
        agrees(one, one.beside, 0.0)
    none, marshaled, both, _ = found.predictions
    assert marshaled.predicted_host_bytes < none.predicted_host_bytes / 2
    assert both.predicted_peer_bytes > both.predicted_host_bytes


def cluster(path: Path, level: Any, policy: SavedTensorPolicy) -> Run:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(64, 96, dtype=torch.bfloat16) / 50)
    with Tracer(path, level=level) as tracer, tracer.step():
        with policy:
            centroids = weight.detach().view(-1)[:8].view(-1, 1)
            out = dense_dkm(weight, centroids, tau=1e-4, iterations=2).clustered
        out.float().square().sum().backward()
    return open_run(path)


def test_tables_are_predicted_from_distinct_values(tmp_path: Path) -> None:
    plain = cluster(tmp_path / "none", "values", SavedTensorPolicy(marshal=False))
    tables = cluster(tmp_path / "U", "full", SavedTensorPolicy(uniquify=True))
    shards = cluster(tmp_path / "US", "full", SavedTensorPolicy(uniquify=True, shard=3))
    asked = [
        Scenario(dedupe=True, uniquify=True), Scenario(dedupe=True, uniquify=True, shard=3),
    ]  # fmt: skip
    for one, real in zip(what_if(plain, asked).predictions, (tables, shards), strict=True):
        agrees(one, measured(real), 0.0)
        assert not one.upper_bound
    unread = cluster(tmp_path / "full", "full", SavedTensorPolicy(marshal=False))
    (bound,) = what_if(unread, asked[:1]).predictions
    assert bound.upper_bound and any("upper bound" in note for note in bound.assumes)
    assert bound.predicted_host_bytes >= measured(tables).measured_host_bytes
    (plainly,) = what_if(unread, [Scenario(dedupe=True)]).predictions
    assert bound.predicted_host_bytes <= plainly.predicted_host_bytes


def llama(dtype: torch.dtype) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**LLAMA)).to(dtype).train()


def train(path: Path, model: Any, context: Callable[[], Any], vocabulary: int = 256) -> Run:
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(0, vocabulary, (4, 128), generator=torch.Generator().manual_seed(1))
    with Tracer(path, model=model) as tracer:
        for _ in range(2):
            with tracer.step():
                with context():
                    loss = model(input_ids=ids, labels=ids).loss
                loss.backward()
                del loss
                optimizer.step()
                optimizer.zero_grad()
    return open_run(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_llama_offloaded_and_checkpointed_is_as_predicted(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    plain = train(tmp_path / "plain", llama(dtype), contextlib.nullcontext)
    check_against(plain, lambda: llama(dtype), tmp_path, 256)


@pytest.mark.realdata
def test_a_trained_llama_is_as_predicted(tmp_path: Path, realdata: Path) -> None:
    from transformers import LlamaForCausalLM

    def load() -> Any:
        return LlamaForCausalLM.from_pretrained(realdata / "models/stories260K").train()

    vocabulary = load().config.vocab_size
    plain = train(tmp_path / "plain", load(), contextlib.nullcontext, vocabulary)
    check_against(plain, load, tmp_path, vocabulary)


def check_against(plain: Run, load: Callable[[], Any], folder: Path, vocabulary: int) -> None:
    inner = ("model.layers.1", "model.layers.2")
    for name, patterns in (("all", ("*",)), ("two", inner)):
        model = load()
        include = None if name == "all" else list(inner)
        real = train(folder / name, model, lambda m=model, i=include: offload(m, include=i),
                     vocabulary)  # fmt: skip
        scenario = Scenario(dedupe=True, offload=patterns)
        for step in (0, 1):
            (one,) = what_if(plain, [scenario], step).predictions
            agrees(one, measured(real, step), 0.02)
    model = load()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.config.use_cache = False
    real = train(folder / "checkpoint", model, contextlib.nullcontext, vocabulary)
    for step in (0, 1):
        scenario = Scenario(checkpoint=("model.layers.*",))
        (one,) = what_if(plain, [scenario], step).predictions
        agrees(one, measured(real, step), 0.02)
    assert one.predicted_peak_bytes < measured(plain).measured_peak_bytes  # type: ignore[operator]


def test_m_and_s_of_a_whole_model_are_predicted_from_any_run(tmp_path: Path) -> None:
    policies = {
        "plain": contextlib.nullcontext,
        "every": lambda: SavedTensorPolicy(marshal=False, skip_parameters=True),
        "M": lambda: SavedTensorPolicy(skip_parameters=True),
        "M+S": lambda: SavedTensorPolicy(skip_parameters=True, shard=4),
    }
    runs = {
        name: train(tmp_path / name, llama(torch.bfloat16), context)
        for name, context in policies.items()
    }
    asked = {
        "every": Scenario(every=True), "M": Scenario(dedupe=True),
        "M+S": Scenario(dedupe=True, shard=4),
    }  # fmt: skip
    for source in ("plain", "every", "M"):
        for name, scenario in asked.items():
            (one,) = what_if(runs[source], [scenario]).predictions
            agrees(one, measured(runs[name]), 0.0)
    for name in ("plain", "every", "M"):
        (same,) = what_if(runs[name], [Scenario()]).predictions
        agrees(same, measured(runs[name]), 0.0)
        assert same.scenario == "as recorded"


def test_the_usual_questions_are_asked(tmp_path: Path) -> None:
    model = nn.Sequential(*[nn.Sequential(nn.Linear(32, 32), nn.GELU()) for _ in range(3)])
    x = torch.randn(16, 32)
    with Tracer(tmp_path / "run", model=model) as tracer, tracer.step():
        model(x).sum().backward()
    found = what_if(open_run(tmp_path / "run"))
    names = [one.scenario for one in found.predictions]
    assert names[0] == "copy every save" and "checkpoint each *" in names
    every, once = found.predictions[:2]
    assert every.predicted_host_bytes >= once.predicted_host_bytes > 0
    assert once.predicted_device_bytes < found.base.measured_device_bytes
    whole = json.loads(json.dumps(found.to_json()))
    numbers = [key for key in whole["predictions"][0] if key.endswith("_bytes")]
    assert numbers and all(key.startswith("predicted_") for key in numbers)


def test_wrong_questions_name_what_there_is(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [float32(1, 1, [400], module="a.b")])
    with pytest.raises(ValueError, match=r"offload 'c': no module that saved anything .* are a.b"):
        what_if(run, [Scenario(offload=("c",))])
    with pytest.raises(ValueError, match="shard 0: learners must be from 1"):
        Scenario(shard=0)
    with pytest.raises(ValueError, match="record it at level full"):
        what_if(run_of(tmp_path / "empty"), [Scenario()])
