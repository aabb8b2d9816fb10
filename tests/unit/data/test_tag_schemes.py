"""Schemes of tags: there and back, recognised, broken ones told by what is wrong, read as seqeval reads them."""

from __future__ import annotations

import itertools
import random

import pytest

from llmtune.data.tagging.schemes import (
    SCHEMES,
    fault_in,
    first_overlap,
    may_follow,
    read_entities,
    recognise,
    tag_names,
    without_overlaps,
    write_tags,
)

WITH_BORDERS = ("BIO", "BIOES", "BILOU", "BMES")


def some_entities(rng: random.Random, num_words: int, touching: bool = True) -> list[tuple[int, int, str]]:
    found, at = [], rng.randint(0, 2)
    while at < num_words:
        end = min(num_words, at + rng.randint(1, 4))
        found.append((at, end, rng.choice(["person", "a-b_c", "LOC"])))
        at = end + (rng.choice([0, 0, 1, 3]) if touching else rng.choice([1, 3]))
    return found


@pytest.mark.parametrize("name", WITH_BORDERS)
def test_there_and_back(name: str) -> None:
    rng = random.Random(0)
    for _ in range(200):
        entities = some_entities(rng, 12)
        tags = write_tags(entities, 12, SCHEMES[name])
        assert fault_in(tags, SCHEMES[name]) is None
        assert read_entities(tags, SCHEMES[name]) == entities


@pytest.mark.parametrize("name", ["IO", "TYPES", "IOB1"])
def test_without_borders_entities_that_do_not_touch_come_back(name: str) -> None:
    rng = random.Random(0)
    for _ in range(100):
        entities = some_entities(rng, 12, touching=False)
        tags = write_tags(entities, 12, SCHEMES["BIO" if name == "IOB1" else name])
        if name == "IOB1":
            tags = [f"I{tag[1:]}" if tag != "O" else tag for tag in tags]
        assert fault_in(tags, SCHEMES[name]) is None
        assert read_entities(tags, SCHEMES[name]) == entities


def test_iob1_has_b_between_entities_that_touch() -> None:
    tags = ["I-X", "I-X", "B-X", "I-Y", "O", "I-X"]
    assert recognise([tags]) == "IOB1"
    assert read_entities(tags, SCHEMES["IOB1"]) == [(0, 2, "X"), (2, 3, "X"), (3, 4, "Y"), (5, 6, "X")]


@pytest.mark.parametrize("name", WITH_BORDERS)
def test_recognised(name: str) -> None:
    rng = random.Random(1)
    rows = [write_tags(some_entities(rng, 12), 12, SCHEMES[name]) for _ in range(20)]
    assert recognise(rows) == name


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([["O", "I-X", "I-X", "O"]], "IO"),
        ([["O", "PER", "PER", "O"]], "TYPES"),
        ([["NOUN", "VERB"]], "plain"),
        ([["O", "O"]], "plain"),
        ([["S", "B", "M", "E"]], "BMES"),
        ([["B", "I", "O"]], "BIO"),
        ([["S-X", "O"]], "BIOES"),
        ([["O", "I-X", "O"], ["B-X", "I-X"]], "BIO"),
    ],
)
def test_recognised_by_few_signs(rows: list[list[str]], name: str) -> None:
    assert recognise(rows) == name


@pytest.mark.parametrize("name", [*WITH_BORDERS, "IO", "IOB1"])
@pytest.mark.parametrize("odd", ["LOC", "b-PER", "-X-", "B-", "E-PER", "L-PER", "M-PER", "I-PER", "B-PER"])
def test_one_odd_tag_does_not_change_the_scheme(name: str, odd: str) -> None:
    if (name, odd) == ("IO", "B-PER"):
        pytest.skip("that is IOB1, which reads all others alike")
    rng = random.Random(3)
    rows = [write_tags(some_entities(rng, 12, name in WITH_BORDERS), 12, SCHEMES[name]) for _ in range(60)]
    if name == "IOB1":
        rows = [[f"I{tag[1:]}" if tag != "O" else tag for tag in tags] for tags in rows]
        rows += [["I-X", "B-X", "O"]] * 5
    assert recognise([*rows, ["O", odd, "O"]]) == name


