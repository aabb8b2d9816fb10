"""Where config lies: the shipped folder, the user's own folders, the options in them. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Sequence

PRIMARY = "train"
"""the primary config, `conf/train.yaml`: one for every word that starts from settings"""


def conf_dir() -> str:
    """The shipped config folder: inside the package when installed from a wheel, beside it in a checkout."""
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    inside = os.path.join(package, "conf")
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(package), "conf")


def search_dirs(config_dirs: Sequence[str] = ()) -> list[str]:
    """The shipped folder, `./conf`, each of `--config-dir`. The first to hold a file wins: users add, never shadow."""
    found: list[str] = []
    for folder in (conf_dir(), os.path.join(os.getcwd(), "conf"), *config_dirs):
        path = os.path.realpath(folder)
        if os.path.isdir(path) and path not in found:
            found.append(path)
    return found


def groups(dirs: Sequence[str]) -> list[str]:
    """Names of the shipped groups, and of those groups of the user that hold YAML. Sorted."""
    return sorted(
        name
        for name in {entry for folder in dirs for entry in os.listdir(folder)}
        if name != "hydra" and name.isidentifier() and option_files(name, dirs)
    )


def option_files(group: str, dirs: Sequence[str]) -> dict[str, str]:
    """`{option: file}` of a group, sorted by option; options in subfolders read `sub/name`."""
    files: dict[str, str] = {}
    for folder in dirs:
        top = os.path.join(folder, group)
        for path, _, names in os.walk(top):
            for name in names:
                stem, extension = os.path.splitext(name)
                if extension in (".yaml", ".yml"):
                    option = os.path.relpath(os.path.join(path, stem), top).replace(os.sep, "/")
                    files.setdefault(option, os.path.join(path, name))
    return dict(sorted(files.items()))


def config_file(name: str, dirs: Sequence[str]) -> str | None:
    """The file of a config that Hydra calls `optimizer/adamw`, or None."""
    for folder in dirs:
        for extension in (".yaml", ".yml"):
            path = os.path.join(folder, *name.split("/")) + extension
            if os.path.isfile(path):
                return path
    return None


def options(group: str, dirs: Sequence[str] | None = None) -> dict[str, str]:
    """`{option: one line about it}`."""
    files = option_files(group, search_dirs() if dirs is None else dirs)
    return {option: headline(path) for option, path in files.items()}


def headline(path: str) -> str:
    """The first comment line of a YAML that is meant for people (Hydra's `# @package` line is not), or ''."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            text = line.strip()
            if text.startswith("#") and not text.startswith("# @package"):
                return text.lstrip("# ")
            if text and not text.startswith("#"):
                return ""
    return ""


def short(path: str) -> str:
    """A path as it should stand in a message: relative to the current folder where it lies below it."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive, on Windows
        return path
    return path if relative.startswith("..") else relative
