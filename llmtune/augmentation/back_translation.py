"""Texts translated to another language and back by two models (arXiv 1511.06709)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmtune.augmentation.words import refuse_pieces
from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.core.parts import Parts, Prospect
from llmtune.core.ranges import at_least, between
from llmtune.core.seeds import fold

SOURCE = "{source}"
"""in a template: where the text stands"""


@dataclass(frozen=True, kw_only=True)
class BackTranslation:
    name: str
    share: float
    strength: float
    there: str | None
    back: str | None
    max_new_tokens: int

    def __post_init__(self) -> None:
        between("share", self.share, 0, 1)
        between("strength", self.strength, 0, 5)
        at_least("max_new_tokens", self.max_new_tokens, 1)

    def places(self) -> list[str]:
        """Models that it reads besides the run's own."""
        return [place for place in (self.there, self.back) if place]

    def check(self, prospect: Prospect) -> None:
        """Raises ConfigError or ModelError: a folder is not given, or holds no encoder-decoder."""
        refuse_pieces(self.name, prospect)
        for field in ("there", "back"):
            _refuse(f"augmentation.{self.name}.{field}", getattr(self, field))

    def build(self, parts: Parts) -> TranslationChange:
        from llmtune.hardware.machine import pick_device

        assert self.there is not None  # refused by `check`
        assert self.back is not None
        device, seed = pick_device(parts.config.hardware), parts.config.seed
        ways = [
            Translator(place, self.strength, self.max_new_tokens, device, seed) for place in (self.there, self.back)
        ]
        return TranslationChange(self, ways, parts.console.say)


class TranslationChange:
    """There and back. A text has one translation in all epochs: each is made once, and alone, so that it depends
    on nothing else."""

    def __init__(self, settings: BackTranslation, ways: list[Any], say: Callable[[str], None]):
        self.name, self.share = settings.name, settings.share
        self.ways, self.say = ways, say
        self._known: dict[str, str] = {}

    def text(self, text: str, rng: np.random.Generator) -> str:
        if text not in self._known:
            stations = [text]
            for way in self.ways:
                stations.append(way(stations[-1]) if stations[-1].strip() else stations[-1])
            if not self._known:  # so that a translator that was asked in the wrong way is seen
                shown = " -> ".join(repr(station[:200]) for station in stations)
                self.say(f"back_translation, the first text: {shown}")
            self._known[text] = stations[-1] if stations[-1].strip() else text
        return self._known[text]


class Translator:
    """A folder with an encoder-decoder at work: text in, text out; loaded when it is first asked.

    A model that llmtune trained is asked in the words of its template (`task.template`) and in its source language.
    """

    def __init__(self, place: str, temperature: float, max_new_tokens: int, device: str, seed: int):
        self.folder = _model_folder(place)
        self.temperature, self.max_new_tokens, self.device, self.seed = temperature, max_new_tokens, device, seed
        card = self.folder / "llmtune.json"
        trained = json.loads(card.read_text(encoding="utf-8"))["task"]["settings"] if card.exists() else {}
        template = trained.get("template") or "auto"
        self.template = SOURCE if template == "auto" else template.replace("\\n", "\n")
        self.language = trained.get("source_language")
        self._loaded: Any = None

    def __call__(self, text: str) -> str:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        if self._loaded is None:
            model = AutoModelForSeq2SeqLM.from_pretrained(self.folder).eval().to(self.device)
            tokenizer = AutoTokenizer.from_pretrained(self.folder)
            if self.language is not None:
                tokenizer.src_lang = self.language
            self._loaded = (model, tokenizer)
        model, tokenizer = self._loaded
        most = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 512)
        asked = self.template.replace(SOURCE, text)
        inputs = tokenizer(asked, truncation=True, max_length=most, return_tensors="pt").to(self.device)
        inputs.pop("token_type_ids", None)
        how = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        devices = [self.device] if self.device == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(fold(self.seed, "translation", text))
            ids = model.generate(**inputs, **how, num_beams=1, max_new_tokens=self.max_new_tokens)
        return tokenizer.decode(ids[0], skip_special_tokens=True)


def _model_folder(place: str) -> Path:
    """A folder with config.json, or the model/ of a run folder."""
    folder = Path(place).expanduser()
    return folder if (folder / "config.json").exists() or not (folder / "model").exists() else folder / "model"


def _refuse(where: str, place: str | None) -> None:
    from transformers import AutoConfig

    if place is None:
        raise ConfigError(
            Fault(where, "not given", "a folder with a translation model", f"type {where}=DIR, or augmentation=[]")
        )
    try:
        config = AutoConfig.from_pretrained(_model_folder(place))
    except (OSError, ValueError) as error:
        raise ModelError(
            Fault(where, f"no model in {place}", "a run folder, or a folder with config.json and weights",
                  f"type {where}=DIR")
        ) from error  # fmt: skip
    if not config.is_encoder_decoder:
        raise ModelError(
            Fault(where, f"{place} ({config.model_type}) does not translate", "an encoder-decoder (Marian, T5, ...)",
                  f"type {where}=DIR")
        )  # fmt: skip
