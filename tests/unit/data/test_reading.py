"""Files of every format, delimiter, quoting, encoding and line end give the same rows."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest

from llmtune.core.errors import DataError
from llmtune.data.roles import LABEL, TEXT

ROWS = [("good film", "pos"), ("not good, not bad", "neg"), ("très étrange", "neg"), ('a "very" fine film', "pos")]


def pairs(rows):
    return [(row["text"], json.loads(row["label"])) for row in rows]


def as_csv(delimiter=",", end="\n", header="text,label", quote='"'):
    lines = [header.replace(",", delimiter)] if header else []
    for text, label in ROWS:
        special = delimiter in text or quote in text
        lines.append((f"{quote}{text.replace(quote, quote * 2)}{quote}" if special else text) + delimiter + label)
    return end.join(lines) + end


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends_are_found(read_text, delimiter, end):
    rows, report = read_text("a.csv", as_csv(delimiter, end))
    assert pairs(rows) == ROWS
    assert [row["line"] for row in rows] == [2, 3, 4, 5]
    assert report["found"][0]["quote"] == '"'


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8 with BOM"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le without BOM"),
        ("utf-16-be", "utf-16-be without BOM"),
        ("utf-32", "utf-32"),
        ("latin-1", "cp1252 (it is not UTF-8)"),
    ],
)
def test_encodings_are_found_and_said(read_text, encoding, said):
    rows, report = read_text("a.csv", as_csv().encode(encoding))
    assert pairs(rows) == ROWS
    assert report["found"][0]["encoding"] == said


def test_encoding_can_be_set(read_text):
    text = "标签,文本\n好,这部电影很好看\n坏,这部电影太难看了\n"
    rows, _ = read_text("a.csv", text.encode("gb18030"), encoding="gb18030")
    assert pairs(rows) == [("这部电影很好看", "好"), ("这部电影太难看了", "坏")]


def test_curly_quotes_of_windows_are_no_control_characters(read_text):
    rows, _ = read_text("a.csv", "text,label\nit’s good,1\n".encode("cp1252"))
    assert rows[0]["text"] == "it’s good"


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_compressed_files_are_unpacked(read_text, ending, pack):
    assert pairs(read_text(f"a.csv{ending}", pack(as_csv().encode()))[0]) == ROWS


def test_json_lines_and_arrays_agree(read_text):
    objects = [{"text": text, "label": label} for text, label in ROWS]
    lines, _ = read_text("a.jsonl", "\n".join(json.dumps(one) for one in objects))
    assert pairs(lines) == ROWS
    assert [row["line"] for row in lines] == [1, 2, 3, 4]
    array, report = read_text("b.json", json.dumps(objects, indent=2))
    assert pairs(array) == ROWS
    assert [row["line"] for row in array] == [2, 6, 10, 14]
    assert report["found"][0]["layout"] == "array"
    also, _ = read_text("c.json", "\n".join(json.dumps(one) for one in objects))
    assert pairs(also) == ROWS


def test_json_array_larger_than_a_chunk_is_streamed(read_text, monkeypatch):
    monkeypatch.setattr("llmtune.data.files.tables.CHUNK_CHARS", 7)
    objects = [{"text": f"row {i} " + "]}," * 5, "label": i % 2} for i in range(50)]
    rows, _ = read_text("a.json", json.dumps(objects, indent=0))
    assert [row["text"] for row in rows] == [one["text"] for one in objects]
    assert rows[7]["line"] == 2 + 7 * 4


def test_nested_fields_by_dotted_path(read_text):
    content = json.dumps({"doc": {"body": ["first", "second"]}, "meta": {"gold": "a"}, "a.b": "x"}) + "\n"
    rows, _ = read_text("a.jsonl", content, text="doc.body.1", label="meta.gold")
    assert pairs(rows) == [("second", "a")]
    rows, _ = read_text("a.jsonl", content, text="a.b", label="meta.gold")
    assert rows[0]["text"] == "x"


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz"])
def test_parquet(read_text, folder, name):
    table = pyarrow.table({"text": [text for text, _ in ROWS], "label": [1, 0, 0, 1], "x": [{"y": "z"}] * 4})
    pyarrow.parquet.write_table(table, folder / "raw")
    content = (folder / "raw").read_bytes()
    rows, _ = read_text(name, gzip.compress(content) if name.endswith(".gz") else content)
    assert pairs(rows) == [(text, "1" if label == "pos" else "0") for text, label in ROWS]
    rows, _ = read_text(name, gzip.compress(content) if name.endswith(".gz") else content, text="x.y")
    assert rows[0]["text"] == "z"


def test_folder_per_class(write, read):
    for i, (text, label) in enumerate(ROWS):
        write(f"films/{label}/{i}.txt", text.encode("latin-1") if i == 2 else text)
    write("films/pos/.hidden", "no text of ours")
    raw = read(train="films")
    assert sorted(pairs(raw.splits["train"])) == sorted(ROWS)
    assert raw.splits["train"][0]["file"] == "films/neg/1.txt"
    assert raw.report["splits"]["train"]["found"][0]["classes"] == ["neg", "pos"]


def test_several_files_globs_and_folders_of_shards(write, read):
    for i in range(3):
        write(f"shards/part-{i}.csv", f"text,label\nrow {i},a\nlater {i},b\n")
    expected = [f"{word} {i}" for i in range(3) for word in ("row", "later")]
    for given in (["shards/part-0.csv", "shards/part-[12].csv"], "shards/*.csv", "shards"):
        assert [row["text"] for row in read(train=given).splits["train"]] == expected


def test_a_folder_of_texts_with_folders_below_asks_which_are_meant(write, read):
    for name in ("texts/a.txt", "texts/below/b.txt"):
        write(name, "a line of text\n")
    with pytest.raises(DataError, match=r"1 file\(s\), and 1 in folders below it.*\*\*/\*\.txt"):
        read(train="texts", format="lines")


@pytest.mark.parametrize("written", ["no", "yes", "on", "true", "True", "1", "1.0", "01", "1e5", "nan", "null", "é"])
def test_labels_keep_their_spelling(read_text, written):
    rows, _ = read_text("a.csv", f"text,label\nfirst text,{written}\nsecond text,x\n")
    assert json.loads(rows[0]["label"]) == written


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("true", "true"),
        ("1", "1"),
        ("1.0", "1.0"),
        ("1e-5", "1e-5"),
        ('"no"', "no"),
        ("[1, true]", ["1", "true"]),
        ("[]", []),
    ],
)
def test_json_labels_keep_their_spelling(read_text, written, kept):
    rows, _ = read_text("a.jsonl", '{"text": "x", "label": %s}\n' % written)  # noqa: UP031 - braces
    assert json.loads(rows[0]["label"]) == kept


def test_one_column_a_label(read_text):
    rows, _ = read_text("a.csv", "text,a,b,c\nx,1,0,1\ny,0,0,0\n", label=["a", "b", "c"])
    assert [json.loads(row["label"]) for row in rows] == [["a", "c"], []]


def test_newlines_inside_quotes_keep_line_numbers(read_text):
    rows, _ = read_text("a.csv", 'text,label\n"one\ntwo\nthree",1\nfour,0\n')
    assert rows[0]["text"] == "one\ntwo\nthree"
    assert [row["line"] for row in rows] == [2, 5]


def test_bare_quotes_do_not_swallow_lines(read_text):
    content = 'a plain text\t1\n"an open quote\t0\nmiddle\t1\nthe end of it"\t0\n5" screen\t1\n'
    rows, report = read_text("a.tsv", content)
    assert [row["text"] for row in rows] == ["a plain text", '"an open quote', "middle", 'the end of it"', '5" screen']
    assert report["found"][0]["quote"] == "none"


def test_bare_quote_far_beyond_the_sample_is_seen(read_text):
    lines = [f"text number {i},{i % 2}" for i in range(2000)]
    lines[1500] = '"open and never closed,1'
    rows, _ = read_text("a.csv", "\n".join(lines))
    assert len(rows) == 2000
    assert rows[1500]["text"] == '"open and never closed'


def test_quotes_of_a_tsv_writer_are_taken_off(read_text):
    rows, _ = read_text("a.tsv", 'he said ""x\t1\n"he said ""no"" twice"\t0\nplain\t1\n')
    assert [row["text"] for row in rows][1] == 'he said "no" twice'


def test_backslash_escapes(read_text):
    rows, _ = read_text("a.csv", 'text,label\n"he said \\"no\\", twice",1\n"c",0\n"d",1\n')
    assert rows[0]["text"] == 'he said "no", twice'


def test_stray_carriage_return_stays_in_its_text(read_text):
    rows, _ = read_text("a.tsv", "one\rhalf\t1\ntwo\t0\nthree of them\t1\n")
    assert [row["text"] for row in rows] == ["one\rhalf", "two", "three of them"]


def test_blanks_around_names_and_after_delimiters(read_text):
    rows, report = read_text("a.csv", ' text , label \nfine, "a"\nbad, "b"\n')
    assert pairs(rows) == [("fine", "a"), ("bad", "b")]
    assert report["found"][0]["spaces"] == "around names stripped"


def test_headerless_pair_of_columns_is_guessed_from_the_label(read_text):
    content = "".join(f"{i % 3}\tthis is text number {i} of the file\n" for i in range(30))
    rows, report = read_text("a.tsv", content)
    assert report["found"][0]["columns"] == {"text": 1, "label": 0}
    assert rows[4]["text"] == "this is text number 4 of the file"


def test_header_is_known_by_the_name_the_user_gave(read_text):
    rows, _ = read_text("a.csv", "Texte,Klasse\nx y,a\nz,b\n", text="Texte", label="Klasse")
    assert [row["text"] for row in rows] == ["x y", "z"]


@pytest.mark.parametrize("header", ["Review Text ,Overall Verdict", "opinion,verdict", "Review_Text,Verdict"])
def test_header_is_known_by_a_column_of_few_words_that_never_holds_its_name(read_text, header):
    content = header + "\n" + "".join(f"a thing {i},{'good' if i % 2 else 'bad'}\n" for i in range(12))
    names = [name.strip() for name in header.split(",")]
    rows, report = read_text("a.csv", content, text=0, label=1)
    assert report["found"][0]["header"] is True
    assert len(rows) == 12
    assert names[1] not in {label for _, label in pairs(rows)}


def test_first_row_with_a_label_that_comes_again_is_no_header(read_text):
    content = "".join(f"a thing {i},{'bad' if i % 3 else 'good'}\n" for i in range(12))
    rows, report = read_text("a.csv", content, text=0, label=1)
    assert report["found"][0]["header"] is False
    assert len(rows) == 12


def test_header_setting_wins(read_text):
    rows, _ = read_text("a.csv", "text,label\nx,1\n", header=False, text=0, label=1)
    assert [row["text"] for row in rows] == ["text", "x"]


def test_a_position_that_is_a_header_name_is_written_as_text(read_text):
    rows, _ = read_text("a.csv", "0,1\na,b\n", header=True, text="1", label="0")
    assert pairs(rows) == [("b", "a")]


def test_one_text_a_line_where_no_label_is_asked_for(write, read):
    raw = read(roles=(TEXT,), only=["test"], test=write("a.txt", "one, with comma\ntwo\n"))
    assert [row["text"] for row in raw.splits["test"]] == ["one, with comma", "two"]
    assert "label" not in raw.splits["test"].column_names


def test_pairs_are_found_by_name(read_text):
    rows, report = read_text("a.tsv", "index\tsentence1\tsentence2\tlabel\n7\ta\tb\tx\n8\tc\td\ty\n")
    assert report["found"][0]["columns"] == {"text": "sentence1", "text_pair": "sentence2", "label": "label"}
    assert rows[1]["text_pair"] == "d"


def test_wide_texts_pass_the_limit_of_the_csv_module(read_text):
    rows, _ = read_text("a.csv", 'text,label\n"' + "word, " * 60_000 + '",a\nshort,b\n')
    assert len(rows[0]["text"]) == 360_000


def test_label_role_can_be_left_out(write, read):
    raw = read(roles=(TEXT, LABEL), train=write("a.csv", "text,label,more\nx,a,1\ny,b,2\n"))
    assert raw.splits["train"].column_names == ["text", "label", "file", "line"]


@pytest.mark.parametrize(("lines", "texts"), [
    (["text", '"hello, world"', '"a fine, long film"', "it was bad"],
     ["hello, world", "a fine, long film", "it was bad"]),
    (['text', '"He said ""good"", and left."', '"A bad, bad film"'], ['He said "good", and left.', "A bad, bad film"]),
    (['"text"', '"one', 'two"', '"three"'], ["one\ntwo", "three"]),
    (["text", '"Nice", he said', "bad"], None),  # quotes that enclose no field
    (["text", "no quotes at all", "two"], None),
    (["a;b", '"x, y";1', '"z";2'], None),
])  # fmt: skip
def test_a_column_alone_may_stand_in_quotes(lines, texts):
    from llmtune.data.files.dialect import find_dialect

    written = [f"{line}\n" for line in lines]
    dialect = find_dialect(lambda: iter(written), format="csv", delimiter="auto", quote="auto", shown="a.csv")
    if texts is None:
        assert dialect.delimiter != "," or dialect.width > 1 or dialect.quote is None
        return
    assert [fields for _, fields, _ in dialect.rows(written)][1:] == [[text] for text in texts]
