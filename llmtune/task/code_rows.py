"""Rows of programs as a decoder reads them: what is asked, and the code that is to be written behind it.

Training and `predict` make token ids by the same code; what is too long loses of its prompt alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.data.forms.programs import FILL, is_begun, normal, tests_of
from llmtune.data.text.fill_in import gap_ids, is_suffix_first
from llmtune.data.tokens.answer_rows import columns_of, decoder_row, prompt_row

PROMPT, TESTS = "{prompt}", "{tests}"
AS_DOCSTRING = '"""\n{prompt}\n"""\n'
"""of `template: auto`: a sentence about a program stands before it as what documents it"""
CHAT_GOES_ON = "Complete this program:\n```python\n{prompt}\n```"
FIM_TOKENS = ("prefix", "suffix", "middle")


def check_template(template: str) -> None:
    """Raises ValueError."""
    if template not in ("auto", "chat") and template.count(PROMPT) != 1:
        raise ValueError(f"template: {template!r}; auto, chat, or a text in which {PROMPT} stands once, such as "
                         f"'# {PROMPT}\\n'")  # fmt: skip


class CodeEncoder:
    """`encode(columns, max_tokens)`: rows of data.tokens.answer_rows.

    Raises:
        ConfigError: a chat template that can't be used.
        ModelError: there is no token that says where a text ends.
    """

    keeps_answers = True

    def __init__(
        self, tokenizer: Any, *, template: str, fim_tokens: Sequence[str], fim_form: str, room: Callable[[int], int]
    ):
        """`room`: of so many tokens of a row those that stay free for what is written, however short its known answer
        is: what a prompt loses must not tell how long that is."""
        self.room = room
        self.tokenizer, self.template, self.fim_form = tokenizer, template.replace("\\n", "\n"), fim_form
        if tokenizer.eos_token_id is None:
            raise ModelError(Fault("model", "its tokenizer has no token for the end of a text", "one is needed"))
        self.chat = _chat(tokenizer) if template == "chat" else None
        self.stop_ids: list[int] = [tokenizer.eos_token_id] if self.chat is None else self.chat.stop_ids
        known = tokenizer.get_vocab()
        self.fim = {name: known[token] for name, token in zip(FIM_TOKENS, fim_tokens) if token in known}
        # a vocabulary of the Llama kind puts a blank before every text, though not behind a line feed
        self._lead = "\n" if tokenizer.tokenize("a", add_special_tokens=False)[0].startswith("\u2581") else ""
        self._lead_ids = self._raw([self._lead])[0] if self._lead else []

    def __call__(self, columns: Mapping[str, Sequence[Any]], max_tokens: int | None) -> dict[str, list[Any]]:
        prompts = [normal(prompt) for prompt in columns["prompt"]]
        tests = [tests_of(kept) or "" for kept in columns.get("tests", [None] * len(prompts))]
        responses = columns.get("response")
        answers: list[list[int] | None] = [None] * len(prompts)
        if responses is not None:
            answers = [*self.answers_of([normal(json.loads(kept)[0]) if kept else None for kept in responses])]
        rows = [self._fitting(*row, max_tokens) for row in zip(prompts, tests, answers)]
        return columns_of(rows)

    # ---- texts to ids and back ----

    def answers_of(self, texts: Sequence[str | None]) -> list[list[int]]:
        """Ids of each answer with the stop token; none where there is no answer."""
        known = [text for text in texts if text is not None]
        ids = iter(self._raw([self._lead + text for text in known]))
        return [[] if text is None else [*next(ids)[len(self._lead_ids) :], self.stop_ids[0]] for text in texts]

    def text_of(self, ids: Sequence[int]) -> str:
        """What was written, its first blanks included."""
        text = self._decoded([*self._lead_ids, *ids])
        return text[len(self._decoded(self._lead_ids)) :] if self._lead else text

    def _decoded(self, ids: Sequence[int]) -> str:
        decoded: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded

    def _raw(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False, padding=False, truncation=False, verbose=False)
        return [list(ids) for ids in found["input_ids"]]

    def _prompt_ids(self, text: str) -> list[int]:
        """With what the tokenizer puts before a text, without what it puts behind one."""
        ids = list(self.tokenizer(text, padding=False, truncation=False, verbose=False)["input_ids"])
        end = self.tokenizer.eos_token_id
        return ids[:-1] if len(ids) > 1 and ids[-1] == end else ids

    # ---- rows ----

    def _row(self, asked: list[int], answer: list[int] | None) -> dict[str, list[int]]:
        return prompt_row(asked) if answer is None else decoder_row([(asked, False), (answer, True)])

    def _fitting(
        self, prompt: str, tests: str, answer: list[int] | None, max_tokens: int | None
    ) -> dict[str, list[int]]:
        """The row, with so much of its prompt as there is room for: what is nearest to the answer stays."""
        begun = FILL in prompt or is_begun(prompt)
        asked = self._asked(prompt, tests, begun)
        if max_tokens is None or len(asked) + len(answer or ()) <= max_tokens:
            return self._row(asked, answer)
        room = max_tokens - (max(len(answer), self.room(max_tokens)) if answer is not None else 0)
        low, high = 0, len(prompt)
        asked = self._asked(_shortened(prompt, 0), tests, begun)
        while low + 1 < high:
            middle = (low + high) // 2
            tried = self._asked(_shortened(prompt, middle), tests, begun)
            asked, low, high = (tried, middle, high) if len(tried) <= room else (asked, low, middle)
        return self._row(asked, answer)

    def _asked(self, prompt: str, tests: str, begun: bool) -> list[int]:
        if FILL in prompt:
            return self._gap(prompt)
        if self.chat is not None:
            said = CHAT_GOES_ON.replace(PROMPT, prompt) if begun else prompt
            return self.chat.prompt([{"role": "user", "content": said}], None)
        if self.template == "auto":
            return self._prompt_ids(prompt if begun else AS_DOCSTRING.replace(PROMPT, prompt))
        # what a row holds may look like a place itself
        before, _, after = self.template.partition(PROMPT)
        return self._prompt_ids(before.replace(TESTS, tests) + prompt + after.replace(TESTS, tests))

    def _gap(self, prompt: str) -> list[int]:
        if len(self.fim) < len(FIM_TOKENS):
            raise ConfigError(
                Fault("task.fim_tokens", "not all of them are in the vocabulary of this model", "a prompt with "
                      f"{FILL} needs a model that was trained to fill in", "train with task.fim_share=0.5")
            )  # fmt: skip
        before, _, after = prompt.partition(FILL)
        return gap_ids(self.fim, self._raw([before, after]), is_suffix_first(prompt, self.fim_form))


def _shortened(prompt: str, keep: int) -> str:
    """`keep` characters of a prompt: its end, or what stands around its gap."""
    before, gap, after = prompt.partition(FILL)
    if not gap:
        return prompt[len(prompt) - keep :]
    behind = min(len(after), keep // 2)
    return before[max(0, len(before) - keep + behind) :] + gap + after[:behind]


def _chat(tokenizer: Any) -> Any:
    from llmtune.data.tokens.chat_template import ChatTemplate, template_text

    return ChatTemplate(tokenizer, template_text(tokenizer, "auto"))
