"""A seeded sample of the pairs of options: each trains two steps or is refused (scripts/walk_pairs.py walks all)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.tiny import write_rows

SCRIPT = Path(__file__).parents[2] / "scripts" / "walk_pairs.py"
spec = importlib.util.spec_from_file_location("walk_pairs", SCRIPT)
assert spec is not None
assert spec.loader is not None
walk_pairs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(walk_pairs)

PAIRS = [*walk_pairs.sample(20, seed=2, of_tasks=False), *walk_pairs.sample(16, seed=3, of_tasks=True)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(name for _, name in pair))
def test_a_pair_trains_or_is_refused(pair: object, rows: list[str], tmp_path: Path) -> None:
    record = walk_pairs.walk(pair, rows, tmp_path)
    assert record["outcome"] in ("trained", "refused"), record["why"]
    if record["outcome"] == "refused":
        assert record["why"].count("; ") >= 1, f"{record['pair']} refused without saying what to do: {record['why']}"
