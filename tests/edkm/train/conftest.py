"""A model, a tokenizer and data small enough to train in a second, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

from tests.tiny_llama import tiny_llama  # noqa: E402  (needs transformers)

WORDS = [
    *"the a cat dog sat ran on under mat tree and then it was very happy sad big small".split(),
    *"Below is an instruction that describes task paired with input provides further".split(),
    *"context Write response appropriately completes request Instruction Input Response".split(),
    *". , : # ! ?".split(),
]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer LLaMA of random weights and a word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny") / "model"
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *dict.fromkeys(WORDS)])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()]
    )
    tokenizer: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    tiny_llama(max_position_embeddings=128).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def alpaca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rows of Alpaca's format."""
    rows = [
        {
            "instruction": f"the {animal} {verb}",
            "input": "" if index % 2 else "on the mat",
            "output": f"then the {animal} was very {mood} .",
        }
        for index, (animal, verb, mood) in enumerate(
            (animal, verb, mood)
            for animal in ("cat", "dog", "tree", "mat")
            for verb in ("sat", "ran", "was big", "was small", "sat under")
            for mood in ("happy", "sad")
        )
    ]
    path = tmp_path_factory.mktemp("data") / "alpaca.json"
    path.write_text(json.dumps(rows))
    return path
