"""Rows of texts that become other texts: what an encoder-decoder reads and writes, or a decoder's prompt and answer.

Training and `predict` make token ids by the same code; what is too long loses of its source alone, never of what is to
be written.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.data.roles import TARGET
from llmtune.data.tokens.answer_rows import columns_of, decoder_row, prompt_row, sequence_row
from llmtune.task.template import whole_end

SOURCE = "{source}"
TEMPLATES = {"sequence": SOURCE, "causal": SOURCE + "\n=>"}
"""of `task.template=auto`: an encoder-decoder has a side of its own for what it reads, a decoder must be told"""
WIDE = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")
"""characters beside which Chinese and Japanese have no blank"""


LEARNT, NOT_LEARNT = "\u27e6", "\u27e7"
"""marks in the row that is shown"""
SHOWN_CHARS = 600
"""of it"""


class Model(NamedTuple):
    """What must be known of a model to make its rows."""

    form: str
    """`sequence` (an encoder-decoder) or `causal` (a decoder)"""
    start_id: int | None = None
    """what the decoder of an encoder-decoder begins with, as its config says"""
    wraps: bool = False
    """does it begin with the last token of what is to be written instead? mBART does"""


def joined(kept: str) -> str:
    """One text of a kept list of sentences; between Chinese ones stands no blank."""
    texts = [text.strip() for text in json.loads(kept)]
    whole = texts[0]
    for text in texts[1:]:
        whole += ("" if WIDE.match(whole[-1:]) or WIDE.match(text) else " ") + text
    return whole


def references(kept: str) -> list[str]:
    """All texts that will do; the first of them is learnt."""
    return [text.strip() for text in json.loads(kept) if text.strip()]


class RewritingEncoder:
    """`encode(columns, max_tokens)`: rows of data.tokens.answer_rows."""

    keeps_answers = True

    def __init__(
        self, tokenizer: Any, model: Model, *, template: str, languages: tuple[str | None, str | None],
        max_target_tokens: int | None, max_new_tokens: int, room: Callable[[int], int],
    ):  # fmt: skip
        """
        Args:
            room: of so many tokens of a decoder's row those that stay free for what it writes, however short its known
                answer is: what a prompt loses must not tell how long that is.

        Raises:
            ConfigError: languages that the tokenizer does not know, or none where it asks for them.
            ModelError: there is no token that says where a text ends.
        """
        self.tokenizer, self.model = tokenizer, model
        self.max_answer_tokens = sys.maxsize if max_target_tokens is None else max_target_tokens
        self.max_new_tokens, self.room = max_new_tokens, room
        template = (TEMPLATES[model.form] if template == "auto" else template).replace("\\n", "\n")
        self.before, self.after = template.split(SOURCE)
        self._blank = ""
        if tokenizer.eos_token_id is None:
            raise ModelError(Fault("model", "its tokenizer has no token for the end of a text", "one is needed"))
        if model.form == "causal":
            self._settle_blank()
        else:
            _set_languages(tokenizer, languages)
        self._empty = [] if model.form == "causal" else self._tokens(text_target=[""])[0]
        self._long_targets = 0
        self._example: list[str] = []

    @property
    def start(self) -> list[int]:
        """What the decoder of an encoder-decoder begins with when it writes: its start, and what stands before every
        text that it was taught, such as a language."""
        if self.model.form == "causal":
            return []
        end = self.tokenizer.eos_token_id
        lead = self._empty[: self._empty.index(end)] if end in self._empty else self._empty
        return [self._start_of([*self._empty, *([] if end in self._empty else [end])]), *lead]

    def told(self) -> list[str]:
        """What to say of the rows encoded since this was last asked for."""
        count, self._long_targets = self._long_targets, 0
        said = f"{count:,} target(s) are longer than task.max_new_tokens={self.max_new_tokens}: it is never reached"
        return [said] if count else []

    def __call__(self, columns: Mapping[str, Sequence[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        sources = [joined(kept) for kept in columns["source"]]
        targets: list[list[int] | None] = [None] * len(sources)
        if TARGET.kept in columns:
            targets = [*self._targets([references(kept)[0] for kept in columns[TARGET.kept]])]
            if max_tokens is None:  # those that are cut come a second time
                self._long_targets += sum(len(ids or ()) > self.max_new_tokens + 1 for ids in targets)
        prompts = self._prompts(sources)
        for row, ids in enumerate(prompts):
            taken = self._taken(targets[row])
            if max_tokens is not None and len(ids) + taken > max_tokens:
                free = max_tokens - (max(taken, self.room(max_tokens)) if taken else 0)
                prompts[row] = self._shortened(sources[row], len(ids), free, max_tokens)
        rows = [self._row(*pair) for pair in zip(prompts, targets)]
        if rows and "target" in rows[0] and not self._example:
            self._example = [self._shown(rows[0])]
        return columns_of(rows)

    def example(self) -> list[str]:
        """The first of the rows encoded since this was last asked for, what is learnt of it between marks."""
        found, self._example = self._example, []
        return found

    def _shown(self, row: dict[str, list[int]]) -> str:
        """What is read, and what is written behind it or, by an encoder-decoder, on a line of its own."""
        ids, target = row["input_ids"], row["target"]
        read = [ids[: len(ids) - len(target)]] if self.model.form == "causal" else [ids, row["decoder_input_ids"][:1]]
        first, *start, written = (
            self.tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in (*read, target)
        )
        if len(first) > SHOWN_CHARS:
            first = f"{first[: SHOWN_CHARS // 2]} ... {first[-SHOWN_CHARS // 2 :]}"
        return "\n".join([first, *start]) + f"{LEARNT}{written}{NOT_LEARNT}"

    def _row(self, prompt: list[int], target: list[int] | None) -> dict[str, list[int]]:
        if self.model.form == "causal":
            return prompt_row(prompt) if target is None else decoder_row([(prompt, False), (target, True)])
        return sequence_row(prompt, target, [] if target is None else [self._start_of(target)])

    def _start_of(self, target: Sequence[int]) -> int:
        if self.model.wraps:
            return target[-1]
        known = (self.model.start_id, self.tokenizer.bos_token_id, self.tokenizer.pad_token_id)
        return next(one for one in known if one is not None)

    def _taken(self, target: list[int] | None) -> int:
        """Tokens of a row that are not the source's to use."""
        return 0 if target is None or self.model.form == "sequence" else len(target)

    # ---- texts to ids ----

    def _prompts(self, sources: Sequence[str]) -> list[list[int]]:
        rows = self._tokens([self.before + source + self.after for source in sources])
        if self.model.form == "sequence":
            return rows
        end = self.tokenizer.eos_token_id  # some tokenizers put it behind every text
        return [ids[:-1] if ids[-1:] == [end] else ids for ids in rows]

    def _targets(self, texts: Sequence[str]) -> list[list[int]]:
        end = self.tokenizer.eos_token_id
        if self.model.form == "causal":
            rows = self._tokens([self._blank + text for text in texts], add_special_tokens=False)
            return [[*ids, end] for ids in rows]
        rows = self._tokens(text_target=list(texts))
        return rows if end in self._empty else [[*ids, end] for ids in rows]

    def _tokens(self, texts: list[str] | None = None, **options: Any) -> list[list[int]]:
        given = {} if texts is None else {"text": texts}
        found = self.tokenizer(
            **given, padding=False, truncation=False, verbose=False, return_attention_mask=False, **options
        )
        return [list(ids) for ids in found["input_ids"]]

    def _shortened(self, source: str, length: int, room: int, max_tokens: int | None) -> list[int]:
        """The prompt of a source that loses its end, token by token, until it has room; `length`: of the whole one."""
        while True:
            found = self.tokenizer(source, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
            ends = [end for _, end in found["offset_mapping"]]
            source = source[: whole_end(ends, max(0, len(ends) - (length - room)))].rstrip()
            prompt = self._prompts([source])[0]
            length = len(prompt)
            if length <= room or (room <= 0 and not source):
                return prompt  # of an answer that is too long data.tokens.token_rows tells the line
            if not source:
                given = f"is {length} tokens long without any source"
                raise ConfigError(Fault("task.template", given, f"data.max_tokens={max_tokens}"))

    def _settle_blank(self) -> None:
        """In byte-level vocabularies a blank belongs to the word after it: it moves from the prompt to the answer."""
        kind = json.loads(self.tokenizer.backend_tokenizer.to_str()).get("pre_tokenizer")
        if "ByteLevel" in json.dumps(kind):
            self._blank = " " if self.after[-1:] not in ("\n", "") else ""
            self.after = self.after.rstrip(" ")


def _set_languages(tokenizer: Any, languages: tuple[str | None, str | None]) -> None:
    """Tell a tokenizer of several languages (mBART, NLLB) from which to which."""
    asks = hasattr(tokenizer, "src_lang")
    faults = []
    for name, attribute, language in zip(("source", "target"), ("src_lang", "tgt_lang"), languages):
        where = f"task.{name}_language"
        if not asks and language is not None:
            fix = f"{where}=null; say it in task.template='translate English to German: {{source}}'"
            faults.append(Fault(where, f"{language!r}, but this model's tokenizer knows no languages", "", fix))
        elif asks and (language is None or language not in tokenizer.get_vocab()):
            some = ", ".join(sorted(token for token in tokenizer.all_special_tokens if "_" in token)[:6])
            given = "is not set" if language is None else f"{language!r} is not known to this model"
            faults.append(Fault(where, given, f"a language as its tokenizer writes it: {some}, ...", f"{where}=en_XX"))
        elif asks:
            setattr(tokenizer, attribute, language)
    if faults:
        raise ConfigError(*faults)
