"""What would a training step keep? Planned with fake tensors: shapes only, nothing is computed.

Contract: the plan is a trace of the same operations by the same tracer, so every analysis reads
it; its run says `fake`, and no time or traffic in it was measured. Models larger than memory fit.
Boundary: makes the model and runs steps under FakeTensorMode; recording is the tracer's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from profiler.layers import PRESETS, is_checkpoint
from profiler.tracer import Tracer

OPTIMIZERS = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
_HEADS, _VOCABULARY = 128, 32000  # of the presets: width of a head, size of the vocabulary
_STEPS = 2  # the second step has the optimizer's state from its start


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """The step to plan."""

    model: str  # a preset, or a folder with a config.json
    batch: int  # sequences
    length: int  # tokens per sequence
    dtype: str
    optimizer: str  # adamw or sgd
    lora: int | None  # rank of adapters on every attention projection; None: full fine-tuning

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer {self.optimizer!r}: unknown; choose from {', '.join(OPTIMIZERS)}"
            )
        for name in ("batch", "length", "lora"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: must be at least 1")
        if self.model not in PRESETS and not is_checkpoint(self.model):
            raise ValueError(
                f"model {self.model!r}: neither a preset nor a folder; presets are "
                f"{', '.join(PRESETS)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Predicted memory of one step, in bytes, by what is tracked; temporaries are not.

    Every figure is of the second step, when the optimizer's state exists.
    """

    model: str
    batch: int
    length: int
    dtype: str
    optimizer: str
    lora: int | None
    predicted_param_bytes: int
    predicted_grad_bytes: int
    predicted_optimizer_bytes: int
    predicted_saved_bytes: int  # distinct storages kept for backward, parameters apart
    predicted_peak_bytes: int  # most of all of these alive at one moment
    saves: int


def plan_step(settings: PlanSettings, path: Path, *, force: bool = False) -> Plan:
    """Plan a fine-tuning step and leave it as a run folder.

    Raises:
        ValueError: the model cannot be made.
        RuntimeError: the model needs values that a fake tensor does not have.
    """
    info = {"command": "profiler.trace", "model": settings.model, "fake": True}
    with FakeTensorMode(), made_fake():
        model = make_model(settings)
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimizer = OPTIMIZERS[settings.optimizer](trainable, lr=1e-4)
        tokens = torch.randint(2, (settings.batch, settings.length))
        with Tracer(path, model=model, info=info, force=force) as tracer:
            for number in range(_STEPS):
                with tracer.step(f"planned {number}"):
                    model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
    return read_plan(settings, path)


def make_model(settings: PlanSettings) -> nn.Module:
    """The model in train mode, with adapters where asked for. Under fake mode it has no memory."""
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
    except ImportError as error:
        raise ValueError(
            "--fake: planning a model needs transformers; install the extra `train`"
        ) from error
    if settings.model in PRESETS:
        preset = PRESETS[settings.model]
        heads = max(1, preset.hidden // _HEADS)
        config: Any = LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=preset.hidden,
            intermediate_size=preset.intermediate,
            num_hidden_layers=preset.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads * preset.key_value // preset.hidden,
        )
    else:
        try:
            config = AutoConfig.from_pretrained(settings.model, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"model {settings.model!r}: cannot be read ({error})") from error
    make: Any = AutoModelForCausalLM.from_config  # carries no annotations
    model: nn.Module = make(config, dtype=getattr(torch, settings.dtype))
    if settings.lora is not None:
        add_adapters(model, settings.lora)
    return model.train()


class LowRank(nn.Module):
    """A frozen linear layer plus a trainable product of two thin ones (LoRA, arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        like: dict[str, Any] = {
            "dtype": base.weight.dtype,
            "device": base.weight.device,
            "bias": False,
        }
        self.base = base
        self.down = nn.Linear(base.in_features, rank, **like)
        self.up = nn.Linear(rank, base.out_features, **like)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


def add_adapters(model: nn.Module, rank: int) -> None:
    """Freeze the model and adapt every projection of its attention.

    Raises:
        ValueError: the model has no such projections.
    """
    model.requires_grad_(False)
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if name in ("q_proj", "k_proj", "v_proj", "o_proj") and isinstance(child, nn.Linear)
    ]
    if not found:
        raise ValueError("--lora: the model has no q_proj, k_proj, v_proj or o_proj to adapt")
    for parent, name, child in found:
        setattr(parent, name, LowRank(child, rank))


def read_plan(settings: PlanSettings, path: Path) -> Plan:
    """The figures of the last planned step, from its trace."""
    from profiler.query import open_run

    with open_run(path) as run:
        last = run.steps[-1]
        (most,) = run.sql(
            "select max(param_bytes) p, max(grad_bytes) g, max(optimizer_bytes) o, "
            "max(saved_bytes) s from memory where step = ?",
            [last.step],
        ).to_pylist()
        (saves,) = run.sql("select count(*) n from saves where step = ?", [last.step])["n"]
    return Plan(
        model=settings.model,
        batch=settings.batch,
        length=settings.length,
        dtype=settings.dtype,
        optimizer=settings.optimizer,
        lora=settings.lora,
        predicted_param_bytes=most["p"],
        predicted_grad_bytes=most["g"],
        predicted_optimizer_bytes=most["o"],
        predicted_saved_bytes=most["s"],
        predicted_peak_bytes=last.peak_bytes or 0,
        saves=saves.as_py(),
    )


@contextlib.contextmanager
def made_fake() -> Iterator[None]:
    """Answer questions for a fake tensor's value, which it has not, instead of failing.

    Training loops ask for `loss.item()` to print it, optimizers for their step count. Numbers are
    answered 1, truth values False: what such a loop prints means nothing, its shapes do.
    """
    old = FakeTensor.item, FakeTensor.tolist

    def item(tensor: Any) -> Any:
        if tensor.dtype is torch.bool:
            return False
        return 1.0 if tensor.dtype.is_floating_point else 1

    def tolist(tensor: Any) -> Any:
        ones: list[Any] = [item(tensor)] * math.prod(tensor.shape)
        for extent in reversed(tensor.shape[1:]):
            ones = [ones[i : i + extent] for i in range(0, len(ones), extent)]
        return ones if tensor.dim() else ones[0]

    FakeTensor.item, FakeTensor.tolist = item, tolist  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        FakeTensor.item, FakeTensor.tolist = old  # type: ignore[method-assign]
