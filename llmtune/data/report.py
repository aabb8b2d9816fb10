"""What became of the data: one dictionary for data_report.json and a few lines for people."""

from __future__ import annotations

from typing import Any

from llmtune.data.labels import Labelled
from llmtune.data.rows import RawSplits
from llmtune.data.tokens.encode import EncodedSplits

SHOWN_LABELS, SHOWN_LINES, SHOWN_REASONS = 12, 3, 5
UNKNOWN_SHARE = 0.05


def data_report(
    raw: RawSplits, labelled: Labelled | None = None, encoded: EncodedSplits | None = None
) -> dict[str, Any]:
    """All that reading, labelling and encoding found out, by split; plain JSON."""
    splits: dict[str, dict[str, Any]] = {}
    for split, facts in raw.report["splits"].items():
        splits[split] = {**facts}
        if labelled is not None:
            splits[split]["labels"] = labelled.report[split]
        if encoded is not None:
            lengths = encoded.report[split]
            splits[split] |= {
                name: lengths[name]
                for name in ("tokens", "overlength", "unknown_share", "supervised", "unsupervised", "example")
                if name in lengths
            }
            splits[split]["rows_kept"] = lengths["rows_kept"]
            over = lengths["overlength"]
            if over["policy"] == "drop" and over["rows"]:
                reason = f"longer than {over['max_tokens']} tokens"
                splits[split]["dropped"] = {**facts["dropped"], reason: {"count": over["rows"], "lines": over["lines"]}}
    report = {"fingerprint": raw.fingerprint, "splits": splits, "overlap": raw.report["overlap"]}
    if labelled is not None:
        told = [] if encoded is None else [
            f"{split}: {said}" for split, facts in encoded.report.items() for said in facts.get("told", [])
        ]  # fmt: skip
        report |= {"problem_type": labelled.problem_type, "warnings": labelled.warnings + told}
    return report


def summary(report: dict[str, Any]) -> list[str]:
    """The report in a few lines: what was read and how, what was dropped, labels, lengths, what is suspicious."""
    lines: list[str] = []
    for split, facts in report["splits"].items():
        kept = "blocks" if "blocks" in facts else "rows"
        lines.append(f"{split}: {facts['rows_kept']:,} {kept} {_origin(facts)}")
        told = (*_dropped(facts), *_labels(facts), *_lengths(facts), *_supervised(facts, split), *_repeats(facts))
        lines += [f"  {line}" for line in told]
    for pair, shared in report["overlap"].items():
        one, two = pair.split("/")
        if shared["near_rows"]:
            nearly = (
                f", {shared['near_rows']:,} if case and punctuation are passed over"
                if shared["near_rows"] > shared["rows"]
                else ""
            )
            lines.append(f"warning: {shared['rows']:,} rows of {two} have a text that stands in {one}{nearly}")
    return lines + [f"warning: {warning}" for warning in report.get("warnings", [])]


def _origin(facts: dict[str, Any]) -> str:
    if "taken_from" in facts:
        return f"taken from {facts['taken_from']}"
    found = facts["found"]
    first, more = found[0], f" and {len(found) - 1} more" if len(found) > 1 else ""
    said = [str(first["format"]), str(first.get("encoding", ""))]
    if "delimiter" in first:
        quotes = "quotes are plain characters" if first["quote"] == "none" else f"quoted by {first['quote']}"
        said += [f"{first['delimiter']} between columns", quotes, "header" if first["header"] else "no header"]
    columns = ", ".join(f"{role} = {key!r}" for role, key in first["columns"].items())
    if "blocks" in facts:
        cut = facts["blocks"]
        said.append("end to end")
        what = f"of {cut['max_tokens']} tokens, {cut['tokens']:,} tokens in all, out of {facts['rows_read']:,} text(s)"
    else:
        what = f"of {facts['rows_read']:,}"
    return f"{what} read from {first['file']}{more} ({', '.join(filter(None, said))}; {columns})"


def _dropped(facts: dict[str, Any]) -> list[str]:
    lines, dropped = [], list(facts["dropped"].items())
    for reason, entry in dropped[:SHOWN_REASONS]:
        shown = entry["lines"][:SHOWN_LINES]
        more = ", ..." if entry["count"] > len(shown) else ""
        lines.append(f"dropped {entry['count']:,}: {reason} ({', '.join(shown)}{more})")
    rest = dropped[SHOWN_REASONS:]
    if rest:
        rows = sum(entry["count"] for _, entry in rest)
        lines.append(f"dropped {rows:,} more for {len(rest):,} further reasons, which data_report.json tells")
    return lines


def _labels(facts: dict[str, Any]) -> list[str]:
    labels = facts.get("labels")
    if not labels:
        return []
    if "counts" not in labels:
        return [f"scores: {labels['min']:g} to {labels['max']:g}, mean {labels['mean']:.3g}"]
    counts = list(labels["counts"].items())
    shown = ", ".join(f"{name} {count:,}" for name, count in counts[:SHOWN_LABELS])
    more = f" and {len(counts) - SHOWN_LABELS} more classes" if len(counts) > SHOWN_LABELS else ""
    return [f"labels: {shown}{more}"]


def _lengths(facts: dict[str, Any]) -> list[str]:
    if "tokens" not in facts:
        return []
    if "blocks" in facts:
        return _strange(facts)
    tokens, over = facts["tokens"], facts["overlength"]
    line = f"tokens: median {tokens['p50']}, 95 of 100 rows at most {tokens['p95']}, longest {tokens['max']}"
    if over["rows"]:
        done = {"truncate": "cut", "drop": "dropped", "split": "made several"}[over["policy"]]
        line += f"; {over['rows']:,} rows ({over['share']:.1%}) {done} at {over['max_tokens']}"
        line += f", {over['tokens_lost']:,} tokens lost"
    return [line, *_strange(facts)]


def _strange(facts: dict[str, Any]) -> list[str]:
    share = facts.get("unknown_share", 0)
    told = f"warning: {share:.0%} of the tokens are unknown to the tokenizer; does it know this language?"
    return [told] if share > UNKNOWN_SHARE else []


def _supervised(facts: dict[str, Any], split: str) -> list[str]:
    """Which share of the tokens is to be written by the model, and one row in which it is marked."""
    lines = []
    if facts.get("example") and "supervised" in facts:
        found = facts["supervised"]
        lines.append(f"learnt: {found['tokens']:,} tokens, {found['share']:.1%} of all")
        if split == "train":
            lines.append("one row, what is learnt in \u27e6 \u27e7:")
            lines += [f"  | {line}" for example in facts["example"] for line in example.splitlines()]
    if "unsupervised" in facts:
        idle = facts["unsupervised"]
        lines.append(f"dropped {idle['rows']:,}: the answer is empty ({', '.join(idle['lines'][:SHOWN_LINES])})")
    return lines


def _repeats(facts: dict[str, Any]) -> list[str]:
    repeats = facts["duplicates"]
    if not repeats["rows"]:
        return []
    contradicting = repeats["contradicting_texts"]
    also = f"; {contradicting:,} text(s) have different labels" if contradicting else ""
    return [f"duplicates: {repeats['rows']:,} rows repeat a text{also}"]
