"""Speed of llmtune against transformers' Trainer: the same rows in the same number of optimizer steps.

    LLMTUNE_DATA=DATA LLMTUNE_MINILM=FOLDER python scripts/bench_train.py [--device cuda --precision bf16]

Each contestant runs in a fresh process, in turns, so that whatever else the machine does hits all alike; medians are
printed as a table. One epoch over a fixed random subset: all see the same rows once. Tokens are real ones (without
padding), counted once for all. Nothing is cached between runs: each reads and tokenises the files anew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONTESTANTS = {
    "dynamic": "Trainer, dynamic padding",
    "pad128": "Trainer, padding to 128",
    "grouped": "Trainer, group_by_length",
    "llmtune": "llmtune",
}
TARGETS = {"dynamic": 1.6, "pad128": 4.5, "grouped": 0.98}
"""least ratio of real tokens per second in training, llmtune's to this contestant's"""


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_subset(args, folder)
        runs: list[dict[str, Any]] = []
        for repeat in range(args.repeats):
            order = list(args.contestants)
            order = order[repeat % len(order) :] + order[: repeat % len(order)]
            for who in order if repeat % 2 == 0 else reversed(order):
                runs.append({"who": who, "repeat": repeat, **measure(who, args, folder)})
                print(f"repeat {repeat + 1} {CONTESTANTS[who]}: {json.dumps(shorter(runs[-1]))}", flush=True)
    found = summary(runs, args.contestants)
    lines = table(found)
    print("\n" + "\n".join(lines))
    if args.out:
        settings = {key: str(value) for key, value in vars(args).items()}
        found = {"settings": settings, "machine": machine(), "runs": runs, "table": lines}
        args.out.write_text(json.dumps(found, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("LLMTUNE_DATA", "shared/data")) / "sst2_sentence"
    parser.add_argument("--train", type=Path, default=data / "train.tsv", help="TSV without header: text, label")
    parser.add_argument("--validation", type=Path, default=data / "dev.tsv")
    parser.add_argument("--model", default=os.environ.get("LLMTUNE_MINILM", "sentence-transformers/all-MiniLM-L6-v2"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="0: the whole epoch")
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--out", type=Path, help="JSON with every run")
    return parser.parse_args()


def write_subset(args: argparse.Namespace, folder: Path) -> None:
    """train.tsv: `steps` x `batch_rows` rows drawn once; dev.tsv: all."""
    lines = args.train.read_text(encoding="utf-8").splitlines()
    if args.steps:
        lines = random.Random(0).sample(lines, min(len(lines), args.steps * args.batch_rows))
    args.steps = -(-len(lines) // args.batch_rows)
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "dev.tsv").write_text(args.validation.read_text(encoding="utf-8"), encoding="utf-8")


def measure(who: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One fresh process of a contestant; its measurements, the seconds of the whole process and its peak memory."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        command = llmtune_command(args, folder, place) if who == "llmtune" else their_command(who, args, folder, place)
        environment = {**os.environ, "LLMTUNE_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
        start = time.perf_counter()
        with open(place / "log.txt", "w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit(f"{' '.join(command)}\n{(place / 'log.txt').read_text()[-3000:]}")
        found = llmtune_result(place) if who == "llmtune" else json.loads((place / "result.json").read_text())
    if args.device == "cpu":
        found["peak_bytes"] = used.ru_maxrss * 1024
    return {**found, "process_s": seconds, "process_cpu_s": used.ru_utime + used.ru_stime}


def their_command(who: str, args: argparse.Namespace, folder: Path, place: Path) -> list[str]:
    return [
        sys.executable, str(HERE / "baseline_trainer.py"), "--train", str(folder / "train.tsv"),
        "--validation", str(folder / "dev.tsv"), "--model", args.model, "--padding", who,
        "--max-steps", str(args.steps), "--batch-rows", str(args.batch_rows), "--lr", str(args.lr),
        "--device", args.device, "--precision", args.precision, "--threads", str(args.threads),
        "--out", str(place / "result.json"),
    ]  # fmt: skip


def llmtune_command(args: argparse.Namespace, folder: Path, place: Path) -> list[str]:
    return [
        sys.executable, "-m", "llmtune", "train", "task=classification", "data=files",
        f"data.train={folder / 'train.tsv'}", f"data.validation={folder / 'dev.tsv'}", "data.test_share=0",
        "model=pretrained", f"model.path={args.model}", f"train.batch_rows={args.batch_rows}",
        f"train.max_steps={args.steps}", f"optimizer.lr={args.lr}", "train.eval_every=null", "train.save_every=null",
        f"hardware.device={args.device}", f"hardware.precision={args.precision}",
        f"hardware.threads={args.threads or 'auto'}", "seed=0", f"run.dir={place / 'run'}",
    ]  # fmt: skip


def llmtune_result(place: Path) -> dict[str, Any]:
    result = json.loads((place / "run" / "result.json").read_text())
    steps = read_lines(place / "run" / "metrics.jsonl")
    speed = read_lines(place / "run" / "speed.jsonl")
    report = json.loads((place / "run" / "data_report.json").read_text())
    train = [line for line in steps if line["split"] == "train"]
    seconds = sum(line["seconds"] for line in speed)
    return {
        "loop_s": seconds, "eval_s": result["eval_seconds"], "steps": result["steps"],
        "train_tokens": report["splits"]["train"]["tokens"]["kept"],
        "eval_tokens": report["splits"]["validation"]["tokens"]["kept"],
        "first_loss": train[0]["loss"], "last_loss": train[-1]["loss"], "peak_bytes": speed[-1]["peak_memory_bytes"],
        "grad_norm": min(line["grad_norm"] for line in train), "accuracy": result["validation"]["accuracy"],
        "waited_share": sum(line["waited_s"] for line in speed) / seconds,
    }  # fmt: skip


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def summary(runs: list[dict[str, Any]], contestants: list[str]) -> dict[str, dict[str, float]]:
    """Medians by contestant, tokens per second added."""
    found = {}
    for who in contestants:
        mine = [run for run in runs if run["who"] == who]
        found[who] = {key: statistics.median(run[key] for run in mine)
                      for key, value in mine[0].items() if isinstance(value, (int, float))}  # fmt: skip
        for part, seconds in (("train", "loop_s"), ("eval", "eval_s")):
            found[who][f"{part}_rate"] = statistics.median(run[f"{part}_tokens"] / run[seconds] for run in mine)
    counts = {(m["train_tokens"], m["steps"], m["eval_tokens"]) for m in found.values()}
    if len(counts) > 1:
        raise SystemExit(f"not the same work: tokens, steps, tokens of evaluation were {counts}")
    return found


def table(found: dict[str, dict[str, float]]) -> list[str]:
    """Markdown: figures of each contestant, and llmtune's ratios to it."""
    lines = [
        "| | loop s | process s | process CPU s | real tokens/s | evaluation, real tokens/s | peak memory MiB |",
        "|---|---|---|---|---|---|---|",
        *(f"| {CONTESTANTS[who]} | {m['loop_s']:.1f} | {m['process_s']:.1f} | {m['process_cpu_s']:.0f} | "
          f"{m['train_rate']:.0f} | {m['eval_rate']:.0f} | {m['peak_bytes'] / 2**20:.0f} |"
          for who, m in found.items()),
        "", "| | loss, first and last | least gradient norm | dev accuracy |", "|---|---|---|---|",
        *(f"| {CONTESTANTS[who]} | {m['first_loss']:.3f}, {m['last_loss']:.3f} | {m['grad_norm']:.2f} | "
          f"{m['accuracy']:.3f} |" for who, m in found.items()),
    ]  # fmt: skip
    if own := found.get("llmtune"):
        lines += [
            "", "| llmtune against | training | target | evaluation | process | process CPU | memory |",
            "|---|---|---|---|---|---|---|",
            *(f"| {CONTESTANTS[who]} | {own['train_rate'] / m['train_rate']:.2f}x | {TARGETS[who]}x | "
              f"{own['eval_rate'] / m['eval_rate']:.2f}x | {m['process_s'] / own['process_s']:.2f}x | "
              f"{m['process_cpu_s'] / own['process_cpu_s']:.2f}x | {own['peak_bytes'] / m['peak_bytes']:.2f}x |"
              for who, m in found.items() if who != "llmtune"),
            "", f"llmtune waited for data for {own['waited_share']:.2%} of the time of its steps.",
        ]  # fmt: skip
    return lines


def shorter(run: dict[str, Any]) -> dict[str, Any]:
    kept = ("loop_s", "process_s", "eval_s", "last_loss", "accuracy", "peak_bytes")
    return {key: round(run[key], 3) for key in kept}


def machine() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    names = ("torch", "transformers", "accelerate")
    return {"cpu": platform.processor(), "cores": str(os.cpu_count()), "python": platform.python_version(),
            **{name: version(name) for name in names}}  # fmt: skip


if __name__ == "__main__":
    main()
