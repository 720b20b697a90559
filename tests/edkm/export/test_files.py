"""Palettized folders: what is written is what eval computed, and comes back so, at its size."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import edkm
from edkm.export import bake, load, read_palettes, save, size_bound
from edkm.export.__main__ import app
from edkm.export.kind import check_plain, is_palettized

transformers = pytest.importorskip("transformers")

from tests.edkm.train.disk import limit  # noqa: E402
from tests.tiny_llama import tiny_llama  # noqa: E402  (needs transformers)

IDS = torch.tensor([[1, 5, 9, 33, 60]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tied", "scaled"), [(True, False), (False, False), (True, True)])
def test_a_folder_comes_back_as_eval_computed(
    tmp_path: Path, tied: bool, scaled: bool, dtype: torch.dtype
) -> None:
    model = tiny_llama(tie_word_embeddings=tied).to(dtype)
    edkm.cluster(model, bits=3, embedding_bits=6, row_scale=scaled)
    expected = model.eval()(IDS).logits
    save(model, tmp_path / "m")
    palettes = read_palettes(tmp_path / "m")[0]
    assert sum(palette.scale is not None for palette in palettes.values()) == 14 * scaled
    packed, dense = load(tmp_path / "m"), load(tmp_path / "m", dense=True)
    assert torch.equal(dense(IDS).logits, expected)
    torch.testing.assert_close(packed(IDS).logits, expected)
    assert type(dense.lm_head) is torch.nn.Linear
    assert (dense.lm_head.weight is dense.model.embed_tokens.weight) == tied
    shared = packed.lm_head.indices.data_ptr() == packed.model.embed_tokens.indices.data_ptr()
    assert shared == tied
    text = packed.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=2)
    assert torch.equal(text, dense.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=2))


def test_baked_folders_are_plain(tmp_path: Path) -> None:
    model = tiny_llama()
    edkm.cluster(model, bits=2, embedding_bits=4)
    expected = model.eval()(IDS).logits
    bake(save(model, tmp_path / "m"), tmp_path / "plain")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    assert torch.equal(plain(IDS).logits, expected)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["stories3M", "stories260K"])
def test_size_on_disk(tmp_path: Path, realdata: Path, name: str) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(realdata / "models" / name)
    clustering = edkm.cluster(model, bits=3)
    save(model, tmp_path / "m")
    entries = clustering.weights.values()
    weights = sum(e.weight.numel() * e.codebook.config.bits for e in entries) // 8
    tables = sum(4 * e.codebook.config.clusters for e in entries)
    assert size_bound(clustering.palettes()) == weights + tables
    clustered = sum(e.weight.numel() for e in entries)
    norms = 4 * (sum(p.numel() for p in model.parameters()) - clustered)  # at their 32 bits
    size = (tmp_path / "m" / "model.safetensors").stat().st_size
    assert size <= 1.02 * (weights + tables + norms)
    assert size - (weights + tables + norms) < 1600  # the header, however many layers there are


def test_writing_fails_without_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    edkm.cluster(model)
    save(model, tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edkm.export.write.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save(model, tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path)
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not a palettized model"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678901234567890")
    with pytest.raises(ValueError, match="not a readable safetensors"):
        load(tmp_path)
    with pytest.raises(ValueError, match="no clustered weight"):
        save(tiny_llama(), tmp_path / "m")
    model = tiny_llama()
    edkm.cluster(model)
    save(model, tmp_path / "m")
    assert isinstance(load(tmp_path / "m"), transformers.LlamaForCausalLM)


DAMAGE = [  # what becomes of the tensors and of the header, and what is said
    (lambda t: {**t, "indices": t["indices"][:-5].clone()}, {}, "the file is cut or misread"),
    (lambda t: {**t, "indices": t["indices"].repeat(2)}, {}, "of which the header describes"),
    (lambda t: {**t, "extra": torch.zeros(3)}, {}, "'extra' holds 3 elements"),
    (lambda t: {**t, "indices": t["indices"].short()}, {}, "should be torch.uint8"),
    (lambda t: {k: v for k, v in t.items() if k != "tables.float32"}, {}, "is nothing"),
    (lambda t: {**t, "tables.float32": t["tables.float32"] * torch.nan}, {}, r"table of .* NaN"),
    (dict, {"version": 7}, "format version 7"),
    (dict, {"tensors": 3}, "damaged header"),
    (dict, {"tensors": {"a": {"shape": [2, "x"]}}}, "damaged header"),
    (dict, {"tensors": {"a": {"shape": [2], "bits": 9}}}, "damaged header.*bits is 9"),
    (dict, {"tensors": {"0-99999999": {"a": {"shape": [2]}}}}, "no run of layers"),
    (dict, {"tensors": {"a": {"shape": [0, 4], "bits": 3}}}, "a: .*for a weight of shape"),
    (dict, {"tensors": {"a": {"shape": [8, 4], "bits": 3, "groups": 3}}}, "a: 3 tables"),
    (dict, {"tensors": {"a": {"shape": [8, 4], "bits": 3, "clusters": 2}}}, "into a table of 2"),
    (dict, {"dtype": "nn"}, "which torch does not have"),
]


@pytest.mark.parametrize(("damage", "header", "message"), DAMAGE)
def test_damaged_files_say_what_is_wrong(
    tmp_path: Path, damage: Any, header: dict[str, object], message: str
) -> None:
    model = tiny_llama()
    edkm.cluster(model)
    path = save(model, tmp_path / "m") / "model.safetensors"
    with safe_open(path, "pt") as file:
        found = json.loads(file.metadata()["edkm"])
    if header.get("tensors"):
        found["tied"] = {}
    save_file(damage(load_file(path)), path, metadata={"edkm": json.dumps({**found, **header})})
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m")


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    model = tiny_llama()
    edkm.cluster(model)
    path = save(model, tmp_path / "m") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="not a readable safetensors"):
        load(tmp_path / "m")


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_earlier_releases_are_read(tmp_path: Path, version: int) -> None:
    model = tiny_llama()
    edkm.cluster(model, bits=3, embedding_bits=5, row_scale=version == 2)
    expected = model.eval()(IDS).logits
    save(model, tmp_path / "m")
    palettes, tensors, tied = read_palettes(tmp_path / "m")
    weights = {name: [palette.bits, palette.shape] for name, palette in palettes.items()}
    for name, palette in palettes.items():
        tensors |= {f"{name}.table": palette.table, f"{name}.indices": palette.packed}
        if palette.scale is not None:
            tensors[f"{name}.scale"] = palette.scale
    text = json.dumps({"version": version, "weights": weights, "tied": tied})
    save_file(tensors, tmp_path / "m" / "model.safetensors", metadata={"edkm": text})
    assert torch.equal(load(tmp_path / "m", dense=True)(IDS).logits, expected)


@pytest.mark.parametrize("scaled", [False, True])
def test_groups_go_along(tmp_path: Path, scaled: bool) -> None:
    model = tiny_llama(dtype=torch.bfloat16)
    edkm.cluster(model, bits=3, embedding_bits=6, group_size=8, row_scale=scaled)
    expected = model.eval()(IDS).logits
    save(model, tmp_path / "m")
    groups = {name: palette.groups for name, palette in read_palettes(tmp_path / "m")[0].items()}
    assert groups["model.layers.1.mlp.up_proj.weight"] == 48 // 8
    assert groups["model.embed_tokens.weight"] == 1
    assert torch.equal(load(tmp_path / "m", dense=True)(IDS).logits, expected)
    torch.testing.assert_close(load(tmp_path / "m")(IDS).logits, expected)


def test_folders_are_told_apart_and_damage_is_named(tmp_path: Path) -> None:
    model = tiny_llama()
    edkm.cluster(model)
    packed, plain = save(model, tmp_path / "m"), tmp_path / "plain"
    bake(packed, plain)
    assert is_palettized(packed) and not is_palettized(plain)
    check_plain("model", plain)
    with pytest.raises(ValueError, match=r"teacher .* is palettized, and tuning takes plain"):
        check_plain("teacher", packed)  # transformers would give it random weights
    with pytest.raises(ValueError, match="holds no model"):
        is_palettized(tmp_path)
    file = plain / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"plain/model\.safetensors is not a readable"):
        is_palettized(plain)


def test_nothing_but_a_model_is_replaced(tmp_path: Path) -> None:
    model = tiny_llama()
    edkm.cluster(model)
    packed, notes = tmp_path / "m", tmp_path / "notes.txt"
    assert save(model, packed) == save(model, packed)  # an earlier model may be
    notes.write_text("mine")
    for taken in (tmp_path, notes):
        with pytest.raises(ValueError, match="holds other things than a model"):
            save(model, taken)
        with pytest.raises(ValueError, match="holds other things than a model"):
            bake(packed, taken)
    with pytest.raises(ValueError, match="the palettized folder itself"):
        bake(packed, packed)
    assert notes.read_text() == "mine" and is_palettized(packed)


def test_another_model_is_replaced_by_force_alone(tmp_path: Path) -> None:
    model = tiny_llama()
    model.save_pretrained(tmp_path / "plain")
    kept = (tmp_path / "plain" / "model.safetensors").read_bytes()
    edkm.cluster(model)
    packed, plain = save(model, tmp_path / "m"), tmp_path / "plain"
    with pytest.raises(ValueError, match=r"plain holds a model already.*--force"):
        save(model, plain)
    done = CliRunner().invoke(app, [str(packed), "--dense", str(plain)])
    assert done.exit_code == 2 and "holds a model already" in done.stderr
    assert (plain / "model.safetensors").read_bytes() == kept
    link = tmp_path / "link"
    link.symlink_to(plain)
    assert CliRunner().invoke(app, [str(packed), "--dense", str(link), "--force"]).exit_code == 0
    assert (plain / "model.safetensors").read_bytes() != kept and link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "m", "plain"]


def test_a_disk_that_fills_leaves_the_earlier_model(tmp_path: Path) -> None:
    earlier, later = tiny_llama(), tiny_llama(seed=1)
    for model in (earlier, later):
        edkm.cluster(model)
    path = save(earlier, tmp_path / "m") / "model.safetensors"
    held = path.read_bytes()
    limit(len(held) // 2)
    try:
        with pytest.raises(OSError, match="File too large"):
            save(later, tmp_path / "m")
    finally:
        limit(resource.RLIM_INFINITY)
    assert path.read_bytes() == held
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
