"""A run with the prefix cache is the run without it; stopped and resumed, it is the unstopped one, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmtune.core.errors import Stopped
from llmtune.finish import finish
from llmtune.model.prefix import lower_stack
from llmtune.run.checkpoint import CheckpointStore
from llmtune.run.console import Console
from llmtune.run.rundir import RunDir
from llmtune.run.signals import StopRequest
from llmtune.training.trainer import Trainer
from tests.tiny import TINY, WORDS, prepared_of, sha_of, trainer_of, write_rows

WORDS_OF_ALL = ("train.batch_rows=9", "train.micro_rows=4", "model.architecture.num_hidden_layers=4",
                "train.eval_every=5", "train.save_every=6", "train.keep=2", "train.log_every=1")  # fmt: skip
POLICIES = {
    "head_only": ("freeze_policy=head_only",),
    "top_layers": ("freeze_policy=top_layers", "freeze_policy.layers=2", "train.ema=0.9"),
    "gradual": ("freeze_policy=gradual", "freeze_policy.every=4"),
    "chain_thaw": ("freeze_policy=chain_thaw", "freeze_policy.every=3"),
    "converging": ("freeze_policy=converging", "freeze_policy.every=2", "freeze_policy.percentile=80"),
    "lora": ("freeze_policy=top_layers", "freeze_policy.layers=1", "adapter=lora"),
}


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    return [*write_rows(tmp_path), f"data.cache_dir={tmp_path / 'cache'}"]


def run(folder: Path, *words: str, epochs: int = 3, stop: StopRequest | None = None) -> Trainer:
    """A trainer for these words, gone on with from its last checkpoint if there is one."""
    prepared = prepared_of(*TINY, *WORDS_OF_ALL, f"train.epochs={epochs}", *words)
    trainer = trainer_of(prepared, folder, stop)
    checkpoint = CheckpointStore(folder / "checkpoints", keep=2).newest_good(print)
    trainer.resume(checkpoint)
    return trainer


def fitted(folder: Path, *words: str, epochs: int = 3) -> Trainer:
    trainer = run(folder, *words, epochs=epochs)
    trainer.fit()
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.composite.named_parameters()}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def layer_runs(trainer: Trainer) -> list[int]:
    """Grows whenever the inside of the lowest layer runs."""
    seen: list[int] = []
    inner = next(module for module in lower_stack(trainer.composite.model.base_model)[0].modules()
                 if not list(module.children()))  # fmt: skip
    inner.register_forward_hook(lambda *_: seen.append(trainer.state.step))
    return seen


@pytest.mark.parametrize("policy", POLICIES)
def test_cached_equals_uncached(policy: str, rows: list[str], tmp_path: Path) -> None:
    cached = fitted(tmp_path / "on", *rows, *POLICIES[policy], "train.prefix_cache=on")
    plain = fitted(tmp_path / "off", *rows, *POLICIES[policy], "train.prefix_cache=off")
    assert list((tmp_path / "cache" / "prefix").glob("*/hidden.bin"))
    found, expected = weights(cached), weights(plain)
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-5
    for one, other in zip(lines(tmp_path / "on"), lines(tmp_path / "off"), strict=True):
        assert one.keys() == other.keys()
        assert all(one[key] == pytest.approx(other[key], abs=1e-5) for key in one if key != "split")
        assert one.get("accuracy") == other.get("accuracy")


def test_rows_of_one_length_are_equal_to_the_bit(tmp_path: Path) -> None:
    for split, size in (("train", 40), ("validation", 10)):
        text = [" ".join(WORDS[(row + place) % len(WORDS)] for place in range(6)) for row in range(size)]
        (tmp_path / f"{split}.jsonl").write_text(
            "\n".join(json.dumps({"text": each, "label": "ab"[row % 2]}) for row, each in enumerate(text))
        )
    words = [f"data.{split}={tmp_path / f'{split}.jsonl'}" for split in ("train", "validation")]
    words += ["data.test_share=0", "model.tokenizer.kind=wordpiece", *POLICIES["top_layers"]]
    trained = {}
    for cache in ("on", "off"):
        trainer = fitted(tmp_path / cache, *words, f"train.prefix_cache={cache}", f"data.cache_dir={tmp_path}/{cache}c")
        lengths = trainer.feed.feeds["task"].table.lengths
        assert lengths.min() == lengths.max()
        trained[cache] = weights(trainer)
    assert all(torch.equal(trained["on"][name], trained["off"][name]) for name in trained["off"])
    assert (tmp_path / "on" / "metrics.jsonl").read_text() == (tmp_path / "off" / "metrics.jsonl").read_text()


class StopAt(StopRequest):
    """Asks for a stop at the n-th time that somebody looks."""

    def __init__(self, looks: int):
        self.left = looks

    @property
    def name(self) -> str | None:  # type: ignore[override]
        self.left -= 1
        return "SIGTERM" if self.left < 0 else None


def files_of(folder: Path) -> dict[str, str]:
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    return {path.name: sha_of(path) for path in [*sorted(last.glob("*.safetensors")), folder / "metrics.jsonl"]}


@pytest.mark.parametrize("policy", ["top_layers", "gradual", "converging"])
@pytest.mark.parametrize("looks", [5, 17, 29])
def test_stopped_and_resumed_equals_unstopped(policy: str, looks: int, rows: list[str], tmp_path: Path) -> None:
    words = [*rows, *POLICIES[policy], "train.prefix_cache=on"]
    apart = [word for word in words if not word.startswith("data.cache_dir")]
    fitted(tmp_path / "whole", *apart, f"data.cache_dir={tmp_path / 'apart'}")
    with pytest.raises(Stopped):
        run(tmp_path / "run", *words, stop=StopAt(looks)).fit()
    fitted(tmp_path / "run", *words)
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("flushed", [True, False])
def test_killed_and_resumed_equals_unstopped(flushed: bool, rows: list[str], tmp_path: Path) -> None:
    """Whether rows that were computed after the last save outlived the kill or not."""

    class Killed(Exception):
        pass

    def dying(trainer: Trainer) -> Callable[[], None]:
        real = trainer._train_one_step

        def train_one_step() -> None:
            if trainer.state.step == 4:  # in the first epoch, before any save
                if not flushed:
                    for store in trainer.prefix.stores.values():
                        store.flush = lambda: None  # type: ignore[method-assign]
                raise Killed
            real()

        return train_one_step

    words = [*rows, *POLICIES["top_layers"], "train.prefix_cache=on"]
    apart = [word for word in words if not word.startswith("data.cache_dir")]
    fitted(tmp_path / "whole", *apart, f"data.cache_dir={tmp_path / 'apart'}")
    trainer = run(tmp_path / "run", *words)
    trainer._train_one_step = dying(trainer)  # type: ignore[method-assign]
    with pytest.raises(Killed):
        trainer.fit()
    resumed = run(tmp_path / "run", *words)
    ran = layer_runs(resumed)
    resumed.fit()
    assert ran.count(0) == (1 if flushed else 4)  # the proof that it is exact, and three forward passes
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


def test_first_epoch_fills_and_other_runs_read(rows: list[str], tmp_path: Path) -> None:
    """No layer of the prefix runs after the first pass; another trial, with another order and rate, runs none."""
    words = [*rows, *POLICIES["top_layers"], "train.eval_every=7"]
    trainer = run(tmp_path / "first", *words)
    ran = layer_runs(trainer)
    trainer.fit()
    assert trainer.clocks.steps_per_epoch == 7
    assert set(range(7)) <= set(ran) <= set(range(8))  # step 7: the first evaluation
    finish(trainer, prepared_of(*TINY, *WORDS_OF_ALL, *words), RunDir(tmp_path / "first"), Console(quiet=True))
    said: list[str] = []
    again = run(tmp_path / "second", *words, "train.order=random", "optimizer.lr=0.001", epochs=2)
    again.prefix.say = said.append
    ran = layer_runs(again)
    again.fit()
    assert said == [
        "prefix cache: 60 of 60 rows of train are there already",
        "prefix cache: 14 of 14 rows of validation are there already",
    ]
    assert len(ran) <= 1  # the proof that it is exact
    again.prefix.add("test", again.feed.feeds["task"].table)
    assert len(again.prefix.stores) == 3


def test_another_run_that_fills_is_read_from(rows: list[str], tmp_path: Path) -> None:
    words = [*rows, *POLICIES["head_only"], "train.prefix_cache=on"]
    first = run(tmp_path / "first", *words)
    first._freeze()
    first._train_one_step()
    first.prefix.flush()
    second = run(tmp_path / "second", *words)
    second.fit()
    assert not second.prefix.stores["train"].writes
    assert second.prefix.stores["train"].num_there == 9
    plain = fitted(tmp_path / "off", *rows, *POLICIES["head_only"], "train.prefix_cache=off")
    found, expected = weights(second), weights(plain)
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-5


def test_other_weights_are_another_entry(rows: list[str], tmp_path: Path) -> None:
    trainer = run(tmp_path / "one", *rows, *POLICIES["head_only"], "train.prefix_cache=on")
    trainer._freeze()
    keys = {store.folder.name for store in trainer.prefix.stores.values()}
    trainer.prefix.close()
    with torch.no_grad():
        next(lower_stack(trainer.composite.model.base_model)[3].parameters()).add_(1e-7)
    trainer._freeze()
    assert not keys & {store.folder.name for store in trainer.prefix.stores.values()}


def test_no_frozen_layer_is_in_the_graph(rows: list[str], tmp_path: Path) -> None:
    """The step that runs the prefix has the graph of one that does not, and no frozen leaf."""
    trainer = run(tmp_path / "run", *rows, *POLICIES["top_layers"], "train.prefix_cache=on")
    trainer._freeze()
    frozen = {id(weight) for weight in trainer.composite.parameters() if not weight.requires_grad}
    sizes = []
    for _ in range(2):
        batch = trainer.feed.at(0)[0]
        losses = trainer.composite(batch)
        sizes.append(len(nodes(losses["supervised"].total)))
        assert not leaves(losses["supervised"].total) & frozen
    assert sizes[0] == sizes[1] > 20
    assert trainer.prefix.stores["train"].has(batch.kept.rows).all()


def leaves(total: torch.Tensor) -> set[int]:
    return {id(node.variable) for node in nodes(total) if hasattr(node, "variable")}


def nodes(total: torch.Tensor) -> set[Any]:
    found, left = set(), [total.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [upper for upper, _ in node.next_functions]
    return found


def test_a_second_dropout_run_and_a_perturbed_one(rows: list[str], tmp_path: Path) -> None:
    """`again` reads the prefix, which draws no dropout; `perturbed` runs all of the backbone."""
    on = run(tmp_path / "on", *rows, *POLICIES["top_layers"], "train.prefix_cache=on")
    off = run(tmp_path / "off", *rows, *POLICIES["top_layers"], "train.prefix_cache=off")
    answers = []
    for trainer in (on, off):
        trainer._freeze()
        trainer.composite.trunk.draw = 11
        trainer.composite.trunk.logits("clean", trainer.feed.at(0)[0])
        ran, batch, trunk = layer_runs(trainer), trainer.feed.at(0)[0], trainer.composite.trunk
        second = trunk.again("clean", batch)
        assert bool(ran) == (trainer is off)
        changed = trunk.perturbed("clean", batch, lambda embedded: embedded + 1)
        assert len(ran) == (1 if trainer is on else 2)
        answers.append((second, changed))
    for found, expected in zip(*answers):
        assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(answers[0][0], answers[0][1], atol=1e-3)


@pytest.mark.dist
def test_two_processes_fill_one_entry(rows: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from safetensors.torch import load_file

    from llmtune.cli import main

    monkeypatch.chdir(tmp_path)
    words = [*TINY, *rows[:3], *WORDS_OF_ALL, *POLICIES["top_layers"], "train.epochs=2", "model.dropout=0"]
    for name, processes in (("one", 1), ("two", 2)):
        more = [f"run.dir={name}", f"data.cache_dir={tmp_path / name}-cache", f"hardware.processes={processes}"]
        assert main(["train", *words, *more]) == 0
    filled = sorted(np.fromfile(path, np.uint32).tolist() for path in (tmp_path / "two-cache").rglob("filled.bin"))
    assert sorted(map(len, filled)) == [12, 14, 60]
    assert all(all(sums) for sums in filled)
    one, two = (load_file(tmp_path / name / "checkpoints/step-000014/model.safetensors") for name in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-6
