"""What docs/ says of commands, options and keys is what the code says; links lead somewhere; no page is missing."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from llmtune.cli import WORDS
from llmtune.config.locate import conf_dir, groups, option_files

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


def script():
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


make_docs = script()
PAGES = [str(page.relative_to(ROOT)) for page in make_docs.pages()]


@pytest.mark.parametrize("page", PAGES)
def test_made_parts_of_a_page_are_up_to_date(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert make_docs.made_anew(text) == text, "python scripts/make_docs.py writes it anew"


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_to_files(page):
    targets = [target for target, _ in LINK.findall((ROOT / page).read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_no_folder_of_the_machine_it_was_written_on(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(work|tmp|root|home)/", text)


@pytest.mark.parametrize("word", [*WORDS, "multirun"])
def test_every_command_has_a_page(word):
    text = (ROOT / "docs" / "commands" / f"{word}.md").read_text(encoding="utf-8")
    assert word == "multirun" or f"<!-- made from: help {word} -->" in text


@pytest.mark.parametrize("group", [name for name in groups([conf_dir()]) if option_files(name, [conf_dir()])])
def test_every_group_has_a_page_with_its_options_and_keys(group):
    text = (ROOT / "docs" / "config" / f"{group}.md").read_text(encoding="utf-8")
    assert f"<!-- made from: options {group} -->" in text
    assert f"<!-- made from: keys {group} -->" in text


def test_check_tells_a_stale_page_and_writing_mends_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "README.md").write_text("<!-- made from: words -->\nold\n<!-- end -->\n", encoding="utf-8")
    monkeypatch.setattr(make_docs, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_docs.py", "--check"])
    assert make_docs.main() == 1
    assert capsys.readouterr().out == "README.md is out of date\n"
    monkeypatch.setattr(sys, "argv", ["make_docs.py"])
    assert make_docs.main() == 0
    assert "[`predict`](commands/predict.md)" in (tmp_path / "README.md").read_text(encoding="utf-8")
