"""A model of before a setting of its task was added opens with today's value of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from llmtune.data.roles import LABEL, TAGS, TEXT, TEXT_PAIR, TOKENS
from llmtune.inference.run_folder import ModelPlace, roles_of, trained_task

STATE = {"problem_type": "single_label", "labels": {"names": ["bad", "good"], "ids": {"bad": 0, "good": 1}}}


def test_setting_that_is_newer_than_a_model_has_the_shipped_value(tmp_path: Path) -> None:
    settings = {"name": "sentiment", "kind": "classification", "problem_type": "auto", "metric": "auto",
                "threshold": 0.4}  # fmt: skip
    card = {"task": {"kind": "classification", "settings": settings, "state": STATE}}
    (tmp_path / "llmtune.json").write_text(json.dumps(card))
    task = trained_task(ModelPlace(tmp_path, None, card), [])
    assert task.settings.pooling == "auto"  # not there when the model was written
    assert task.settings.threshold == 0.4
    assert task.labels.names == ("bad", "good")


class Rows:
    def __init__(self, *roles):
        self.roles = roles


def test_rows_need_the_columns_that_training_rows_had() -> None:
    found = {role.name: role.required for role in roles_of(Rows(TEXT, TEXT_PAIR, LABEL), {"text": 0, "label": 1})}
    assert found == {"text": True, "label": True}
    found = {role.name: role.required for role in roles_of(Rows(TEXT, TEXT_PAIR, LABEL), {"text": 0, "text_pair": 2})}
    assert found == {"text": True, "text_pair": True}


def test_rows_may_have_either_of_two_forms_whatever_training_rows_had() -> None:
    tokens = dataclasses.replace(TOKENS, required=True, unless="text")
    tags = dataclasses.replace(TAGS, required=True, unless="spans")
    text = dataclasses.replace(TEXT, required=True, unless="tokens")
    found = roles_of(Rows(tokens, tags, text), {"tokens": "words", "tags": "tags"})
    assert [(role.name, role.unless) for role in found] == [("tokens", "text"), ("tags", "spans"), ("text", "tokens")]
