"""What packing saves: optimizer steps on the same rows, padded and packed, in order of length and not, in turns.

    python scripts/bench_packing.py --out FILE.json task=spam model=minilm    # about 3 minutes

What stands behind the options is typed as for `llmtune train`. All contestants run in one process and take turns, so
that whatever else the machine does hits all alike; the first turn of each warms up and is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_train import machine

CONTESTANTS = {
    "buckets, padded": "train.order=buckets train.packing=false",
    "buckets, packed": "train.order=buckets train.packing=true",
    "random, padded": "train.order=random train.packing=false",
    "random, packed": "train.order=random train.packing=true",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=4, help="of which the first is not counted")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps in a turn")
    parser.add_argument("words", nargs="*", help="of the run: task=... data=... model=...")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: Steps(Path(folder), *args.words, *words.split()) for name, words in CONTESTANTS.items()}
        for _ in range(args.turns):
            for run in runs.values():
                run.turn(args.steps)
    found = {name: run.result() for name, run in runs.items()}
    args.out.write_text(json.dumps({"words": args.words, "machine": machine(), **found}, indent=1))
    print("| | real tokens/s | padding | tokens a forward pass | loss of the last turn |\n|---|---:|---:|---:|---:|")
    for name, one in found.items():
        print(f"| {name} | {one['rate']:,.0f} | {one['padding']:.1%} | {one['per_pass']:,.0f} | {one['loss']:.3f} |")


class Steps:
    """A run that makes steps when it is told to."""

    def __init__(self, folder: Path, *words: str):
        from llmtune.build import make_trainer
        from llmtune.config.compose import run_job
        from llmtune.preflight import preflight
        from llmtune.run.console import Console
        from llmtune.run.rundir import RunDir
        from llmtune.run.signals import StopRequest

        found: list[Any] = []
        common = ["train.eval_every=null", "train.save_every=null", "train.prefix_cache=off",
                  f"data.cache_dir={folder / 'cache'}"]  # fmt: skip
        run_job("train", [*common, *words], lambda config, cfg, typed: found.append(config) or 0)
        prepared = preflight(found[0], Console(quiet=True), StopRequest())
        place = Path(tempfile.mkdtemp(dir=folder))
        self.trainer = make_trainer(prepared, RunDir(place), Console(quiet=True), StopRequest())
        self.step = 0
        self.rates: list[float] = []
        self.real = self.padded = self.passes = 0
        self.losses: list[float] = []

    def turn(self, number: int) -> None:
        """So many optimizer steps, one time for all of them."""
        trainer, seconds, real = self.trainer, 0.0, 0
        self.losses = []
        for _ in range(number):
            batches = trainer.feed.at(self.step)
            start = time.perf_counter()
            result = trainer.stepper.run(self.step, batches, trainer.peak_lr, lambda: False)
            seconds += time.perf_counter() - start
            self.step, real = self.step + 1, real + result.real_tokens
            self.losses.append(result.sums["loss"])
            self.real, self.padded = self.real + result.real_tokens, self.padded + result.padded_tokens
            self.passes += len(batches)
        self.rates.append(real / seconds)

    def result(self) -> dict[str, float]:
        """`rate`: median over the turns, but for the first, of real tokens per second."""
        return {
            "rate": statistics.median(self.rates[1:]), "slowest": min(self.rates[1:]), "fastest": max(self.rates[1:]),
            "padding": 1 - self.real / self.padded, "per_pass": self.real / self.passes,
            "loss": statistics.fmean(self.losses),
        }  # fmt: skip


if __name__ == "__main__":
    main()