def test_types_and_plain_tags_with_a_few_that_look_like_a_scheme() -> None:
    assert recognise([["O", "PER", "LOC", "O"]] * 30 + [["B-PER", "O"]]) == "TYPES"
    assert recognise([["O", "S", "PER", "LOC"]] * 30) == "TYPES"
    assert recognise([["NOUN", "VERB", "I"]] * 30) == "plain"
    # as many mistyped as not: still no types
    assert recognise([["O", "B-PER", "I-PER", "LOC", "PER", "O"]] * 30) == "BIO"


@pytest.mark.parametrize(
    ("scheme", "tags", "said"),
    [
        ("BIO", "O I-X", "tag 'I-X' (word 2) after 'O': in BIO an entity begins with B-X"),
        ("BIO", "I-X", "tag 'I-X' (word 1) after the start: in BIO an entity begins with B-X"),
        ("BIO", "B-X I-Y", "tag 'I-Y' (word 2) after 'B-X': in BIO an entity begins with B-Y"),
        ("BIO", "B-X E-X", "tag 'E-X' (word 2) is none of BIO, which has B-X, I-X, O"),
        ("BIO", "NOUN", "tag 'NOUN' (word 1) is none of BIO, which has B-X, I-X, O"),
        ("BIOES", "B-X O", "tag 'O' (word 2) after 'B-X': in BIOES an entity ends with E-X"),
        ("BIOES", "B-X B-X", "tag 'B-X' (word 2) after 'B-X': in BIOES an entity ends with E-X"),
        ("BIOES", "B-X S-X", "tag 'S-X' (word 2) after 'B-X': in BIOES an entity ends with E-X"),
        ("BIOES", "E-X", "tag 'E-X' (word 1) after the start: in BIOES an entity begins with B-X"),
        ("BIOES", "S-X E-X", "tag 'E-X' (word 2) after 'S-X': in BIOES an entity begins with B-X"),
        ("BIOES", "O B-X", "the row ends with 'B-X': in BIOES an entity ends with E-X"),
        ("BMES", "B-X M-X O", "tag 'O' (word 3) after 'M-X': in BMES an entity ends with E-X"),
        ("BMES", "O M-X", "tag 'M-X' (word 2) after 'O': in BMES an entity begins with B-X"),
        ("BILOU", "B-X I-X", "the row ends with 'I-X': in BILOU an entity ends with L-X"),
        (
            "IOB1", "O B-X",
            "tag 'B-X' (word 2) after 'O': in IOB1 an entity begins with I-X, and with B-X only right after "
            "another one",
        ),
    ],
)  # fmt: skip
def test_what_is_broken_is_told(scheme: str, tags: str, said: str) -> None:
    assert fault_in(tags.split(), SCHEMES[scheme]) == said


@pytest.mark.parametrize("name", [*WITH_BORDERS, "IO"])
def test_steps_that_may_be_are_those_without_a_fault(name: str) -> None:
    scheme = SCHEMES[name]
    names = tag_names(["X", "Y"], scheme)
    first, pairs, last = may_follow(names, scheme)
    places = range(len(names))
    for tags in itertools.product(places, repeat=3):
        allowed = first[tags[0]] and last[tags[-1]] and all(pairs[one][two] for one, two in itertools.pairwise(tags))
        assert allowed == (fault_in([names[tag] for tag in tags], scheme) is None)


@pytest.mark.parametrize("name", ["BIO", "BIOES"])
def test_broken_sequences_are_read_as_seqeval_does(name: str) -> None:
    from seqeval.metrics.sequence_labeling import get_entities

    rng = random.Random(2)
    names = tag_names(["X", "Y"], SCHEMES[name])
    for _ in range(500):
        tags = rng.choices(names, k=rng.randint(1, 9))
        wanted = [(start, end + 1, kind) for kind, start, end in get_entities(tags)]
        assert read_entities(tags, SCHEMES[name]) == wanted


def test_overlaps() -> None:
    entities = [(0, 5, "X"), (1, 2, "Y"), (6, 7, "X")]
    assert first_overlap(entities) == ((0, 5, "X"), (1, 2, "Y"))
    assert without_overlaps(entities) == [(0, 5, "X"), (6, 7, "X")]
    assert first_overlap(without_overlaps(entities)) is None
