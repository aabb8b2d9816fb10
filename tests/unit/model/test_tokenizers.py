"""A tokenizer made on the spot is a function of its texts, in every process."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
