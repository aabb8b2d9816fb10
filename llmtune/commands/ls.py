"""`llmtune ls [GROUP]`: what can be chosen, each option with one line. Reads the folders, composes nothing."""

from __future__ import annotations

from llmtune.config.locate import groups, options, search_dirs
from llmtune.config.typed import arrange_words
from llmtune.core.errors import Fault, UserError, did_you_mean

HELP = """usage: llmtune ls [GROUP] [--config-dir DIR]

Options of all groups, or of one: llmtune ls tasks, llmtune ls models, llmtune ls freeze_policy.
A group is typed as group=option; ./conf and --config-dir add options of your own."""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    words, config_dirs = arrange_words(argv)
    dirs = search_dirs(config_dirs)
    known = groups(dirs)
    chosen = [_group(word, known) for word in words] or known
    for number, group in enumerate(chosen):
        found = options(group, dirs)
        width = max(map(len, found)) + 2
        print(f"{chr(10) if number else ''}{group}=")
        for name, line in found.items():
            print(f"  {name:<{width}}{line}".rstrip())
    return 0


def _group(word: str, known: list[str]) -> str:
    """The group that a word means: `task`, `tasks`, `freeze-policies`."""
    name = word.rstrip("=").replace("-", "_")
    for candidate in (name, name.removesuffix("s"), name.removesuffix("ies") + "y"):
        if candidate in known:
            return candidate
    raise UserError(Fault(word, "is no group", f"allowed: {', '.join(known)}", did_you_mean(name, known)))
