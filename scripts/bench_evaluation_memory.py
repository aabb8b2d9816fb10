"""Peak memory of `llmtune evaluate` on a file and on one ten times as long: does an evaluation stream?

    python scripts/bench_evaluation_memory.py --work FOLDER [--rows 3000] [--tasks sentiment ner qa ...]

A tiny model is trained for a few steps on a task's built-in rows; the rows to be scored are those of its sample over
and over. Each evaluation is a process of its own; what it took at most is the kernel's count (ru_maxrss).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

TASKS = ["sentiment", "ner", "qa", "multiple_choice", "embedding", "rerank"]
ROOT = Path(__file__).resolve().parents[1]
MEASURED = """
import resource, sys
from llmtune.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"llmtune {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


def sample_of(task: str) -> Path:
    """The built-in training rows of a task."""
    recipe = yaml.safe_load((ROOT / "conf" / "task" / f"{task}.yaml").read_text())
    chosen = next(entry["override /data"] for entry in recipe["defaults"] if "override /data" in entry)
    data = yaml.safe_load((ROOT / "conf" / "data" / f"{chosen}.yaml").read_text())
    return ROOT / "llmtune" / "samples" / data["train"].removeprefix("builtin:")


def repeated(source: Path, target: Path, rows: int) -> Path:
    lines = source.read_text(encoding="utf-8").splitlines()
    target.write_text("\n".join(itertools.islice(itertools.cycle(lines), rows)) + "\n", encoding="utf-8")
    return target


def measure(task: str, work: Path, rows: int, repeats: int) -> dict[str, float]:
    folder = work / task
    if not (folder / "result.json").exists():
        run("train", f"task={task}", "train.max_steps=4", "train.eval_every=null", "train.verify_model=off",
            "hardware.device=cpu", "hardware.threads=1", f"run.dir={folder}", "resume=auto")  # fmt: skip
    found = {}
    for name, count in (("1x", rows), ("10x", 10 * rows)):
        file = repeated(sample_of(task), work / f"{task}-{name}.jsonl", count)
        out = work / f"{task}-{name}-report.json"
        words = (f"data.test={file}", "data.format=jsonl", f"out={out}", "hardware.threads=1")
        peaks = []
        for _ in range(repeats):
            done = run("evaluate", str(folder), *words)
            peaks.append(int(done.stderr.rsplit("peak ", 1)[1].split()[0]) / 1024)
        found[name] = min(peaks)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    print("| task | rows | peak MiB | rows | peak MiB | grows by |\n|---|---:|---:|---:|---:|---:|")
    for task in given.tasks:
        found = measure(task, given.work.absolute(), given.rows, given.repeats)
        share = found["10x"] / found["1x"] - 1
        print(f"| {task} | {given.rows:,} | {found['1x']:.0f} | {10 * given.rows:,} | {found['10x']:.0f} | "
              f"{share:+.1%} |", flush=True)  # fmt: skip
        print(json.dumps({task: found}), file=sys.stderr)


if __name__ == "__main__":
    main()
