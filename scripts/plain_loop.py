"""Supervised fine-tuning in bare torch: what llmtune's loop must equal, and the file to fork for an experiment.

    python scripts/plain_loop.py train.jsonl FOLDER_WITH_A_MODEL

`train.jsonl` has rows {"text": ..., "label": ...}; the model is any that transformers can classify with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable

import torch
from torch import nn


def fit(
    model: nn.Module,
    steps: Iterable[dict[str, torch.Tensor]],
    *,
    lr_at: Callable[[int], float],
    weight_decay: float,
    clip_norm: float,
    num_labels: int,
) -> list[float]:
    """Train `model` on one batch a step (model inputs and `labels`); the losses."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    )
    losses = []
    model.train()
    for step, batch in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step)
        labels = batch["labels"]
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        loss = nn.functional.cross_entropy(logits.view(-1, num_labels), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


def main(data: str, folder: str, *, epochs: int = 3, batch_rows: int = 32, lr: float = 5e-5) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with open(data, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    names = sorted({row["label"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(names))
    num_steps = epochs * -(-len(rows) // batch_rows)

    def steps() -> Iterable[dict[str, torch.Tensor]]:
        for _ in range(epochs):
            order = torch.randperm(len(rows)).tolist()
            for start in range(0, len(rows), batch_rows):
                chosen = [rows[i] for i in order[start : start + batch_rows]]
                batch = tokenizer([row["text"] for row in chosen], padding=True, truncation=True, return_tensors="pt")
                yield {**batch, "labels": torch.tensor([names.index(row["label"]) for row in chosen])}

    losses = fit(
        model, steps(), lr_at=lambda step: lr * (1 - step / num_steps), weight_decay=0.01, clip_norm=1.0,
        num_labels=len(names),
    )  # fmt: skip
    print(f"{num_steps} steps, first loss {losses[0]:.4f}, last {losses[-1]:.4f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
