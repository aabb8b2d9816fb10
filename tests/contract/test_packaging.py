"""What the package imports is what pyproject.toml asks for, and what it asks for is pinned in constraints.txt."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"llmtune", "hydra_plugins"}
COMES_WITH = {"scipy": "scikit-learn", "huggingface_hub": "transformers"}
"""modules of what a direct dependency can't be without"""


def listed(name: str) -> list[str]:
    """Names in a list of pyproject.toml (Python 3.10 has no tomllib)."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    body = re.search(rf"^{name} = \[(.*?)\]$", text, re.DOTALL | re.MULTILINE)
    assert body is not None
    return [re.split(r"[<>=!~\[; ]", entry)[0].lower() for entry in re.findall(r'"([^"]+)"', body[1])]


def imported(folder: str) -> set[str]:
    modules = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    return modules - OURS - set(sys.stdlib_module_names) - {"__main__"}


@pytest.mark.parametrize("folder", ["llmtune", "hydra_plugins"])
def test_every_import_is_a_dependency(folder):
    packages = metadata.packages_distributions()
    extras = ("adamw_8bit", "chinese", "speech")  # imported where they were asked for
    wanted = {*listed("dependencies"), *(name for extra in extras for name in listed(extra))}
    missing = {
        module
        for module in imported(folder)
        if COMES_WITH.get(module) not in wanted
        and not {name.lower() for name in packages.get(module, [module])} & wanted
    }
    assert missing == set()


def test_every_dependency_is_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if line and not line.startswith("#")}
    assert [name for name in listed("dependencies") + listed("dev") if name not in pinned] == []
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; python_version (<|>=) \"3\.11\")?", line)
               for line in lines if not line.startswith("#"))  # fmt: skip


def test_the_sdist_takes_along_what_the_tests_read():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    taken = re.findall(r'"([^"]+)"', re.search(r"sdist\]\nonly-include = \[(.*?)\]", text)[1])  # type: ignore[index]
    assert [name for name in taken if not (ROOT / name).exists()] == []
    assert {"llmtune", "conf", "hydra_plugins", "tests", "scripts", "docs", "LICENSE", "constraints.txt"} <= set(taken)
