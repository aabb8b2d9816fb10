"""Tokenizers trained on the spot, for models that are made from config: WordPiece, byte-level BPE, Unigram."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llmtune.config.settings import TokenizerSettings

BERT_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
OTHER_TOKENS = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
DECODERS = ("gpt2", "llama", "qwen", "mistral", "gemma", "opt", "phi")


def train_tokenizer(
    settings: TokenizerSettings, texts: Iterable[str], config: PreTrainedConfig
) -> PreTrainedTokenizerBase:
    """A fast tokenizer of the kind that `settings` names, trained on `texts`; the same texts give the same one."""
    tokens = BERT_TOKENS if settings.kind == "wordpiece" else OTHER_TOKENS
    tokenizer, trainer = _blank(settings, tokens)
    tokenizer.train_from_iterator(texts, trainer)
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


def _blank(settings: TokenizerSettings, tokens: dict[str, str]) -> tuple[Tokenizer, trainers.Trainer]:
    special = list(tokens.values())
    cased = [normalizers.NFC()]
    normal = normalizers.Sequence([*cased, normalizers.Lowercase()] if settings.lowercase else cased)
    if settings.kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=tokens["unk"]))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=settings.lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer: trainers.Trainer = trainers.WordPieceTrainer(
            vocab_size=settings.vocab_size, min_frequency=settings.min_frequency, special_tokens=special,
            show_progress=False,
        )  # fmt: skip
    elif settings.kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normal
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
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
