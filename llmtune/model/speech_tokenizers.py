"""Tokenizers of models that hear: Whisper's, trained on the spot; those of CTC models, one token a character.

transformers' tokenizer of CTC models (Wav2Vec2CTCTokenizer) is of the slow kind. Here a fast one of the same
vocabulary stands in its place; what that writes into a folder is transformers' own again.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llmtune.config.settings import TokenizerSettings
from llmtune.core.errors import ConfigError, Fault, ModelError

BLANK, UNKNOWN, WORD_END = "<pad>", "<unk>", "|"
CTC_SPECIAL = {"pad_token": BLANK, "bos_token": "<s>", "eos_token": "</s>", "unk_token": UNKNOWN}
WHISPER_TOKENS = ("<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
"""that a tokenizer of ours has: one language, no times"""


class CharacterTokenizer(PreTrainedTokenizerFast):
    """One token a character, `|` for a blank; the pad token is the blank of CTC. It writes a folder that transformers
    opens as Wav2Vec2CTCTokenizer, and that `fast_form` makes this out of again."""

    @classmethod
    def of(cls, vocabulary: dict[str, int], *, word_end: str = WORD_END, lower: bool = False, **special: Any) -> Any:
        """`lower`: texts are put into lower case first."""
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
        cased = [normalizers.NFC(), *([normalizers.Lowercase()] if lower else [])]
        tokenizer.normalizer = normalizers.Sequence([*cased, normalizers.Replace(Regex(r"\s+"), word_end)])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(word_end, " ")])
        return cls(tokenizer_object=tokenizer, word_delimiter_token=word_end, lowercases=lower, **special)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Write vocab.json and its like, as transformers' own tokenizer of CTC models does."""
        from transformers import Wav2Vec2CTCTokenizer

        special = {name: getattr(self, name) for name in CTC_SPECIAL if getattr(self, name) is not None}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vocab.json"
            path.write_text(json.dumps(_vocabulary(self), ensure_ascii=False), encoding="utf-8")
            slow = Wav2Vec2CTCTokenizer(
                str(path), word_delimiter_token=self.init_kwargs["word_delimiter_token"],
                lowercases=self.init_kwargs["lowercases"], **special,
            )  # fmt: skip
            return slow.save_pretrained(save_directory, *args, **kwargs)


def _vocabulary(tokenizer: Any) -> dict[str, int]:
    return dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))


def fast_form(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same tokenizer; one of CTC models as a fast one of the same vocabulary.

    Raises:
        ModelError: its vocabulary is one of several languages, of which none is chosen.
    """
    from transformers import Wav2Vec2CTCTokenizer

    if type(tokenizer) is not Wav2Vec2CTCTokenizer:
        return tokenizer
    vocabulary = tokenizer.encoder
    if any(isinstance(inner, dict) for inner in vocabulary.values()):
        raise ModelError(
            Fault("model.path", "its tokenizer has a vocabulary for each of several languages", "one language",
                  "tokenizer.set_target_lang(LANGUAGE), then save_pretrained, in a copy of the model")
        )  # fmt: skip
    kept = {name: str(getattr(tokenizer, name)) for name in CTC_SPECIAL if getattr(tokenizer, name) is not None}
    more = {token: id for token, id in tokenizer.get_vocab().items() if token not in vocabulary}
    return CharacterTokenizer.of(
        {**vocabulary, **more}, word_end=str(tokenizer.word_delimiter_token),
        lower=bool(tokenizer.init_kwargs.get("lowercases", False)), **kept,
    )  # fmt: skip


def speech_tokenizer(settings: TokenizerSettings, texts: Iterable[str], config: PreTrainedConfig) -> Any:
    """A tokenizer for a model that hears, trained on transcripts. ConfigError for a kind that it can't have."""
    wanted = "bpe" if config.model_type == "whisper" else "characters"
    if settings.kind != wanted:
        raise ConfigError(
            Fault("model.tokenizer.kind", f"{settings.kind}, but {config.model_type} models write {wanted}", wanted,
                  f"type model.tokenizer.kind={wanted}")
        )  # fmt: skip
    return whisper_tokenizer(settings, texts, config) if wanted == "bpe" else character_tokenizer(settings, texts)


def character_tokenizer(settings: TokenizerSettings, texts: Iterable[str]) -> CharacterTokenizer:
    """The characters of `texts`, the most frequent first to stay where `vocab_size` is too small; the same texts give
    the same one."""
    counts: Counter[str] = Counter()
    normal = normalizers.Sequence([normalizers.NFC(), *([normalizers.Lowercase()] if settings.lowercase else [])])
    for text in texts:
        counts.update(normal.normalize_str(text))
    often = [char for char in counts if counts[char] >= settings.min_frequency and not char.isspace()]
    room = settings.vocab_size - len(CTC_SPECIAL) - 1
    kept = sorted(sorted(often, key=lambda char: (-counts[char], char))[:room])
    tokens = [*CTC_SPECIAL.values(), WORD_END, *(char for char in kept if char != WORD_END)]
    return CharacterTokenizer.of(
        {token: number for number, token in enumerate(tokens)}, lower=settings.lowercase, **CTC_SPECIAL
    )


def whisper_tokenizer(settings: TokenizerSettings, texts: Iterable[str], config: PreTrainedConfig) -> Any:
    """transformers' WhisperTokenizer with pieces learnt from `texts`. ConfigError: it can't put texts in lower case."""
    from transformers import WhisperTokenizer

    if settings.lowercase:
        raise ConfigError(
            Fault("model.tokenizer.lowercase", "true, and Whisper's tokenizer keeps texts as they are", "false",
                  "type model.tokenizer.lowercase=false")
        )  # fmt: skip
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.train_from_iterator(
        (f" {text.strip()}" for text in texts),
        trainers.BpeTrainer(
            vocab_size=settings.vocab_size, min_frequency=settings.min_frequency, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    learnt = json.loads(learner.to_str())["model"]
    tokenizer = WhisperTokenizer(
        vocab=learnt["vocab"], merges=[tuple(pair) for pair in learnt["merges"]], pad_token=WHISPER_TOKENS[0],
        model_max_length=config.max_target_positions, add_prefix_space=True,
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": list(WHISPER_TOKENS[1:])})
    tokenizer.set_prefix_tokens()
    return tokenizer
