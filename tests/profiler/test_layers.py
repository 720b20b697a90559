"""Names of layers, matrices and models."""

from __future__ import annotations

import pytest

from profiler.layers import PRESETS, is_checkpoint, parse_layer


def test_a_preset_gives_its_first_matrix_unless_told_otherwise() -> None:
    assert parse_layer("attn31", 32, None).matrices == ("q_proj",)
    assert parse_layer("mlp0", 32, "down_proj").matrices == ("down_proj",)
    assert parse_layer("attn0", 32, "all").matrices == ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.mark.parametrize(
    "layer", ["attn32", "conv0", "attn", "attn-1", "", "attn0.q_proj", "attn1x"]
)
def test_an_unknown_layer_lists_the_valid_ones(layer: str) -> None:
    with pytest.raises(ValueError, match=r"attn0 \.\.\. attn31 and mlp0 \.\.\. mlp31") as error:
        parse_layer(layer, 32, None)
    assert repr(layer) in str(error.value)


def test_an_unknown_matrix_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="gate_proj, up_proj, down_proj and all"):
        parse_layer("mlp0", 2, "q_proj")


def test_shapes_are_those_of_the_published_models() -> None:
    assert PRESETS["llama-7b"].shape("q_proj") == (4096, 4096)
    assert PRESETS["llama-7b"].shape("down_proj") == (4096, 11008)
    assert PRESETS["llama-1b"].shape("k_proj") == (256, 2048)


def test_a_preset_name_is_no_folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama-7b").mkdir()
    assert not is_checkpoint("llama-7b")
    assert is_checkpoint("./llama-7b") and is_checkpoint(str(tmp_path)) and is_checkpoint("a/b")
    assert not is_checkpoint("llama-8b")
