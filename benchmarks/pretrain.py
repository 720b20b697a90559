"""A LLaMA of our own, trained from scratch on a text: a subject that every compressor accepts.

All dimensions are multiples of 128, so that groups of 128 divide every weight. The tokenizer is a
byte-level BPE learnt from the training text alone. The loop is `edkm.train` without clustering:
deterministic by seed on one machine and thread count, and resumable. Writes OUT/model, and JSON
with `--result`.

    python benchmarks/pretrain.py --text TRAIN --heldout HELDOUT --out OUT [--preset cpu] [--resume]

`--text` may be a folder: its .txt files, in order of name. With `--share 0.5` the model sees the
first half of the lines and OUT/rest.txt has the others, for tuning on text that is new to it.
Sequences of 256 tokens, AdamW, cosine to 0. The preset `cpu` is for half a megabyte of text: few
tokens in the vocabulary, so that the numbers are in the layers; strong weight decay against
learning by heart; products in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from edkm.evaluate.__main__ import measure
from edkm.train import TrainConfig, run
from profiler.machine import collect_hardware, collect_versions, utc_now


@dataclass(frozen=True)
class Shape:
    """A LLaMA with tied embeddings, and how long it is trained."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    steps: int
    batch: int  # sequences of 256 tokens a step
    learning_rate: float
    weight_decay: float
    dtype: str  # of the weights
    products: str  # of matrix products


PRESETS = {
    "test": Shape(128, 128, 1, 4, 4, 384, 4, 2, 2e-3, 0.1, "float32", "bfloat16"),
    # 5.24M parameters; 2M tokens.
    "cpu": Shape(256, 768, 6, 8, 8, 512, 1000, 8, 2e-3, 1.0, "float32", "bfloat16"),
    # 157M parameters, for a GPU and a text of some 100 MB.
    "gpu": Shape(1024, 2816, 12, 16, 8, 16384, 20000, 64, 6e-4, 0.1, "bfloat16", "bfloat16"),
}


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    shape = PRESETS[options.preset]
    out = Path(options.out)
    text = gather(Path(options.text), out)
    if options.share < 1:
        text = split(text, options.share, out)
    if not (out / "start" / "config.json").is_file():
        make_start(shape, text, options.seed, out / "start")
    config = TrainConfig(
        model=out / "start",
        data=text,
        heldout=Path(options.heldout),
        out=out,
        plain=True,
        max_steps=options.steps or shape.steps,
        batch_size=shape.batch,
        learning_rate=shape.learning_rate,
        weight_decay=shape.weight_decay,
        warmup=50,
        dtype=shape.dtype,
        save_every=25,
        seed=options.seed,
    )
    with products_in(shape):
        metrics = run(config, resume=options.resume)
    result = {
        "benchmark": "pretrain",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "preset": options.preset,
        "share": options.share,
        "shape": asdict(shape),
        "threads": options.threads,
        "seed": options.seed,
        "parameters": parameters(out / "model"),
        "tokens_seen": metrics["steps"] * shape.batch * config.sequence,
        **quality(out / "model", Path(options.heldout)),
        **{k: metrics[k] for k in ("steps", "tuning_s", "file_bytes", "log")},
        "tuning_s_note": "of the last start only, where the run was resumed",
    }
    print(
        f"{result['parameters']:,} parameters, perplexity {result['perplexity']:.2f} "
        f"({result['bits_per_byte']:.3f} bits a byte)"
    )
    if options.result:
        Path(options.result).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="training text, or a folder of .txt files")
    parser.add_argument("--heldout", required=True, help="text to measure on")
    parser.add_argument("--out", required=True, help="folder of the model and its checkpoints")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--steps", type=int, help="optimizer steps; default: the preset's")
    parser.add_argument("--share", type=float, default=1.0, help="of the lines; the rest: rest.txt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--result", help="write numbers, versions and hardware here as JSON")
    options = parser.parse_args()
    if not 0 < options.share <= 1:
        parser.error(f"--share is {options.share}; it must be above 0 and at most 1")
    return options


def gather(source: Path, out: Path) -> Path:
    """The one training file: ``source`` itself, or its .txt files put together."""
    if source.is_file():
        return source
    parts = sorted(source.glob("*.txt"))
    if not parts:
        raise SystemExit(f"error: --text {source} is no file and holds no .txt; give a text")
    out.mkdir(parents=True, exist_ok=True)
    joined = out / "text.txt"
    joined.write_text("\n".join(p.read_text(encoding="utf-8") for p in parts), encoding="utf-8")
    return joined


def split(text: Path, share: float, out: Path) -> Path:
    """The file of the first ``share`` of the lines; the others are in ``out/rest.txt``."""
    lines = text.read_text(encoding="utf-8").splitlines()
    kept = round(share * len(lines))
    if not 0 < kept < len(lines):
        raise SystemExit(f"error: --share {share} of {len(lines)} lines leaves one part empty")
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("first.txt", lines[:kept]), ("rest.txt", lines[kept:])):
        (out / name).write_text("\n".join(part) + "\n", encoding="utf-8")
    return out / "first.txt"


def make_start(shape: Shape, text: Path, seed: int, folder: Path) -> None:
    """Write a tokenizer learnt from ``text`` and a model of random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    learn_tokenizer(text, shape.vocabulary).save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]


def learn_tokenizer(text: Path, size: int) -> Any:
    """Byte-level BPE of ``size`` entries, the first two ``<s>`` and ``</s>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train([str(text)], trainer)
    if inner.get_vocab_size() != size:
        raise SystemExit(
            f"error: {text} yields {inner.get_vocab_size()} of {size} tokens; give a longer text"
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")  # type: ignore[no-untyped-call]


def products_in(shape: Shape) -> AbstractContextManager[Any]:
    """Matrix products in the shape's type, whatever that of the weights."""
    if shape.products == shape.dtype:
        return nullcontext()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # converted weights are not kept: they would outlive the steps that change them
    return torch.autocast(device, getattr(torch, shape.products), cache_enabled=False)


def quality(folder: Path, heldout: Path) -> dict[str, float]:
    """Perplexity a token, and bits a byte, which other vocabularies' can be compared with."""
    from transformers import AutoTokenizer

    found = measure(folder, heldout, [], sequence=256)[heldout.name]["perplexity"]
    text = heldout.read_text(encoding="utf-8")
    tokens = len(AutoTokenizer.from_pretrained(folder)(text, verbose=False)["input_ids"])
    bits = math.log2(found) * tokens / len(text.encode())
    return {"perplexity": found, "bits_per_byte": bits}


def parameters(folder: Path) -> int:
    """Numbers in the model's files, each counted once."""
    from safetensors import safe_open

    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            total += sum(tensors.get_tensor(name).numel() for name in tensors.keys())
    return total


if __name__ == "__main__":
    main()
