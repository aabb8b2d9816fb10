"""An evaluation on the screen: scores, per-class table, confusion, and the worst errors with their text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table

from llmtune.reporting.words import few

MOST_CLASSES = 12
"""classes of which a whole matrix can still be read"""
SHOWN_CLASSES = 30
TEXT_CHARS = 200
SHOWN_PLACES = 8
"""entities, or labels, of a row"""
NOT_A_TERMINAL = 120
"""columns"""


def show(report: Mapping[str, Any], *, num_worst: int) -> None:
    """Print a report as `evaluate` writes it."""
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(markup=False, emoji=False, highlight=False, width=NOT_A_TERMINAL)
    console.print(f"{report['rows']:,} rows of {report['data']} in {report['seconds']:.1f} s", soft_wrap=True)
    for line in report["remarks"]:
        console.print(line, soft_wrap=True)
    console.print(", ".join(f"{name} {value:.4f}" for name, value in report["scores"].items()), soft_wrap=True)
    for part in _parts(report):
        console.print(part)
    if report.get("examples"):
        console.print("answers, one here and there:")
        for example in report["examples"]:
            console.print(_error(example), soft_wrap=True)
    worst = report["worst"][:num_worst]
    if worst:
        usual = "largest residuals:" if "residuals" in report else "worst errors, the surest first:"
        console.print(report.get("worst_are", usual))
        for error in worst:
            console.print(_error(error), soft_wrap=True)


def _parts(report: Mapping[str, Any]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if "classes" in report:
        parts += _classes(report["classes"])
    if "confusion" in report:
        labels = report["confusion"]["labels"]
        few = len(labels) <= MOST_CLASSES
        parts.append(_matrix(labels, report["confusion"]["counts"]) if few else _pairs(report["most_confused"]))
    elif "most_confused" in report:
        parts.append(_pairs(report["most_confused"]))
    parts += [_any_table(table) for table in report.get("tables", ())]
    if "residuals" in report:
        facts = report["residuals"]
        parts.append(
            f"predicted - gold: mean {facts['mean']:+.4f}; distance: half of the rows at most {facts['p50']:.4f}, "
            f"9 of 10 {facts['p90']:.4f}, all {facts['max']:.4f}\n"
        )
    return parts


def _classes(rows: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """All classes in their order; of very many, those with the lowest F1."""
    table = _table("label", "precision", "recall", "F1", "rows", "predicted")
    shown = rows if len(rows) <= SHOWN_CLASSES else sorted(rows, key=lambda row: row["f1"])[:SHOWN_CLASSES]
    for row in shown:
        shares = (f"{row[name]:.4f}" for name in ("precision", "recall", "f1"))
        table.add_row(row["label"], *shares, str(row["rows"]), str(row["predicted"]))
    head = [f"the {len(shown)} of {len(rows)} classes with the lowest F1:"] if len(shown) < len(rows) else []
    return [*head, table]


def _matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    table = _table("gold \\ predicted", *labels)
    for label, row in zip(labels, counts):
        table.add_row(label, *map(str, row))
    return table


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> RenderableType:
    if not pairs:
        return "no class is taken for another"
    table = _table("most confused: gold", "predicted", "rows")
    for pair in pairs:
        table.add_row(pair["gold"], pair["predicted"], str(pair["rows"]))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


SAID = ("file", "line", "gold", "predicted", "probability", "probabilities")
"""keys of an error that have a place of their own; all others are texts of its row"""


def _any_table(table: Mapping[str, Any]) -> Table:
    """What a task tells in columns of its own: `columns`, names, the first of which heads the `rows`."""
    shown = _table(*table["columns"])
    for row in table["rows"]:
        shown.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row))
    return shown


def _error(error: Mapping[str, Any]) -> str:
    """Two or more lines: gold and prediction with probabilities, where it stands, the texts."""
    chances = error.get("probabilities", {})
    gold, predicted = (_short(_words(error[name], chances)) for name in ("gold", "predicted"))
    if "probability" in error:
        predicted += f" ({error['probability']:.3f})"
    texts = "\n".join(f"    {_short(_words(value, {}))}" for key, value in error.items() if key not in SAID and value)
    return f"  gold {gold}, predicted {predicted}  [{error['file']}:{error['line']}]\n{texts}"


def _words(label: Any, chances: Mapping[str, float]) -> str:
    """A label, several of them, or marked places: entities with their labels."""
    if isinstance(label, list):
        return few([_marked(one, chances) for one in label], SHOWN_PLACES) or "none"
    return f"{label:.4f}" if isinstance(label, float) else str(label)


def _marked(one: Any, chances: Mapping[str, float]) -> str:
    if isinstance(one, Mapping):
        return f"{one['text']} ({one['label']})"
    return f"{one} ({chances[one]:.3f})" if one in chances else str(one)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 3] + "..."
