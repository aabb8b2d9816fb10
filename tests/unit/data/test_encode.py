"""Encoding: each policy for long rows, exact counts, and no tokenizer call where nothing changed."""

from __future__ import annotations

import pytest

from llmtune.core.errors import DataError, Stopped
from llmtune.data.labels import label_splits
from llmtune.data.report import data_report, summary
from llmtune.data.tokens.encode import encode_splits
from llmtune.data.tokens.token_rows import Limits

LENGTHS = [3, 9, 4, 20, 5]
"""words of each row; one token more each"""


@pytest.fixture
def raw(write, read):
    lines = [f"{' '.join(['word'] * length)},{i % 2}" for i, length in enumerate(LENGTHS)]
    return read(train=write("a.csv", "text,label\n" + "\n".join(lines)), label=1, text=0, header=True)


def encoded(raw, encoder, *, key=None, **limits):
    targets = label_splits(raw).targets
    limits = Limits(**{"max_tokens": 8, "max_truncated_share": 1.0, **limits})
    return encode_splits(raw, encoder, key or {"tokenizer": "words"}, targets=targets, limits=limits)


def test_truncate_cuts_and_counts(raw, encoder):
    result = encoded(raw, encoder)
    rows, facts = result.splits["train"], result.report["train"]
    assert rows["length"] == [4, 8, 5, 8, 6]
    assert [len(ids) for ids in rows["input_ids"]] == rows["length"]
    assert rows["target"] == [0, 1, 0, 1, 0]
    assert facts["tokens"] == {"p50": 6, "p95": 21, "max": 21, "kept": 31}
    assert facts["overlength"] == {
        "policy": "truncate",
        "max_tokens": 8,
        "rows": 2,
        "share": 0.4,
        "tokens_lost": 2 + 13,
        "lines": ["a.csv:3", "a.csv:5"],
    }


def test_drop_leaves_long_rows_out_and_lists_them(raw, encoder):
    result = encoded(raw, encoder, on_overlength="drop")
    assert result.splits["train"]["line"] == [2, 4, 6]
    assert result.splits["train"]["target"] == [0, 0, 0]
    report = data_report(raw, label_splits(raw), result)
    assert report["splits"]["train"]["rows_kept"] == 3
    assert report["splits"]["train"]["dropped"] == {
        "longer than 8 tokens": {"count": 2, "lines": ["a.csv:3", "a.csv:5"]}
    }
    with pytest.raises(DataError, match=r"data.train: no row is left: all 5 rows are longer than 4 tokens"):
        encoded(
            raw,
            lambda columns, most: {"input_ids": [[1] * 9 for _ in columns["text"]]},
            max_tokens=4,
            on_overlength="drop",
        )


def test_error_names_the_rows(raw, encoder):
    with pytest.raises(DataError, match=r"2 of 5 rows \(40.0%\) are longer than 8 tokens .*a.csv:3, a.csv:5"):
        encoded(raw, encoder, on_overlength="error")
    assert encoded(raw, encoder, on_overlength="error", max_tokens=21).report["train"]["overlength"]["rows"] == 0


def test_share_of_cut_rows_stops_the_run_also_from_the_cache(raw, encoder):
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"would be cut .*; data.max_truncated_share=0.01; data.max_tokens=21 .*=0.4$"
        ):
            encoded(raw, encoder, max_truncated_share=0.01)
    calls = encoder.calls
    assert encoded(raw, encoder, max_truncated_share=0.4).splits["train"].num_rows == 5
    assert encoder.calls == calls


def test_second_run_makes_no_tokenizer_call(raw, encoder):
    first = encoded(raw, encoder)
    calls = encoder.calls
    second = encoded(raw, encoder)
    assert encoder.calls == calls == 2
    assert second.fingerprint == first.fingerprint
    assert second.splits["train"].to_dict() == first.splits["train"].to_dict()


def test_each_part_of_the_key_misses_alone(raw, encoder, write, read):
    encoded(raw, encoder)
    for changes in ({"max_tokens": 9}, {"on_overlength": "drop"}, {"key": {"tokenizer": "other"}}):
        calls = encoder.calls
        encoded(raw, encoder, **changes)
        assert encoder.calls > calls, changes
    calls = encoder.calls
    write("a.csv", "text,label\nnew text,1\nword,0\n")
    assert encoded(read(train="a.csv"), encoder).splits["train"].num_rows == 2
    assert encoder.calls > calls


