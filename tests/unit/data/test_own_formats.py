"""Files as users really have them are read by naming columns alone: nested JSON, German headers, none, 0/1 columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtune import cli
from tests.tiny import TINY, prepared_of

ROWS = 40
SHAPE = tuple(word for word in TINY if not word.startswith(("task=", "data=")))


def nested_json(folder: Path) -> list[str]:
    """One array of tickets, text and label deep inside."""
    tickets = [
        {"ticket": {"id": n, "mail": {"subject": "?", "parts": [{"mime": "plain", "body": f"Anfrage {n}, bitte"}]}},
         "triage": {"by": "bot", "queue": {"name": ("Technik", "Rechnung")[n % 2]}}} for n in range(ROWS)
    ]  # fmt: skip
    (folder / "export.json").write_text(json.dumps(tickets, indent=1, ensure_ascii=False), encoding="utf-8")
    return ["task=classification", f"data.train={folder / 'export.json'}",
            "data.columns.text=ticket.mail.parts.0.body", "data.columns.label=triage.queue.name"]  # fmt: skip


def german_csv(folder: Path) -> list[str]:
    """Semicolons, a German header, Windows-1252, line breaks inside of quotes."""
    lines = ["Kundennr;Größe;Anliegen des Kunden;Zuständigkeit"]
    lines += [f'{n};1,5;"Anfrage {n}\r\nmit ""Zitat""; bitte";{("Büro", "Lager")[n % 2]}' for n in range(ROWS)]
    (folder / "Anfragen.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    return ["task=classification", f"data.train={folder / 'Anfragen.csv'}",
            "data.columns.text='Anliegen des Kunden'", "data.columns.label=Zuständigkeit"]  # fmt: skip


def latin_tsv(folder: Path) -> list[str]:
    """No header, Latin-1, the label before the text, quotes that are plain characters."""
    drinks = ("café", "thé")
    lines = [f'{n}\t2024-03-09\t{drinks[n % 2]}\tUne "tasse numéro {n}, s\'il vous plaît' for n in range(ROWS)]
    (folder / "avis.tsv").write_bytes("\n".join(lines).encode("latin-1"))
    return ["task=classification", f"data.train={folder / 'avis.tsv'}", "data.columns.text=3", "data.columns.label=2"]


def label_columns(folder: Path) -> list[str]:
    """A 0/1 column a label, rows with none and with both."""
    lines = ["rev_id,comment,is rude,is advert"]
    lines += [f"{n},comment number {n},{n % 2},{int(n % 3 == 0)}" for n in range(ROWS)]
    (folder / "posts.csv").write_text("\n".join(lines) + "\n")
    return ["task=moderation", f"data.train={folder / 'posts.csv'}", "data.columns.text=comment",
            "data.columns.label=['is rude','is advert']"]  # fmt: skip


def pairs_in_lists(folder: Path) -> list[str]:
    """Both texts in one list, the score in an object."""
    rows = [{"texts": [f"satz {n} hier", f"satz {n} dort"], "gold": {"mean": n / 8, "n": 5}} for n in range(ROWS)]
    (folder / "sts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["task=similarity", f"data.train={folder / 'sts.jsonl'}", "data.columns.text=texts.0",
            "data.columns.text_pair=texts.1", "data.columns.label=gold.mean"]  # fmt: skip


def german_pairs(folder: Path) -> list[str]:
    """UTF-16 as a spreadsheet writes it, semicolons, yes and no in German."""
    lines = ["Nr;Satz A;Satz B;Gleich?"] + [f"{n};eins {n};zwei {n};{('ja', 'nein')[n % 2]}" for n in range(ROWS)]
    (folder / "Paare.csv").write_bytes("\r\n".join(lines).encode("utf-16"))
    return ["task=paraphrase", f"data.train={folder / 'Paare.csv'}", "data.columns.text='Satz A'",
            "data.columns.text_pair='Satz B'", "data.columns.label='Gleich?'"]  # fmt: skip


def numbered_pairs(folder: Path) -> list[str]:
    """Tabs, no header, class numbers whose names are typed."""
    lines = [f"p{n}\t{n % 3}\ta premise, {n}\ta claim, {n}" for n in range(ROWS)]
    (folder / "nli.txt").write_text("\n".join(lines) + "\n")
    return ["task=nli", f"data.train={folder / 'nli.txt'}", "data.columns.text=2", "data.columns.text_pair=3",
            "data.columns.label=1", "data.label_names=[entailment,neutral,contradiction]"]  # fmt: skip


def relation_tokens(folder: Path) -> list[str]:
    """Tokens with places of two entities, as FewRel has them, below other names."""
    rows = [
        {"sent": {"words": ["No.", str(n), ",", "made", "by", "Pelle"]}, "h": ["No.", "Q1", [[0, 2]]],
         "t": ["Pelle", "Q2", [[5, 6]]], "rel": ("made by", "none")[n % 2]} for n in range(ROWS)
    ]  # fmt: skip
    (folder / "fewrel.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["task=relation", f"data.train={folder / 'fewrel.jsonl'}", "data.columns.text=null",
            "data.columns.tokens=sent.words", "data.columns.head=h", "data.columns.tail=t",
            "data.columns.label=rel"]  # fmt: skip


FIRST: dict[Callable[[Path], list[str]], tuple[dict[str, Any], Any]] = {
    nested_json: ({"text": "Anfrage 0, bitte"}, "Technik"),
    german_csv: ({"text": 'Anfrage 0\r\nmit "Zitat"; bitte'}, "Büro"),
    latin_tsv: ({"text": "Une \"tasse numéro 0, s'il vous plaît"}, "café"),
    label_columns: ({"text": "comment number 0"}, ["is advert"]),
    pairs_in_lists: ({"text": "satz 0 hier", "text_pair": "satz 0 dort"}, 0.0),
    german_pairs: ({"text": "eins 0", "text_pair": "zwei 0"}, "ja"),
    numbered_pairs: ({"text": "a premise, 0", "text_pair": "a claim, 0"}, "entailment"),
    relation_tokens: ({"tokens": '["No.", "0", ",", "made", "by", "Pelle"]'}, "made by"),
}


@pytest.mark.parametrize("write", FIRST, ids=lambda write: write.__name__)
def test_files_are_read_by_naming_columns(write: Callable[[Path], list[str]], tmp_path: Path) -> None:
    taken = ("data=files", "data.validation_share=0", "data.test_share=0")
    prepared = prepared_of(*SHAPE, *taken, *write(tmp_path))
    rows, task = prepared.splits["train"], prepared.task
    assert len(rows) == ROWS
    texts, label = FIRST[write]
    assert {role: rows[0][role] for role in texts} == texts
    target = rows[0]["target"]
    names = task.labels.names if task.labels else None
    found = target if names is None else names[target] if isinstance(target, int) else [names[i] for i in target]
    assert found == label


def test_a_model_is_trained_on_such_a_file_and_predicts_from_one_like_it(tmp_path: Path) -> None:
    words, run = german_csv(tmp_path), tmp_path / "run"
    assert cli.main(["train", *SHAPE, "data=files", *words, "train.max_steps=2", f"run.dir={run}"]) == 0
    assert cli.main(["predict", str(run), str(tmp_path / "Anfragen.csv"), "-o", str(tmp_path / "out.csv")]) == 0
    names = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert names[:4] == ["Kundennr", "Größe", "Anliegen des Kunden", "Zuständigkeit"]
    assert names[4:] == ["label", "probability", "probability_Büro", "probability_Lager"]
