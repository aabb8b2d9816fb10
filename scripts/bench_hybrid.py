"""What each objective adds to supervised training when labels are few, on four real data sets.

    LLMTUNE_DATA=DATA LLMTUNE_MINILM=FOLDER python scripts/bench_hybrid.py --work FOLDER
    ... --table docs/benchmarks/hybrid.md      (writes the table of what is there and trains nothing)

Every finished run is a line of FOLDER/results.jsonl: started again, it goes on where it stopped. Several may run at
once on one FOLDER. All mixtures of a cell see the same rows and the same number of steps; nothing was tuned for one
of them, and the test rows were looked at once, after the last step.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import random
import shutil
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

DATA = Path(os.environ.get("LLMTUNE_DATA", "shared/data"))
MINILM = os.environ.get("LLMTUNE_MINILM", "sentence-transformers/all-MiniLM-L6-v2")
SEEDS = (1, 2, 3)
OLD = f"{DATA}/wikitext2/valid.txt"
"""plain text that some objectives read beside the task's rows"""
MIXTURES = {
    "supervised": ["objective=[supervised]"],
    "+ masked_lm": ["objective=[supervised,masked_lm]"],
    "+ masked_lm, weight 1": ["objective=[supervised,masked_lm]", "objective.masked_lm.weight=1"],
    "+ supervised_contrastive": ["objective=[supervised,supervised_contrastive]"],
    "+ r_drop": ["objective=[supervised,r_drop]"],
    "+ fgm": ["objective=[supervised,fgm]"],
    "+ distillation": ["objective=[supervised,distillation]", "objective.distillation.teacher={teacher}"],
    "+ l2_sp": ["objective=[supervised,l2_sp]"],
}
REST = {
    "+ pgd": ["objective=[supervised,pgd]"],
    "freelb": ["objective=[freelb]"],
    "+ smart": ["objective=[supervised,smart]"],
    "neftune": ["objective=[neftune]"],
    "+ mixup": ["objective=[supervised,mixup]"],
    "mixout": ["objective=[mixout]"],
    "+ contrastive": ["objective=[supervised,contrastive]"],
    "+ self_distillation": ["objective=[supervised,self_distillation]"],
    "+ hidden states of a teacher": [
        "objective=[supervised,distillation]", "objective.distillation.teacher={teacher}",
        "objective.distillation.hidden_states=1",
    ],
    "+ ewc": ["objective=[supervised,ewc]", f"objective.ewc.rows={OLD}"],
    "+ next_sentence": ["objective=[supervised,next_sentence]", f"objective.next_sentence.rows={OLD}"],
    "+ sentence_order": ["objective=[supervised,sentence_order]", f"objective.sentence_order.rows={OLD}"],
}
"""the other objectives, each beside `supervised` alone on one cell (--rest)"""

Row = tuple[str, str]
"""text, label"""


@dataclass(frozen=True)
class Source:
    """A data set: where its rows are, and how it is trained."""

    train: str
    test: str
    columns: tuple[int | str, int | str]
    """text and label: names where there is a header, else positions"""
    test_rows: int
    teacher_lr: str
    max_tokens: int = 64
    encoder: str = "minilm"
    """minilm, or zh: a small one made on the spot and pre-trained on Chinese text first"""
    teacher_epochs: float = 3


@dataclass(frozen=True)
class Cell:
    """One column of the table: so many labels of a data set."""

    source: str
    rows: int | None
    """rows a class; None: all"""
    epochs: float
    lr: str

    @property
    def name(self) -> str:
        return f"{self.source}, {'all' if self.rows is None else f'{self.rows} a class'}"


SOURCES = {
    "sst2_sentence": Source("sst2_sentence/train.tsv", "sst2_sentence/dev.tsv", (0, 1), 872, "1e-4"),
    "banking77": Source("banking77/train.csv", "banking77/test.csv", ("text", "category"), 770, "3e-4",
                        teacher_epochs=3),
    "ag_news": Source("ag_news/train_10k.tsv", "ag_news/test.tsv", (0, 1), 600, "1e-4", teacher_epochs=1),
    "thucnews_titles": Source("thucnews_titles/dev.txt", "thucnews_titles/test.txt", (0, 1), 1000, "5e-4",
                              encoder="zh", teacher_epochs=3),
}  # fmt: skip
CELLS = (
    Cell("sst2_sentence", 32, 10, "3e-4"),
    Cell("ag_news", 16, 8, "3e-4"),
    Cell("banking77", 2, 12, "5e-4"),
    Cell("thucnews_titles", 64, 8, "5e-4"),
    Cell("sst2_sentence", 128, 6, "3e-4"),
    Cell("ag_news", 64, 4, "3e-4"),
    Cell("banking77", 10, 5, "5e-4"),
    Cell("sst2_sentence", None, 2, "1e-4"),
)


