"""Accuracy of llmtune: against transformers' Trainer on sst2_sentence, and the best recipes found.

    LLMTUNE_DATA=DATA LLMTUNE_MINILM=FOLDER python scripts/bench_quality.py --out quality.json

Finished runs are kept in the JSON file: started again, it goes on where it stopped and prints the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("LLMTUNE_DATA", "shared/data"))
MODEL = os.environ.get("LLMTUNE_MINILM", "sentence-transformers/all-MiniLM-L6-v2")
SEEDS = (0, 1, 2)
EPOCHS, BATCH_ROWS, LR = 3, 32, 5e-5

RECIPES = {
    "sst2_glue": (
        0.90, "validation",
        ["data.train={data}/sst2_glue/train.tsv", "data.validation={data}/sst2_glue/test.tsv", "data.test_share=0",
         "train.epochs=2", "train.batch_rows=64", "optimizer.lr=1e-4"],
    ),
    "banking77": (
        0.88, "test",
        ["data.train={data}/banking77/train.csv", "data.test={data}/banking77/test.csv", "data.validation_share=0",
         "train.epochs=5", "train.batch_rows=32", "optimizer.lr=2e-4"],
    ),
}  # fmt: skip
"""set -> target, the split that is scored, words of the command line"""


def llmtune(words: list[str], threads: int) -> dict[str, Any]:
    """One `llmtune train`; its command, the scores after each epoch, the best one, and the test score if any."""
    words = ["task=classification", "data=files", "model=minilm", f"model.path={MODEL}", *words]
    if threads:
        words.append(f"hardware.threads={threads}")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        _call([sys.executable, "-m", "llmtune", "train", *words, f"run.dir={run}"])
        result = json.loads((run / "result.json").read_text())
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [record["accuracy"] for record in records if record["split"] == "validation"]
    return {
        "accuracies": scores, "test": result["test"]["accuracy"] if result["test"] else None,
        "tokens_per_second": result["tokens_per_second"], "train_s": result["train_seconds"],
        "command": "llmtune train " + " ".join(words),
    }  # fmt: skip


def trainer(seed: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        _call([
            sys.executable, str(Path(__file__).with_name("baseline_trainer.py")), "--train", str(_sentence("train")),
            "--validation", str(_sentence("dev")), "--model", MODEL, "--epochs", str(EPOCHS), "--batch-rows",
            str(BATCH_ROWS), "--lr", str(LR), "--seed", str(seed), "--threads", str(threads), "--out", str(out),
        ])  # fmt: skip
        found = json.loads(out.read_text())
    return {"accuracies": found["accuracies"], "train_s": found["loop_s"]}


def _sentence(split: str) -> Path:
    return DATA / "sst2_sentence" / f"{split}.tsv"


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def jobs(threads: int, seeds: list[int]) -> dict[str, Any]:
    """Name -> function that makes the result."""
    compared = [
        f"data.train={_sentence('train')}", f"data.validation={_sentence('dev')}", "data.test_share=0",
        f"train.batch_rows={BATCH_ROWS}", f"optimizer.lr={LR}", f"train.epochs={EPOCHS}",
    ]  # fmt: skip
    made: dict[str, Any] = {}
    for seed in seeds:
        made[f"sst2_sentence/llmtune/{seed}"] = lambda seed=seed: llmtune([*compared, f"seed={seed}"], threads)
        made[f"sst2_sentence/Trainer/{seed}"] = lambda seed=seed: trainer(seed, threads)
    for name, (_, _, words) in RECIPES.items():
        made[f"recipe/{name}"] = lambda words=words: llmtune([word.format(data=DATA) for word in words], threads)
    return made


def tables(found: dict[str, Any]) -> list[str]:
    lines = ["| sst2_sentence, dev accuracy | seeds | last epoch, median | best epoch, median | last epoch of each |",
             "|---|---|---|---|---|"]  # fmt: skip
    for who in ("llmtune", "Trainer"):
        runs = [found[key]["accuracies"] for key in sorted(found) if key.startswith(f"sst2_sentence/{who}/")]
        if runs:
            last, best = [run[-1] for run in runs], [max(run) for run in runs]
            lines.append(f"| {who} | {len(runs)} | {statistics.median(last):.4f} | {statistics.median(best):.4f} | "
                         f"{', '.join(f'{score:.4f}' for score in last)} |")  # fmt: skip
    lines += ["", "| recipe | accuracy | target | command |", "|---|---|---|---|"]
    for name, (target, split, _) in RECIPES.items():
        if run := found.get(f"recipe/{name}"):
            score = run["test"] if split == "test" else run["accuracies"][-1]
            command = run["command"].replace(str(DATA), "$LLMTUNE_DATA").replace(MODEL, "$LLMTUNE_MINILM")
            lines.append(f"| {name}, {split} | {score:.4f} | {target} | `{command}` |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("quality.json"))
    parser.add_argument("--only", default="", help="only runs whose name holds this")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    args = parser.parse_args()
    for name, job in jobs(args.threads, args.seeds).items():
        if args.only in name and name not in finished(args.out):
            print(f"{name} ...", flush=True)
            start = time.perf_counter()
            made = {**job(), "process_s": round(time.perf_counter() - start, 1)}
            args.out.write_text(json.dumps({**finished(args.out), name: made}, indent=1))
            print(f"  {made['accuracies']} test {made.get('test')} in {made['process_s']:.0f} s", flush=True)
    print("\n".join(tables(finished(args.out))))


def finished(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    main()
