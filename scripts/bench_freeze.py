"""What freezing and the prefix cache save, on sst2_sentence with a MiniLM; each part keeps its own JSON in --out.

    LLMTUNE_DATA=DATA LLMTUNE_MINILM=FOLDER python scripts/bench_freeze.py steps --out DIR      # about 2 minutes
    ... cache      cached against uncached epochs: time, losses, weights                        # about 3 minutes
    ... probe      probe_then_tune (5 epochs of the head) against full tuning from the start    # about 6 minutes
    ... trainer    frozen-4-of-6 against transformers' Trainer with requires_grad=False         # about 9 minutes
    ... table      all that is in DIR as Markdown

`steps` and `cache` run all contestants in one process, in turns on the same batches, so that whatever else the machine
does hits all alike; `probe` and `trainer` start fresh processes, nothing cached between them. That training happened
is shown by losses and gradient norms.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_freeze_runs import against_full, against_trainer
from bench_freeze_table import table
from bench_train import machine

DATA = Path(os.environ.get("LLMTUNE_DATA", "shared/data")) / "sst2_sentence"
MODEL = os.environ.get("LLMTUNE_MINILM", "sentence-transformers/all-MiniLM-L6-v2")
NUM_LAYERS = 6
TOP = "freeze_policy=top_layers freeze_policy.layers="
DEPTHS = {0: "freeze_policy=head_only", **{k: f"{TOP}{k}" for k in range(1, NUM_LAYERS)}, 6: "freeze_policy=embeddings"}
FULL = "freeze_policy=none"


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part != "table":
        parts = {"steps": steps, "cache": cache, "probe": against_full, "trainer": against_trainer}
        found = parts[args.part](args)
        settings = {key: str(value) for key, value in vars(args).items()}
        kept = {"settings": settings, "machine": machine(), **found}
        (args.out / f"{args.part}.json").write_text(json.dumps(kept, indent=1))
    print("\n".join(table(args.out)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("steps", "cache", "probe", "trainer", "table"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--train", type=Path, default=DATA / "train.tsv", help="TSV without header: text, label")
    parser.add_argument("--validation", type=Path, default=DATA / "dev.tsv")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rows", type=int, help="default: 960 in steps, 1920 in cache, 2304 in probe, else all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps in each turn of `steps`")
    parser.add_argument("--epochs", type=float, default=3, help="of full tuning in `probe`, of all in `trainer`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of `probe`")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    return parser.parse_args()


# ---- steps ----


def steps(args: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of a step for each number of trainable layers, and of a forward pass alone, in turns."""
    args.rows = args.rows or 960
    with tempfile.TemporaryDirectory() as name:
        words = [*DEPTHS.values(), FULL]
        runs = {each: Turns(args, Path(name), *each.split(), "train.prefix_cache=off") for each in words}
        forward: list[float] = []
        for _ in range(args.repeats):
            for run in runs.values():
                run.steps(args.steps)
            forward += runs[FULL].forward_passes(args.steps)
            print(f"a step of full tuning: {statistics.median(runs[FULL].seconds):.3f} s", flush=True)
        warm = args.steps  # the first turn of each warms up
        seconds = {each: statistics.median(run.seconds[warm:] or run.seconds) for each, run in runs.items()}
        facts = {each: run.proof() for each, run in runs.items()}
    alone = statistics.median(forward[warm:] or forward)
    rows = [
        {"trainable_layers": k, "seconds": seconds[each], "by_count": alone * (NUM_LAYERS + 2 * k) / NUM_LAYERS,
         "ratio": seconds[each] / (alone * (NUM_LAYERS + 2 * k) / NUM_LAYERS),
         "full_over_this": seconds[FULL] / seconds[each], **facts[each]}
        for k, each in DEPTHS.items()
    ]  # fmt: skip
    return {"forward_s": alone, "full_s": seconds[FULL], "full": facts[FULL], "rows": rows}


# ---- cache ----


