"""Texts that a language model writes: batches of prompts of like length, a cache of keys and values, draws by a seed.

Legend: B rows, T tokens of a prompt, G tokens that are written.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from transformers import GenerationMixin

from llmtune.core.ranges import at_least, between


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the next token is chosen. `temperature` 0: the most probable one (or beam)."""

    max_new_tokens: int
    num_beams: int
    temperature: float
    top_k: int
    """of the most probable tokens only so many; 0: all"""
    top_p: float
    """of the most probable tokens only as many as have this probability together; 1: all"""
    repetition_penalty: float
    no_repeat_ngram: int
    """no sequence of so many tokens is written twice; 0: any may be"""
    length_penalty: float
    """beams: above 0 favours long texts"""

    def __post_init__(self) -> None:
        at_least("max_new_tokens", self.max_new_tokens, 1)
        at_least("num_beams", self.num_beams, 1)
        at_least("temperature", self.temperature, 0)
        at_least("top_k", self.top_k, 0)
        between("top_p", self.top_p, 0.01, 1)
        at_least("repetition_penalty", self.repetition_penalty, 0.1)
        at_least("no_repeat_ngram", self.no_repeat_ngram, 0)
        if self.num_beams > 1 and self.temperature:
            raise ValueError(f"num_beams: {self.num_beams} beside temperature {self.temperature}; beams are searched "
                             "without draws; type task.temperature=0")  # fmt: skip

    @classmethod
    def of(cls, settings: Any) -> Decoding:
        """From settings that have fields of the same names."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


class Answer(NamedTuple):
    """A text that was written."""

    ids: list[int]
    """its tokens, without the stop token"""
    is_cut: bool
    """was no stop token written?"""


@torch.no_grad()
def generate(
    model: Any, prompts: Sequence[Sequence[int]], decoding: Decoding, *, pad_id: int, stop_ids: Sequence[int],
    seed: int, num_answers: int = 1, start: Sequence[int] = (), room: int | None = None,
) -> list[Answer]:  # fmt: skip
    """For each prompt `num_answers` texts, one after the other.

    Args:
        prompts: of a decoder, what the text goes on from; of an encoder-decoder, what it reads. Like lengths waste
            least.
        seed: of the draws; the same prompts in the same batch give the same texts.
        start: of an encoder-decoder: what its decoder begins with.
        room: positions that the model has at most; a text ends there.
    """
    device = next(model.parameters()).device
    decodes = bool(getattr(model.config, "is_encoder_decoder", False))
    ids_BT, mask_BT = _padded(prompts, pad_id, left=not decodes)
    width = len(start) if decodes else ids_BT.shape[1]
    most = decoding.max_new_tokens if room is None else min(decoding.max_new_tokens, room - width)
    if most < 1:
        return [Answer([], True) for _ in range(len(prompts) * num_answers)]
    inputs: dict[str, Any] = {"input_ids": ids_BT.to(device), "attention_mask": mask_BT.to(device)}
    if decodes:
        inputs["decoder_input_ids"] = torch.tensor([list(start)] * len(prompts), device=device)
    settings = _settings(decoding, most, pad_id, stop_ids, num_answers)
    if decodes:
        settings.decoder_start_token_id = start[0]
    written_BG = _written(model, inputs, settings, seed)[:, width:]
    return [_until_stop(row, stop_ids, pad_id) for row in written_BG.tolist()]


@torch.no_grad()
def generate_heard(
    model: Any, view: dict[str, torch.Tensor], decoding: Decoding, *, pad_id: int, stop_ids: Sequence[int], seed: int,
    start: Sequence[int], room: int,
) -> list[list[int]]:  # fmt: skip
    """As `generate`, tokens of one text a row, of an encoder-decoder that reads features (B, ...) and not tokens."""
    rows = len(next(iter(view.values())))
    most = min(decoding.max_new_tokens, room - len(start))
    if most < 1:
        return [[] for _ in range(rows)]
    settings = _settings(decoding, most, pad_id, stop_ids, 1)
    settings.decoder_start_token_id = start[0]
    device = next(model.parameters()).device
    inputs = {**view, "decoder_input_ids": torch.tensor([list(start)] * rows, device=device)}
    # Whisper's own `generate` would settle the start by itself, and cut what is longer than its window into pieces
    written_BG = _written(model, inputs, settings, seed, GenerationMixin.generate)[:, len(start) :]
    return [_until_stop(row, stop_ids, pad_id).ids for row in written_BG.tolist()]


def _written(
    model: Any, inputs: dict[str, Any], settings: Any, seed: int, write: Any = None
) -> torch.Tensor:
    devices = [value.device for value in inputs.values() if value.is_cuda][:1]
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings that have no say in greedy search
        torch.manual_seed(seed)
        with _own_settings_away(model):
            if write is not None:
                return write(model, **inputs, generation_config=settings)
            return model.generate(**inputs, generation_config=settings)


@contextmanager
def _own_settings_away(model: Any) -> Iterator[None]:
    """Meanwhile a model's own settings have no say, which else stand in for all that is not named: those of BART for
    summaries ask for 56 tokens at least, and for 4 beams."""
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def kept_settings(
    decoding: Decoding, *, pad_id: int, stop_ids: Sequence[int], start: Sequence[int] = ()
) -> Any:
    """transformers' GenerationConfig by which others, who have the model's folder alone, let it write as we do."""
    settings = _settings(decoding, decoding.max_new_tokens, pad_id, stop_ids, 1)
    if start:
        settings.decoder_start_token_id = start[0]
        settings.forced_bos_token_id = start[1] if len(start) > 1 else None
    return settings


def _settings(decoding: Decoding, most: int, pad_id: int, stop_ids: Sequence[int], num_answers: int) -> Any:
    """transformers' GenerationConfig; nothing is taken over from a model's own."""
    from transformers import GenerationConfig

    draws = {
        "do_sample": True, "temperature": decoding.temperature, "top_k": decoding.top_k, "top_p": decoding.top_p,
    } if decoding.temperature else {"do_sample": False}  # fmt: skip
    beams = {}
    if decoding.num_beams > 1:
        beams = {"num_beams": decoding.num_beams, "length_penalty": decoding.length_penalty}
    return GenerationConfig(
        max_new_tokens=most, repetition_penalty=decoding.repetition_penalty, pad_token_id=pad_id,
        no_repeat_ngram_size=decoding.no_repeat_ngram, eos_token_id=list(stop_ids), use_cache=True,
        num_return_sequences=num_answers, **draws, **beams,
    )  # fmt: skip


def _padded(rows: Sequence[Sequence[int]], pad_id: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (B, T); a decoder's prompts stand on the right, where the text goes on."""
    width = max(1, *map(len, rows))
    ids_BT = torch.full((len(rows), width), pad_id)
    mask_BT = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids_BT[number, place] = torch.tensor(row, dtype=torch.long)
        mask_BT[number, place] = 1
    return ids_BT, mask_BT


def _until_stop(row: list[int], stop_ids: Sequence[int], pad_id: int) -> Answer:
    """What was written before the stop token; behind it stands padding, which may be the same token."""
    ends = [at for at, token in enumerate(row) if token in stop_ids]
    written = row[: ends[0]] if ends else row
    while not ends and written and written[-1] == pad_id:  # another beam was longer
        written = written[:-1]
    return Answer(written, not ends)
