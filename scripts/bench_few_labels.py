"""Eight labels a class on ag_news: plain tuning, pooled heads, SetFit's two stages, a prompt with a verbaliser.

    LLMTUNE_DATA=DATA LLMTUNE_MINILM=FOLDER python scripts/bench_few_labels.py --work FOLDER [--mlm FOLDER]
    ... --table      (prints the table of what is there and trains nothing)

`--mlm`: a MiniLM with a trained masked-LM head, which the prompt needs. Every finished run is a line of
FOLDER/results.jsonl: started again, it goes on where it stopped. Test rows are looked at once, after the last step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from bench_hybrid import MINILM, Bench, draw, read_rows, write_rows

PER_CLASS = 8
TEST_ROWS = 1000
DRAWS = (101, 102, 103, 104, 105)
FRESH = (201, 202, 203, 204, 205)
"""draws that nothing was chosen by: `--draws 201 202 203 204 205`"""
TUNE = ["train.epochs=10", "optimizer.lr=3e-4", "train.batch_rows=16", "data.validation_share=0"]
MEAN = "task.pooling=mean"
WORDS = "{World: [world, war], Sports: [sports, game], Business: [business, money], Sci/Tech: [technology, software]}"
WAYS = {
    "plain": ["task=classification", *TUNE],
    "plain, pooling=mean": ["task=classification", *TUNE, MEAN],
    "head_only, pooling=mean": [
        "task=classification", *TUNE, MEAN, "freeze_policy=head_only", "train.epochs=30", "optimizer.lr=5e-4",
    ],
    "setfit": ["experiment=setfit"],
    "plain, after masked_lm": ["task=classification", *TUNE],
    "prompt, after masked_lm": [
        "task=prompt_classification", *TUNE, "task.template='{text} It was about {mask}.'", f"task.verbaliser={WORDS}",
        "optimizer.lr=1e-4",
    ],
}  # fmt: skip


def run(work: Path, mlm: str | None, ways: list[str], draws: list[int], threads: int) -> None:
    bench = Bench(work, threads)
    rows, test_rows = (read_rows(f"ag_news/{name}.tsv", (0, 1)) for name in ("train_10k", "test"))
    classes = len({label for _, label in test_rows})
    test = write_rows(work / "rows" / "test.jsonl", draw(test_rows, TEST_ROWS // classes, 0))
    for seed in draws:
        train = write_rows(work / "rows" / f"{seed}.jsonl", draw(rows, PER_CLASS, seed))
        for way in ways:
            model = mlm if "masked_lm" in way else MINILM
            done = {(record["way"], record["draw"]) for record in bench.results()}
            if (way, seed) in done or model is None:
                continue
            start = time.perf_counter()
            result = bench.train([
                *WAYS[way], "data=files", "model=minilm", f"model.path={model}", f"data.train={train}",
                f"data.test={test}", "data.max_tokens=64", "data.max_truncated_share=1", f"seed={seed}",
            ], work / "runs" / f"{way.replace(', ', '-').replace(' ', '_')}-{seed}")  # fmt: skip
            if result is None:
                continue
            record = {
                "way": way, "draw": seed, "accuracy": result["test"]["accuracy"], "steps": result["steps"],
                "train_s": result["train_seconds"], "wall_s": round(time.perf_counter() - start, 1),
            }  # fmt: skip
            with open(bench.log, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)


def table(results: list[dict], draws: tuple[int, ...] = DRAWS) -> str:
    """One line a way, over those of `draws` that were run."""
    results = [record for record in results if record["draw"] in draws]
    lines = ["| way | mean accuracy | lowest to highest | deviation | draws | training |", "|---" * 6 + "|"]
    for way in WAYS:
        mine = [record for record in results if record["way"] == way]
        if not mine:
            lines.append(f"| {way} | not run | | | | |")
            continue
        scores = [record["accuracy"] for record in mine]
        spread = f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        seconds = statistics.median(record["train_s"] for record in mine)
        lines.append(f"| {way} | {statistics.mean(scores):.3f} | {min(scores):.3f} to {max(scores):.3f} | {spread} | "
                     f"{len(scores)} | {seconds:.0f} s |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--mlm", help="folder of a MiniLM with a trained masked-LM head")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--draws", nargs="*", type=int, default=list(DRAWS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table and train nothing")
    options = parser.parse_args()
    work = options.work.absolute()
    if not options.table:
        run(work, options.mlm, options.ways, options.draws, options.threads)
    for draws in (DRAWS, FRESH):
        print(f"\ndraws {draws[0]} to {draws[-1]}\n\n{table(Bench(work, options.threads).results(), draws)}")


if __name__ == "__main__":
    main()
