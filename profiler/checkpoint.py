"""A real Hugging Face LLaMA checkpoint as a workload: one training step on real text.

Contract: the matrices of the chosen layer are clustered by parametrizations inside the model's
own forward; everything else of the step is the model's own.
Boundary: loads and steps; it measures nothing. Needs the extra `train` (transformers).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from profiler.layers import LayerName, parse_layer
from profiler.workloads import ClusteredMatrix, Workload


def read_config(path: str) -> dict[str, Any]:
    """The checkpoint's config.json.

    Raises:
        ValueError: the folder or the file is missing or broken, or the model is no LLaMA.
    """
    file = Path(path) / "config.json"
    if not file.is_file():
        raise ValueError(
            f"model {path!r}: no checkpoint there ({file} is missing); give a folder with a "
            "Hugging Face LLaMA (config.json and model.safetensors), or a preset's name"
        )
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        int(config["num_hidden_layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"model {path!r}: config.json cannot be read ({type(error).__name__}: {error}); "
            "save the model again with save_pretrained"
        ) from error
    return config


class CheckpointLayer(Workload):
    """One layer of a checkpoint inside a training step.

    Args:
        path: folder of a Hugging Face causal language model with LLaMA's module names.
        text: file of plain text to train on; None: random tokens.
        batch, length: sequences per step and tokens per sequence.
    """

    def __init__(
        self,
        path: str,
        layer: str,
        matrix: str | None,
        *,
        text: str | None,
        dtype: torch.dtype,
        device: torch.device,
        bits: int,
        tau: float | None,
        seed: int,
        batch: int = 2,
        length: int = 256,
    ) -> None:
        config = read_config(path)
        self.name = parse_layer(layer, int(config["num_hidden_layers"]), matrix or "all")
        length = min(length, int(config.get("max_position_embeddings", length)))
        self.model = _load(path, dtype).to(device).train()
        self._inputs = _tokens(path, text, config, (batch, length), seed).to(device)
        self.tokens = text if text is not None else "random"
        self._loss: Tensor | None = None
        self._linears = _linears(self.model, self.name, path)
        self.matrices = []
        for short, linear in self._linears.items():
            clustered = ClusteredMatrix(short, linear.weight, bits, tau, seed)
            parametrize.register_parametrization(linear, "weight", clustered)
            self.matrices.append(clustered)

    def forward(self) -> None:
        self._loss = self.model(input_ids=self._inputs, labels=self._inputs).loss

    def backward(self) -> None:
        assert self._loss is not None
        loss, self._loss = self._loss, None
        loss.backward()

    def weight(self, matrix: ClusteredMatrix) -> nn.Parameter:
        weight = self._linears[matrix.name].parametrizations.weight.original
        assert isinstance(weight, nn.Parameter)
        return weight


def _load(path: str, dtype: torch.dtype) -> nn.Module:
    try:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging
    except ImportError as error:
        raise ValueError(
            f"model {path!r}: loading a checkpoint needs transformers; install the extra `train`"
        ) from error
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, local_files_only=True, use_cache=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"model {path!r}: the checkpoint cannot be loaded ({error})") from error
    return model


def _linears(model: nn.Module, name: LayerName, path: str) -> dict[str, Any]:
    """The layer's linear modules by short name."""
    block = "self_attn" if name.kind == "attn" else "mlp"
    found: dict[str, Any] = {}
    for short in name.matrices:
        place = f"model.layers.{name.index}.{block}.{short}"
        try:
            found[short] = model.get_submodule(place)
        except AttributeError as error:
            raise ValueError(
                f"model {path!r}: has no module {place}; only models with LLaMA's module names "
                "can be traced by layer"
            ) from error
    return found


def _tokens(
    path: str, text: str | None, config: dict[str, Any], shape: tuple[int, int], seed: int
) -> Tensor:
    """Token ids `(batch, length)`: consecutive windows of the text, each after a BOS token."""
    batch, length = shape
    if text is None:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(int(config["vocab_size"]), shape, generator=generator)
    ids = _tokenize(path, text, batch * length)
    body = length - 1
    if len(ids) < batch * body:
        raise ValueError(
            f"text {text!r}: has {len(ids)} tokens, the step needs {batch * body} "
            f"({batch} sequences of {body}); give a longer text"
        )
    windows = torch.tensor(ids[: batch * body]).view(batch, body)
    first = torch.full((batch, 1), int(config.get("bos_token_id") or 1))
    return torch.cat([first, windows], dim=1)


def _tokenize(path: str, text: str, wanted: int) -> list[int]:
    from transformers import AutoTokenizer

    try:
        with open(text, encoding="utf-8") as file:
            head = file.read(wanted * 32)  # far more characters than tokens
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"text {text!r}: cannot be read ({error}); give a UTF-8 file") from error
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    ids: list[int] = tokenizer(head, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
