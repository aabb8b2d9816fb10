"""What an encoder-decoder of speech begins with, how it is to be configured, and how it writes."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmtune.core.errors import ConfigError, Fault, did_you_mean
from llmtune.core.seeds import fold
from llmtune.core.types import Batch

START, NO_TIMES, MANY = "<|startoftranscript|>", "<|notimestamps|>", 51865
"""the first and the last token before a transcript; words from which on a Whisper knows many languages"""


def start_of(tokenizer: Any, config: Any, settings: Any) -> list[int]:
    """Tokens that Whisper's decoder begins with: the start, of models of many languages which one and what is to be
    done, and that no times are wanted.

    Raises:
        ConfigError: the language is none that it knows, or it is not named.
    """
    knows_many = config.vocab_size >= MANY and "<|translate|>" in tokenizer.get_vocab()
    if not knows_many:
        given = {"language": settings.language, "action": settings.action}
        wrong = [key for key, usual in (("language", None), ("action", "transcribe")) if given[key] != usual]
        if wrong:
            raise ConfigError(*(
                Fault(f"task.{key}", f"{given[key]}, but this model knows one language and only transcribes", "",
                      f"type task.{key}={'null' if key == 'language' else 'transcribe'}")
                for key in wrong
            ))  # fmt: skip
        return tokenizer.convert_tokens_to_ids([START, NO_TIMES])
    if settings.language is None:
        raise ConfigError(
            Fault("task.language", "null, and this model writes many languages", "that of the recordings",
                  "type task.language=german")
        )  # fmt: skip
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    name = settings.language.strip().lower()
    code = name if name in LANGUAGES else TO_LANGUAGE_CODE.get(name)
    if f"<|{code}|>" not in tokenizer.get_vocab():
        raise ConfigError(
            Fault("task.language", f"{settings.language!r} is none that this model knows",
                  "its English name, or its code, such as german or de", did_you_mean(name, list(TO_LANGUAGE_CODE)))
        )  # fmt: skip
    return tokenizer.convert_tokens_to_ids([START, f"<|{code}|>", f"<|{settings.action}|>", NO_TIMES])


def config_values(tokenizer: Any, hearing: Any, settings: Any) -> dict[str, Any]:
    """What the model's config is to say."""
    values: dict[str, Any] = {"apply_spec_augment": settings.spec_augment}
    names = ("encoder_layerdrop", "decoder_layerdrop") if hearing.writes else ("layerdrop",)
    values |= {name: 0.0 for name in names if hasattr(hearing.config, name)}
    if not hearing.writes:
        return values | {"vocab_size": len(tokenizer), "ctc_loss_reduction": "sum", "ctc_zero_infinity": True}
    if hearing.made:
        start, end = tokenizer.convert_tokens_to_ids(START), tokenizer.eos_token_id
        values |= {"decoder_start_token_id": start, "bos_token_id": end, "eos_token_id": end}
        values |= {"suppress_tokens": None, "begin_suppress_tokens": None}
    return values


def generation_values(tokenizer: Any, hearing: Any, settings: Any) -> dict[str, Any]:
    """What `model/` must say so that transformers' own `generate` of Whisper writes as is written here."""
    if hearing.made:
        return {
            "is_multilingual": False, "no_timestamps_token_id": tokenizer.convert_tokens_to_ids(NO_TIMES),
            "max_length": hearing.most_written, "forced_decoder_ids": None,
        }  # fmt: skip
    return {"language": settings.language, "task": settings.action} if settings.language else {}


def written(model: Any, batch: Batch, writing: Any, hearing: Any, pad_id: int) -> list[np.ndarray]:
    """For each row one transcript as task.writing keeps answers: [1, its length, its tokens]."""
    from llmtune.model.generation import Decoding, generate_heard

    name = hearing.extractor.model_input_names[0]
    answers = generate_heard(
        model, {name: batch.views["clean"][name]}, Decoding.of(writing.settings), pad_id=pad_id,
        stop_ids=writing.stop_ids, seed=fold(0, "writing", *batch.row_ids), start=writing.start,
        room=hearing.most_written,
    )  # fmt: skip
    return [np.asarray([1, len(answer), *answer], dtype=np.float32) for answer in answers]
