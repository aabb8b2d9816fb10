"""What each change of a text does, by example; that it is drawn from nothing but the generator it is given."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llmtune.augmentation.lexicon import read_lexicon, synonyms
from llmtune.augmentation.words import units
from llmtune.config.locate import conf_dir
from llmtune.config.shelf import find_part
from llmtune.core.errors import UserError
from llmtune.core.seeds import generator

TEXT = "The Film was good, and the big house stood on a quiet street."
CHINESE = "这部电影很好看，IMAX效果一流"


def change(name: str, **values: Any) -> Any:
    shipped = yaml.safe_load(Path(conf_dir(), "augmentation", f"{name}.yaml").read_text(encoding="utf-8"))[name]
    return find_part("augmentation", name, [], "augmentation").load()(**{**shipped, **values}).build(None)


GOLDEN = {
    "synonyms": "The Film was fine, and the big house stood on a quiet street.",
    "random_insertion": "The decent Film was good, and the big house stood on a quiet street.",
    "random_swap": "The was Film good, and the big house stood on a quiet street.",
    "random_deletion": "The Film was good, and the big house stood on a quiet street.",
    "crop": "The Film was good, and the big house stood",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    part = change(name)
    assert part.text(TEXT, generator(1, "x")) == GOLDEN[name]
    assert part.text(TEXT, generator(1, "x")) == GOLDEN[name]
    assert len({part.text(TEXT, generator(seed, "x")) for seed in range(12)}) > 3


def test_each_changes_what_it_says() -> None:
    words = TEXT.split()
    for seed in range(30):
        rng = functools.partial(generator, seed, "x")
        swapped = change("random_swap", strength=0.3).text(TEXT, rng()).split()
        assert Counter(swapped) == Counter(words)
        shorter = change("random_deletion", strength=0.5).text(TEXT, rng()).split()
        remaining = iter(words)
        assert shorter
        assert all(word in remaining for word in shorter)
        cropped = change("crop", strength=0.5).text(TEXT, rng())
        assert cropped in TEXT
        assert len(cropped.split()) == round(0.5 * len(words))
        longer = change("random_insertion", strength=0.3).text(TEXT, rng()).split()
        assert len(longer) == len(words) + round(0.3 * len(words))
        replaced = change("synonyms", strength=0.2).text(TEXT, rng()).split()
        differ = [(old, new) for old, new in zip(words, replaced, strict=True) if old != new]
        assert len(differ) == round(0.2 * len(words))
        assert all(new in synonyms(old, read_lexicon("english")) for old, new in differ)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("text", ["", "   ", "word", "。"])
def test_short_texts_stay_texts(name: str, text: str) -> None:
    assert len(change(name, strength=1.0).text(text, generator(0, "x")).split()) >= min(1, len(text.split()))


def test_chinese_is_taken_apart_by_characters() -> None:
    assert units(CHINESE) == (["这", "部", "电", "影", "很", "好", "看", "，", "IMAX", "效", "果", "一", "流"], "")
    swapped = change("random_swap", strength=0.3).text(CHINESE, generator(0, "x"))
    assert swapped != CHINESE
    assert Counter(swapped) == Counter(CHINESE)
    assert "IMAX" in swapped
    assert change("crop", strength=0.5).text(CHINESE, generator(0, "x")) in CHINESE


def test_a_lexicon_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "words.tsv"
    file.write_text("# mine\n看\t瞧\nfilm\tpicture\n", encoding="utf-8")
    assert change("synonyms", lexicon=str(file)).text("THE FILM, the Film", generator(0, "x")) in (
        "THE PICTURE, the Film", "THE FILM, the Picture",
    )  # fmt: skip
    assert "瞧" in change("synonyms", lexicon=str(file)).text(CHINESE, generator(0, "x"))
    file.write_text("no tab here\n")
    read_lexicon.cache_clear()
    with pytest.raises(UserError, match="line 1"):
        read_lexicon(str(file))
    with pytest.raises(UserError, match="can't be read"):
        read_lexicon(str(tmp_path / "none.tsv"))


def test_the_shipped_lexicon_is_sound() -> None:
    lexicon = read_lexicon("english")
    assert len(lexicon) > 300
    assert all(word not in others and len(set(others)) == len(others) for word, others in lexicon.items())


def test_cutoff_spares_special_tokens() -> None:
    part = find_part("augmentation", "token_cutoff", [], "augmentation").load()
    built = part(name="token_cutoff", share=1.0, strength=0.5)
    from llmtune.augmentation.token_cutoff import CutoffChange

    ids, free = np.array([2, 10, 11, 12, 13, 3]), np.array([False, True, True, True, True, False])
    changed = CutoffChange(built, 4, 0).tokens(free, ids, generator(0, "x"))
    assert (changed == 4).sum() == 2
    assert changed[0] == 2
    assert changed[-1] == 3
    assert CutoffChange(built, None, 0).tokens(free, ids, generator(0, "x")).tolist().count(0) == 2
