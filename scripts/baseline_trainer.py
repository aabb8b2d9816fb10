"""transformers' Trainer on rows of text and label: what the benchmarks compare llmtune with.

    python scripts/baseline_trainer.py --train train.tsv --validation dev.tsv --model FOLDER --max-steps 60 --out r.json

Files are TSV without a header, text then label. Flags of the Trainer are its best documented ones for this work;
all else stays as transformers has it.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import time
from pathlib import Path
from typing import Any

PADDINGS = ("dynamic", "pad128", "grouped")


def read_rows(path: Path) -> list[tuple[str, str]]:
    """(text, label) of each line."""
    with open(path, encoding="utf-8", newline="") as file:
        return [(row[0], row[1]) for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def encode(rows: list[tuple[str, str]], names: list[str], tokenizer: Any, padding: str) -> Any:
    """A dataset with input_ids, attention_mask, labels and length (without padding)."""
    from datasets import Dataset

    fixed = {"padding": "max_length", "max_length": 128} if padding == "pad128" else {"max_length": 512}
    columns = dict(tokenizer([text for text, _ in rows], truncation=True, **fixed))
    columns["length"] = [sum(mask) for mask in columns["attention_mask"]]
    columns["labels"] = [names.index(label) for _, label in rows]
    return Dataset.from_dict(columns)


def arguments(args: argparse.Namespace) -> Any:
    """TrainingArguments: fused AdamW, no progress bar, nothing saved, lengths known in advance."""
    from transformers import TrainingArguments

    options: dict[str, Any] = {
        "output_dir": str(Path(args.out).parent / "their_output"), "max_steps": args.max_steps or -1,
        "num_train_epochs": args.epochs, "per_device_train_batch_size": args.batch_rows,
        "per_device_eval_batch_size": args.batch_rows, "learning_rate": args.lr, "optim": "adamw_torch_fused",
        "seed": args.seed, "data_seed": args.seed, "logging_steps": 10, "logging_first_step": True,
        "eval_strategy": "no" if args.max_steps else "epoch", "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "use_cpu": args.device == "cpu", "bf16": args.precision == "bf16",
        "fp16": args.precision == "fp16", "dataloader_pin_memory": args.device == "cuda",
        "dataloader_num_workers": 2 if args.device == "cuda" else 0,  # on a CPU workers would take cores from the steps
    }  # fmt: skip
    if args.padding == "grouped":
        grouped = "train_sampling_strategy" in TrainingArguments.__dataclass_fields__  # transformers 5
        options |= {"train_sampling_strategy": "group_by_length"} if grouped else {"group_by_length": True}
    return TrainingArguments(**options)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate; the measurements."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        set_seed,
    )

    if args.threads:
        torch.set_num_threads(args.threads)
    train, validation = read_rows(args.train), read_rows(args.validation)
    names = sorted({label for _, label in train})
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    train_rows, validation_rows = (encode(rows, names, tokenizer, args.padding) for rows in (train, validation))
    set_seed(args.seed)
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=len(names))
    freeze(model.base_model, args.frozen_layers)

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.seconds = -time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.seconds += time.perf_counter()

    clock = Clock()
    trainer = Trainer(
        model, arguments(args), train_dataset=train_rows, eval_dataset=validation_rows,
        data_collator=DataCollatorWithPadding(tokenizer), processing_class=tokenizer, callbacks=[clock],
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )  # fmt: skip
    _warm_up(trainer)
    trainer.train()
    loop_peak = _peak(torch)
    if args.max_steps:
        trainer.evaluate()
    trainer.save_model(str(Path(args.out).parent / "their_model"))
    log = trainer.state.log_history
    scores = [line["eval_accuracy"] for line in log if "eval_accuracy" in line]
    losses = [line["loss"] for line in log if "loss" in line]
    real = sum(train_rows["length"])
    return {
        "loop_s": clock.seconds, "eval_s": [line["eval_runtime"] for line in log if "eval_runtime" in line][-1],
        "steps": trainer.state.global_step, "train_tokens": real, "eval_tokens": sum(validation_rows["length"]),
        "first_loss": losses[0], "last_loss": losses[-1], "peak_bytes": loop_peak,
        "grad_norm": min(float(line["grad_norm"]) for line in log if "grad_norm" in line),
        "accuracies": scores, "accuracy": scores[-1],
    }  # fmt: skip


def freeze(backbone: Any, num_layers: int) -> None:
    """Embeddings and the lowest layers of a BERT-like model, as its users do it; 0: nothing."""
    if num_layers:
        for module in (backbone.embeddings, *backbone.encoder.layer[:num_layers]):
            module.requires_grad_(False)


def _warm_up(trainer: Any) -> None:
    """One forward and backward pass before the clock starts; llmtune tries its largest batch before step 0, too."""
    batch = next(iter(trainer.get_train_dataloader()))
    batch = {name: value.to(trainer.args.device) for name, value in batch.items() if name != "length"}
    trainer.model.train()
    trainer.model(**batch).loss.backward()
    trainer.model.zero_grad()


def _peak(torch: Any) -> int:
    """Bytes: of the GPU's allocator, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--padding", choices=PADDINGS, default="dynamic")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--max-steps", type=int, default=0, help="instead of epochs; evaluates at the end only")
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--frozen-layers", type=int, default=0, help="lowest layers without gradient, and embeddings")
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--out", required=True, help="JSON of measurements")
    args = parser.parse_args()
    Path(args.out).write_text(json.dumps(run(args), indent=1))


if __name__ == "__main__":
    main()
