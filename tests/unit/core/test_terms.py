"""What objectives declare of themselves as terms of the loss, and that it is read in one place."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmtune.config.locate import options
from llmtune.core.terms import falls, is_balanced, num_terms, share_left, terms_of
from tests.tiny import TINY, choice_of, prepared_of, trainer_of, write_rows

PACKAGE = Path(__file__).parents[3] / "llmtune"
CHOSEN = {
    "supervised": SimpleNamespace(), "smart": SimpleNamespace(starts_at_zero=True),
    "l2_sp": SimpleNamespace(balanced=False), "auxiliary": SimpleNamespace(num_terms=2),
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def test_terms_by_kind() -> None:
    built = ["supervised", "smart", "l2_sp", "auxiliary/a", "auxiliary/b", "orthogonality"]
    parts = SimpleNamespace(config=SimpleNamespace(objective=CHOSEN), network=SimpleNamespace(objectives=built))
    assert terms_of(parts, is_balanced) == ["supervised", "smart", "auxiliary/a", "auxiliary/b"]
    assert terms_of(parts, falls) == ["supervised", "auxiliary/a", "auxiliary/b"]
    assert num_terms(parts.config, is_balanced) == 4
    assert num_terms(parts.config, falls) == 3


def test_what_is_left_of_a_loss() -> None:
    assert share_left(0.2, 0.8) == 0.25
    assert share_left(0.9, 1e-6) == 1.0
    assert share_left(-0.1, 0.8) == 0.0


def test_it_is_read_in_one_place() -> None:
    asked = re.compile(r"getattr\([^()]*\"(balanced|starts_at_zero)\"|\.(balanced|starts_at_zero)\b")
    assert [path.name for path in PACKAGE.rglob("*.py") if asked.search(path.read_text())] == ["terms.py"]


# the teacher of these tests is untrained: it says as little as the student
@pytest.mark.parametrize("option", [name for name in options("objective") if name != "distillation"])
def test_a_loss_that_starts_at_zero_says_so(option: str, rows: list[str], tmp_path: Path) -> None:
    words = ("train.batch_rows=12", "train.max_steps=1")
    prepared = prepared_of(*TINY, *rows, *choice_of("objective", option), *words)
    trainer = trainer_of(prepared, tmp_path / "run")
    sums = trainer.stepper.run(0, trainer.feed.at(0), 0.0, lambda: False).sums
    settings = prepared.config.objective[option]
    for name in (name for name in trainer.composite.objectives if name.split("/")[0] == option):
        assert falls(settings) == (sums[name] / sums[f"{name}/count"] > 1e-2)
