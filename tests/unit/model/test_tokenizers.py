"""A tokenizer made on the spot is a function of its texts, in every process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmtune.config.settings import TokenizerSettings
from llmtune.core.errors import ConfigError
from llmtune.data.text.masking import bytes_of_tokens
from llmtune.model.tokenizers import train_tokenizer

CODE = """
import hashlib, sys
from transformers import AutoConfig
from llmtune.config.settings import TokenizerSettings
from llmtune.model.tokenizers import train_tokenizer
words = "a dull slow grey film with no heart yet bright warm and quick scenes that sing of joy and light".split()
texts = [" ".join(words[i % 7 : i % 7 + 9]) + f" número {i % 5}" for i in range(60)]
settings = TokenizerSettings(kind=sys.argv[1], vocab_size=120, min_frequency=2, lowercase=True)
tokenizer = train_tokenizer(settings, texts, AutoConfig.for_model("bert"))
print(hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(), len(tokenizer))
"""


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "characters"])
def test_the_same_texts_give_the_same_tokenizer_in_every_process(kind: str) -> None:
    starts = [subprocess.Popen([sys.executable, "-c", CODE, kind], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {start.communicate()[0] for start in starts}
    assert len(found) == 1
    assert int(found.pop().split()[1]) > (60 if kind in ("wordpiece", "bpe") else 30)


def test_a_vocabulary_that_is_too_small_for_all_characters_is_told() -> None:
    from transformers import AutoConfig

    texts = ["".join(chr(0x4E00 + 40 * row + i) for i in range(40)) for row in range(5)]
    settings = TokenizerSettings(kind="unigram", vocab_size=100, min_frequency=1, lowercase=False)
    with pytest.raises(ConfigError, match=r"model\.tokenizer\.vocab_size=400"):
        train_tokenizer(settings, texts, AutoConfig.for_model("gpt2"))


def test_characters_are_tokens_the_rarest_unknown() -> None:
    from transformers import AutoConfig

    settings = TokenizerSettings(kind="characters", vocab_size=64, min_frequency=2, lowercase=False)
    tokenizer = train_tokenizer(settings, ["Ein Wort, 两字\n", "ein Wort, 两字\n"], AutoConfig.for_model("gpt2"))
    ids = tokenizer("Wort: 两\n")["input_ids"]
    assert len(ids) == 8
    assert ids.count(tokenizer.unk_token_id) == 1  # the colon
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Wort 两\n"
    sizes = bytes_of_tokens(tokenizer)
    assert sizes is not None
    assert sizes[ids].sum() == len("Wort 两\n".encode())