def read_rows(file: str, columns: tuple[int | str, int | str]) -> list[Row]:
    with open(DATA / file, encoding="utf-8", newline="") as stream:
        if isinstance(columns[0], str):
            return [(row[columns[0]], row[str(columns[1])]) for row in csv.DictReader(stream)]
        lines = [line.rstrip("\r\n").split("\t") for line in stream]
    return [(line[int(columns[0])], line[int(columns[1])]) for line in lines if len(line) > 1]


def draw(rows: list[Row], per_class: int | None, seed: int) -> list[Row]:
    """`per_class` rows of each class, drawn from `seed`; all rows where it is None."""
    if per_class is None:
        return rows
    shuffled = random.Random(seed).sample(rows, len(rows))
    by_class: dict[str, list[Row]] = {}
    for row in shuffled:
        by_class.setdefault(row[1], []).append(row)
    return [row for label in sorted(by_class) for row in by_class[label][:per_class]]


def write_rows(path: Path, rows: list[Row]) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(lines, encoding="utf-8")
        aside.replace(path)
    return path


class Bench:
    def __init__(self, work: Path, threads: int):
        self.work, self.threads = work, threads
        self.log = work / "results.jsonl"

    def results(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def train(self, words: list[str], run: Path) -> dict | None:
        """`llmtune train` in this process; result.json, or None where another process has this run."""
        from llmtune.cli import main

        if not (run / "result.json").exists():
            try:
                run.parent.mkdir(parents=True, exist_ok=True)
                run.with_suffix(".taken").open("x").close()
            except FileExistsError:
                return None
            words = [
                *words, f"run.dir={run}", "train.verify_model=off", "hardware.device=cpu", "train.save_every=null",
                f"hardware.threads={self.threads}", f"data.cache_dir={self.work}/cache",
            ]  # fmt: skip
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = main(["train", *words])
            if code:
                raise SystemExit(f"llmtune train {' '.join(words)}\n{said.getvalue()[-3000:]}")
        return json.loads((run / "result.json").read_text())

    def model_words(self, source: Source) -> list[str] | None:
        if source.encoder == "minilm":
            return ["model=minilm", f"model.path={MINILM}"]
        run = self.work / "zh_encoder"
        shape = ("hidden_size=192", "num_hidden_layers=4", "num_attention_heads=4", "intermediate_size=768")
        made = self.train([
            "task=masked_lm", "model=tiny_bert", "data=files", f"data.train={DATA}/zh_wiki_lm/train.txt",
            f"data.validation={DATA}/zh_wiki_lm/valid.txt", "train.epochs=12", "data.max_tokens=128",
            "optimizer.lr=1e-3", "data.on_overlength=truncate", "data.max_truncated_share=1",
            *(f"model.architecture.{word}" for word in shape),
        ], run)  # fmt: skip
        return made and ["model=pretrained", f"model.path={run}/model"]

    def fit(self, name: str, source: Source, train: Path, test: Path, seed: int, words: list[str]) -> dict | None:
        """Train on `train`, score `test` after the last step."""
        model = self.model_words(source)
        if model is None:
            return None
        return self.train([
            "task=classification", "data=files", *model, f"data.train={train}", f"data.test={test}",
            "data.validation_share=0", f"data.max_tokens={source.max_tokens}", "data.max_truncated_share=1",
            "train.batch_rows=16", f"seed={seed}", *words,
        ], self.work / "runs" / name)  # fmt: skip

    def rows_of(self, cell: Cell, seed: int) -> tuple[Path, Path]:
        source = SOURCES[cell.source]
        rows = self.work / "rows"
        size = "all" if cell.rows is None else f"{cell.rows}-{seed}"
        train = write_rows(rows / f"{cell.source}-{size}.jsonl",
                           draw(read_rows(source.train, source.columns), cell.rows, seed))  # fmt: skip
        everything = read_rows(source.test, source.columns)
        classes = len({label for _, label in everything})
        share = None if source.test_rows >= len(everything) else max(1, source.test_rows // classes)
        chosen = draw(everything, share, 0)
        return train, write_rows(rows / f"{cell.source}-test.jsonl", chosen)

    def teacher(self, name: str) -> Path | None:
        """The model folder of a teacher trained on all rows of a data set, for longer."""
        source = SOURCES[name]
        train, test = self.rows_of(Cell(name, None, 0, ""), 0)
        words = [f"train.epochs={source.teacher_epochs:g}", f"optimizer.lr={source.teacher_lr}"]
        made = self.fit(f"{name}-teacher", source, train, test, 0, words)
        return made and self.work / "runs" / f"{name}-teacher"

    def run(self, cells: list[Cell], seeds: tuple[int, ...], mixtures: list[str]) -> None:
        for seed in seeds:
            for cell in cells:
                for mixture in mixtures:
                    if cell.rows is None and seed != SEEDS[0]:
                        continue
                    self.run_one(cell, mixture, seed)

    def run_one(self, cell: Cell, mixture: str, seed: int) -> None:
        done = {(record["cell"], record["mixture"], record["seed"]) for record in self.results()}
        if (cell.name, mixture, seed) in done:
            return
        words = list((MIXTURES | REST)[mixture])
        if any("{teacher}" in word for word in words):
            teacher = self.teacher(cell.source)
            if teacher is None:
                return
            words = [word.replace("{teacher}", str(teacher)) for word in words]
        train, test = self.rows_of(cell, seed)
        size = "all" if cell.rows is None else str(cell.rows)
        name = f"{cell.source}-{size}-{mixture.strip('+ ')}-{seed}"
        start = time.perf_counter()
        result = self.fit(name, SOURCES[cell.source], train, test, seed, [
            f"train.epochs={cell.epochs:g}", f"optimizer.lr={cell.lr}", *words,
        ])  # fmt: skip
        if result is None:
            return
        record = {
            "cell": cell.name, "mixture": mixture, "seed": seed, "accuracy": result["test"]["accuracy"],
            "f1_macro": result["test"].get("f1_macro"), "train_s": result["train_seconds"],
            "steps": result["steps"], "wall_s": round(time.perf_counter() - start, 1),
        }  # fmt: skip
        with open(self.log, "a") as file:
            file.write(json.dumps(record) + "\n")
        for folder in ("model", "checkpoints"):  # 150 runs of 350 MB
            shutil.rmtree(self.work / "runs" / name / folder, ignore_errors=True)
        print(json.dumps(record), flush=True)


def table(results: list[dict], mixtures: dict[str, list[str]]) -> str:
    """Mean accuracy and spread (lowest to highest) by mixture and cell, and what each mixture costs."""
    shown = {record["cell"] for record in results if record["mixture"] in mixtures.keys() - {"supervised"}}
    results = [record for record in results if record["cell"] in shown]
    cells = [cell.name for cell in CELLS if any(record["cell"] == cell.name for record in results)]
    lines = ["| objective | " + " | ".join(cells) + " | time |", "|---" * (len(cells) + 2) + "|"]
    base = _by_cell(results, "supervised")
    for mixture in mixtures:
        mine = _by_cell(results, mixture)
        shown = []
        for cell in cells:
            scores = [record["accuracy"] for record in mine.get(cell, [])]
            spread = f" ({min(scores):.3f} to {max(scores):.3f})" if len(scores) > 1 else ""
            shown.append(f"{statistics.mean(scores):.3f}{spread}" if scores else "not run")
        ratios = [
            statistics.median([record["train_s"] for record in mine[cell]])
            / statistics.median([record["train_s"] for record in base[cell]])
            for cell in cells
            if mine.get(cell) and base.get(cell)
        ]
        cost = f"{statistics.median(ratios):.2f}x" if ratios else ""
        lines.append(f"| {mixture} | " + " | ".join(shown) + f" | {cost} |")
    return "\n".join(lines)


def _by_cell(results: list[dict], mixture: str) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for record in results:
        if record["mixture"] == mixture:
            found.setdefault(record["cell"], []).append(record)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="data sets")
    parser.add_argument("--mixtures", nargs="*", default=list(MIXTURES))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--teachers", action="store_true", help="train the teachers and stop")
    parser.add_argument("--rest", action="store_true", help="the other objectives, on the smallest cell")
    parser.add_argument("--table", action="store_true", help="print the table and train nothing")
    options = parser.parse_args()
    bench = Bench(options.work.absolute(), options.threads)
    rest = {"supervised": MIXTURES["supervised"], **REST}
    if options.table:
        print(table(bench.results(), MIXTURES), table(bench.results(), rest), sep="\n\n")
        return
    if options.teachers:
        for name in options.only or SOURCES:
            print(name, bench.teacher(name), flush=True)
        return
    cells = [cell for cell in CELLS if not options.only or cell.source in options.only]
    if options.rest:
        bench.run(cells[:1], tuple(options.seeds), list(rest))
    else:
        bench.run(cells, tuple(options.seeds), options.mixtures)
    print(table(bench.results(), rest if options.rest else MIXTURES))


if __name__ == "__main__":
    sys.exit(main())
