"""Plain text of any format as blocks: nothing is lost, nothing comes twice, and files are read by columns alone."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llmtune.config.settings import ColumnSettings, DataSettings, TokenizerSettings
from llmtune.core.errors import DataError, Stopped
from llmtune.data.batches.feed import BlockTable, table_of
from llmtune.data.text.block_splits import TextSplits, encode_blocks, open_texts
from llmtune.data.text.text_stream import TextStream
from llmtune.data.text.token_file import Ending, TokenFile, write_tokens

LINES = ["Der Wind war stark.", "  und kalt ", "", "风很大，", "she sang.", "", "", "The end"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoConfig

    from llmtune.model.tokenizers import train_tokenizer

    settings = TokenizerSettings(kind="characters", vocab_size=200, min_frequency=1, lowercase=False)
    return train_tokenizer(settings, ["\n".join(LINES) + "abcdefghijklmnopqrstuvwxyz0123456789{}:,é"],
                           AutoConfig.for_model("gpt2"))  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, pytestconfig: pytest.Config) -> DataSettings:
    plain = yaml.safe_load((pytestconfig.rootpath / "conf" / "data" / "files.yaml").read_text())
    (tmp_path / "text.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    plain |= {
        "columns": ColumnSettings(**plain["columns"]), "train": str(tmp_path / "text.txt"), "format": "lines",
        "validation_share": 0.0, "test_share": 0.0, "cache_dir": str(tmp_path / "cache"),
    }  # fmt: skip
    return DataSettings(**plain)


def read(settings: DataSettings, tokenizer: Any, documents: str = "line", most: int = 8, **more: Any) -> Any:
    texts = open_texts(settings, documents, **more)
    return texts, encode_blocks(texts, tokenizer, "sha", most, next_words=True)


def stream_of(table: BlockTable) -> np.ndarray:
    """All tokens of the blocks, one behind the other."""
    blocks = [table.ids(row) for row in range(len(table))]
    return np.concatenate([blocks[0], *(block[table.cut.overlap :] for block in blocks[1:])])


def told(tokenizer: Any, splits: Any, split: str = "train") -> str:
    """The text of a split as its blocks hold it; the end of a document is a bar."""
    table = table_of(splits.splits[split], tokenizer, None)
    ids = stream_of(table)
    return "".join("|" if one == tokenizer.eos_token_id else tokenizer.decode([one]) for one in ids)


@pytest.mark.parametrize(("documents", "text"), [
    ("line", "Der Wind war stark.|und kalt|风很大，|she sang.|The end|"),
    ("blank_line", "Der Wind war stark.\n  und kalt |风很大，\nshe sang.|The end|"),
    ("file", "\n".join(LINES) + "\n|"),
])  # fmt: skip
def test_a_text_file_is_documents_of_lines_of_paragraphs_or_one(
    documents: str, text: str, settings: DataSettings, tokenizer: Any
) -> None:
    _, encoded = read(settings, tokenizer, documents)
    assert told(tokenizer, encoded) == text


@pytest.mark.parametrize("most", [4, 7, 8, 500])
def test_every_token_is_predicted_once_and_a_turn_changes_nothing_but_edges(
    most: int, settings: DataSettings, tokenizer: Any
) -> None:
    _, encoded = read(settings, tokenizer, most=most)
    table = table_of(encoded.splits["train"], tokenizer, None)
    whole = stream_of(table)
    assert len(whole) == table.cut.num_tokens
    lengths = [len(table.ids(row)) for row in range(len(table))]
    assert lengths == table.lengths.tolist()
    assert all(length == most for length in lengths[:-1])
    turns = set()
    for epoch in range(5):
        table.begin_epoch(1000 + epoch)
        turns.add(table._turn)
        assert np.array_equal(stream_of(table), np.roll(whole, -table._turn))
        assert [len(table.ids(row)) for row in range(len(table))] == lengths
    assert len(turns) > 1


def test_bytes_and_places_of_blocks(settings: DataSettings, tokenizer: Any) -> None:
    _, encoded = read(settings, tokenizer, "file", most=12)
    rows = encoded.splits["train"]
    size = Path(str(settings.train)).stat().st_size
    assert sum(number for (number,) in rows["bytes"]) == pytest.approx(size, abs=3)  # but for the first token
    assert rows["text"][0].startswith("Der Wind")
    _, by_line = read(settings, tokenizer, "line", most=12)
    lines = by_line.splits["train"]["line"][:]
    assert lines == sorted(lines)
    assert set(lines) <= {1, 2, 4, 5, 8}


def test_batches_are_padded_at_the_last_block_alone(settings: DataSettings, tokenizer: Any) -> None:
    _, encoded = read(settings, tokenizer)
    table = table_of(encoded.splits["train"], tokenizer, None)
    batch = table.batch(np.arange(2), None)
    assert "attention_mask" not in batch.views["clean"]
    last = table.batch(np.array([0, len(table) - 1]), None)
    assert last.views["clean"]["attention_mask"].sum() == last.real_tokens == table.lengths[[0, -1]].sum()


def test_splits_are_taken_from_the_end_of_the_text(settings: DataSettings, tokenizer: Any) -> None:
    settings = dataclasses.replace(settings, validation_share=0.2, test_share=0.1)
    texts, encoded = read(settings, tokenizer)
    assert list(encoded.splits) == ["train", "validation", "test"]
    parts = [told(tokenizer, encoded, split) for split in encoded.splits]
    assert "".join(parts) == "Der Wind war stark.|und kalt|风很大，|she sang.|The end|"
    assert [len(part) for part in parts] == [37, 10, 5]
    assert texts.report["splits"]["validation"]["taken_from"] == "train"


def _folder_of_gz(folder: Path) -> dict[str, Any]:
    for number, text in enumerate(["eins.\nzwei", "drei"]):
        (folder / "texts").mkdir(exist_ok=True)
        (folder / "texts" / f"part-{number}.txt.gz").write_bytes(gzip.compress(text.encode()))
    return {"train": str(folder / "texts")}


def _nested(folder: Path) -> dict[str, Any]:
    rows = [{"id": 1, "doc": {"body": [{"t": "eins.\nzwei"}]}}, {"id": 2, "doc": {"body": [{"t": "drei"}]}}]
    (folder / "dump.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"train": str(folder / "dump.jsonl"), "columns": {"text": "doc.body.0.t"}}


def _odd_column(folder: Path) -> dict[str, Any]:
    (folder / "x.csv").write_text('Nr;"Volltext (roh)";Datum\n1;"eins.\nzwei";2020\n2;drei;2021\n')
    return {"train": str(folder / "x.csv"), "columns": {"text": "Volltext (roh)"}}


@pytest.mark.parametrize("make", [_folder_of_gz, _nested, _odd_column])
def test_own_formats_by_columns_alone(make: Any, settings: DataSettings, tokenizer: Any, tmp_path: Path) -> None:
    named = make(tmp_path)
    columns = dataclasses.replace(settings.columns, **named.pop("columns", {}))
    settings = dataclasses.replace(settings, columns=columns, **named)
    documents = "file" if make is _folder_of_gz else "line"
    _, encoded = read(settings, tokenizer, documents)
    assert told(tokenizer, encoded) == "eins.\nzwei|drei|"


def test_rows_without_text_are_told_with_their_lines(settings: DataSettings, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"text": "eins"}\n{"text": ""}\n{"text": "zwei"}\n{"other": 1}\n')
    settings = dataclasses.replace(settings, train=str(tmp_path / "b.jsonl"))
    with pytest.raises(DataError) as error:
        read(settings, tokenizer)
    assert "b.jsonl:2" in str(error.value)
    assert "b.jsonl:4" in str(error.value)
    texts, encoded = read(dataclasses.replace(settings, on_bad_row="drop"), tokenizer)
    assert told(tokenizer, encoded) == "eins|zwei|"
    assert sum(entry["count"] for entry in texts.report["splits"]["train"]["dropped"].values()) == 2


def test_bytes_that_are_no_text_are_told(settings: DataSettings, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes("grün und\nrot\n\n".encode() + b"\xff\xfe\xfa\n\n" + "gelb für\n".encode())
    settings = dataclasses.replace(settings, train=str(tmp_path / "c.txt"))
    with pytest.raises(DataError, match=r"c.txt:4"):
        read(settings, tokenizer, "blank_line")
    _, encoded = read(dataclasses.replace(settings, on_bad_row="drop"), tokenizer, "blank_line")
    assert told(tokenizer, encoded).count("|") == 2


def test_an_empty_text_and_a_share_that_is_too_small(settings: DataSettings, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text(" \n\n")
    with pytest.raises(DataError, match="no row is left"):
        read(dataclasses.replace(settings, train=str(tmp_path / "d.txt")), tokenizer, "file")
    with pytest.raises(DataError, match=r"data\.validation_share=0"):
        read(dataclasses.replace(settings, validation_share=0.01), tokenizer)


def test_the_token_file_is_written_once(
    settings: DataSettings, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = read(settings, tokenizer)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(TextStream, "pieces", never)
    _, again = read(settings, tokenizer)
    assert again.fingerprint == first.fingerprint
    read(settings, tokenizer, most=20)  # other blocks of the same file
    read(dataclasses.replace(settings, validation_share=0.3), tokenizer)
    with pytest.raises(AssertionError):
        read(settings, tokenizer, "file")


def test_a_stop_is_heard_and_leaves_nothing(settings: DataSettings, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        read(settings, tokenizer, should_stop=lambda: True)
    left = [path.name for path in (tmp_path / "cache" / "token_file").iterdir() if path.suffix != ".lock"]
    assert left == []


def test_a_limit_counts_documents_and_a_large_vocabulary_takes_four_bytes(
    settings: DataSettings, tokenizer: Any, tmp_path: Path
) -> None:
    _, encoded = read(dataclasses.replace(settings, limit=2), tokenizer)
    assert told(tokenizer, encoded) == "Der Wind war stark.|und kalt|"
    texts: TextSplits = open_texts(settings, "line")
    pieces = texts.streams["train"].pieces()
    facts = write_tokens(tmp_path, pieces, lambda texts: [[70_000] for _ in texts], Ending(None, 80_000, None))
    tokens = TokenFile(tmp_path)
    assert facts["highest"] == 70_000
    assert tokens.ids(0, 5).dtype == np.uint32
    assert tokens.ids(0, 5).tolist() == [70_000] * 5


def test_a_long_document_comes_in_pieces_and_is_one(tmp_path: Path, settings: DataSettings, tokenizer: Any) -> None:
    text = "".join(f"line {number} of it\n" for number in range(12_000)) + "x" * 250_000
    (tmp_path / "long.txt").write_text(text)
    settings = dataclasses.replace(settings, train=str(tmp_path / "long.txt"))
    pieces = list(open_texts(settings, "file").streams["train"].pieces())
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert max(len(piece.text) for piece in pieces) <= 100_000
    _, encoded = read(settings, tokenizer, "file", most=1000)
    assert told(tokenizer, encoded) == text + "|"


def test_where_documents_begin_inside_of_blocks(settings: DataSettings, tokenizer: Any) -> None:
    _, encoded = read(settings, tokenizer, most=12)
    table = table_of(encoded.splits["train"], tokenizer, None)
    for row in range(len(table)):
        ids = table.ids(row)
        behind_ends = np.flatnonzero(ids[:-1] == tokenizer.eos_token_id) + 1
        assert table.documents(row).tolist() == behind_ends.tolist()
