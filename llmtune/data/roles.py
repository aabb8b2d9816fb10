"""The roles that columns play, such as text and label; a task lists those that it asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmtune.data.forms.values import CONVERTERS


@dataclass(frozen=True)
class Role:
    """A column that a task asks for."""

    name: str
    """"text", "text_pair", "label", ...: also the key under data.columns"""
    required: bool
    guesses: tuple[str, ...] = ()
    """header names that are taken when the user named none"""
    kind: str = "text"
    """how a value is kept: text (as it stands), label, tokens, texts, json (anything) or turns (a text, or
    messages); all but the first as JSON"""
    known_before: bool = True
    """does `predict` have it too? not what is to be found out"""
    unless: str | None = None
    """another role that does in the place of this one"""
    binds: bool = False
    """where splits are taken from train: do rows with the same value go into the same one? the last such role counts"""
    sparse: bool = False
    """may a row be without it? (nothing, an empty text, an empty list: None)"""
    is_path: bool = False
    """is it the path of a file, as seen from the file that names it? kept as the full path"""

    @property
    def kept(self) -> str:
        """Name of the column that its values are kept in: "target" is that of the tokens which a model is taught."""
        return "target_texts" if self.name == "target" else self.name

    def convert(self, value: Any) -> str | None:
        """A value as it is kept. Raises BadValue."""
        if self.sparse and (value is None or value in ("", [], "[]")):
            return None
        return CONVERTERS[self.kind](value)


def _role(name: str, required: bool, guesses: str, kind: str = "text", known_before: bool = True) -> Role:
    return Role(name, required, tuple(guesses.split()), kind, known_before)


TEXT = _role(
    "text",
    True,
    "text sentence review content document comment tweet utterance query body "
    "sentence1 text1 text_a question1 premise 文本 内容 评论",
)
TEXT_PAIR = _role("text_pair", False, "text_pair sentence2 text2 text_b question2 hypothesis pair")
LABEL = _role(
    "label",
    True,
    "label labels class category categories sentiment score rating stars polarity "
    "intent topic emotion emotions similarity target relation answer_idx gold_label 标签 类别",
    "label",
    known_before=False,
)
TOKENS = _role("tokens", False, "tokens words token form", "tokens")
TAGS = _role("tags", False, "tags ner_tags pos_tags labels tag upos ner", "tokens", known_before=False)
SPANS = _role("spans", False, "spans entities annotations", "json", known_before=False)
QUESTION = _role("question", True, "question query 问题")
CONTEXT = _role("context", True, "context passage paragraph document article text 文章 段落")
ANSWERS = _role("answers", True, "answers answer 答案", "json", known_before=False)
CHOICES = _role("choices", True, "choices options candidates endings 选项", "texts")
HEAD = _role("head", False, "head e1 subject subj h entity_1", "json")
TAIL = _role("tail", False, "tail e2 object obj t entity_2", "json")
NEGATIVE = _role("negative", False, "negative negatives hard_negative hard_negatives", "texts")
GROUP = _role("group", False, "group query_id qid user user_id group_id")
SOURCE = _role(
    "source", True, "source src text document article dialogue abstract input en english 原文 正文", "texts",
)
TARGET = _role(
    "target", True, "target tgt summary translation highlights title output de german reference 译文 摘要 标题",
    "texts", known_before=False,
)
MESSAGES = _role("messages", False, "messages conversations conversation dialogue dialog turns", "json")
PROMPT = _role("prompt", False, "prompt instruction question query 问题 指令")
RESPONSE = _role("response", False, "response output answer completion 回答 输出", "texts", known_before=False)
SYSTEM = _role("system", False, "system system_prompt")
TOOLS = _role("tools", False, "tools functions", "json")
CHOSEN = _role("chosen", True, "chosen preferred better", "json", known_before=False)
REJECTED = _role("rejected", False, "rejected dispreferred worse", "json", known_before=False)
TESTS = _role("tests", False, "tests test test_list", "json", known_before=False)
ENTRY_POINT = _role("entry_point", False, "entry_point function_name")
AUDIO = replace(_role("audio", True, "audio path file_name wav filename recording"), is_path=True)
TRANSCRIPT = _role("transcript", True, "transcript transcription sentence text", known_before=False)
