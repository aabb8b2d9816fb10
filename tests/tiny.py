"""Tiny runs for tests: a config from typed words, a trainer in a temporary folder, files of a few rows."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from llmtune.build import make_trainer
from llmtune.config.compose import run_job
from llmtune.config.settings import Config
from llmtune.preflight import Prepared, preflight
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.run.signals import StopRequest
from llmtune.training.trainer import Trainer

TINY = (
    "task=sentiment", "data=files", "model.architecture.hidden_size=16", "model.architecture.intermediate_size=32",
    "model.tokenizer.vocab_size=200", "train.verify_model=off", "hardware.device=cpu", "hardware.threads=1",
    "train.log_every=1", "optimizer.lr=0.003",
)  # fmt: skip
SEVERAL = ("objective", "augmentation")
"""groups of which several options may be chosen"""
BESIDE = "objective.auxiliary.tasks={more: {train: builtin:reviews/validation.jsonl, limit: 50}}"
"""another labelled set of rows"""
SETS = ("objective=supervised", "objective=auxiliary", BESIDE)
NEEDS: dict[str, tuple[str, ...]] = {
    "freeze_policy=adapters_only": ("adapter=lora",),
    "objective=r_drop": ("model.dropout=0.1",),
    # at the start nothing has moved
    "objective=ewc": ("objective=supervised",),
    # the first tokens of rows are all alike in an untrained model: what is left is rounding
    "objective=supervised_contrastive": ("objective.supervised_contrastive.pooling=mean",),
    "objective=contrastive": ("model.dropout=0.1", "objective.contrastive.pooling=mean"),
    "objective=cosine_pairs": ("objective.cosine_pairs.pooling=mean",),
    "objective=auxiliary": (BESIDE,),
    "objective=causal_lm": ("model=tiny_gpt2",),
    "objective=distillation": ("objective.distillation.teacher=TEACHER",),
    # nothing is averaged yet in the first step, and its weight is 0 there
    "objective=self_distillation": (
        "objective=supervised", "objective.self_distillation.weight=1", "objective.self_distillation.temperature=2",
    ),
    "objective=denoising": ("model=tiny_t5",),
    "objective=replay": ("objective.replay.rows=builtin:tales/validation.txt",),
    **{f"balance={name}": SETS for name in ("uncertainty", "gradnorm", "pcgrad")},
    **{f"sampling={name}": SETS for name in ("proportional", "temperature", "round_robin", "dynamic")},
}
"""what an option can't be without, where that is no default"""
ELSEWHERE = ("optimizer=adamw_8bit", "adapter=qlora", "augmentation=back_translation")
"""options for hardware, packages and models that tests may not have: refused there, with a reason"""
WORDS = [
    "a", "dull", "slow", "grey", "film", "with", "no", "heart", "yet", "bright", "warm", "and", "quick", "scenes",
    "that", "sing", "of", "joy", "light",
]  # fmt: skip


def write_rows(folder: Path, *, rows: int = 60, seed: int = 0) -> list[str]:
    """train.jsonl, validation.jsonl, test.jsonl in `folder`; the words that name them as data."""
    rng = random.Random(seed)
    for split, size in (("train", rows), ("validation", 14), ("test", 12)):
        lines = []
        for number in range(size):
            text = " ".join(rng.choices(WORDS, k=rng.randint(3, 24))) + f" {split} {number}"
            lines.append(json.dumps({"text": text, "label": rng.choice(["bad", "good"])}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return [f"data.{split}={folder / f'{split}.jsonl'}" for split in ("train", "validation", "test")]


def config_of(*words: str) -> Config:
    """The checked config of `llmtune train WORDS`."""
    found: list[Config] = []

    def job(config: Config, cfg: Any, typed: list[str]) -> int:
        found.append(config)
        return 0

    run_job("train", [word.replace("=TEACHER", f"={teacher()}") if "=TEACHER" in word else word for word in words], job)
    return found[0]


@functools.cache
def teacher() -> str:
    """The folder of a tiny model for rows as `write_rows` makes them: what TEACHER stands for."""
    folder = Path(tempfile.mkdtemp(prefix="llmtune-teacher-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    prepared = prepared_of(*TINY, *write_rows(folder), "seed=5")
    trainer_of(prepared, folder / "run").composite.model.save_pretrained(folder)
    prepared.tokenizer.save_pretrained(folder)
    return str(folder)


def choice_of(group: str, option: str) -> list[str]:
    """The words that choose an option, and what it can't be without."""
    return together(f"{group}={option}")


def together(*choices: str) -> list[str]:
    """The words that choose several options (`objective=fgm`), with what they can't be without.

    Options of one group become a list where the group takes several.
    """
    chosen: dict[str, list[str]] = {}
    needed = [word for choice in choices for word in NEEDS.get(choice, ())]
    for choice in [*choices, *(word for word in needed if "." not in word.partition("=")[0])]:
        group, _, option = choice.partition("=")
        if group not in chosen or group in SEVERAL:
            chosen.setdefault(group, []).append(option)
    words = [
        f"{group}=[{','.join(dict.fromkeys(options))}]" if group in SEVERAL else f"{group}={options[0]}"
        for group, options in chosen.items()
    ]
    return [*words, *(word for word in needed if "." in word.partition("=")[0])]


def prepared_of(*words: str) -> Prepared:
    return preflight(config_of(*words), Console(quiet=True), StopRequest())


def trainer_of(prepared: Prepared, folder: Path, stop: StopRequest | None = None) -> Trainer:
    """A trainer that writes into `folder` and says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer = make_trainer(prepared, RunDir(folder), Console(quiet=True), StopRequest() if stop is None else stop)
    trainer.watchers = []
    return trainer


def sha_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
