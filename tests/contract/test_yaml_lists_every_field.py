"""The YAML is the reference manual: a shipped option lists exactly the fields of what it names, with comments."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from llmtune.config.compose import composed
from llmtune.config.locate import conf_dir, groups, headline, option_files
from llmtune.config.settings import Config, DataSettings, HardwareSettings, ModelSettings
from llmtune.config.shelf import find_part, shelf, source_file
from llmtune.config.shipped import defaults
from llmtune.config.yaml_keys import read_keys

ONE_SCHEMA = {"data": DataSettings, "model": ModelSettings, "hardware": HardwareSettings}
OVERLAYS = ("experiment",)
GROUPS = groups([conf_dir()])
OPTIONS = [(group, option) for group in GROUPS for option in option_files(group, [conf_dir()])]
NAMED = [(group, option) for group, option in OPTIONS if group not in OVERLAYS]
SHELVES = [group for group in defaults() if group not in ONE_SCHEMA and group not in OVERLAYS]
PARTS = [(group, name) for group in SHELVES for name in shelf(group)]


def section(group: str, option: str) -> tuple[dict, str]:
    """The section of an option's own YAML that names a part, and its dotted place in the file ('' for the root)."""
    content = OmegaConf.to_container(OmegaConf.load(option_files(group, [conf_dir()])[option]))
    if group == "task":
        return content["task"], "task."
    if isinstance(defaults()[group], list):
        (name,) = content
        return content[name], f"{name}."
    return content, ""


def check_fields(node: dict, kind: type, where: str) -> None:
    """Same names, same order, and so for the sections inside."""
    assert list(node) == [field.name for field in dataclasses.fields(kind)], where
    for name, inner in typing.get_type_hints(kind).items():
        for choice in (inner, *typing.get_args(inner)):
            if dataclasses.is_dataclass(choice) and isinstance(node[name], dict):
                check_fields(node[name], choice, f"{where}.{name}")


@pytest.mark.parametrize(("group", "option"), NAMED)
def test_option_lists_exactly_the_fields_of_what_it_names(group, option):
    node, _ = section(group, option)
    if group in ONE_SCHEMA:
        check_fields(node, ONE_SCHEMA[group], f"{group}/{option}")
    else:
        part = find_part(group, node.get("kind", node["name"]), [], f"{group}.name")
        assert list(node) == list(part.fields)


@pytest.mark.parametrize(("group", "option"), NAMED)
def test_option_is_named_like_its_file(group, option):
    assert section(group, option)[0]["name"] == option


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_starts_with_a_line_for_ls(group, option):
    line = headline(option_files(group, [conf_dir()])[option])
    assert 10 < len(line) < 160
    assert line.endswith(".")


@pytest.mark.parametrize(("group", "option"), NAMED)
def test_every_key_has_its_meaning_beside_it(group, option):
    keys = read_keys(option_files(group, [conf_dir()])[option])
    place = section(group, option)[1]
    free = (
        "model.architecture.",
        "model.recommended.",
    )  # said at the section: another library's keys, two plain numbers
    for key, found in keys.items():
        full = f"{group}.{key.removeprefix(place)}"
        is_section = any(other.startswith(f"{key}.") for other in keys)
        is_name = key.removeprefix(place) in ("name", "kind") or not key.startswith(place) or key == "defaults"
        if not is_name and not full.startswith(free) and full not in ("data.columns", "model.tokenizer.lowercase"):
            assert found.meaning or is_section, f"{full} in {group}/{option}.yaml has no comment"


def test_primary_config_lists_every_section_and_key():
    content = OmegaConf.to_container(OmegaConf.load(Path(conf_dir()) / "train.yaml"))
    hints = typing.get_type_hints(Config)
    for name, kind in hints.items():
        if name in content and dataclasses.is_dataclass(kind):
            check_fields(content[name], kind, name)
    assert set(hints) == (set(content) | set(defaults())) - {"defaults", "hydra", *OVERLAYS}
    keys = read_keys(str(Path(conf_dir()) / "train.yaml"))
    shown = [
        key for key in keys if key.split(".")[0] not in ("defaults", "hydra") and key not in ("run", "train", "sweep")
    ]
    assert [key for key in shown if not keys[key].meaning] == []


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_every_part_has_a_yaml(group, name):
    named = {section(group, option)[0].get("kind", option) for option in option_files(group, [conf_dir()])}
    assert name in named


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_the_source_of_a_part_says_what_the_class_says(group, name):
    part = find_part(group, name, [], f"{group}.name")
    kind = part.load()
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in dataclasses.fields(kind))
    assert list(part.fields) == [field.name for field in dataclasses.fields(kind)]
    hints = typing.get_type_hints(kind)
    assert part.fields == {field: hints[field] for field in part.fields}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group, option):
    composition = composed([f"{group}={option}"])
    assert composition.faults == []
    assert composition.choices[group] in (option, [option])


def test_every_shelf_is_a_folder_of_the_package():
    assert [group for group in SHELVES if not source_file(f"llmtune.{group}.__init__")] == []
