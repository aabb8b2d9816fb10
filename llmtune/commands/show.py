"""`llmtune show [KEY] [settings]`: what a key means, its value, and the file that set it."""

from __future__ import annotations

from typing import Any

from llmtune.config.check import Check
from llmtune.config.compose import Composition, composed
from llmtune.config.locate import config_file, headline, search_dirs
from llmtune.config.secrets import redacted
from llmtune.config.tree import leaves
from llmtune.config.typed import arrange, to_text
from llmtune.core.errors import Fault, UserError, did_you_mean

HELP = """usage: llmtune show [KEY] [recipe.yaml] [group=option ...] [key=value ...] [--config-dir DIR]

Without a key: all keys with their values and meanings. With a key or a section, such as optimizer.lr or optimizer:
meaning, value, and the file and line that set it (or "typed")."""


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    is_key = (
        bool(argv) and "=" not in argv[0] and not argv[0].startswith("-") and not argv[0].endswith((".yaml", ".yml"))
    )
    arguments = arrange(argv[1:] if is_key else argv)
    composition = composed(arguments)
    check = Check(composition.cfg, composition.origin, composition.faults)
    check.finish()
    values = _values(redacted(check.tree))
    if not is_key:
        _print_section(values, composition)
        return 0
    head, dot, tail = argv[0].partition(".")
    key = head.replace("-", "_") + dot + tail
    below = {name: value for name, value in values.items() if name.startswith(f"{key}.")}
    if key in values:
        _print_key(key, values[key], composition)
        if key == "train.prefix_cache":
            print(f"  here     {_of_the_prefix_cache(check)}")
    elif below:
        _print_choice(key, composition, arguments.config_dirs)
        _print_section(below, composition)
    else:
        raise UserError(Fault(key, "is no key", "llmtune show lists them", _hint(key, list(values))))
    return 0


def _values(tree: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value; a list is one value."""
    found: dict[str, Any] = {}
    for key, value in leaves(tree):
        names = key.split(".")
        if names[-1].isdigit():
            found.setdefault(".".join(names[:-1]), []).append(value)
        else:
            found[key] = value
    return found


def _hint(key: str, known: list[str]) -> str:
    same = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if same:
        return f"did you mean '{min(same, key=lambda name: (name.count('.'), name))}'?"
    return did_you_mean(key, known)


def _print_key(key: str, value: Any, composition: Composition) -> None:
    meaning = composition.origin.meaning(key)
    print(f"{key}={to_text(value)}")
    if meaning:
        print(f"  meaning  {meaning}")
    print(f"  set by   {composition.origin.place(key)}")


def _of_the_prefix_cache(check: Check) -> str:
    """Whether a run of these settings would use it, and why; model and rows are looked at for that."""
    from llmtune.preflight import preflight
    from llmtune.run.console import Console
    from llmtune.run.signals import StopRequest

    try:
        return preflight(check.build(), Console(quiet=True), StopRequest()).prefix.line
    except UserError as error:
        return f"no run of these settings would start: {error.faults[0]}"


def _print_choice(key: str, composition: Composition, config_dirs: list[str]) -> None:
    option = composition.choices.get(key)
    file = config_file(f"{key}/{option}", search_dirs(config_dirs)) if isinstance(option, str) else None
    if file:
        print(f"{key}={option}  # {headline(file)}")


def _print_section(values: dict[str, Any], composition: Composition) -> None:
    lines = {key: f"{key}={to_text(value)}" for key, value in values.items()}
    width = min(44, max(map(len, lines.values()))) + 2
    for key, line in lines.items():
        meaning = composition.origin.meaning(key)
        print(f"{line:<{width - 1}} # {meaning}" if meaning else line)
