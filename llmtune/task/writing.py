"""Answers in words, held by each task that has them: how well known answers are foreseen, and what the model writes.

What is kept of a row: [loss of its tokens, how many they are, how many were foreseen]; where answers were written
besides, how many, and for each its length (its complement ~length where no stop token was written) and its tokens.

Legend: B rows, N tokens of all rows that are to be written, V words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmtune.core.errors import ConfigError, Fault
from llmtune.core.ranges import at_least, between
from llmtune.core.seeds import fold
from llmtune.core.types import Batch, Loss

if TYPE_CHECKING:
    from llmtune.model.generation import Answer
    from llmtune.scoring.predictions import Chunk, Predictions

FIELDS = (
    "max_new_tokens", "num_beams", "temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram",
    "length_penalty",
)  # fmt: skip
"""settings of a task that say how it writes; they may be changed whenever a trained model is used"""
TOKEN_METRICS = {"loss": "min", "perplexity": "min", "token_accuracy": "max"}
"""of the known answers, whatever the model would write itself"""
SUMS = 3
PIECE = 2**25
"""scores of words (N x V) that are made at once"""
TOKENS_AT_ONCE = 16_384
"""positions, prompts and answers together, that are written at once: a cache of keys and values is kept of each"""


def check_writing(settings: Any) -> None:
    """Ranges of FIELDS and of `generate_rows`. Raises ValueError."""
    at_least("max_new_tokens", settings.max_new_tokens, 1)
    at_least("num_beams", settings.num_beams, 1)
    at_least("temperature", settings.temperature, 0)
    at_least("top_k", settings.top_k, 0)
    between("top_p", settings.top_p, 0.01, 1)
    at_least("repetition_penalty", settings.repetition_penalty, 0.1)
    at_least("no_repeat_ngram", settings.no_repeat_ngram, 0)
    at_least("generate_rows", settings.generate_rows, 0)
    if settings.num_beams > 1 and settings.temperature:
        raise ValueError(f"num_beams: {settings.num_beams} beside temperature {settings.temperature}; beams are "
                         "searched without draws; type task.temperature=0")  # fmt: skip


PREPENDED = ("prompt", "p_tuning")
"""adapters whose virtual tokens stand before the inputs, where they would be put again at each token that is written"""
OF_ONE_TEXT = ("fgm", "pgd", "freelb", "smart", "contrastive", "cosine_pairs")
"""objectives that look at what is read as at one text"""


def check_writer(settings: Any, prospect: Any) -> None:
    """ConfigError for parts that can't go with a task that writes, and where no answer has room: for its settings'
    `check`."""
    config, faults = prospect.config, []
    room = getattr(prospect.model_config, "max_position_embeddings", None)
    if room is not None and settings.max_new_tokens >= room:
        given = f"{settings.max_new_tokens}, and {config.model.name} has {room} positions"
        faults.append(Fault("task.max_new_tokens", given, "less", f"type task.max_new_tokens={room // 2}"))
    if config.adapter.name in PREPENDED:
        faults.append(Fault("adapter", f"{config.adapter.name} puts tokens before what is read, and task="
                            f"{config.task.name} writes token by token", "any other", "type adapter=lora"))  # fmt: skip
    for name in config.objective:
        if name == "mixup":
            given = f"mixup mixes the answers of two rows, and those of task={config.task.name} have different lengths"
            faults.append(Fault("objective", given, "", "leave mixup out"))
        elif name in OF_ONE_TEXT and getattr(prospect.model_config, "is_encoder_decoder", False):
            given = f"{name} looks at one text, and {config.model.name}'s decoder reads another than its encoder"
            faults.append(Fault("objective", given, "a decoder alone", f"leave {name} out"))
    if faults:
        raise ConfigError(*faults)


class Writing:
    """What a model makes of known answers, and the answers that it gives itself."""

    def __init__(self, settings: Any, *, num_answers: int = 1):
        """`settings`: those of the task, which have FIELDS and `generate_rows`."""
        self.settings = settings
        self.num_answers = num_answers
        """answers to each row"""
        self.stop_ids: list[int] = []
        self.start: list[int] = []
        """of an encoder-decoder: what its decoder begins with"""
        self._pad_id = 0

    def use(self, tokenizer: Any, *, stop_ids: Sequence[int] | None = None, start: Sequence[int] = ()) -> None:
        """Settle the tokens that an answer ends with (the tokenizer's end of text, if none are named)."""
        end = tokenizer.eos_token_id
        self.stop_ids = list(stop_ids) if stop_ids is not None else [] if end is None else [end]
        self.start = list(start)
        self._pad_id = tokenizer.pad_token_id

    def room(self, max_tokens: int) -> int:
        """Of a row's tokens those that stay free for the answer, where that is written behind what it answers to."""
        return 0 if self.start else min(self.settings.max_new_tokens, max_tokens // 2)

    def kept(self) -> Any:
        """How it writes, as a model's folder keeps it (model.generation); None before `use`."""
        from llmtune.model.generation import Decoding, kept_settings

        if not self.stop_ids:
            return None
        decoding = Decoding.of(self.settings)
        return kept_settings(decoding, pad_id=self._pad_id, stop_ids=self.stop_ids, start=self.start)

    # ---- what is run ----

    def examine(self, model: Any, batch: Batch) -> tuple[list[np.ndarray], Loss]:
        """For each row its three sums, and the loss of the batch; zeros where answers are not known."""
        import torch

        if "label" not in batch.targets:
            nothing = torch.zeros(())
            return [np.zeros(SUMS, dtype=np.float32) for _ in batch.row_ids], Loss(nothing, nothing)
        label_N, row_N = batch.targets["label"], batch.targets["row"]
        sums_B3 = torch.zeros(len(batch.row_ids), SUMS, device=label_N.device)
        for part, logits_NV in _scores(model, batch.views["clean"], len(label_N)):
            losses_N = torch.nn.functional.cross_entropy(logits_NV, label_N[part], reduction="none")
            right_N = (logits_NV.argmax(-1) == label_N[part]).float()
            sums_B3.index_add_(0, row_N[part], torch.stack([losses_N, torch.ones_like(losses_N), right_N], dim=1))
        return list(sums_B3.cpu().numpy()), Loss(sums_B3[:, 0].sum(), sums_B3[:, 1].sum())

    def generated_rows(self, num_rows: int, thorough: bool) -> Sequence[int]:
        """Rows that are answered: all where it counts, while training `generate_rows` spread over all."""
        most = num_rows if thorough or self.settings.generate_rows is None else self.settings.generate_rows
        if most >= num_rows:
            return range(num_rows)
        return np.unique(np.linspace(0, num_rows - 1, most).round().astype(int)).tolist() if most else []

    def generate(self, model: Any, batch: Batch) -> list[np.ndarray]:
        """For each row how many answers, and each with its length before it."""
        from llmtune.model.generation import Decoding, generate

        decoding, prompts = Decoding.of(self.settings), prompts_of(batch)
        positions = max(map(len, prompts)) + decoding.max_new_tokens
        each = max(1, TOKENS_AT_ONCE // (positions * self.num_answers * decoding.num_beams))
        answers: list[Answer] = []
        for at in range(0, len(prompts), each):
            answers += generate(
                model, prompts[at : at + each], decoding, pad_id=self._pad_id, stop_ids=self.stop_ids,
                seed=fold(0, "writing", *batch.row_ids[at : at + each]), num_answers=self.num_answers,
                start=self.start, room=getattr(model.config, "max_position_embeddings", None),
            )  # fmt: skip
        count = self.num_answers
        return [_packed(answers[row * count : (row + 1) * count]) for row in range(len(prompts))]

    # ---- what came out ----

    def answers(self, chunk: Chunk) -> list[list[list[int]] | None]:
        """For each row the tokens of its answers; None where none were written."""
        return [None if found is None else [ids for ids, _ in found] for found in self.written(chunk)]

    def written(self, chunk: Chunk) -> list[list[tuple[list[int], bool]] | None]:
        """For each row the tokens of its answers, and of each whether it was cut off: no stop token was written. None
        where none were written."""
        return [_unpacked(output[SUMS:]) for output in chunk.outputs]

    def token_scores(self, predictions: Predictions) -> dict[str, float]:
        """`perplexity` = exp(loss of a token), and the share of tokens that were foreseen."""
        sums_3 = np.zeros(SUMS)
        for chunk in predictions.chunks():
            sums_3 += np.stack([output[:SUMS] for output in chunk.outputs]).astype("float64").sum(axis=0)
        total, tokens, right = map(float, sums_3)
        if not tokens:
            return {}
        return {"perplexity": math.exp(min(700.0, total / tokens)), "token_accuracy": right / tokens}


def prompts_of(batch: Batch) -> list[list[int]]:
    """What each row is answered from: all that an encoder reads, or what stands before a decoder's last answer."""
    view = batch.views["clean"]
    mask_BT = view.get("attention_mask")
    lengths = [view["input_ids"].shape[1]] * len(view["input_ids"]) if mask_BT is None else mask_BT.sum(1).tolist()
    lengths = [one for (one,) in batch.facts["asked"]] if "asked" in batch.facts else lengths
    return [ids[:length] for ids, length in zip(view["input_ids"].tolist(), lengths)]


def _scores(model: Any, view: dict[str, Any], num_wanted: int) -> Any:
    """(place, logits_NV) of the wanted positions, in pieces where all at once would take too much memory."""
    from llmtune.data.batches.feed import WANTED
    from llmtune.model.word_model import HEAD_ATTRIBUTE

    head = getattr(model, HEAD_ATTRIBUTE)[0]
    if head is None or num_wanted * head.num_words <= PIECE:
        yield slice(0, num_wanted), model(**view).logits.float()
        return
    inputs = {name: values for name, values in view.items() if name != WANTED}
    hidden_ND = model.base_model(**inputs).last_hidden_state[view[WANTED].bool()]
    each = max(1, PIECE // head.num_words)
    for at in range(0, num_wanted, each):
        yield slice(at, at + each), head(hidden_ND[at : at + each]).float()


def _packed(answers: Sequence[tuple[Sequence[int], bool]]) -> np.ndarray:
    """Token ids are exact as fp32 up to 2^24."""
    flat = [len(answers)]
    for ids, is_cut in answers:
        flat += [~len(ids) if is_cut else len(ids), *ids]
    return np.asarray(flat, dtype=np.float32)


def _unpacked(kept: np.ndarray) -> list[tuple[list[int], bool]] | None:
    if not len(kept):
        return None
    numbers, at, found = kept.astype(np.int64).tolist(), 1, []
    for _ in range(numbers[0]):
        is_cut = numbers[at] < 0
        length = ~numbers[at] if is_cut else numbers[at]
        found.append((numbers[at + 1 : at + 1 + length], is_cut))
        at += 1 + length
    return found
