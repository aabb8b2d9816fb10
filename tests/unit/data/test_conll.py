"""CoNLL and CoNLL-U files as they lie about; what is wrong with them, by line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtune.core.errors import DataError
from llmtune.data.files import conll, conllu
from llmtune.task.tagging import ROLES

BIO = "-DOCSTART- -X- O\n\nAnna NNP B-P\nGrau NNP I-P\nslept VBD O\n\n\nHe PRP O\n"
UD = """# sent_id = 1
# text = Vámonos al mar
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\tV\tMood=Imp\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_
3\tal\tal\tADP\tA\t_\t4\tcase\t_\t_
3.1\tve\tir\tVERB\tV\t_\t_\t_\t_\t_
4\tmar\tmar\tNOUN\tN\t_\t1\tobl\t_\t_

1\tNo\tno\tINTJ\tI\t_\t0\troot\t_\t_
"""


def rows_of(read: Any, name: str, **changes: Any) -> list[tuple[Any, Any, int]]:
    raw = read(roles=ROLES, train=name, **changes)
    return [(json.loads(row["tokens"]), json.loads(row["tags"]), row["line"]) for row in raw.splits["train"]]


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.tsv", "a.bio"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_first_and_last_column(write: Any, read: Any, name: str, line_end: str) -> None:
    content = BIO.replace(" ", "\t") if name == "a.tsv" else BIO
    write(name, content.replace("\n", line_end))
    wanted = [(["Anna", "Grau", "slept"], ["B-P", "I-P", "O"], 3), (["He"], ["O"], 8)]
    assert rows_of(read, name) == wanted


def test_other_columns_by_position_and_no_line_end_at_the_end(write: Any, read: Any) -> None:
    write("a.conll", BIO.rstrip("\n"))
    assert rows_of(read, "a.conll", tags=1)[0][1] == ["NNP", "NNP", "VBD"]
    assert rows_of(read, "a.conll", tokens=1, tags=-1)[0][0] == ["NNP", "NNP", "VBD"]
    with pytest.raises(DataError, match=r"data.columns.tags: 3, but a.conll has 3 columns.*positions 0 to 2"):
        rows_of(read, "a.conll", tags=3)


def test_characters_by_line(write: Any, read: Any) -> None:
    write("resume.char.bmes", "吴 B-NAME\n重 M-NAME\n阳 E-NAME\n， O\n\n中 B-CONT\n国 E-CONT\n")
    assert rows_of(read, "resume.char.bmes") == [
        (["吴", "重", "阳", "，"], ["B-NAME", "M-NAME", "E-NAME", "O"], 1), (["中", "国"], ["B-CONT", "E-CONT"], 6),
    ]  # fmt: skip


@pytest.mark.parametrize("blank", ["\t", " "])
def test_words_that_begin_with_a_hash_are_no_comments(write: Any, read: Any, blank: str) -> None:
    words = ["#text", "#id", "#", "#newdoc", "#sent_id", "#textil", "#", "id"]
    tags = ["O", "B-X", "O", "O", "I-X", "O", "B-X", "O"]
    write("a.conll", "".join(f"{word}{blank}{tag}\n" for word, tag in zip(words, tags)))
    assert rows_of(read, "a.conll") == [(words, tags, 1)]
    write("b.conll", f"#{blank}text{blank}O\n#{blank}id{blank}B-X\n")
    assert rows_of(read, "b.conll", tokens=1) == [(["text", "id"], ["O", "B-X"], 1)]


def test_comments_of_tools_are_passed_over(write: Any, read: Any) -> None:
    comments = ["# newdoc id = d1", "# newpar", "# sent_id = 1", "# text = vitamin B", "# id 7", "#id=7", "# text= a O"]
    for comment in comments:
        write("a.conll", f"{comment}\na O\nb B-X\n\n{comment}\nc O\n")
        assert rows_of(read, "a.conll") == [(["a", "b"], ["O", "B-X"], 2), (["c"], ["O"], 6)], comment


def test_a_broken_line_is_named(write: Any, read: Any) -> None:
    write("a.conll", "a O\nb\nc O\n\nd O\n")
    with pytest.raises(DataError, match=r"a.conll:1.*line 2 has 1 column\(s\), the row's first has 2"):
        rows_of(read, "a.conll")
    assert rows_of(read, "a.conll", on_bad_row="drop") == [(["d"], ["O"], 5)]
    write("b.tsv", "a\tO\nb\t\n\nd\tO\n")
    with pytest.raises(DataError, match="line 2 has nothing where the tag stands"):
        rows_of(read, "b.tsv", format="conll")


def test_other_tables_are_not_taken_for_it() -> None:
    assert not conll.looks_like(["tokens\ttags", "a b\tO B-X", "c\tO"])
    assert not conll.looks_like(["A fine film.\tpositive", "A dull one.\tnegative"])
    assert conll.looks_like(["a NN", "b VB", "", "c NN"])
    assert not conllu.looks_like(["a NN", "b VB"])


def test_universal_dependencies(write: Any, read: Any) -> None:
    write("a.conllu", UD)
    assert rows_of(read, "a.conllu") == [
        (["Vamos", "nos", "al", "mar"], ["VERB", "PRON", "ADP", "NOUN"], 3), (["No"], ["INTJ"], 10),
    ]  # fmt: skip
    assert rows_of(read, "a.conllu", tags="XPOS", tokens="LEMMA")[0][:2] == (
        ["ir", "nosotros", "al", "mar"], ["V", "P", "A", "N"],
    )  # fmt: skip
    assert rows_of(read, "a.conllu", tags="feats")[0][1] == ["Mood=Imp", "_", "_", "_"]
    with pytest.raises(DataError, match=r"data.columns.tags: 'UPOSS' is no column of CoNLL-U; .*did you mean 'UPOS'"):
        rows_of(read, "a.conllu", tags="UPOSS")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_", "2\tnos\tPRON", "line 5 has 3 columns instead of 10"),
        ("2\tnos", "zwei\tnos", "line 5 has the ID 'zwei': a number was expected"),
        ("\tPRON\t", "\t\t", "line 5 has nothing in UPOS"),
    ],
)
def test_broken_universal_dependencies(write: Any, read: Any, old: str, new: str, said: str) -> None:
    write("a.conllu", UD.replace(old, new))
    with pytest.raises(DataError) as caught:
        rows_of(read, "a.conllu")
    assert "a.conllu:3" in str(caught.value)
    assert said in str(caught.value)
