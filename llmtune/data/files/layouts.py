"""Formats with a module of their own: which one a file is in, where its name does not tell.

Such a module has `read_table(source, settings)`, a data.files.tables.Table, and `looks_like(lines)`.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Collection
from types import ModuleType

from llmtune.config.settings import DataSettings
from llmtune.data.files.sources import Source
from llmtune.data.files.text_encoding import find_encoding, open_text, reading

LAYOUTS = {
    "conll": "tags", "conllu": "tags", "squad": "answers", "semeval": "head", "parallel": "target",
    "speech_folders": "audio",
}  # fmt: skip
"""the role that a task asks for where `auto` looks whether a file is in a format"""
PLAIN_NAMES = ("text", "tsv", "csv", "json")
"""formats that a name tells of, and that a file may look unlike"""
LOOKED_AT_LINES = 50


def module_of(layout: str) -> ModuleType:
    return importlib.import_module(f"llmtune.data.files.{layout}")


def layouts(settings: DataSettings, roles: Collection[str]) -> list[ModuleType]:
    """The modules of formats that files of these roles may be in."""
    wanted = [name for name, role in LAYOUTS.items() if role in roles or name == settings.format]
    return [module_of(name) for name in wanted]


def layout_of(source: Source, settings: DataSettings, roles: Collection[str]) -> str | None:
    """The format with a module of its own that a file is in, if any. DataError where it can't be read."""
    if source.format in LAYOUTS:
        return source.format
    asked = [name for name, role in LAYOUTS.items() if role in roles]
    if settings.format != "auto" or not asked or source.format not in PLAIN_NAMES:
        return None
    encoding = find_encoding(source.path, source.shown, settings.encoding)
    with reading(source.shown, encoding.name), open_text(source.path, encoding) as file:
        lines = [line.rstrip("\r\n") for line in itertools.islice(file, LOOKED_AT_LINES)]
    return next((name for name in asked if module_of(name).looks_like(lines)), None)
