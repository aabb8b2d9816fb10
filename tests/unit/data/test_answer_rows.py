"""Rows of tasks that teach a model what to write."""

from __future__ import annotations

from llmtune.data.tokens.answer_rows import columns_of, decoder_row, prompt_row, sequence_row


def test_a_decoder_is_asked_at_the_token_before_each_that_it_is_to_write():
    row = decoder_row([([1, 2, 3], False), ([4, 5], True), ([6], False), ([7, 2], True)])
    assert row["input_ids"] == [1, 2, 3, 4, 5, 6, 7, 2]
    assert row["wanted"] == [0, 0, 1, 1, 0, 1, 1, 0]
    assert row["target"] == [4, 5, 7, 2]
    assert row["asked"] == [6]
    assert [row["input_ids"][at + 1] for at, one in enumerate(row["wanted"]) if one] == row["target"]


def test_the_stop_is_wanted_also_where_it_is_the_token_of_padding():
    pad = stop = 0
    row = decoder_row([([5], False), ([6, stop], True)])
    assert row["target"][-1] == stop == pad


def test_the_first_token_of_a_row_has_nothing_before_it():
    assert decoder_row([([4, 5], True)]) == {"input_ids": [4, 5], "wanted": [1, 0], "target": [5], "asked": [0]}


def test_nothing_to_write_is_an_empty_target():
    assert decoder_row([([4, 5], False)])["target"] == []
    assert decoder_row([([4], False), ([], True)])["target"] == []
    assert decoder_row([])["wanted"] == []


def test_a_prompt_is_the_row_up_to_its_last_answer():
    known = decoder_row([([1, 2], False), ([3], True), ([4], False), ([5, 0], True)])
    assert prompt_row(known["input_ids"][: known["asked"][0]]) == {"input_ids": [1, 2, 3, 4], "asked": [4]}


def test_a_decoder_beside_an_encoder_reads_the_target_moved_by_one():
    row = sequence_row([8, 9, 1], [5, 6, 1], start=[0])
    assert row == {
        "input_ids": [8, 9, 1], "decoder_input_ids": [0, 5, 6], "wanted": [1, 1, 1], "target": [5, 6, 1],
    }  # fmt: skip


def test_tokens_that_a_decoder_is_made_to_begin_with_are_not_wanted():
    row = sequence_row([8, 1], [5, 1], start=[2, 40])
    assert row["decoder_input_ids"] == [2, 40, 5]
    assert row["wanted"] == [0, 1, 1]
    assert sequence_row([8, 1], None, start=[2, 40]) == {"input_ids": [8, 1]}


def test_columns():
    assert columns_of([{"a": [1]}, {"a": [2, 3]}]) == {"a": [[1], [2, 3]]}
    assert columns_of([]) == {}
