"""What needs a GPU: a BERT-base-shaped model of random weights on sst2_glue. Speed, precision, and resume.

    LLMTUNE_DATA=DATA LLMTUNE_MINILM=FOLDER python scripts/bench_gpu.py --out gpu.json
    ... --device cpu --size tiny --steps 6 --repeats 1        the same way through on a CPU, to try the script

Three parts: (1) real tokens per second, peak memory and time spent waiting for data against transformers' Trainer
(scripts/bench_train.py, bf16); (2) the loss curves of bf16 and of fp16 with a loss scaler against that of fp32;
(3) in deterministic mode, a run killed with SIGKILL and gone on with, against one left alone: equal bit for bit?
The folder in LLMTUNE_MINILM gives the tokenizer (BERT's) only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = {
    "base": {},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
}  # fmt: skip
SAVE_EVERY = 5


def make_model(folder: Path, size: str, tokenizer_of: str) -> None:
    """BERT with random weights and a tokenizer, as a model folder."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **SIZES[size])).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def without_header(source: Path, target: Path) -> Path:
    target.write_text("".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    return target


def words(args: argparse.Namespace, folder: Path, run: Path, **settings: Any) -> list[str]:
    """The command of one run of llmtune."""
    chosen = {
        "data.train": folder / "train.tsv", "data.validation": folder / "dev.tsv", "data.test_share": 0,
        "model.path": folder / "model", "train.batch_rows": 32, "train.max_steps": args.steps, "train.log_every": 1,
        "train.eval_every": "null", "optimizer.lr": 1e-4, "seed": 0, "hardware.device": args.device, "run.dir": run,
        **settings,
    }  # fmt: skip
    return [sys.executable, "-m", "llmtune", "train", "task=classification", "data=files", "model=pretrained",
            *(f"{key}={value}" for key, value in chosen.items())]  # fmt: skip


def quiet(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def speed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The table of scripts/bench_train.py in bf16 (fp32 on a CPU)."""
    out = folder / "speed.json"
    subprocess.run([
        sys.executable, str(Path(__file__).with_name("bench_train.py")), "--train", str(folder / "train.tsv"),
        "--validation", str(folder / "dev.tsv"), "--model", str(folder / "model"), "--lr", "1e-4",
        "--steps", str(args.steps), "--repeats", str(args.repeats), "--device", args.device,
        "--precision", "bf16" if args.device == "cuda" else "fp32", "--contestants", "dynamic", "grouped", "llmtune",
        "--out", str(out),
    ], check=True)  # fmt: skip
    return json.loads(out.read_text())


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["split"] == "train"]


def precisions(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The loss curve of each precision, and its distance from that of fp32 (mean over steps, and of the last fifth)."""
    curves = {}
    for precision in ("fp32", "bf16", "fp16") if args.device == "cuda" else ("fp32",):
        run = folder / precision
        quiet(words(args, folder, run, **{"hardware.precision": precision, "train.save_every": "null"}))
        curves[precision] = losses(run)
    found: dict[str, Any] = {"curves": curves}
    tail = max(1, args.steps // 5)
    for precision, curve in curves.items():
        gap = statistics.mean(abs(a - b) for a, b in zip(curve, curves["fp32"]))
        end = statistics.mean(curve[-tail:]) - statistics.mean(curves["fp32"][-tail:])
        found[precision] = {"mean_gap": gap, "end_gap": end}
        print(f"{precision}: loss {curve[0]:.4f} -> {statistics.mean(curve[-tail:]):.4f}; "
              f"against fp32: mean gap {gap:.5f}, at the end {end:+.5f}")  # fmt: skip
    return found


def killed_and_resumed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Deterministic mode: model and metrics of a run that was killed twice, and of one that was left alone."""
    settings = {"hardware.deterministic": "true", "train.save_every": SAVE_EVERY, "resume": "auto"}
    alone, killed = folder / "alone", folder / "killed"
    quiet(words(args, folder, alone, **settings))
    for kill_after in (args.steps // 3, 2 * args.steps // 3):
        with open(folder / "killed.log", "w") as log:
            process = subprocess.Popen(words(args, folder, killed, **settings), stdout=log, stderr=log)
        while steps_done(killed) < kill_after and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    quiet(words(args, folder, killed, **settings))
    names = ("model/model.safetensors", "metrics.jsonl")
    equal = {name: sha256(alone / name) == sha256(killed / name) for name in names}
    print(f"killed twice and gone on with, equal bit for bit: {equal}")
    return equal


def steps_done(run: Path) -> int:
    log = run / "speed.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LLMTUNE_DATA", "shared/data")))
    parser.add_argument("--tokenizer", default=os.environ.get("LLMTUNE_MINILM", "bert-base-uncased"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON with all figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LLMTUNE_CACHE"] = str(folder / "cache")
        make_model(folder / "model", args.size, args.tokenizer)
        without_header(args.data / "sst2_glue" / "train.tsv", folder / "train.tsv")
        without_header(args.data / "sst2_glue" / "test.tsv", folder / "dev.tsv")
        found = {part.__name__: part(args, folder) for part in (speed, precisions, killed_and_resumed)}
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
