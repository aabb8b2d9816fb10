"""Parts are found by their name, read without being imported, and come from other packages only if listed."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

from llmtune.config.check import Check, Waiting, checked
from llmtune.config.compose import composed
from llmtune.config.shelf import find_part, is_light, read_part, shelf
from llmtune.core.errors import ConfigError

PART = '''
from __future__ import annotations
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
{imports}
if TYPE_CHECKING:
    import torch

@dataclass
class _Hidden:
    x: int

@dataclass(frozen=True, kw_only=True)
class Slow:
    name: str
    rate: float | None
    """of something"""
    words: list[str]
    other: torch.Tensor
    changes: ClassVar[bool] = False

    def __post_init__(self):
        if self.rate is not None and self.rate > 1:
            raise ValueError(f"rate: {{self.rate}} is too large; must be 1 or less")
'''
YAML = "name: slow\nrate: 0.5\nwords: [a]\nother: null\n"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package with a part `slow` on the shelf `optimizer`, and its YAML in ./conf."""

    def make(name: str, imports: str = "", source: str = PART) -> str:
        folder = tmp_path / "packages" / name / "optimizer"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("")
        (folder / "__init__.py").write_text("")
        (folder / "slow.py").write_text(source.format(imports=imports))
        (tmp_path / "conf" / "optimizer").mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / "optimizer" / "slow.yaml").write_text(YAML)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path / "packages"))
        importlib.invalidate_caches()
        return name

    yield make
    for module in [name for name in sys.modules if name.startswith("plug_")]:
        del sys.modules[module]


def compose_and_check(*lines: str):
    composition = composed(list(lines))
    return checked(composition.cfg, composition.origin, composition.faults)


def test_part_is_read_without_importing_it(plugin):
    part = find_part("optimizer", "slow", [plugin("plug_a", "import torch, nowhere")], "optimizer.name")
    assert part.class_name == "Slow"
    assert part.fields == {"name": str, "rate": float | None, "words": list[str], "other": Any}
    assert not part.light
    assert "plug_a" not in sys.modules


def test_part_of_a_package_counts_only_if_listed(plugin):
    plugin("plug_b")
    with pytest.raises(ConfigError, match="there is no part 'slow'"):
        compose_and_check("optimizer=slow")
    config = compose_and_check("optimizer=slow", "run.plugins=[plug_b]", "optimizer.rate=1")
    assert (type(config.optimizer).__name__, config.optimizer.rate) == ("Slow", 1.0)


def test_light_part_tells_its_ranges_beside_other_faults(plugin):
    plugin("plug_c")
    with pytest.raises(ConfigError) as caught:
        compose_and_check("optimizer=slow", "run.plugins=[plug_c]", "optimizer.rate=2", "optimizer.rat=1", "seed=x")
    assert [fault.where for fault in caught.value.faults] == ["seed", "optimizer.rat", "optimizer.rate"]


def test_heavy_part_is_imported_last_and_only_if_nothing_was_wrong(plugin):
    plugin("plug_d", "import nowhere_at_all")
    lines = ["optimizer=slow", "run.plugins=[plug_d]"]
    with pytest.raises(ConfigError) as caught:
        compose_and_check(*lines, "optimizer.rate=x")
    assert str(caught.value) == "optimizer.rate: 'x' was given; must be a number or null"
    composition = composed(lines)
    check = Check(composition.cfg, composition.origin)
    check.finish()
    assert isinstance(check.values["optimizer"], Waiting)
    assert "plug_d.optimizer.slow" not in sys.modules
    with pytest.raises(ConfigError, match="can't be imported: No module named 'nowhere_at_all'"):
        check.build()


def test_light_looks_through_the_package(plugin):
    name = plugin("plug_e", "from plug_e.helper import help")
    helper = importlib.util.find_spec(name).origin.replace("__init__", "helper")
    with open(helper, "w") as file:
        file.write("import plug_e.optimizer.slow\nfrom transformers import pipeline\n")
    assert not is_light("plug_e.optimizer.slow")


def test_module_without_one_dataclass_is_no_part(plugin):
    plugin(
        "plug_f",
        source="from dataclasses import dataclass\n"
        + "@dataclass\nclass A:\n    x: int\n"
        + "@dataclass\nclass B: ...\n",
    )
    with pytest.raises(ConfigError, match=r"has 2 public dataclasses \(A, B\); a part has exactly one"):
        find_part("optimizer", "slow", ["plug_f"], "optimizer.name")


@pytest.mark.parametrize("name", ["os.system", "../adamw", "", 3, None, "adam w"])
def test_a_name_can_name_a_part_only(name):
    with pytest.raises(ConfigError, match="must be the name of a part"):
        find_part("optimizer", name, [], "optimizer.name")


def test_shelf_lists_parts_only():
    assert {"none", "head_only", "bottom_layers"} <= set(shelf("freeze_policy"))
    assert shelf("no_shelf") == []


def test_read_part_of_the_package_knows_types():
    part = find_part("optimizer", "adamw", [], "optimizer.name")
    assert part.fields["betas"] == list[float]
    assert part.fields["lr"] == float | str
    assert read_part(part.module, __import__(part.module, fromlist=["_"]).__file__) is part
