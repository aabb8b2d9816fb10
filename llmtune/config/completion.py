"""Tab completion: the shells' scripts, and the candidates they ask for. Reads folders and YAML, nothing heavier."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from llmtune.core.errors import Fault, UserError, did_you_mean

BASH = r"""_llmtune() {
  local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\n'
  local current="${line##* }" before=""
  [[ $current == *=* && $COMP_WORDBREAKS == *=* ]] && before="${current%"${current##*=}"}"
  COMPREPLY=($(command llmtune --complete "$line" 2>/dev/null))
  COMPREPLY=("${COMPREPLY[@]#"$before"}")
  [[ ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
}
complete -o default -F _llmtune llmtune"""

ZSH = r"""_llmtune() {
  local -a found
  found=(${(f)"$(command llmtune --complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
  (( $#found )) && compadd -Q -S '' -- $found || _files
}
compdef _llmtune llmtune"""

FISH = "complete -c llmtune -a '(command llmtune --complete (commandline -cp) 2>/dev/null)'"

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def main(flag: str, rest: list[str], words: Iterable[str], from_settings: Iterable[str]) -> int:
    """`--completion SHELL` prints a script for `eval`; `--complete LINE` is what that script calls.

    `words`: all of llmtune's; `from_settings`: those that take settings.
    """
    if flag == "--complete":
        sys.stdout.writelines(
            f"{candidate}\n" for candidate in candidates(rest[0] if rest else "", words, from_settings)
        )
        return 0
    shell = rest[0] if rest else ""
    if shell not in SCRIPTS:
        given = f"'{shell}' is no shell that llmtune knows" if shell else "which shell?"
        raise UserError(Fault("--completion", given, f"allowed: {', '.join(SCRIPTS)}", did_you_mean(shell, SCRIPTS)))
    print(SCRIPTS[shell])
    return 0


def candidates(line: str, words: Iterable[str], from_settings: Iterable[str]) -> list[str]:
    """What the last word of `line` ("llmtune train opt") may become; empty where files should be offered."""
    from llmtune.config.locate import groups, search_dirs

    *before, current = line.split(" ")
    before = [word for word in before if word]
    if len(before) <= 1:
        return [word for word in words if word.startswith(current)]
    if before[1] == "ls":
        found = groups(search_dirs())
    elif before[1] == "show":
        found = _settings(before[2:], current) if len(before) > 2 else _keys(before[2:])
    elif before[1] in from_settings:
        found = _settings(before[2:], current)
    else:
        found = []
    return _next_dot([name for name in found if name.startswith(current)], current)


def _settings(typed: list[str], current: str) -> list[str]:
    """`group=option` once the group is typed, else groups, keys and flags."""
    from llmtune.config.locate import option_files, search_dirs
    from llmtune.config.shipped import defaults
    from llmtune.config.typed import FLAGS

    group, sign, _ = current.partition("=")
    if sign:
        group = group.replace("-", "_")
        options = option_files(group, search_dirs()) if group in defaults() else {}
        return [f"{current.partition('=')[0]}={option}" for option in options]
    if current.startswith("-"):
        return list(FLAGS)
    return [*(f"{name}=" for name in defaults()), *(f"{key}=" for key in _keys(typed))]


def _keys(typed: list[str]) -> list[str]:
    """Every key of the options that are typed, or chosen where none is typed."""
    from llmtune.config.locate import PRIMARY, config_file, search_dirs
    from llmtune.config.shipped import defaults
    from llmtune.config.yaml_keys import read_keys

    dirs = search_dirs()
    choices = {**defaults(), **dict(word.partition("=")[::2] for word in typed if "=" in word)}
    files = [("", config_file(PRIMARY, dirs))]
    for group in defaults():
        chosen = choices[group] if isinstance(choices[group], list) else str(choices[group]).strip("[]").split(",")
        files += [(f"{group}.", config_file(f"{group}/{option}", dirs)) for option in chosen]
    names: list[str] = []
    for prefix, file in files:
        found = read_keys(file) if file else {}
        starts = "" if any(key.partition(".")[0] in defaults() for key in found) else prefix
        names += [starts + key for key in found]
    sections = {name.rpartition(".")[0] for name in names}
    hidden = sections | {name for name in names if name.split(".")[0] in ("hydra", "defaults")}
    hidden |= {name for name in names if name.split(".")[0] in defaults() and name.endswith(".name")}
    return sorted(set(names) - hidden)


def _next_dot(names: list[str], current: str) -> list[str]:
    """Long lists up to the next dot only: `optimizer.` first, then its keys."""
    start = len(current)
    cut = [name[: name.index(".", start) + 1] if "." in name[start:].partition("=")[0] else name for name in names]
    return list(dict.fromkeys(cut))
