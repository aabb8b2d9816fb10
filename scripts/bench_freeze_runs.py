"""The parts of bench_freeze.py that start fresh processes: whole runs of llmtune and of transformers' Trainer."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_train import read_lines

HERE = Path(__file__).parent
FROZEN = 4
PROBE_EPOCHS = 5


def against_full(args: argparse.Namespace) -> dict[str, Any]:
    """Probing the head for some epochs, then tuning everything, against tuning everything from the start."""
    args.rows = args.rows or 2304
    full = args.epochs
    words = {
        "full": ["freeze_policy=none", f"train.epochs={full:g}"],
        "probe_then_tune": ["freeze_policy=probe_then_tune", f"freeze_policy.probe={PROBE_EPOCHS}ep",
                            f"train.epochs={PROBE_EPOCHS + full:g}"],
    }  # fmt: skip
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = write_rows(args, Path(name))
        for number, seed in enumerate(args.seeds):
            for who in list(words)[:: 1 if number % 2 else -1]:
                runs.append({"who": who, "seed": seed, **llmtune(args, folder, *words[who], f"seed={seed}")})
                print(json.dumps({key: runs[-1][key] for key in ("who", "seed", "train_s", "accuracies")}), flush=True)
    return {"runs": runs, "probe_epochs": PROBE_EPOCHS, "full_epochs": full}


def against_trainer(args: argparse.Namespace) -> dict[str, Any]:
    """The same job, embeddings and four of six layers frozen, in turns; each in a process of its own."""
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = write_rows(args, Path(name))
        for who in ("llmtune", "grouped", "dynamic"):
            if who == "llmtune":
                policy = ["freeze_policy=bottom_layers", f"freeze_policy.layers={FROZEN}"]
                found = llmtune(args, folder, *policy, f"train.epochs={args.epochs:g}", "seed=0")
            else:
                found = trainer(args, folder, who)
            runs.append({"who": who, **found})
            print(json.dumps({key: runs[-1][key] for key in ("who", "train_s", "eval_s", "accuracies")}), flush=True)
    return {"runs": runs, "frozen_layers": FROZEN}


def write_rows(args: argparse.Namespace, folder: Path) -> Path:
    """train.tsv of `rows` rows drawn once, or of all; dev.tsv."""
    lines = args.train.read_text(encoding="utf-8").splitlines()
    if args.rows:
        lines = random.Random(0).sample(lines, min(len(lines), args.rows))
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "dev.tsv").write_text(args.validation.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def llmtune(args: argparse.Namespace, folder: Path, *words: str) -> dict[str, Any]:
    """One `llmtune train` with an empty cache: seconds, losses, accuracy on dev after each epoch."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        seconds = call(place, [
            "-m", "llmtune", "train", "task=classification", "data=files", f"data.train={folder / 'train.tsv'}",
            f"data.validation={folder / 'dev.tsv'}", "data.test_share=0", "model=pretrained",
            f"model.path={args.model}", "train.batch_rows=32", "optimizer.lr=5e-5", "hardware.device=cpu",
            f"hardware.threads={args.threads or 'auto'}", "train.verify_model=off", f"run.dir={place / 'run'}", *words,
        ])  # fmt: skip
        result = json.loads((place / "run" / "result.json").read_text())
        lines, speed = read_lines(place / "run" / "metrics.jsonl"), read_lines(place / "run" / "speed.jsonl")
        log = (place / "run" / "train.log").read_text()
    train = [line for line in lines if line["split"] == "train"]
    return {
        "process_s": seconds, "train_s": sum(line["seconds"] for line in speed), "eval_s": result["eval_seconds"],
        "accuracies": [line["accuracy"] for line in lines if line["split"] == "validation"],
        "first_loss": train[0]["loss"], "last_loss": train[-1]["loss"],
        "grad_norm": min(line["grad_norm"] for line in train), "steps": result["steps"],
        "epoch_s": epochs_of(speed, lines), "cache": [line for line in log.splitlines() if "prefix cache" in line],
        "command": " ".join(["llmtune train", *words]),
    }  # fmt: skip


def epochs_of(speed: list[dict[str, Any]], lines: list[dict[str, Any]]) -> list[float]:
    """Seconds of training between evaluations."""
    ends = [line["step"] for line in lines if line["split"] == "validation"]
    return [
        sum(line["seconds"] for line in speed if start < line["step"] <= end) for start, end in zip([0, *ends], ends)
    ]


def trainer(args: argparse.Namespace, folder: Path, padding: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        seconds = call(place, [
            str(HERE / "baseline_trainer.py"), "--train", str(folder / "train.tsv"), "--validation",
            str(folder / "dev.tsv"), "--model", args.model, "--padding", padding, "--epochs", f"{args.epochs:g}",
            "--frozen-layers", str(FROZEN), "--lr", "5e-5", "--threads", str(args.threads),
            "--out", str(place / "result.json"),
        ])  # fmt: skip
        found = json.loads((place / "result.json").read_text())
    evaluations = len(found["accuracies"])
    kept = ("accuracies", "first_loss", "last_loss", "grad_norm", "steps")
    return {
        "process_s": seconds, "train_s": found["loop_s"] - evaluations * found["eval_s"],
        "eval_s": evaluations * found["eval_s"], **{key: found[key] for key in kept},
    }  # fmt: skip


def call(place: Path, words: list[str]) -> float:
    """Run Python with `words`; seconds of the process."""
    environment = {**os.environ, "LLMTUNE_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with open(place / "log.txt", "w", encoding="utf-8") as log:
        command = [sys.executable, *words]
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{(place / 'log.txt').read_text()[-3000:]}")
    return time.perf_counter() - start
