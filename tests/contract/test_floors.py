"""The house stands: imports go down only, package files are empty, files stay short, nothing unpickles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "llmtune"
FLOORS = {
    "core": 1,
    "data": 2, "model": 2, "freeze_policy": 2, "hardware": 2, "config": 2, "run": 2, "scoring": 2,
    "task": 3, "objective": 3, "optimizer": 3, "adapter": 3, "augmentation": 3, "balance": 3, "sampling": 3,
    "training": 3, "inference": 3, "reporting": 3, "sweeping": 3,
    "build": 4, "plan": 4, "reading": 4, "preflight": 4, "finish": 4,
    "commands": 5,
    "cli": 6, "__main__": 7,
}  # fmt: skip
BESIDE = {("inference", "training"), ("objective", "inference")}
"""pairs on one floor that may know each other, one way: evaluation and prediction share their pass over the rows, and
objectives open the models that they learn from"""
TORCHLESS = ("reporting", "config", "sweeping", "cli", "__main__", "core", "run/rundir", "run/files", "run/signals")
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_every_folder_has_a_floor() -> None:
    assert {room(path) for path in FILES if path.name != "__init__.py"} <= set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    if path.name == "__init__.py":
        assert path.read_text().strip() == ""
        return
    own = room(path)
    for module in imports(path):
        if module.startswith("llmtune.") and module.split(".")[1] in FLOORS:
            other = module.split(".")[1]
            lower = FLOORS[other] < FLOORS[own]
            beside = FLOORS[other] == FLOORS[own] and (FLOORS[own] in (2, 4) or (own, other) in BESIDE)
            assert other == own or lower or beside, f"{path.relative_to(ROOT)} ({own}) imports {module}"


def test_no_circle_between_folders() -> None:
    arrows: dict[str, set[str]] = {}
    for path in FILES:
        for module in imports(path):
            if module.startswith("llmtune.") and module.split(".")[1] in FLOORS:
                arrows.setdefault(room(path), set()).add(module.split(".")[1])

    def walk(place: str, way: tuple[str, ...]) -> None:
        assert place not in way, f"a circle: {' -> '.join([*way[way.index(place) :], place])}"
        for other in arrows.get(place, set()) - {place}:
            walk(other, (*way, place))

    for place in arrows:
        walk(place, ())


@pytest.mark.parametrize("part", TORCHLESS)
def test_no_torch_at_the_top_of(part: str) -> None:
    for path in FILES:
        name = str(path.relative_to(PACKAGE).with_suffix(""))
        if name == part or name.startswith(f"{part}/"):
            heavy = {module.split(".")[0] for module in imports(path, top_level=True)}
            heavy &= {"torch", "transformers", "datasets"}
            assert not heavy, f"{name} imports {heavy}"


def test_training_knows_protocols_and_no_shelf() -> None:
    for path in (PACKAGE / "training").glob("*.py"):
        known = {module.split(".")[1] for module in imports(path) if module.startswith("llmtune.")}
        assert not known & {"task", "objective", "optimizer", "adapter", "augmentation", "balance", "sampling"}
        assert "isinstance(part" not in path.read_text()


def test_nothing_is_pickled_or_run_from_data() -> None:
    calls = r"torch\.load\(|torch\.save\(|\beval\(|\bexec\("
    forbidden = re.compile(f"import pickle|trust_remote_code=True|_target_:|{calls}")
    for path in [*FILES, *(ROOT / "hydra_plugins").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml")]:
        found = [line for line in path.read_text().splitlines() if forbidden.search(line) and ".eval()" not in line]
        if path.name == "shelf.py":  # reads the annotations of installed parts, with no builtins at hand
            found = [line for line in found if '"<annotation>"' not in line]
        assert not found, f"{path}: {found}"


def test_files_are_short() -> None:
    most = {"training/trainer.py": 400}
    for path in FILES:
        lines = len(path.read_text().splitlines())
        assert lines <= most.get(str(path.relative_to(PACKAGE)), 300), f"{path} has {lines} lines"
