"""Tokenizers trained on the spot, for models that are made from config: WordPiece, byte-level BPE, Unigram, characters.

The same texts give the same vocabulary, on every machine and in every process: see what is done for that below.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llmtune.config.settings import TokenizerSettings
from llmtune.core.errors import ConfigError, Fault
from llmtune.model.hearing import hears
from llmtune.model.speech_tokenizers import speech_tokenizer

BERT_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
OTHER_TOKENS = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(32))
"""of T5's kind: they stand for what was taken out of a text"""
DIGITS = 6
"""of a Unigram score: sums of floats in another order differ in the 15th"""
PENALTY = 1e-4
"""step between the scores that the Unigram trainer gives to characters which training left without one"""
NEAR = 1e-3
"""of such a step: what rounding may put between two that are alike"""
DECODERS = ("gpt2", "llama", "qwen", "mistral", "gemma", "opt", "phi")


def train_tokenizer(
    settings: TokenizerSettings, texts: Iterable[str], config: PreTrainedConfig
) -> PreTrainedTokenizerBase:
    """A fast tokenizer of the kind that `settings` names, trained on `texts`; the same texts give the same one."""
    if hears(config):
        return speech_tokenizer(settings, texts, config)
    tokens = BERT_TOKENS if settings.kind == "wordpiece" else OTHER_TOKENS
    if settings.kind == "wordpiece":
        tokenizer = _wordpiece(settings, tokens, list(texts))
    elif settings.kind == "characters":
        tokenizer = _characters(settings, tokens, texts)
    else:
        tokenizer, trainer = _blank(settings, tokens, SENTINELS if "t5" in config.model_type else ())
        _train(tokenizer, texts, trainer, settings)
        if settings.kind == "unigram":
            tokenizer = _settled(tokenizer, tokens)
    if not config.model_type.startswith(DECODERS):
        ids = {role: tokenizer.token_to_id(token) for role, token in tokens.items()}
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens['cls']} $A {tokens['sep']}",
            pair=f"{tokens['cls']} $A {tokens['sep']} $B:1 {tokens['sep']}:1",
            special_tokens=[(tokens["cls"], ids["cls"]), (tokens["sep"], ids["sep"])],
        )
    has_segments = getattr(config, "type_vocab_size", 0) and config.type_vocab_size > 1
    positions = getattr(config, "max_position_embeddings", None)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=tokens["pad"], unk_token=tokens["unk"], cls_token=tokens["cls"], sep_token=tokens["sep"],
        mask_token=tokens["mask"], bos_token=tokens["cls"], eos_token=tokens["sep"],
        model_max_length=positions if positions and positions > 0 else 10**30,
        model_input_names=["input_ids", *(["token_type_ids"] if has_segments else []), "attention_mask"],
    )  # fmt: skip


def _blank(
    settings: TokenizerSettings, tokens: dict[str, str], more: Sequence[str]
) -> tuple[Tokenizer, trainers.Trainer]:
    special = [*tokens.values(), *more]
    cased = [normalizers.NFC()]
    normal = normalizers.Sequence([*cased, normalizers.Lowercase()] if settings.lowercase else cased)
    if settings.kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normal
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: trainers.Trainer = trainers.BpeTrainer(
            vocab_size=settings.vocab_size, min_frequency=settings.min_frequency, special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        )  # fmt: skip
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normal
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=settings.vocab_size, special_tokens=special, unk_token=tokens["unk"], show_progress=False
        )
    return tokenizer, trainer


def _train(
    tokenizer: Tokenizer, texts: Iterable[str], trainer: trainers.Trainer, settings: TokenizerSettings
) -> None:
    try:
        tokenizer.train_from_iterator(texts, trainer)
    except Exception as error:  # the library has no class of its own
        if "contain all chars" not in str(error):
            raise
        given = f"{settings.vocab_size}, and the texts have more different characters"
        fix = f"type model.tokenizer.vocab_size={4 * settings.vocab_size}"
        allowed = "a piece for each of them, and room for longer ones"
        raise ConfigError(Fault("model.tokenizer.vocab_size", given, allowed, fix)) from error