@pytest.mark.parametrize(
    ("changes", "hits"),
    [
        ({}, True),
        ({"max_tokens": 64}, True),
        ({"split_seed": 3}, False),
        ({"limit": 2}, False),
        ({"quote": "none"}, False),
    ],
)
def test_rows_are_read_again_only_if_a_setting_of_theirs_changed(write, read, changes, hits):
    name = write("a.csv", "text,label\nx,1\ny,0\nz,1\n")
    assert (read(train=name).fingerprint == read(train=name, **changes).fingerprint) is hits


def test_edited_file_is_read_again(write, read):
    one = read(train=write("a.csv", "text,label\nx,1\ny,0\n"))
    two = read(train=write("a.csv", "text,label\nx,1\nz,0\n"))
    assert one.fingerprint != two.fingerprint
    assert two.splits["train"]["text"] == ["x", "z"]
    assert one.splits["train"]["text"] == ["x", "y"]


def test_huge_text_is_cut_before_the_tokenizer_sees_it(write, read, monkeypatch):
    monkeypatch.setattr("llmtune.data.tokens.token_rows.HUGE_CHARS", 500)
    seen = []

    def encode(columns, most):
        seen.extend(len(text) for text in columns["text"])
        return {"input_ids": [([1] * (len(text) // 2))[:most] for text in columns["text"]]}

    raw = read(train=write("a.csv", f"text,label\n{'ab' * 5000},1\nshort one,0\n"))
    result = encoded(raw, encode)
    assert max(seen) == 500
    assert result.report["train"]["tokens"] | {"kept": 0} == {
        "p50": 5000,
        "p95": 5000,
        "max": 5000,
        "kept": 0,
        "estimated_rows": 1,
    }
    assert result.splits["train"]["length"] == [8, 4]


def test_batches_are_bounded_by_characters(write, read, encoder, monkeypatch):
    monkeypatch.setattr("llmtune.data.tokens.token_rows.BATCH_CHARS", 100)
    raw = read(train=write("a.csv", "text,label\n" + "".join(f"text {i} {'x' * 43},{i % 2}\n" for i in range(10))))
    assert encoded(raw, encoder, max_tokens=64).splits["train"]["line"] == list(range(2, 12))
    assert encoder.calls == 5


def test_stopping_leaves_no_entry(raw, encoder, tmp_path):
    with pytest.raises(Stopped):
        encode_splits(raw, encoder, {}, limits=Limits(8), should_stop=lambda: True)
    assert not list((tmp_path / "cache" / "tokens").glob("*/manifest.json"))


def test_targets_of_every_kind_keep_their_type(raw, encoder):
    for targets in ([0, 1, 0, 1, 0], [0.5, 1.0, 2.0, 3.0, 4.0], [[], [1], [0, 1], [], [1]]):
        result = encode_splits(raw, encoder, {}, targets={"train": targets}, limits=Limits(64))
        assert result.splits["train"]["target"] == targets
    assert "target" not in encode_splits(raw, encoder, {}, limits=Limits(64)).splits["train"].column_names


def test_summary_tells_what_matters(write, read, encoder):
    train = write("a.csv", "text,label\none two three,pos\nfour,neg\nfour,pos\n,neg\nsix seven,neg\n")
    raw = read(train=train, validation=write("b.csv", "text,label\nFour!,neg\nnine,pos\n"), on_bad_row="drop")
    labelled = label_splits(raw)
    result = encode_splits(raw, encoder, {}, targets=labelled.targets, limits=Limits(4), unknown_id=6)
    assert summary(data_report(raw, labelled, result)) == [
        "train: 4 rows of 5 read from a.csv (csv, utf-8, comma between columns, quotes are plain characters, header; "
        "text = 'text', label = 'label')",
        "  dropped 1: empty text (a.csv:5)",
        "  labels: neg 2, pos 2",
        "  tokens: median 3, 95 of 100 rows at most 4, longest 4",
        "  warning: 18% of the tokens are unknown to the tokenizer; does it know this language?",
        "  duplicates: 1 rows repeat a text; 1 text(s) have different labels",
        "validation: 2 rows of 2 read from b.csv (csv, utf-8, comma between columns, quotes are plain characters, "
        "header; text = 'text', label = 'label')",
        "  labels: neg 1, pos 1",
        "  tokens: median 2, 95 of 100 rows at most 2, longest 2",
        "  warning: 25% of the tokens are unknown to the tokenizer; does it know this language?",
        "warning: 0 rows of validation have a text that stands in train, 1 if case and punctuation are passed over",
    ]
