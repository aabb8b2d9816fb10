"""Peak memory of pre-training on plain text and on ten times as much: is the text streamed?

    python scripts/bench_text_memory.py --work FOLDER [--megabytes 5]

A tiny GPT-2 is trained for a few steps on the built-in tales; `check` (which reads and tokenises all of a text, once)
and `train` (30 steps on blocks drawn from all of it) then go on from it with texts of two sizes. Each is a process of
its own; what it took at most is the kernel's count (ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEASURED = """
import resource, sys
from llmtune.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
HERE = ("hardware.device=cpu", "hardware.threads=1")


def run(work: Path, *words: str) -> float:
    """Peak MiB of an llmtune command."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, cwd=work,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LLMTUNE_CACHE": str(work / "cache")},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"llmtune {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return int(done.stderr.rsplit("peak ", 1)[1].split()[0]) / 1024


def text(path: Path, num_bytes: int) -> Path:
    """The tales over and over, each numbered, so that no two lines are alike."""
    lines = (ROOT / "llmtune" / "samples" / "tales" / "train.txt").read_text(encoding="utf-8").splitlines()
    size = number = 0
    with path.open("w", encoding="utf-8") as file:
        while size < num_bytes:
            size += file.write(f"{number}. {lines[number % len(lines)]}\n")
            number += 1
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=5.0)
    given = parser.parse_args()
    work = given.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "first" / "result.json").exists():
        run(work, "train", "task=causal_lm", "train.max_steps=4", "train.verify_model=off", "run.dir=first", *HERE)
    found: dict[str, dict[str, float]] = {"check": {}, "train": {}}
    for name, factor in (("1x", 1), ("10x", 10)):
        file = text(work / f"{name}.txt", int(factor * given.megabytes * 1e6))
        words = [
            "task=causal_lm", "model=pretrained", "model.path=first/model", "data=files", f"data.train={file}",
            f"data.validation={ROOT}/llmtune/samples/tales/validation.txt", "data.test_share=0", "data.format=lines",
            *HERE,
        ]  # fmt: skip
        found["check"][name] = run(work, "check", *words)
        found["train"][name] = run(work, "train", *words, "train.max_steps=30", "train.verify_model=off",
                                   "train.eval_every=null", f"run.name={name}")  # fmt: skip
        print(json.dumps(found), file=sys.stderr)
    print("| what | text | peak MiB | text | peak MiB | grows by |\n|---|---:|---:|---:|---:|---:|")
    for what, peaks in found.items():
        share = peaks["10x"] / peaks["1x"] - 1
        print(f"| {what} | {given.megabytes:g} MB | {peaks['1x']:.0f} | {10 * given.megabytes:g} MB | "
              f"{peaks['10x']:.0f} | {share:+.1%} |")  # fmt: skip


if __name__ == "__main__":
    main()
