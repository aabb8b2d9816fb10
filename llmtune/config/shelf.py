"""The module that a part's name stands for, and what its source says of its settings, without importing it.

Reading the source keeps faults quick: a misspelt key of a part that needs torch is answered without torch.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmtune.core.errors import ConfigError, Fault, did_you_mean

NAMES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict, "Any": Any, "None": None}
QUICK = {"omegaconf", "hydra", "yaml", "numpy", "pyarrow"}
"""what config itself has imported already, and what is read in a moment"""


@dataclass(frozen=True)
class Part:
    """A settings dataclass on a shelf, as its source describes it."""

    module: str
    class_name: str
    fields: dict[str, Any]
    """name -> type, in the order of the source"""
    light: bool
    """importing it loads nothing heavier than config does"""

    def load(self) -> type:
        """Import the module. Raises ConfigError where it, or a package that it needs, can't be imported."""
        try:
            return getattr(importlib.import_module(self.module), self.class_name)
        except ImportError as error:
            raise ConfigError(Fault(self.module, f"can't be imported: {error}")) from error


def find_part(group: str, name: Any, plugins: Sequence[str], where: str, note: str = "") -> Part:
    """The part `name` of a shelf, of llmtune or of one of the plug-in packages. Raises ConfigError."""
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(
            Fault(where, f"{name!r} was given{note}", f"must be the name of a part: {', '.join(shelf(group))}")
        )
    for package in ("llmtune", *plugins):
        path = source_file(f"{package}.{group}.{name}")
        if path:
            return read_part(f"{package}.{group}.{name}", path)
    known = shelf(group)
    raise ConfigError(
        Fault(
            where,
            f"there is no part '{name}'{note}",
            f"allowed: {', '.join(known)}",
            did_you_mean(name, known) or "a part of another package needs run.plugins=[package]",
        )
    )


def shelf(group: str) -> list[str]:
    """Names of the parts that llmtune has of a group: its modules with one public settings dataclass."""
    package = source_file(f"llmtune.{group}.__init__")
    if not package:
        return []
    folder = os.path.dirname(package)
    modules = sorted(name[:-3] for name in os.listdir(folder) if name.endswith(".py") and not name.startswith("_"))
    return [name for name in modules if len(_settings_classes(_tree(os.path.join(folder, f"{name}.py")))) == 1]


def source_file(module: str) -> str | None:
    """The source of a module, found without importing it or its parents, or None."""
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    for root in (spec.submodule_search_locations or ()) if spec else ():
        path = os.path.join(root, *below)
        for file in (f"{path}.py", os.path.join(path, "__init__.py")):
            if os.path.isfile(file):
                return file
    return None


@functools.cache
def read_part(module: str, path: str) -> Part:
    """Raises ConfigError unless the module has exactly one public dataclass."""
    tree = _tree(path)
    classes = _settings_classes(tree)
    if len(classes) != 1:
        names = ", ".join(node.name for node in classes) or "none"
        raise ConfigError(Fault(module, f"has {len(classes)} public dataclasses ({names})", "a part has exactly one"))
    fields = {
        line.target.id: _evaluated(line.annotation)
        for line in classes[0].body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and "ClassVar" not in ast.unparse(line.annotation)
    }
    return Part(module, classes[0].name, fields, is_light(module))


@functools.cache
def _tree(path: str) -> ast.Module:
    with open(path, encoding="utf-8") as file:
        return ast.parse(file.read(), path)


def _settings_classes(tree: ast.Module) -> list[ast.ClassDef]:
    def is_dataclass(node: ast.ClassDef) -> bool:
        names = [ast.unparse(decorator).split("(")[0] for decorator in node.decorator_list]
        return bool({"dataclass", "dataclasses.dataclass"} & set(names))

    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    return [node for node in classes if is_dataclass(node)]


def _evaluated(annotation: ast.expr) -> Any:
    """The type that an annotation means; what is not of plain types is Any, and left to the class itself."""
    source = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
    try:
        return eval(compile(str(source), "<annotation>", "eval"), {"__builtins__": {}}, NAMES)
    except (NameError, TypeError, SyntaxError, AttributeError):
        return Any


@functools.cache
def is_light(module: str) -> bool:
    """Do its imports at top level, through the modules of its own package too, stay within what is quick to import?"""
    top = module.split(".")[0]
    seen, waiting = {module}, [module]
    while waiting:
        path = source_file(current := waiting.pop())
        for name in _imported(_tree(path), current) if path else ():
            if name.split(".")[0] not in {top, *QUICK, *sys.stdlib_module_names}:
                return False
            if name.split(".")[0] == top and name not in seen:
                seen.add(name)
                waiting.append(name)
    return True


def _imported(tree: ast.Module, module: str) -> list[str]:
    """Modules imported at top level; those under `if TYPE_CHECKING:` are not."""
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names if source_file(f"{base}.{alias.name}"))]
    return names
