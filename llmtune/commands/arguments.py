"""The line of a word that starts from a run folder: plain words, flags, and `key=value`, in any order."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmtune.config.typed import Setting, read_setting
from llmtune.core.errors import ConfigError, Fault, did_you_mean


@dataclass
class Line:
    words: list[str] = field(default_factory=list)
    """folders and files, in their order; `-` is a word"""
    flags: dict[str, str] = field(default_factory=dict)
    """name -> its value; '' for a flag without one"""
    settings: list[Setting] = field(default_factory=list)

    def take(self, key: str) -> str | None:
        """The text given as `key=`, taken out of the settings."""
        given = [setting.text for setting in self.settings if setting.key == key and not setting.sign]
        self.settings = [setting for setting in self.settings if setting.key != key or setting.sign]
        return given[-1] if given else None


def read_line(argv: Sequence[str], *, valued: Mapping[str, str] = {}, bare: Mapping[str, str] = {}) -> Line:
    """Sort `argv`. `valued` and `bare`: flags that take a value, or none, and the name of each.

    What is there as a file or folder is a word, even with a `=` in its name. Raises ConfigError with all faults.
    """
    line, faults, rest = Line(), [], list(argv)
    while rest:
        word = rest.pop(0)
        name, sign, value = word.partition("=")
        if name in valued:
            if not sign and not rest:
                faults.append(Fault(name, "its value is missing", "", f"{name} FILE"))
            line.flags[valued[name]] = value if sign else rest.pop(0) if rest else ""
        elif word in bare:
            line.flags[bare[word]] = ""
        elif word.startswith("-") and word != "-":
            known = [*valued, *bare, "--help"]
            faults.append(Fault(word, "no such flag", f"allowed: {', '.join(known)}", did_you_mean(name, known)))
        elif re.match(r"[+~]*[A-Za-z_][\w.-]*=", word) and not os.path.exists(word):
            line.settings.append(read_setting(word))
        else:
            line.words.append(word)
    if faults:
        raise ConfigError(*faults)
    return line
