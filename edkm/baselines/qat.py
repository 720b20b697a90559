"""LLM-QAT (arXiv 2305.17888), weights only: torchao's fake quantization, trained without data.

Contract: the teacher, which is the model before tuning, writes the training text itself: a random
first token, a few greedy ones, then samples from its full distribution (section 3.1). The student
learns the teacher's logits alone (section 3.2), in symmetric min-max integers with a scale for
each group; embeddings likewise in ``embedding_bits``.
Boundary: no key-value cache and no activation is quantized, so rows are named "LLM-QAT (weights)".
The training loop is ``edkm.train``'s: same optimizer, schedule, batch and number of tokens.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edkm.baselines.calibrated import check_groups
from edkm.baselines.job import Job, load_source
from edkm.baselines.packed import Integers, write_integers
from edkm.baselines.shared import once
from edkm.train.config import TrainConfig
from edkm.train.data import Sequence
from edkm.train.written import as_sequence, extend

GREEDY = 4  # tokens after the first that are the likeliest ones
TEXT = "text.safetensors"  # int64 ids, [sequences, tokens]
_AT_ONCE = 64  # sequences that are generated together


def llm_qat(job: Job) -> Path:
    """Generate, prepare, distil, write."""
    from edkm.train.trainer import ClusterTrainer

    model, tokenizer = load_source(job)
    check_groups(model, job.group_size)
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    rows = teacher_rows(job, teacher)
    prepare(model, job.bits, job.embedding_bits, job.group_size)
    config = TrainConfig(
        model=job.model,
        data=job.text_train,  # not read: the rows are the teacher's
        out=job.out,
        plain=True,
        max_steps=job.steps,
        batch_size=job.batch,
        sequence=job.sequence,
        learning_rate=job.learning_rate,
        distill=1.0,
        dtype="float32",
        save_every=job.steps,
        seed=job.seed,
    )
    trainer = ClusterTrainer(
        config, model, rows, plan=None, teacher=teacher, steps=job.steps, callbacks=[]
    )
    trainer.train()
    return write_integers(*convert(model), teacher, tokenizer, job.out / "model")


def teacher_rows(job: Job, teacher: Any) -> list[Sequence]:
    """The text of this seed's teacher, written once for rows of any bits."""

    def make(folder: Path) -> None:
        made = data_free_rows(teacher, job.steps * job.batch, job.sequence, job.seed)
        save_file({"ids": torch.tensor([row.ids for row in made])}, folder / TEXT)

    ids = load_file(once(job.common / f"text-{job.seed}", make) / TEXT)["ids"]
    return [as_sequence(one) for one in ids.tolist()]


@torch.no_grad()
def data_free_rows(teacher: Any, count: int, length: int, seed: int) -> list[Sequence]:
    """``count`` sequences of ``length`` tokens of the teacher's own, BOS (if any) first."""
    torch.manual_seed(seed)
    head = teacher.config.bos_token_id
    rows: list[Sequence] = []
    while len(rows) < count:
        wanted = min(_AT_ONCE, count - len(rows))
        ids = torch.randint(teacher.config.vocab_size, (wanted, 1))
        if head is not None:
            ids = torch.cat([torch.full((wanted, 1), head), ids], dim=1)
        ids = extend(teacher, ids, min(GREEDY, length - ids.shape[1]), temperature=None)
        ids = extend(teacher, ids, length - ids.shape[1], temperature=1.0)
        rows += [as_sequence(one) for one in ids.tolist()]
    return rows


def prepare(model: nn.Module, bits: int, embedding_bits: int, group: int) -> None:
    """Put torchao's fake quantization into every linear layer and embedding, in place.

    A head tied to the embedding is quantized like it, and stays tied.
    """
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    def head(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Embedding) or name.endswith("lm_head")

    def inner(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and not head(module, name)

    for width, chosen in ((bits, inner), (embedding_bits, head)):
        config = IntxFakeQuantizeConfig(
            getattr(torch, f"int{width}"), group_size=group, is_symmetric=True
        )
        quantize_(model, QATConfig(weight_config=config, step="prepare"), filter_fn=chosen)
    model.tie_weights()  # type: ignore[operator]


def convert(model: nn.Module) -> tuple[dict[str, Integers], dict[str, Tensor]]:
    """(integers of each fake-quantized weight, other tensors); a tied weight counts once."""
    from torchao.quantization import MappingType
    from torchao.quantization.quantize_.workflows import IntxUnpackedToInt8Tensor

    weights: dict[str, Integers] = {}
    taken: dict[int, str] = {}
    for name, module in model.named_modules():
        quantizer = getattr(module, "weight_fake_quantizer", None)
        if quantizer is None or id(module.weight) in taken:
            continue
        taken[id(module.weight)] = name
        settings = quantizer.config
        found = IntxUnpackedToInt8Tensor.from_hp(
            module.weight.detach(),
            (1, settings.group_size),
            settings.dtype,
            mapping_type=MappingType.SYMMETRIC,
        )
        bits = int(str(settings.dtype).removeprefix("torch.int"))
        weights[name] = Integers(found.qdata, found.scale, None, bits)
    rest = {
        name: tensor.detach().contiguous()
        for name, tensor in model.named_parameters()
        if id(tensor) not in taken
    }
    return weights, rest
