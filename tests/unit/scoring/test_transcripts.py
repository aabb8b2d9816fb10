"""Error rates of transcripts: jiwer's own figures, whatever the portions; scripts without blanks; normalising."""

from __future__ import annotations

import jiwer
import pytest

from llmtune.scoring.transcripts import NOTHING, Normaliser, TranscriptScores, aligned

PLAIN = Normaliser(ignore_case=True, ignore_punctuation=True)
TRUTHS = ["one two three", "four five", "six", "seven eight nine zero"]
WRITTEN = ["one too three", "four", "six six", "eight nine seven zero"]


def scored(truths: list[str], written: list[str], size: int) -> TranscriptScores:
    sums = TranscriptScores(PLAIN)
    for at in range(0, len(truths), size):
        sums.add(truths[at : at + size], written[at : at + size])
    return sums


@pytest.mark.parametrize("size", [1, 3, 4])
def test_rates_are_those_of_jiwer_in_any_portions(size: int) -> None:
    found = scored(TRUTHS, WRITTEN, size).scores()
    assert found["wer"] == pytest.approx(jiwer.wer(TRUTHS, WRITTEN))
    assert found["cer"] == pytest.approx(jiwer.cer(TRUTHS, WRITTEN))
    assert found["words"] == 10
    assert found["exact"] == 0


def test_a_rate_is_one_of_sums_and_no_mean_of_rows() -> None:
    long = "one two three four five six seven eight nine"
    found = scored(["one", long], ["two", long], 1).scores()
    assert found["wer"] == pytest.approx(0.1)  # a mean of rows would be 0.5
    assert found["exact"] == 0.5


def test_what_was_said_and_what_was_written_for_it() -> None:
    sums = scored(TRUTHS, WRITTEN, 4)
    assert sums.confused["two", "too"] == 1
    assert sums.confused["five", NOTHING] == 1
    assert sums.confused[NOTHING, "six"] == 1


def test_case_and_punctuation_are_ignored_if_they_are_to_be() -> None:
    assert PLAIN("  Don’t  STOP—now, (please)! ") == "don't stop now please"
    assert PLAIN("ＡＢ１") == "ab1"
    strict = Normaliser(ignore_case=False, ignore_punctuation=False)
    assert strict("Yes,  sir!") == "Yes, sir!"
    assert scored(["Yes, sir!"], ["yes sir"], 1).scores()["wer"] == 0


def test_scripts_without_blanks_count_by_characters() -> None:
    assert PLAIN.words("今天 Python 很好。") == ["今", "天", "python", "很", "好"]
    found = scored(["今天天气很好"], ["今天天汽好"], 1).scores()
    assert found["wer"] == found["cer"] == pytest.approx(2 / 6)


def test_nothing_said_or_nothing_written() -> None:
    assert aligned([], ["a", "b"])[0].extra == 2
    assert aligned(["a", "b"], [])[0].missing == 2
    assert TranscriptScores(PLAIN).scores() == {}
    found = scored(["...", "one"], ["one", "one"], 2).scores()
    assert found["wer"] == 1.0  # one word too many for one that was said


def test_blanks_are_characters_of_their_own() -> None:
    assert scored(["ab cd"], ["abcd"], 1).scores()["cer"] == pytest.approx(1 / 5)
