"""Chat templates: the text of a dialogue as a model reads it, which of it the assistant writes, and where it stops.

What is trained on is the whole text that `tokenizer.apply_chat_template` makes, tokenised as there. What the assistant
wrote is found by the template's {% generation %} marks, or by asking the template what it makes of the turns before.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmtune.core.errors import ConfigError, Fault, ModelError
from llmtune.data.forms.conversation import Message
from llmtune.data.forms.values import BadValue
from llmtune.data.tokens.answer_rows import Piece
from llmtune.data.tokens.template_date import dated

FOLDER = Path(__file__).with_name("chat_templates")
SHIPPED = ("chatml", "llama3", "alpaca", "plain")
NEW_TOKENS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
"""special tokens that a shipped template is written with"""
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
ASKED, SAID = "?", "\u2042said\u2042"
"""of a dialogue by which a template is tried"""
SYSTEM = """\
{%%- if messages[0]['role'] != 'system' -%%}
  {%%- set messages = [{'role': 'system', 'content': %s}] + messages -%%}
{%%- endif -%%}
"""
Tools = Sequence[dict[str, Any]] | None


class Place(NamedTuple):
    """Characters of a rendered dialogue that the assistant writes, its stop token the last of them."""

    begin: int
    end: int
    turn: int
    """number of the message"""


def template_text(tokenizer: Any, wanted: str, system: str | None = None) -> str:
    """The jinja text of `wanted`: a shipped template, a file, or with `auto` what the tokenizer has, else the shipped
    one whose tokens it knows. `system`: is said in dialogues that say nothing themselves.

    Raises:
        ConfigError: no such file.
    """
    own = tokenizer.chat_template
    if wanted == "auto" and own:
        text = own if isinstance(own, str) else own.get("default") or next(iter(own.values()))
    else:
        name = shipped_name(tokenizer, wanted)
        path = FOLDER / f"{name}.jinja" if name in SHIPPED else Path(wanted).expanduser()
        if not path.is_file():
            allowed = f"allowed: auto, {', '.join(SHIPPED)}, or a file with a jinja template"
            raise ConfigError(Fault("task.template", f"{wanted!r} was given, and there is no such file", allowed))
        text = path.read_text(encoding="utf-8")
    return SYSTEM % _quoted(system) + dated(text) if system else dated(text)


def shipped_name(tokenizer: Any, wanted: str) -> str:
    """`wanted`, or with `auto` the shipped template for which nothing has to be added to the vocabulary."""
    if wanted != "auto":
        return wanted
    known = tokenizer.get_vocab()
    return next((name for name, tokens in NEW_TOKENS.items() if all(token in known for token in tokens)), "plain")


def new_tokens(tokenizer: Any, wanted: str) -> tuple[str, ...]:
    """Special tokens that the template is written with, and that a tokenizer may have to learn."""
    if wanted == "auto" and tokenizer.chat_template:
        return ()
    return NEW_TOKENS.get(shipped_name(tokenizer, wanted), ())


def own_words(wanted: str) -> list[str]:
    """The words of a shipped template (of `auto` the one without new tokens), for a tokenizer that is trained."""
    from transformers.utils.chat_template_utils import render_jinja_template

    name = "plain" if wanted == "auto" else wanted
    if name not in SHIPPED:
        return []
    call = {"type": "function", "function": {"name": "", "arguments": {}}}
    made: Any = render_jinja_template(
        conversations=[[
            {"role": "user", "content": ""}, {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": ""}, {"role": "assistant", "content": ""},
        ]],
        tools=[call], chat_template=(FOLDER / f"{name}.jinja").read_text(encoding="utf-8"), bos_token="", eos_token="",
    )  # fmt: skip
    text = made[0][0]
    for token in NEW_TOKENS.get(name, ()):
        text = text.replace(token, " ")
    return [text]


class ChatTemplate:
    """A template and the tokenizer that it is stored with.

    Raises:
        ModelError: it can't be read, or writes no special token behind an assistant's turn, so that a model would
            never learn to stop.
    """

    def __init__(self, tokenizer: Any, text: str):
        tokenizer.chat_template = text
        self.tokenizer, self.text = tokenizer, text
        self.is_marked = bool(MARKS.search(text))
        self.num_joined = 0
        """dialogues so far of which an answer's first characters would have changed the tokens before it"""
        self.stop = self._stop()
        """the token that ends an assistant's turn"""

    @property
    def stop_ids(self) -> list[int]:
        """Tokens at which an answer ends: the template's, and the end of text."""
        ids = [self.tokenizer.convert_tokens_to_ids(self.stop), self.tokenizer.eos_token_id]
        return list(dict.fromkeys(one for one in ids if one is not None))

    def pieces(self, messages: Sequence[Message], tools: Tools, *, turns: str = "all") -> list[Piece]:
        """A dialogue as token ids, and which of them are the assistant's.

        Args:
            turns: of which its turns: "all", or "last".

        Raises:
            BadValue: the template refuses it, or does not tell what the assistant writes.
        """
        text = self.render(messages, tools)
        places = self.places(text, messages, tools, turns)
        before = self.num_joined
        ids, offsets = self._tokenised(text, [place.begin for place in places])
        self.num_joined = before + (self.num_joined > before)
        return _pieces(ids, offsets, places)

    def prompt(self, messages: Sequence[Message], tools: Tools, *, turns: str = "all") -> list[int]:
        """Token ids by which the assistant's next turn is asked for: those that a row begins with in which it has been
        given, with the same `turns`. Raises BadValue."""
        text = self.render(messages, tools, ask=True)
        begins: list[int] = []
        if turns == "all" and any(message["role"] == "assistant" for message in messages):
            with contextlib.suppress(BadValue):  # then there is no such row
                begins = [place.begin for place in self.places(text, messages, tools)]
        return self._tokenised(text, begins)[0]

    def render(self, messages: Sequence[Message], tools: Tools, *, ask: bool = False) -> str:
        """The text of a dialogue; with `ask` up to where the assistant begins its next turn. Raises BadValue."""
        return self._rendered(messages, tools, add_generation_prompt=ask)[0]

    def _rendered(self, messages: Sequence[Message], tools: Tools, **asked: Any) -> tuple[str, list[tuple[int, int]]]:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        plain = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        try:
            answer: Any = render_jinja_template(
                conversations=[plain], tools=list(tools) if tools else None, chat_template=self.text,
                **{**self.tokenizer.special_tokens_map, **asked},
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise BadValue(f"the chat template refuses it: {str(error).splitlines()[0][:200]}") from None
        made, marked = answer
        return made[0], list(marked[0]) if marked else []

    # ---- what the assistant writes ----

    def places(self, text: str, messages: Sequence[Message], tools: Tools, turns: str = "all") -> list[Place]:
        """Where in `text`, which is the whole dialogue, the assistant's turns stand. Raises BadValue."""
        spoken = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        learnt = spoken if turns == "all" else spoken[-1:]
        if self.is_marked:
            found = self._marked(messages, tools, spoken)
        else:
            begins = {turn: self._begin(text, messages, turn, tools) for turn in learnt}
            ends = [*(begins[turn] for turn in learnt[1:]), len(text)]
            found = {
                turn: Place(begins[turn], self._end(text, messages[turn], begins[turn], limit), turn)
                for turn, limit in zip(learnt, ends)
            }
        return [found[turn] for turn in learnt if messages[turn].get("weight", 1)]

    def _begin(self, text: str, messages: Sequence[Message], turn: int, tools: Tools) -> int:
        before = self.render(messages[:turn], tools, ask=True)
        if not text.startswith(before):
            at = next((i for i, (one, other) in enumerate(zip(before, text)) if one != other), len(text))
            last = max(number for number, message in enumerate(messages) if message["role"] == "assistant")
            fix = "; task.turns=last learns from the last one alone" if turn < last else ""
            raise BadValue(
                f"the chat template writes what stands before turn {turn + 1} otherwise once more follows: "
                f"{before[at : at + 30]!r} becomes {text[at : at + 30]!r}{fix}"
            )
        return len(before)

    def _end(self, text: str, message: Message, begin: int, limit: int) -> int:
        """Behind the stop token that follows what is said."""
        said = message.get("content", "").strip()
        place = text.find(said, begin, limit) if said else -1
        end = text.find(self.stop, begin if place < 0 else place + len(said), limit)
        if end < 0:
            raise BadValue(f"the chat template does not end this turn of the assistant with {self.stop}: {said[:40]!r}")
        return end + len(self.stop)

    def _marked(self, messages: Sequence[Message], tools: Tools, spoken: Sequence[int]) -> dict[int, Place]:
        text, marked = self._rendered(messages, tools, return_assistant_tokens_mask=True)
        if len(marked) != len(spoken):
            raise BadValue(f"the chat template marks {len(marked)} places for {len(spoken)} turns of the assistant")
        found = {}
        for turn, (begin, end) in zip(spoken, marked):
            if not text[begin:end].rstrip().endswith(self.stop):  # a mark that ends before the stop token
                blanks = len(text[end:]) - len(text[end:].lstrip())
                if not text.startswith(self.stop, end + blanks):
                    raise BadValue(f"the chat template does not end turn {turn + 1} with {self.stop}")
                end += blanks + len(self.stop)
            asked = self.render(messages[:turn], tools, ask=True)
            if text.startswith(asked):
                if begin < len(asked):
                    own = text[begin : len(asked)][-30:]
                    raise BadValue(f"the chat template marks {own!r}, which it writes itself, as the assistant's words")
                begin = len(asked)
            found[turn] = Place(begin, begin + len(text[begin:end].rstrip()), turn)
        return found

    def _stop(self) -> str:
        try:
            text = self.render([{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}], None)
        except BadValue as error:
            raise ModelError(Fault("task.template", f"it can't be used: {error}", "", "task.template=plain")) from None
        behind = text.rpartition(SAID)[2] if SAID in text else ""
        special = {*self.tokenizer.all_special_tokens, *(
            str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special
        )}  # fmt: skip
        stops = [(behind.find(token), -len(token), token) for token in special if token and token in behind]
        if not stops:
            raise ModelError(
                Fault("task.template", f"behind an assistant's turn it writes {behind[:40]!r}, and no special token of "
                      "this tokenizer: a model would never learn to stop", "a template that ends a turn with one",
                      "write {{ eos_token }} there, or task.template=plain")
            )  # fmt: skip
        return min(stops)[2]

    # ---- tokens ----

    def _ids(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        made = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        return list(made["input_ids"]), list(made["offset_mapping"])

    def _tokenised(self, text: str, begins: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the text and the characters that they stand for.

        Where an answer begins so that its first characters change the tokens before it, the two are tokenised apart,
        as they are when it is asked for.
        """
        done: tuple[list[int], list[tuple[int, int]]] = ([], [])
        start, (ids, offsets) = 0, self._ids(text)
        for begin in begins:
            before, where = self._ids(text[start:begin])
            if ids[: len(before)] == before and not any(one < begin - start for one, _ in offsets[len(before) :][:1]):
                continue
            self.num_joined += 1
            _add(done, before, where, start)
            start = begin
            ids, offsets = self._ids(text[start:])
        _add(done, ids, offsets, start)
        return done


def _add(done: tuple[list[int], list[tuple[int, int]]], ids: list[int], where: list[Any], start: int) -> None:
    done[0].extend(ids)
    done[1].extend((start + one, start + other) for one, other in where)


def _pieces(ids: list[int], offsets: Sequence[tuple[int, int]], places: Sequence[Place]) -> list[Piece]:
    pieces: list[Piece] = []
    at = 0
    for place in places:
        begin = _first(offsets, place.begin, at)
        end = _first(offsets, place.end, begin)
        pieces += [(ids[at:begin], False), (ids[begin:end], True)]
        at = end
    return [piece for piece in [*pieces, (ids[at:], False)] if piece[0]]


def _first(offsets: Sequence[tuple[int, int]], place: int, at: int) -> int:
    """Number of the first token, from number `at`, that ends behind `place`."""
    return next((number for number in range(at, len(offsets)) if offsets[number][1] > place), len(offsets))


def _quoted(text: str) -> str:
    """A text as a literal of jinja."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
