"""Long rows are cut around their entities: both stay, whatever lies between them."""

from __future__ import annotations

import random

import pytest

from llmtune.core.errors import DataError
from llmtune.task.entity_windows import kept_around

MARKS = [90, 91, 92, 93]


def row_of(rng: random.Random) -> tuple[list[int], tuple[int, int]]:
    """Ids 1.. with two marked entities in any order, and tokens that a tokenizer adds around."""
    frame = rng.choice([(1, 1), (0, 2), (0, 0)])
    gaps = [rng.randint(0, 40) for _ in range(3)]
    sizes = [rng.randint(1, 4) for _ in range(2)]
    numbers = iter(range(1, 90))
    pairs = rng.sample([(90, 91), (92, 93)], 2)
    body = [100 + n for n in range(gaps[0])]
    for (opening, closing), size, gap in zip(pairs, sizes, gaps[1:]):
        body += [opening, *(next(numbers) for _ in range(size)), closing, *(200 + n for n in range(gap))]
    return [0] * frame[0] + body + [0] * frame[1], frame


@pytest.mark.parametrize("seed", range(60))
def test_both_entities_stay_whole_and_no_token_is_left_unused(seed: int) -> None:
    rng = random.Random(seed)
    ids, frame = row_of(rng)
    most = rng.randint(sum(frame) + 12, max(sum(frame) + 12, len(ids)))
    if len(ids) <= most:
        return
    kept = kept_around(ids, MARKS, frame, most, "")
    assert kept == sorted(set(kept))
    assert len(kept) == most
    assert set(range(frame[0])) | set(range(len(ids) - frame[1], len(ids))) <= set(kept)
    for opening, closing in ((90, 91), (92, 93)):
        assert set(range(ids.index(opening), ids.index(closing) + 1)) <= set(kept)


def test_the_window_has_context_on_both_sides() -> None:
    ids = [1] * 20 + [90, 5, 91, 6, 92, 7, 93] + [2] * 20
    assert kept_around(ids, MARKS, (0, 0), 11, "") == list(range(18, 29))


def test_entities_far_apart_have_a_window_each() -> None:
    ids = [90, 5, 91] + [1] * 50 + [92, 7, 93]
    kept = kept_around(ids, MARKS, (0, 0), 12, "")
    assert kept == [*range(6), *range(50, 56)]


def test_entities_alone_too_long() -> None:
    ids = [90, *[5] * 20, 91, 92, 7, 93]
    text = "The <e1>very long name</e1> of <e2>it</e2>"
    with pytest.raises(DataError) as error:
        kept_around([0, *ids, 0], MARKS, (1, 1), 12, text)
    said = "the two entities of the row 'The very long name of it' have 25 tokens: 'very long name' and 'it'; "
    assert said in str(error.value)
    assert "data.max_tokens=27, or data.on_overlength=drop" in str(error.value)
