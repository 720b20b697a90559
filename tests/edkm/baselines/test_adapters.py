"""The adapters' own work: files of integers, data-free text, fake quantization, adopted tables."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")

from edkm.baselines import Job
from edkm.baselines.calibrated import check_groups
from edkm.baselines.job import calibration_rows, load_source
from edkm.baselines.packed import Integers, load, read_integers, write_integers
from edkm.clustering import cluster
from edkm.export import save
from edkm.train.data import IGNORE
from tests.tiny_llama import tiny_llama

pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers' libraries


def llama(tie: bool = True) -> Any:
    changes = {"intermediate_size": 64, "num_hidden_layers": 1, "initializer_range": 0.3}
    return tiny_llama(tie_word_embeddings=tie, **changes).eval()


class Anything:
    """Stands for a tokenizer, or a model of which only the configuration is written."""

    config = property(lambda self: self)

    def save_pretrained(self, folder: Path) -> None:
        pass


def job(tmp_path: Path, **changes: Any) -> Job:
    text = tmp_path / "text.txt"
    values: dict[str, Any] = {
        "method": "rtn", "model": tmp_path, "text_train": text, "text_heldout": text,
        "out": tmp_path, "bits": 3, "group_size": 16,
    }  # fmt: skip
    return Job(**{**values, **changes})


@settings(max_examples=25)
@given(
    bits=st.integers(2, 8),
    rows=st.integers(1, 9),
    groups=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_integers_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, bits: int, rows: int, groups: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator, dtype=torch.int8)

    scale = torch.rand(rows, groups, generator=generator).half()
    weights = {
        "a": Integers(draw(rows, groups * 32), scale, draw(rows, groups), bits),
        "b": Integers(draw(rows, groups * 32), scale * 2, None, bits),
    }
    folder = tmp_path_factory.mktemp("file")
    write_integers(weights, {"norm": torch.ones(3)}, Anything(), Anything(), folder)
    found, rest = read_integers(folder)
    assert list(rest) == ["norm"]
    for name, weight in weights.items():
        assert found[name].bits == bits
        assert torch.equal(found[name].values, weight.values)
        assert torch.equal(found[name].dequantize(), weight.dequantize())


def test_dequantizing_is_what_it_says() -> None:
    values = torch.tensor([[-4, 3, 0, 1]], dtype=torch.int8)
    zero = torch.tensor([[1, -1]], dtype=torch.int8)
    weight = Integers(values, torch.tensor([[2.0, 0.5]]), zero, 3)
    assert weight.dequantize().tolist() == [[-10.0, 4.0, 0.5, 1.0]]


def test_what_was_fake_quantized_is_what_the_file_holds(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    from edkm.baselines.qat import convert, prepare

    model = llama()
    plain = copy.deepcopy(model)
    prepare(model, 3, 8, 16)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = torch.arange(12).unsqueeze(0)
    with torch.no_grad():
        expected = model(ids).logits
        dense = plain(ids).logits
    weights, rest = convert(model)
    assert {weight.bits for weight in weights.values()} == {3, 8}
    assert "lm_head" not in weights
    folder = write_integers(weights, rest, plain, Anything(), tmp_path / "model")
    with torch.no_grad():
        found = load(folder)(ids).logits
    half = 2.0**-10  # two roundings of scales to 16 bits meet in a product
    assert (found - expected).norm() < 8 * half * expected.norm()
    assert (dense - expected).norm() > 100 * half * expected.norm()


def test_a_palettized_model_is_refused(tmp_path: Path) -> None:
    model = llama()
    cluster(model, 3)
    save(model, tmp_path / "model")
    with pytest.raises(ValueError, match="is palettized"):
        load_source(job(tmp_path / "model"))


def test_fake_quantized_weights_learn() -> None:
    pytest.importorskip("torchao")
    from edkm.baselines.qat import prepare

    model = llama()
    prepare(model, 2, 8, 16)
    model(torch.arange(12).unsqueeze(0)).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name


def test_the_teacher_writes_whole_sequences_of_its_own() -> None:
    from edkm.baselines.qat import GREEDY, data_free_rows

    teacher = llama()
    rows = data_free_rows(teacher, 5, 24, seed=3)
    assert [len(row.ids) for row in rows] == [24] * 5
    assert len({row.ids[1] for row in rows}) > 1  # first tokens are random
    for row in rows:
        assert row.ids[0] == 1 and row.labels[0] == IGNORE and row.labels[1:] == row.ids[1:]
        for at in range(2, 2 + GREEDY):  # then greedy ones
            with torch.no_grad():
                best = teacher(torch.tensor([row.ids[:at]])).logits[0, -1].topk(2).indices.tolist()
            assert row.ids[at] == best[0] or row.ids[at] == best[1]  # a stop token is passed over
    assert data_free_rows(teacher, 5, 24, seed=3) == rows
    assert data_free_rows(teacher, 5, 24, seed=4) != rows


def test_coremltools_values_become_the_table() -> None:
    pytest.importorskip("coremltools")
    from edkm.baselines.palettizers import adopt

    model = llama()
    layers = model.model.layers[0].mlp
    layers.gate_proj = layers.down_proj = torch.nn.Identity()
    with torch.no_grad():
        layers.up_proj.weight.copy_(layers.up_proj.weight.sign() * 0.25)
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module.weight.shape[0] < 64:
                module.weight.copy_((module.weight * 4).round().clamp(-2, 2))
    before = layers.up_proj.weight.detach().clone()
    clustering = cluster(model, 3)
    adopt(clustering, 3)
    entry = clustering.weights["model.layers.0.mlp.up_proj.weight"]
    assert sorted(entry.codebook.centroids.unique().tolist()) == [-0.25, 0.25]
    assert torch.equal(entry.palette().dense(), before)
    with torch.no_grad():
        layers_now = clustering.weights["model.layers.0.mlp.up_proj.weight"].weight
        layers_now.copy_(torch.randn_like(layers_now))
    with pytest.raises(ValueError, match=r"up_proj\.weight holds 2048 values"):
        adopt(clustering, 3)


def test_groups_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"group_size is 24, but model\.embed.* rows of 32"):
        check_groups(llama(), 24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, "method is 'magic'"),
        ({"bits": 1}, "bits is 1"),
        ({"group_size": 0}, "group_size is 0"),
        ({"learning_rate": 3.0}, "learning_rate is 3.0"),
    ],
)
def test_bad_jobs_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job(tmp_path, **changes)


def test_a_job_travels_as_json(tmp_path: Path) -> None:
    first = job(tmp_path, tasks=tmp_path / "eval")
    assert Job.from_json(first.as_json()) == first
    assert Job.from_json(job(tmp_path).as_json()).tasks is None


def test_calibration_rows_follow_the_seed(tmp_path: Path) -> None:
    class Letters:
        bos_token_id = None

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) % 50 for letter in text]}

    (tmp_path / "text.txt").write_text("".join(chr(32 + i % 90) for i in range(800)))

    def rows(seed: int) -> list[list[int]]:
        made = calibration_rows(job(tmp_path, sequence=8, calibration=5, seed=seed), Letters())
        return [row.ids for row in made]

    assert len(rows(0)) == 5
    assert rows(0) == rows(0) != rows(1)
