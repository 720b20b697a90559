"""Palettized folders: what is written is what eval computed, and comes back so, at its size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import edkm
from edkm.export import bake, load, read_palettes, save, size_bound

transformers = pytest.importorskip("transformers")

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
def test_size_on_disk(tmp_path: Path, realdata: Path) -> None:
    folder = realdata / "models" / "stories3M"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    clustering = edkm.cluster(model, bits=3)
    save(model, tmp_path / "m")
    weights = sum(e.weight.numel() * e.codebook.config.bits for e in clustering.weights.values())
    tables = sum(4 * e.codebook.config.clusters for e in clustering.weights.values())
    assert size_bound(clustering.palettes()) == weights // 8 + tables
    assert (tmp_path / "m" / "model.safetensors").stat().st_size < 1.02 * (weights / 8 + tables)


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
    path = tmp_path / "m" / "model.safetensors"
    tensors = load_file(path)
    palettes, _, _ = read_palettes(tmp_path / "m")
    name = next(iter(palettes))
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors[f"{name}.indices"] = tensors[f"{name}.indices"][:-5].clone()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match="bytes of indices"):
        load(tmp_path / "m")
    save_file(tensors, path, metadata={**metadata, "edkm": '{"version": 7}'})
    with pytest.raises(ValueError, match="format version 7"):
        load(tmp_path / "m")
