"""The chat template that prompts and answers are written down by: chosen once, then kept with the trained model."""

from __future__ import annotations

from typing import Any

from llmtune.data.tokens.chat_template import ChatTemplate, new_tokens, own_words, template_text

OFTEN = 20
"""times that a tokenizer which is trained on the rows sees the template's words"""


class KeptTemplate:
    """Held by the tasks of preferences.

    Args:
        wanted: `auto`, a shipped template, or a file.
        system: is said in dialogues that say nothing themselves.
    """

    def __init__(self, wanted: str, system: str | None = None):
        self.wanted, self.system = wanted, system
        self.text: str | None = None
        """settled when it was first used"""

    def of(self, tokenizer: Any) -> ChatTemplate:
        """The template, stored with the tokenizer. Raises ConfigError, ModelError where it can't be used."""
        self.text = self.text or template_text(tokenizer, self.wanted, self.system)
        return ChatTemplate(tokenizer, self.text)

    def new_tokens(self, tokenizer: Any) -> tuple[str, ...]:
        """Special tokens of the template."""
        return new_tokens(tokenizer, self.wanted)

    @property
    def own_texts(self) -> list[str]:
        """What a tokenizer that is trained on the rows must know besides."""
        return own_words(self.wanted) * OFTEN

    @property
    def key(self) -> dict[str, Any]:
        """What token ids hang on besides tokenizer and rows."""
        from llmtune.data.cache import code_version
        from llmtune.data.forms import conversation, preference_rows, tool_schemas
        from llmtune.data.tokens import answer_rows, chat_template
        from llmtune.task import preference_encoding, reward_encoding

        modules = (answer_rows, chat_template, conversation, preference_rows, tool_schemas, preference_encoding)
        return {"template": self.text, "code": code_version(*modules, reward_encoding)}