def cache(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of uncached and cached epochs in turns, and how far losses and weights are apart after them."""
    args.rows = args.rows or 1920
    found = []
    for policy in (DEPTHS[0], DEPTHS[1]):
        with tempfile.TemporaryDirectory() as name:
            cached = Turns(args, Path(name), *policy.split(), "train.prefix_cache=on")
            plain = Turns(args, Path(name), *policy.split(), "train.prefix_cache=off")
            length = plain.trainer.clocks.steps_per_epoch
            epochs: dict[str, list[float]] = {"cached": [], "plain": []}
            scores: dict[str, list[float]] = {"cached": [], "plain": []}
            for repeat in range(args.repeats + 1):
                for who, run in (("cached", cached), ("plain", plain))[:: 1 if repeat % 2 else -1]:
                    epochs[who].append(run.steps(length))
                    scores[who].append(run.evaluate())
                print(f"{policy}: {epochs}", flush=True)
            found.append({
                "policy": policy, "steps": length, "filling_s": epochs["cached"][0],
                "first_plain_s": epochs["plain"][0], "cached_s": statistics.median(epochs["cached"][1:]),
                "plain_s": statistics.median(epochs["plain"][1:]),
                "cached_eval_s": statistics.median(cached.eval_seconds[1:]),
                "plain_eval_s": statistics.median(plain.eval_seconds[1:]),
                "loss_apart": max(abs(a - b) for a, b in zip(cached.losses, plain.losses)),
                "weights_apart": cached.apart(plain), "metrics_equal": scores["cached"] == scores["plain"],
                **{f"{key}_cached": value for key, value in cached.proof().items()},
                **{f"{key}_plain": value for key, value in plain.proof().items()},
            })  # fmt: skip
    return {"rows": found}


class Turns:
    """A run of llmtune that makes steps when it is told to, with the time of each."""

    def __init__(self, args: argparse.Namespace, folder: Path, *words: str):
        from llmtune.build import make_trainer
        from llmtune.config.compose import run_job
        from llmtune.preflight import preflight
        from llmtune.run.console import Console
        from llmtune.run.rundir import RunDir
        from llmtune.run.signals import StopRequest

        found: list[Any] = []
        common = [
            "task=classification", "data=files", f"data.train={args.train}", f"data.validation={args.validation}",
            "data.test_share=0", f"data.limit={args.rows}", f"data.cache_dir={folder / 'cache'}", "model=pretrained",
            f"model.path={args.model}", "train.batch_rows=32", "optimizer.lr=5e-5", "hardware.device=cpu",
            f"hardware.threads={args.threads or 'auto'}", f"train.epochs={args.repeats + 2}", "train.eval_every=null",
            "train.save_every=null",
        ]  # fmt: skip
        run_job("train", [*common, *words], lambda config, cfg, typed: found.append(config) or 0)
        prepared = preflight(found[0], Console(quiet=True), StopRequest())
        place = Path(tempfile.mkdtemp(dir=folder))
        self.trainer = make_trainer(prepared, RunDir(place), Console(quiet=True), StopRequest())
        self.trainer.watchers = []
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.eval_seconds: list[float] = []
        stepper, real = self.trainer.stepper, self.trainer.stepper.run

        def run(*given: Any) -> Any:
            result = real(*given)
            self.losses.append(result.sums["loss"])
            self.norms.append(result.grad_norm)
            return result

        stepper.run = run  # type: ignore[method-assign]

    def steps(self, number: int) -> float:
        """So many optimizer steps; their seconds together."""
        for _ in range(number):
            start = time.perf_counter()
            self.trainer._freeze()
            self.trainer._train_one_step()
            self.seconds.append(time.perf_counter() - start)
        return sum(self.seconds[-number:])

    def forward_passes(self, number: int) -> list[float]:
        """Seconds of the model's forward pass, dropout on and nothing remembered, on the last steps' batches."""
        import torch

        seconds, trainer = [], self.trainer
        for step in range(trainer.state.step - number, trainer.state.step):
            for batch in trainer.feed.at(step):
                start = time.perf_counter()
                with torch.no_grad():
                    trainer.composite.trunk.evaluated(batch)
                seconds.append(time.perf_counter() - start)
        return seconds

    def evaluate(self) -> float:
        """Accuracy on the validation rows."""
        from llmtune.training.evaluation import evaluate

        trainer = self.trainer
        done = evaluate(
            trainer.composite.model, trainer.validation, trainer.machine, trainer.task,
            forward=trainer.composite.trunk.evaluated,
        )  # fmt: skip
        self.eval_seconds.append(done.seconds)
        return done.scores["accuracy"]

    def apart(self, other: Turns) -> float:
        """Largest difference of a weight."""
        mine, theirs = (dict(run.trainer.composite.named_parameters()) for run in (self, other))
        return max(float((mine[name] - theirs[name]).detach().abs().max()) for name in mine)

    def proof(self) -> dict[str, float]:
        """That it trained: mean loss of the first and of the last eighth of all steps, least norm of a gradient."""
        few = max(1, len(self.losses) // 8)
        return {
            "first_loss": statistics.mean(self.losses[:few]), "last_loss": statistics.mean(self.losses[-few:]),
            "least_norm": min(self.norms),
        }  # fmt: skip


if __name__ == "__main__":
    main()
