"""Templates of prompts: texts put into a sentence with a mask; what is too long is cut from the texts alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmtune.core.errors import ConfigError, Fault, did_you_mean

FIELDS = ("text", "text_pair", "mask")


def parsed(template: str) -> list[str]:
    """Fields and the words between them, alternating, words first.

    Raises:
        ValueError: an unknown field, none or two masks, or no text.
    """
    pieces = re.split(r"\{(\w*)\}", template)
    fields = pieces[1::2]
    for field in fields:
        if field not in FIELDS:
            hint = did_you_mean(field, FIELDS)
            raise ValueError(f"template: {{{field}}} is not known; fields: {{text}}, {{text_pair}}, {{mask}}"
                             + (f"; {hint}" if hint else ""))  # fmt: skip
    if fields.count("mask") != 1 or "text" not in fields or len(set(fields)) < len(fields):
        raise ValueError(f"template: {template!r}; {{text}} and {{mask}} once each, {{text_pair}} once or not at all; "
                         "such as '{text} It was {mask}.'")  # fmt: skip
    return pieces


class Template:
    """`{text} It was {mask}.`: rows of texts become rows of token ids with one mask each."""

    def __init__(self, template: str):
        self.pieces = parsed(template)
        self.roles = [field for field in self.pieces[1::2] if field != "mask"]

    def filled(self, texts: Mapping[str, str], mask: str) -> str:
        values = {**texts, "mask": mask}
        return "".join(values[piece] if place % 2 else piece for place, piece in enumerate(self.pieces)).strip()

    def encoder(self, tokenizer: Any) -> Callable[[Mapping[str, list[Any]], int | None], dict[str, list[Any]]]:
        """`encode(columns, max_tokens)`: ids of filled-in templates of at most so many tokens."""

        def encode(columns: Mapping[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
            mask = tokenizer.mask_token
            rows = [
                {role: (columns[role][row] or "").replace(mask, " ") for role in self.roles}
                for row in range(len(columns["text"]))
            ]
            if not rows:
                return {"input_ids": []}
            encoded = _encoded(tokenizer, [self.filled(row, mask) for row in rows])
            for place, ids in enumerate(encoded["input_ids"]):
                if max_tokens and len(ids) > max_tokens:
                    whole = self._shortened(tokenizer, rows[place], len(ids), max_tokens)
                    for name, values in _encoded(tokenizer, [whole]).items():
                        encoded[name][place] = values[0]
            return encoded

        return encode

    def _shortened(self, tokenizer: Any, texts: dict[str, str], length: int, most: int) -> str:
        """The filled-in template with texts cut at the ends of tokens, the longer text first.

        Raises:
            ConfigError: the template alone is longer.
        """
        while True:
            ends = {role: _ends(tokenizer, text) for role, text in texts.items()}
            if not any(ends.values()):
                raise ConfigError(
                    Fault("task.template", f"is {length} tokens long without any text", f"data.max_tokens={most}")
                )
            keep = _longest_first({role: len(found) for role, found in ends.items()}, length - most)
            texts = {role: text[: whole_end(ends[role], keep[role])] for role, text in texts.items()}
            whole = self.filled(texts, tokenizer.mask_token)
            length = len(_encoded(tokenizer, [whole])["input_ids"][0])
            if length <= most:
                return whole


def _encoded(tokenizer: Any, texts: Sequence[str]) -> dict[str, list[Any]]:
    found = tokenizer(list(texts), padding=False, truncation=False, verbose=False, return_attention_mask=False)
    return {key: found[key] for key in ("input_ids", "token_type_ids") if key in found}


def _ends(tokenizer: Any, text: str) -> list[int]:
    """Where each token of a text ends."""
    found = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False, return_offsets_mapping=True)
    return [end for _, end in found["offset_mapping"]]


def whole_end(ends: Sequence[int], keep: int) -> int:
    """Where a text ends of which `keep` tokens may stay; one character may be several tokens, which go together."""
    while 0 < keep < len(ends) and ends[keep] == ends[keep - 1]:
        keep -= 1
    return ends[keep - 1] if keep else 0


def _longest_first(lengths: dict[str, int], over: int) -> dict[str, int]:
    """What is left of texts of so many tokens when `over` go, one by one from the longest."""
    lengths = dict(lengths)
    for _ in range(min(over, sum(lengths.values()))):
        longest = max(lengths, key=lambda role: lengths[role])
        lengths[longest] -= 1
    return lengths
