"""Plain texts as rows: what language modelling reads, for a task or beside one; long texts become several rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmtune.data.labels import Labelled
from llmtune.data.roles import TEXT
from llmtune.data.tokens.token_rows import HUGE_CHARS

if TYPE_CHECKING:
    import torch

    from llmtune.config.settings import Config, DataSettings
    from llmtune.data.rows import RawSplits


class PlainText:
    """A reader of texts without labels: what `core.parts.FeedWanted` asks of one."""

    roles = (TEXT,)

    def read_labels(self, raw: RawSplits, label_names: Any, delimiter: str | None) -> Labelled:
        return Labelled(
            "plain_text", None, {split: [None] * len(rows) for split, rows in raw.splits.items()},
            {split: {} for split in raw.splits},
        )  # fmt: skip

    def encoder(self, tokenizer: Any) -> PlainTextEncoder:
        return PlainTextEncoder(tokenizer)

    def collate_targets(
        self, targets: Sequence[Any] | None, cuts: list[list[int]] | None = None
    ) -> dict[str, torch.Tensor]:
        return {}


class PlainTextEncoder:
    """Token ids of texts, with the tokenizer's special tokens around them."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, columns: Mapping[str, list[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        encoded = self.tokenizer(
            list(columns["text"]), truncation=max_tokens is not None, max_length=max_tokens, padding=False,
            verbose=False, return_attention_mask=False,
        )  # fmt: skip
        return {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}

    def windows(
        self, texts: Sequence[str], max_tokens: int
    ) -> tuple[dict[str, list[Any]], list[int], list[str]]:  # fmt: skip
        """Each text in as many windows of at most `max_tokens` as it takes: tokens, the text's number, its part."""
        pieces = [(number, text[at : at + HUGE_CHARS]) for number, text in enumerate(texts)
                  for at in range(0, max(1, len(text)), HUGE_CHARS)]  # fmt: skip
        encoded = self.tokenizer(
            [piece for _, piece in pieces], truncation=True, max_length=max_tokens, padding=False, verbose=False,
            return_attention_mask=False, return_overflowing_tokens=True, return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )  # fmt: skip
        source, parts = [], []
        for which, offsets, special in zip(
            encoded["overflow_to_sample_mapping"], encoded["offset_mapping"], encoded["special_tokens_mask"]
        ):
            number, piece = pieces[which]
            spans = [span for span, apart in zip(offsets, special) if not apart]
            source.append(number)
            parts.append(piece[spans[0][0] : spans[-1][1]] if spans else "")
        tokens = {key: list(encoded[key]) for key in ("input_ids", "token_type_ids") if key in encoded}
        return tokens, source, parts


def plain_rows(config: Config, file: str, *, limit: int | None = None) -> DataSettings:
    """Settings that read `file` as plain texts, one a line, longer ones in windows; nothing is taken for validation."""
    data = config.data
    columns = dataclasses.replace(data.columns, **{field.name: None for field in dataclasses.fields(data.columns)})
    return dataclasses.replace(
        data, name="rows", train=file, validation=None, test=None, columns=columns, label_names=None,
        label_delimiter=None, format="lines", delimiter="auto", quote="auto", encoding="auto", header="auto",
        validation_share=0.0, test_share=0.0, limit=limit, on_overlength="split", on_bad_row="drop", max_bad_rows=None,
    )  # fmt: skip