def _settled(tokenizer: Tokenizer, tokens: dict[str, str]) -> Tokenizer:
    """The same Unigram vocabulary whatever the order in which its trainer's hash tables were walked.

    That order decides two things. Sums differ in their last digits: scores are rounded. And characters that training
    left without a score get the lowest one plus 0.0001, 0.0002, ... in the order in which they were met: all get the
    lowest. Pieces then stand by score, and where scores are equal by text.
    """
    plain = json.loads(tokenizer.to_str())
    special = {token["content"] for token in plain["added_tokens"]}
    pieces = [(piece, score) for piece, score in plain["model"]["vocab"] if piece not in special]
    lowest = min(score for _, score in pieces)
    levels: dict[int, list[str]] = {}
    for piece, score in pieces:
        level = (score - lowest) / PENALTY
        if len(piece) == 1 and abs(level - round(level)) < NEAR:
            levels.setdefault(round(level), []).append(piece)
    filled = itertools.takewhile(levels.__contains__, itertools.count())
    without = {piece for level in filled for piece in levels[level]}
    settled = [(piece, round(lowest if piece in without else score, DIGITS)) for piece, score in pieces]
    settled.sort(key=lambda entry: (-entry[1], entry[0]))
    first = [[piece, score] for piece, score in plain["model"]["vocab"] if piece in special]
    plain["model"]["vocab"] = [*first, *map(list, settled)]
    plain["model"]["unk_id"] = next(i for i, (piece, _) in enumerate(first) if piece == tokens["unk"])
    return Tokenizer.from_str(json.dumps(plain))


def _characters(settings: TokenizerSettings, tokens: dict[str, str], texts: Iterable[str]) -> Tokenizer:
    """A token a character: the most frequent ones, as many as there is room for."""
    special = list(tokens.values())
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.lower() if settings.lowercase else text)
    often = [char for char in counts if counts[char] >= settings.min_frequency]
    kept = sorted(often, key=lambda char: (-counts[char], char))[: settings.vocab_size - len(special)]
    words = {token: number for number, token in enumerate([*special, *sorted(kept)])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[], unk_token=tokens["unk"]))
    if settings.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _wordpiece(settings: TokenizerSettings, tokens: dict[str, str], texts: Sequence[str]) -> Tokenizer:
    """A WordPiece tokenizer whose vocabulary is a function of the texts.

    The trainer numbers single characters in the order of a hash table, another one in every process, and breaks ties
    between merges by number. Here they are numbered beforehand, as if they were special tokens; the vocabulary goes
    into a tokenizer where they are not.
    """
    special = list(tokens.values())
    normalizer = normalizers.BertNormalizer(lowercase=settings.lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for text in texts:
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            counts.update(word)
            inside.update(word[1:])
    room = settings.vocab_size - len(special)
    often = [char for char in counts if counts[char] >= settings.min_frequency]
    alphabet = sorted(sorted(often, key=lambda char: (-counts[char], char))[: room // 2])
    pieces = [*alphabet, *(f"##{char}" for char in alphabet if char in inside)]
    blank = Tokenizer(models.WordPiece(unk_token=tokens["unk"]))
    blank.normalizer, blank.pre_tokenizer = normalizer, splitter
    trainer = trainers.WordPieceTrainer(
        vocab_size=settings.vocab_size, min_frequency=settings.min_frequency, special_tokens=[*special, *pieces],
        initial_alphabet=alphabet, limit_alphabet=len(alphabet), show_progress=False,
    )  # fmt: skip
    blank.train_from_iterator(texts, trainer)
    tokenizer = Tokenizer(models.WordPiece(blank.get_vocab(), unk_token=tokens["unk"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    return tokenizer
