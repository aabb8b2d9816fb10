"""Rows of preferences as a reward model reads them: each answer with its prompt is a sequence.

A model whose tokenizer ends a text by itself (BERT, T5) reads prompt and answer as a pair; any other one reads the
dialogue by its chat template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from llmtune.data.forms.conversation import Message
from llmtune.data.forms.preference_rows import preference_of
from llmtune.data.tokens.chat_template import Tools
from llmtune.task.preference_encoding import fits, rows_of, shorter
from llmtune.task.preference_template import KeptTemplate

NAMES = ("input_ids", "token_type_ids")


class RewardEncoder:
    """Columns of rows, as they are kept, to the sequences of each; longer ones lose the prompt's oldest turns."""

    def __init__(self, tokenizer: Any, template: KeptTemplate):
        self.tokenizer = tokenizer
        ends = tokenizer("a")["input_ids"][-1] in tokenizer.all_special_ids
        self.template = None if template.wanted == "auto" and ends else template.of(tokenizer)

    def __call__(self, columns: Mapping[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        rows = rows_of(columns, lambda values: self._row(values, max_tokens))
        made = {name: [list(chain.from_iterable(one[name] for one in row)) for row in rows]
                for name in NAMES if all(name in one for row in rows for one in row)}  # fmt: skip
        return {**made, "cuts": [[len(one["input_ids"]) for one in row] for row in rows]}

    def _row(self, values: Mapping[str, Any], max_tokens: int | None) -> list[dict[str, list[int]]]:
        found = preference_of({name: value for name, value in values.items() if name != "label"})
        for prompt in [found.prompt, *shorter(found.prompt)]:
            sequences = [self._sequence(prompt, answer, found.tools, None) for answer in found.answers]
            if not max_tokens or fits(sequences, max_tokens):
                return sequences
        return [self._sequence(prompt, answer, found.tools, max_tokens) for answer in found.answers]

    def _sequence(
        self, prompt: Sequence[Message], answer: Sequence[Message], tools: Tools, max_tokens: int | None
    ) -> dict[str, list[int]]:
        if self.template is None:
            return self._pair(written(prompt), written(answer), max_tokens)
        pieces = self.template.pieces([*prompt, *answer], tools, turns="last")
        ids = [token for tokens, _ in pieces for token in tokens]
        return {"input_ids": ids[-max_tokens:] if max_tokens else ids}

    def _pair(self, prompt: str, answer: str, max_tokens: int | None) -> dict[str, list[int]]:
        def encoded(**cut: Any) -> Any:
            return self.tokenizer(prompt, answer, return_attention_mask=False, verbose=False, **cut)

        if max_tokens:
            frame = self.tokenizer.num_special_tokens_to_add(pair=True)
            alone = len(self.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"])
            first = "only_first" if alone + frame < max_tokens else "longest_first"
            made = encoded(truncation=first, max_length=max_tokens)
        else:
            made = encoded()
        return {name: list(made[name]) for name in NAMES if name in made}


def written(messages: Sequence[Message]) -> str:
    """Turns as a text: one by itself as it stands, several with who says them."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
