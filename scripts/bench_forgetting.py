"""What a model forgets while it learns sentiment, and what keeps it: loss on general text beside accuracy.

    LLMTUNE_DATA=DATA LLMTUNE_MINILM=FOLDER python scripts/bench_forgetting.py --work FOLDER
    ... --table docs/benchmarks/forgetting.md      (writes the table of what is there and trains nothing)

MiniLM gets a masked-language-model head on a part of wikitext-2 first, a GPT-2 of 2 layers is made there; then both
learn `sst2_sentence` in several ways. Every finished run keeps its folder: started again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import statistics
from pathlib import Path

DATA = Path(os.environ.get("LLMTUNE_DATA", "shared/data"))
MINILM = os.environ.get("LLMTUNE_MINILM", "sentence-transformers/all-MiniLM-L6-v2")
SEEDS = (1, 2)
TRAIN_ROWS, TEST_ROWS, GENERAL_ROWS = 1000, 872, 100
LM_STEPS = {"minilm": 260, "gpt2": 400}
MODELS = {
    "minilm": ["model=minilm", f"model.path={MINILM}", "optimizer.lr=6e-4", "task=masked_lm",
               "objective.masked_lm.mask_share=0.3", "objective.masked_lm.unit=token"],
    "gpt2": ["model=tiny_gpt2", "optimizer.lr=2e-3", "task=causal_lm"],
}  # fmt: skip
LR = {"minilm": "1e-4", "gpt2": "5e-4"}
OWN = {"minilm": "masked_lm", "gpt2": "causal_lm"}
WAYS = {
    "plain": ["objective=[supervised]"],
    "replay of old text": ["objective=[supervised,replay]", "objective.replay.rows={old}"],
    "replay of old text, weight 1": [
        "objective=[supervised,replay]", "objective.replay.rows={old}", "objective.replay.weight=1",
    ],
    "replay of own text": ["objective=[supervised,replay]", "objective.replay.rows=generated"],
    "+ {own} on the task's texts": ["objective=[supervised,{own}]"],
    "+ {own} on the task's texts, weight 1": ["objective=[supervised,{own}]", "objective.{own}.weight=1"],
    "l2_sp": ["objective=[supervised,l2_sp]"],
    "ewc": ["objective=[supervised,ewc]", "objective.ewc.rows={old}"],
}  # fmt: skip


def folder_of(model: str, way: str) -> str:
    return "".join(char for char in way.format(own=OWN[model]).replace(" ", "_") if char not in "',")


def lines_of(file: str) -> list[str]:
    """The paragraphs of a file of wikitext-2; titles and empty lines left out."""
    lines = (DATA / "wikitext2" / file).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if len(line.split()) > 8 and not line.strip().startswith("=")]


def write_texts(work: Path) -> tuple[Path, Path]:
    """Old text to train on, general text of other articles to be scored: files of one paragraph a line."""
    old, general = work / "old.txt", work / "general.txt"
    texts = {old: lines_of("valid.txt"), general: random.Random(0).sample(lines_of("test.txt"), GENERAL_ROWS)}
    for path, lines in texts.items():
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return old, general


def write_task(work: Path) -> list[str]:
    """Rows of sst2_sentence, and the words that name them."""
    words = ["data=files", "data.columns.text=text", "data.columns.label=label", "data.test_share=0"]
    for split, file, rows in (("train", "train.tsv", TRAIN_ROWS), ("validation", "dev.tsv", TEST_ROWS)):
        found = [line.rsplit("\t", 1) for line in (DATA / "sst2_sentence" / file).read_text().splitlines()]
        drawn = random.Random(0).sample(found, min(rows, len(found)))
        path = work / f"{split}.jsonl"
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in drawn))
        words.append(f"data.{split}={path}")
    return words


class Bench:
    def __init__(self, work: Path, threads: int):
        self.work, self.threads = work, threads
        self.old, self.general = write_texts(work)
        self.task = write_task(work)

    def train(self, name: str, words: list[str]) -> dict:
        """`llmtune train` in this process; its result.json."""
        from llmtune.cli import main

        run = self.work / name
        if not (run / "result.json").exists():
            words = [
                *words, f"run.dir={run}", "resume=auto", "train.verify_model=off", "hardware.device=cpu",
                f"hardware.threads={self.threads}", f"data.cache_dir={self.work}/cache",
            ]  # fmt: skip
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = main(["train", *words])
            if code:
                raise SystemExit(f"llmtune train {' '.join(words)}\n{said.getvalue()[-3000:]}")
        return json.loads((run / "result.json").read_text())

    def language_model(self, model: str) -> dict:
        return self.train(f"{model}/language_model", [
            *MODELS[model], "data=files", f"data.train={self.old}", f"data.validation={self.general}",
            "data.test_share=0", "data.max_tokens=128", f"train.max_steps={LM_STEPS[model]}",
            "train.batch_tokens=1024", "train.eval_every=null", "optimizer.warmup=0.06",
        ])  # fmt: skip

    def way(self, model: str, way: str, seed: int) -> dict:
        filled = [word.format(own=OWN[model], old=self.old) for word in WAYS[way]]
        return self.train(f"{model}/{folder_of(model, way)}/{seed}", [
            "task=sentiment", *self.task, "model=pretrained", f"model.path={self.work}/{model}/language_model/model",
            f"optimizer.lr={LR[model]}", "train.epochs=2", "train.batch_rows=16", "data.max_tokens=128", f"seed={seed}",
            f"train.watch_forgetting={self.general}", f"train.watch_forgetting_rows={GENERAL_ROWS}",
            "train.save_every=null", *filled,
        ])  # fmt: skip


def jobs() -> list[tuple[str, str, int]]:
    """(model, way, seed), the cheap model first."""
    return [
        (model, way, seed)
        for model in ("gpt2", "minilm")
        for seed in SEEDS
        for way in WAYS
        if (model, way) != ("minilm", "replay of own text")  # an encoder does not write
    ]


def table(work: Path) -> str:
    """The page: for each model and way the loss of general text before and after, and the accuracy."""
    parts = ["# What a model forgets, and what keeps it\n", ABOUT]
    for model in MODELS:
        first = work / model / "language_model" / "result.json"
        if not first.exists() or not list((work / model).glob("*/*/result.json")):
            continue
        told = json.loads(first.read_text())["validation"]
        parts.append(f"\n## {model}: language-model loss {told['loss']:.3f} after its training on old text\n")
        parts.append("| way | general text, before | after | at worst | accuracy | seconds | runs |")
        parts.append("|---|---|---|---|---|---|---|")
        for way in WAYS:
            folder = work / model / folder_of(model, way)
            runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]
            if runs:
                parts.append(_row(way.format(own=OWN[model]), runs))
    return "\n".join(parts) + "\n"


def _row(name: str, runs: list[dict]) -> str:
    def mean(values: list[float], digits: int) -> str:
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    kept = [run["forgetting"] for run in runs]
    cells = [mean([each[word] for each in kept], 3) for word in ("before", "after", "worst")]
    accuracy = mean([100 * run["validation"]["accuracy"] for run in runs], 1)
    seconds = f"{statistics.mean([run['train_seconds'] for run in runs]):.0f}"
    return f"| {name} | {' | '.join(cells)} | {accuracy} | {seconds} | {len(runs)} |"


ABOUT = f"""Two models learn sentiment ({TRAIN_ROWS:,} rows of `sst2_sentence`, 2 epochs; accuracy on its {TEST_ROWS}
dev rows, in the weights that were best there). Before, MiniLM was given a masked-language-model head, and a GPT-2 of 2
layers was trained from nothing, both on the paragraphs of wikitext-2's valid.txt ({LM_STEPS["minilm"]} and
{LM_STEPS["gpt2"]} steps of 1,024 tokens): that is the old text. General text is {GENERAL_ROWS} paragraphs of test.txt,
other articles, scored by `train.watch_forgetting`: nats a hidden word (MiniLM) or a next one (GPT-2), lower is better.
Settings are those that each way ships with, where no weight is named; a tenth of the weight for losses of words was
set after the rows with weight 1 had been seen. Seconds are of a shared machine and say little.
Made by `scripts/bench_forgetting.py`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    work = given.work.absolute()
    if given.table is not None:
        given.table.write_text(table(work), encoding="utf-8")
        return
    bench = Bench(work, given.threads)
    for model, way, seed in jobs():
        if given.only in (None, model):
            told = bench.language_model(model)["validation"]["loss"]
            result = bench.way(model, way, seed)
            kept = result["forgetting"]
            named = way.format(own=OWN[model])
            score = result["validation"]["accuracy"]
            print(f"{model} ({told:.3f}), {named}, seed {seed}: accuracy {score:.4f}, general text "
                  f"{kept['before']:.3f} -> {kept['after']:.3f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
