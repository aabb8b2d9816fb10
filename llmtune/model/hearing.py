"""How a model hears: which kind it is, how many frames a recording has, and the features it is fed with.

Legend: B rows, N samples, T frames.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmtune.core.errors import Fault, ModelError

CTC_KINDS = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
"""families that read samples and put out a character, or a blank, for each frame (arXiv 2006.11477 and its kin), a row
as it would be alone; data2vec-audio and wav2vec2-conformer let padding into it through their convolutions"""
FITS = "Whisper kinds (encoder-decoders), or CTC kinds: " + ", ".join(CTC_KINDS)
RATE = 16_000
"""samples a second of a model whose config says nothing else"""
SECONDS_OF_CTC = 30
"""what a CTC model is fed with at most where data.max_tokens is auto"""
FRAMES_A_SECOND = 50
"""of Whisper's encoder"""


def hears(config: Any) -> bool:
    """Does a model read sound, in a way that is known here?"""
    return is_ctc(config) or config.model_type == "whisper"


def is_ctc(config: Any) -> bool:
    """Is it one that spells frame by frame, its frames not thinned out once more behind the layers?"""
    return config.model_type in CTC_KINDS and not getattr(config, "add_adapter", False)


class Hearing:
    """The ears of one model.

    Attributes:
        writes: is it an encoder-decoder (Whisper), which writes word pieces? else CTC.
        extractor: transformers' feature extractor; it lies in `model/` as preprocessor_config.json.
    """

    def __init__(self, config: Any, source: str | None, revision: str | None = None):
        """`source`: folder or hub id of the model; None: it is made from `config`. ModelError: no model that hears."""
        self.writes = config.model_type == "whisper"
        if not hears(config):
            given = f"{config.model_type} models don't hear, or not in a way known here"
            raise ModelError(Fault("model", given, FITS, "such as model=tiny_wav2vec2"))
        self.config = config
        self.made = source is None
        """is the model made from its config?"""
        self.extractor = _made(config) if source is None else _read(config, source, revision)
        self.rate: int = self.extractor.sampling_rate

    def frames(self, samples: int) -> int:
        """Of a recording of so many samples at `rate`: what the encoder, or CTC, has to hear it in."""
        if self.writes:
            return math.ceil(samples / (2 * self.extractor.hop_length))
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride):
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    @property
    def most_frames(self) -> int:
        return self.config.max_source_positions if self.writes else self.frames(SECONDS_OF_CTC * self.rate)

    @property
    def most_written(self) -> int | None:
        """Tokens that the decoder has room for."""
        return self.config.max_target_positions if self.writes else None

    def samples(self, frames: int) -> int:
        """The most samples that have so many frames."""
        if self.writes:
            return frames * 2 * self.extractor.hop_length
        most = frames
        for kernel, stride in zip(reversed(self.config.conv_kernel), reversed(self.config.conv_stride)):
            most = (most - 1) * stride + kernel
        return most

    def features(self, sounds: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """The model's inputs for recordings (N,) at `rate`: Whisper's features (B, mel bins, frames), always of its
        whole window; or samples (B, N), with a mask where they are of different lengths."""
        asked: dict[str, Any] = {} if self.writes else {"padding": True, "return_attention_mask": True}
        made = self.extractor(list(sounds), sampling_rate=self.rate, return_tensors="pt", **asked)
        name = self.extractor.model_input_names[0]
        view = {name: made[name].float()}
        if not self.writes and not made["attention_mask"].all():
            view["attention_mask"] = made["attention_mask"].long()
        return view


def _made(config: Any) -> Any:
    """A feature extractor for a model that is made from its config; `sampling_rate` there, else 16 kHz."""
    from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    rate = int(getattr(config, "sampling_rate", RATE))
    if config.model_type != "whisper":
        return Wav2Vec2FeatureExtractor(sampling_rate=rate, do_normalize=True, return_attention_mask=True)
    if rate != RATE:
        raise ModelError(
            Fault("model.architecture.sampling_rate", f"{rate}, but Whisper's features are of {RATE} samples a second",
                  "recordings of any rate are brought to that", "leave sampling_rate out")
        )  # fmt: skip
    if config.max_source_positions % FRAMES_A_SECOND:
        raise ModelError(
            Fault("model.architecture.max_source_positions", f"{config.max_source_positions} frames of 20 ms",
                  "whole seconds", "a multiple of 50")
        )  # fmt: skip
    seconds = config.max_source_positions // FRAMES_A_SECOND
    return WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=seconds)


def _read(config: Any, source: str, revision: str | None) -> Any:
    """The one that lies beside the weights; ModelError where there is none, or it is of another kind."""
    from transformers import AutoFeatureExtractor

    kind = "WhisperFeatureExtractor" if config.model_type == "whisper" else "Wav2Vec2FeatureExtractor"
    try:
        found = AutoFeatureExtractor.from_pretrained(str(Path(source).expanduser()), revision=revision)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise ModelError(
            Fault("model.path", f"{source} does not say how sound becomes features: {str(error).splitlines()[0][:160]}",
                  "preprocessor_config.json beside config.json",
                  f"transformers.{kind}(...).save_pretrained({source!r})")
        ) from error  # fmt: skip
    if type(found).__name__ != kind:
        raise ModelError(Fault("model.path", f"{source} has a {type(found).__name__}", f"a {kind}"))
    return found
