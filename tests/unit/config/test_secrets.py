"""Secrets are hidden wherever config is written, and nothing else is."""

from __future__ import annotations

import pytest

from llmtune.config.secrets import HIDDEN, is_secret, redacted, redacted_line


@pytest.mark.parametrize(
    "key", ["token", "hf_token", "API_KEY", "apikey", "client_secret", "password", "db_passwd", "token_file"]
)
def test_secret_keys(key):
    assert is_secret(key)


@pytest.mark.parametrize(
    "key",
    [
        "max_tokens",
        "batch_tokens",
        "micro_tokens",
        "tokenizer",
        "tokenized",
        "pad_token",
        "eos_token",
        "pad_token_id",
        "key",
        "keep",
    ],
)
def test_other_keys(key):
    assert not is_secret(key)


def test_texts_below_a_secret_key_are_hidden():
    content = {"a": [{"token": "x", "n": 1}], "secret": {"inner": "y", "n": 2}, "max_tokens": "auto", "api_key": None}
    assert redacted(content) == {
        "a": [{"token": HIDDEN, "n": 1}],
        "secret": {"inner": HIDDEN, "n": 2},
        "max_tokens": "auto",
        "api_key": None,
    }
    assert content["a"][0]["token"] == "x"


def test_typed_lines_are_hidden():
    assert redacted_line("tracker.api_key=abc=d") == f"tracker.api_key={HIDDEN}"
    assert redacted_line("train.batch_tokens=3") == "train.batch_tokens=3"
