"""Write the parts of docs/ that can be read off the code: helps of the commands, options and keys of the config groups.

    python scripts/make_docs.py            write them
    python scripts/make_docs.py --check    only tell, by exit code 1, whether any is out of date

A page marks the place: <!-- made from: group data --> ... <!-- end -->. What stands between is replaced.
What was measured stands in docs/tasks/results.yaml.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from llmtune import cli
from llmtune.config.locate import PRIMARY, conf_dir, config_file, groups, headline, option_files
from llmtune.config.shelf import find_part
from llmtune.config.yaml_keys import read_keys

ROOT = Path(__file__).resolve().parents[1]
MADE = re.compile(r"(<!-- made from: ([a-z_ ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
HIDDEN = ("defaults", "hydra")
ANY_MODEL = "encoders, decoders and encoder-decoders: all that transformers has a classification head for"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    only_check = parser.parse_args().check
    before = {page: page.read_text(encoding="utf-8") for page in pages()}
    stale = {page: new for page, text in before.items() if (new := made_anew(text)) != text}
    for page, new in stale.items():
        print(f"{page.relative_to(ROOT)} is out of date" if only_check else f"wrote {page.relative_to(ROOT)}")
        if not only_check:
            page.write_text(new, encoding="utf-8")
    return 1 if stale and only_check else 0


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def made_anew(page: str) -> str:
    """The page with every marked part written anew. KeyError for a mark that nothing makes."""

    def part(match: re.Match[str]) -> str:
        kind, *words = match[2].split()
        return f"{match[1]}{MAKERS[kind](*words).rstrip()}\n{match[3]}"

    return MADE.sub(part, page)


def tasks() -> str:
    """One line a shipped task: its kind, the data and model that it brings, the columns of a row, what is best."""
    rows = []
    for option, path in option_files("task", [conf_dir()]).items():
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        brought = {key.split("/")[-1]: value for default in content["defaults"] for key, value in default.items()}
        settings = content["task"]
        columns = columns_of(task_of(path, settings).roles)
        rows.append((f"`{option}`", page_of(settings["kind"]), headline(path), columns, f"`{brought['data']}`",
                     f"`{brought['model']}`", judged_by(path, settings)))  # fmt: skip
    rows.sort(key=lambda row: row[1])
    return table(("task", "kind", "what it is", "columns of a row", "built-in data", "on", "best by"), rows)


def kinds() -> str:
    """One line a kind of task: models that fit, and the formats that files may have besides tables."""
    from llmtune.data.files.layouts import LAYOUTS

    fits: dict[str, list[str]] = {}
    formats: dict[str, str] = {}
    for path in option_files("task", [conf_dir()]).values():
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["task"]
        task, kind = task_of(path, settings), settings["kind"]
        roles = {role.name for role in task.roles}
        own = ["text folders"] if roles <= {"text", "text_pair", "label"} and "label" in roles else []
        own += ["plain text, one a line"] if roles == {"text"} else []
        formats[kind] = ", ".join([*own, *(f"`{name}`" for name, role in LAYOUTS.items() if role in roles)]) or "-"
        said = getattr(task, "fits", ANY_MODEL).split("; type")[0]
        fits.setdefault(kind, []).extend([] if said in fits.get(kind, ()) else [said])
    head = ("kind", "models", "formats besides CSV, TSV, JSON, JSONL, Parquet")
    return table(head, [(page_of(kind), "; ".join(fits[kind]), formats[kind]) for kind in sorted(fits)])


def results(where: str) -> str:
    """What docs/tasks/results.yaml says was measured: on `builtin` rows, or on `real` ones with the commands below."""
    measured = yaml.safe_load((ROOT / "docs" / "tasks" / "results.yaml").read_text(encoding="utf-8"))
    chosen = [one for one in measured if (one["data"] == "built-in") == (where == "builtin")]
    known = ("task", "data", "model", "metric", "value", "seeds", "minutes", "note")
    names = tuple(name for name in known if where == "real" or name != "data")
    rows = [(str(number), *(measured_as(name, one.get(name, "")) for name in names))
            for number, one in enumerate(chosen, 1)]  # fmt: skip
    commands = "\n".join(f"# {number}\n{one['command'].strip()}" for number, one in enumerate(chosen, 1))
    return f"{table(('', *names), rows)}\n\n```bash\n{commands}\n```"


def measured_as(name: str, value: Any) -> str:
    """A cell of the table of results; scores with three decimals."""
    return f"{value:.3f}" if name == "value" and isinstance(value, float) else str(value)


def task_of(path: str, settings: dict[str, Any]) -> Any:
    """The task that a file of conf/task describes, built."""
    return find_part("task", settings["kind"], [], path).load()(**settings).build()


def page_of(kind: str) -> str:
    """A link to what is told of a kind, from docs/."""
    own = ROOT / "docs" / "tasks" / f"{kind}.md"
    return f"[{kind}](tasks/{kind}.md)" if own.exists() else f"[{kind}](config/task.md)"


def columns_of(roles: Sequence[Any]) -> str:
    """Columns as `data.columns` calls them; `a` or `b` where one does, in brackets what may be missing."""
    told: list[str] = []
    seen: set[str] = set()
    for role in roles:
        group = [role, *(one for one in roles if one.unless == role.name or one.name == role.unless)]
        if role.name not in seen:
            words = " or ".join(f"`{one.name}`" for one in group)
            told.append(words if any(one.required for one in group) else f"[{words}]")
        seen |= {one.name for one in group}
    return ", ".join(told)


def judged_by(path: str, settings: dict[str, Any]) -> str:
    """The metric that decides what is best; of `auto` what its comment says."""
    if settings.get("metric") != "auto":
        return f"{settings['metric']}"
    return read_keys(path)["task.metric"].meaning.rpartition("auto: ")[2]


def help_of(word: str) -> str:
    """What `llmtune WORD --help` prints."""
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        cli.main([word, "--help"])
    return f"```text\n{said.getvalue().rstrip()}\n```"


def words() -> str:
    rows = [(f"[`{word}`](commands/{word}.md)", line) for word, line in cli.WORDS.items()]
    return table(("word", "what it does"), rows)


def group_list() -> str:
    dirs = [conf_dir()]
    rows = [(f"[`{name}`](config/{name}.md)", ", ".join(f"`{option}`" for option in option_files(name, dirs)))
            for name in groups(dirs) if option_files(name, dirs)]  # fmt: skip
    return table(("group", "options"), rows)


def options_of(group: str) -> str:
    """One line an option: what it is, and the values in which it differs from most options of its group."""
    files, nodes = read_group(group)
    usual = usual_values(nodes)
    rows = []
    for option, node in nodes.items():
        own = [f"`{key}={shown(value)}`" for key, value in node.items() if value != usual[key]]
        rows.append((f"`{group}={option}`", headline(files[option]), "<br>".join(own)))
    if not any(row[2] for row in rows):
        return table(("option", "what it is"), [row[:2] for row in rows])
    return table(("option", "what it is", "values of its own"), rows)


def keys_of(group: str) -> str:
    """One line a key: its usual value, its meaning, and the options that have it where not all do."""
    files, nodes = read_group(group)
    usual = usual_values(nodes)
    if not usual:
        return "There are no keys to set."
    rows = []
    for key in sorted(usual, key=lambda key: [list(usual).index(top) for top in parents(key) if top in usual]):
        having = [option for option, node in nodes.items() if key in node]
        meaning = next((found for option in having if (found := meaning_of(group, files[option], key, usual))), "")
        only = f" ({', '.join(f'`{option}`' for option in having)} only)" if 2 * len(having) < len(nodes) else ""
        rows.append((f"`{key}`", f"`{shown(usual[key])}`", meaning + only))
    return table(("key", "usual value", "meaning"), rows)


def settings_of(section: str) -> str:
    """The keys of a section of the primary config, or of its top (`run_level`)."""
    path = primary_file()
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    meanings = read_keys(path)
    if section == "run_level":
        chosen = {key: value for key, value in content.items() if key not in HIDDEN and not isinstance(value, dict)}
    else:
        chosen = {f"{section}.{key}": value for key, value in content[section].items()}
    rows = [(f"`{key}`", f"`{shown(value)}`", meanings[key].meaning) for key, value in chosen.items()]
    return table(("key", "value", "meaning"), rows)


def primary_file() -> str:
    path = config_file(PRIMARY, [conf_dir()])
    assert path is not None
    return path


def read_group(group: str) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """`{option: file}` and `{option: {key as it is typed: value}}`, without name and kind."""
    files = option_files(group, [conf_dir()])
    nodes = {}
    for option, path in files.items():
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        content = {key: value for key, value in content.items() if key not in HIDDEN}
        whole = group in content or group == "experiment"  # which lies over all groups
        flat = flattened(content if whole else {group: content})
        nodes[option] = {key: value for key, value in flat.items() if key.split(".")[-1] not in ("name", "kind")
                         or key.startswith("model.tokenizer")}  # fmt: skip
    return files, nodes


def flattened(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            flat.update(flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def usual_values(nodes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of each key the value that most options have; the first of them where none prevails."""
    values: dict[str, list[Any]] = {}
    for node in nodes.values():
        for key, value in node.items():
            values.setdefault(key, []).append(value)
    order = {key: Counter(map(repr, given)).most_common(1)[0][0] for key, given in values.items()}
    return {key: next(value for value in given if repr(value) == order[key]) for key, given in values.items()}


def parents(key: str) -> list[str]:
    """`a`, `a.b`, `a.b.c` of `a.b.c`."""
    words = key.split(".")
    return [".".join(words[:number]) for number in range(1, len(words) + 1)]


def meaning_of(group: str, path: str, key: str, listed: Collection[str]) -> str:
    """The comment beside a key, else beside its section, unless the section has a line of its own."""
    keys = read_keys(path)
    for name in reversed(parents(key)):
        if name != key and name in listed:
            break
        for spelling in (name, name.removeprefix(f"{group}.")):
            if spelling in keys and keys[spelling].meaning:
                return keys[spelling].meaning
    return ""


def shown(value: Any) -> str:
    """A value as one types it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(shown(item) for item in value)}]"
    return str(value)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([line(head), line(("---",) * len(head)), *map(line, rows)])


MAKERS: dict[str, Callable[..., str]] = {
    "help": help_of, "words": words, "groups": group_list, "options": options_of, "keys": keys_of,
    "settings": settings_of, "tasks": tasks, "kinds": kinds, "results": results,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
