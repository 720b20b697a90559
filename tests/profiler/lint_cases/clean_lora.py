# expects: nothing
# level: values
"""A Hugging Face Trainer fine-tunes a small LLaMA with LoRA: nothing wrong, nothing to find."""

import tempfile

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


class LoRA(nn.Module):
    """A frozen linear layer and a trained low-rank change of it."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )
).requires_grad_(False)  # fmt: skip
for layer in model.model.layers:
    for name in ("q_proj", "v_proj"):
        setattr(layer.self_attn, name, LoRA(getattr(layer.self_attn, name)))
rows = torch.randint(0, 128, (6, 32))
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder, max_steps=3, per_device_train_batch_size=2, use_cpu=True,
        report_to=[], disable_tqdm=True, save_strategy="no", logging_strategy="no",
        dataloader_pin_memory=False,
    )  # fmt: skip
    data = [{"input_ids": row, "labels": row} for row in rows]
    Trainer(model=model, args=arguments, train_dataset=data).train()
