"""The loss of a step against its formulas written out, and the teacher's hidden states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from edkm.evaluate.perplexity import IGNORE
from edkm.train import TrainConfig, run
from edkm.train.loss import hidden_distance, label_count, step_loss
from tests.tiny_llama import tiny_llama

LAYERS, BATCH, TOKENS, HIDDEN, WORDS = 3, 4, 7, 5, 11


@pytest.fixture
def labels() -> Tensor:
    """Prompts of different lengths, of which no token carries loss."""
    torch.manual_seed(0)
    labels = torch.randint(WORDS, (BATCH, TOKENS))
    for row, prompt in enumerate((1, 3, 0, TOKENS)):
        labels[row, :prompt] = IGNORE
    return labels


def states() -> list[Tensor]:
    shape = BATCH, TOKENS, HIDDEN
    return [torch.randn(shape, dtype=torch.float64) * 10.0**i for i in range(LAYERS)]


def test_hidden_distance_is_the_formula_written_out(labels: Tensor) -> None:
    made, wanted = states(), states()
    count = label_count(labels)
    expected = 0.0
    for layer in range(LAYERS):
        for row in range(BATCH):
            for token in range(TOKENS - 1):
                if labels[row, token + 1] != IGNORE:
                    s, t = made[layer][row, token], wanted[layer][row, token]
                    expected += float((s - t).square().sum() / t.square().sum())
    found = hidden_distance(made, wanted, labels, count)
    assert float(found) == pytest.approx(expected / (LAYERS * count), rel=1e-6)


def test_hidden_distance_has_the_right_gradient(labels: Tensor) -> None:
    wanted = states()
    made = [layer.requires_grad_() for layer in states()]
    count = label_count(labels)
    hidden_distance(made, wanted, labels, count).backward()  # type: ignore[no-untyped-call]
    counted = (labels[:, 1:] != IGNORE).unsqueeze(-1)
    for student, teacher in zip(made, wanted, strict=True):
        s, t = student.detach()[:, :-1], teacher[:, :-1]
        expected = 2 * (s - t) / t.square().sum(-1, keepdim=True) * counted / (LAYERS * count)
        assert student.grad is not None
        torch.testing.assert_close(student.grad[:, :-1], expected, rtol=1e-5, atol=1e-12)
        assert not student.grad[:, -1].any()


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_a_step_add_up_to_the_step(labels: Tensor, parts: int) -> None:
    made, wanted = states(), states()
    logits, targets = torch.randn(2, BATCH, TOKENS, WORDS).double()
    count = label_count(labels)

    def loss(rows: slice) -> Tensor:
        layers = [s[rows] for s in made], [t[rows] for t in wanted]
        hidden = hidden_distance(*layers, labels[rows], count)
        return hidden + step_loss(logits[rows], labels[rows], count, targets[rows], 0.7)

    size = BATCH // parts
    summed = sum(float(loss(slice(i, i + size))) for i in range(0, BATCH, size))
    assert summed == pytest.approx(float(loss(slice(None))), rel=1e-6)


def test_a_teacher_of_zeros_is_no_division_by_zero(labels: Tensor) -> None:
    zeros = [torch.zeros(BATCH, TOKENS, HIDDEN) for _ in range(LAYERS)]
    assert float(hidden_distance(zeros, zeros, labels, label_count(labels))) == 0


def test_the_teachers_states_pull_the_student_towards_them(
    tiny: Path, alpaca: Path, tmp_path: Path
) -> None:
    """Of two runs that differ in nothing else, the one that is asked to ends nearer to them."""
    folder = tmp_path / "teacher"
    tiny_llama(seed=1, max_position_embeddings=128).save_pretrained(folder)
    found = {}
    for weight in (0.0, 30.0):
        config = TrainConfig(
            **{"model": tiny, "data": alpaca, "out": tmp_path / str(weight), "sequence": 64},
            **{"max_steps": 12, "batch_size": 4, "learning_rate": 1e-2, "warmup": 0},
            **{"distill": 0.5, "distill_hidden": weight, "teacher": folder, "plain": True},
        )  # type: ignore[arg-type]
        run(config)
        found[weight] = _distance(config.out / "model", folder)
    assert found[30.0] < 0.8 * found[0.0]


def test_a_teacher_of_another_shape_has_no_states_to_hold_to(
    tiny: Path, alpaca: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    tiny_llama(num_hidden_layers=3, max_position_embeddings=128).save_pretrained(folder)
    config = TrainConfig(
        **{"model": tiny, "data": alpaca, "out": tmp_path / "out", "sequence": 64},
        **{"max_steps": 1, "distill": 0.5, "distill_hidden": 1.0, "teacher": folder},
    )  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"distill_hidden is 1.0, .*give a teacher of the model"):
        run(config)


def _distance(one: Path, other: Path) -> float:
    """``hidden_distance`` of two models on some tokens."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    ids = torch.randint(3, 20, (4, 32))
    layers = []
    for folder in (one, other):
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            layers.append(model(ids, output_hidden_states=True).hidden_states[1:])
    return float(hidden_distance(layers[0], layers[1], ids, label_count(ids)))
