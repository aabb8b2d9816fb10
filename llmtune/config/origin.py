"""Where a value comes from: which file and line, or what was typed, set each key of a composed config."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from llmtune.config.locate import conf_dir, short
from llmtune.config.typed import Setting
from llmtune.config.yaml_keys import Key, read_keys


@dataclass(frozen=True)
class Layer:
    """A config file and the package (dotted path, '' for the root) that its content was put at."""

    file: str
    package: str

    def find(self, key: str) -> Key | None:
        if not self.package:
            return read_keys(self.file).get(key)
        if key == self.package:
            return Key(1, "")
        if key.startswith(self.package + "."):
            return read_keys(self.file).get(key[len(self.package) + 1 :])
        return None


@dataclass(frozen=True)
class Origin:
    layers: Sequence[Layer] = ()
    """in the order in which they were merged: the last one that holds a key set it"""
    settings: Sequence[Setting] = ()
    """values that were typed, recipes first; choices of options are not among them"""

    def setting(self, key: str) -> Setting | None:
        """The typed setting that gave `key`, a section around it or something in it its value."""
        for setting in reversed(self.settings):
            if f"{key}.".startswith(f"{setting.key}.") or setting.key.startswith(f"{key}."):
                return setting
        return None

    def place(self, key: str) -> str | None:
        """`conf/optimizer/mine.yaml:4`, `my.yaml`, `typed`, or None where nobody set it."""
        setting = self.setting(key)
        if setting:
            return setting.source
        for layer in reversed(self.layers):
            found = layer.find(key)
            if found:
                return f"{short(layer.file)}:{found.line}"
        return None

    def note(self, key: str) -> str:
        """` (conf/optimizer/mine.yaml:4)` for a message about a value that stands in a file of the user's, else ''.

        Shipped files are right: what is wrong beside them was typed.
        """
        place = self.place(key)
        is_told = place not in (None, "typed") and not os.path.realpath(str(place)).startswith(conf_dir() + os.sep)
        return f" ({place})" if is_told else ""

    def meaning(self, key: str) -> str:
        """The comment beside the key, in the file that set it or in another that was merged."""
        found = (layer.find(key) for layer in reversed(self.layers))
        return next((key.meaning for key in found if key and key.meaning), "")
