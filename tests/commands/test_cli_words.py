"""The words: help, version, unknown words, exit codes, ls, show, tab completion; and what none of them may import."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from llmtune import cli
from llmtune.core.errors import ConfigError, Diverged, Fault, LlmtuneError, Stopped

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "datasets", "accelerate", "sklearn")


def loaded_by(*words: str, cwd: Path) -> tuple[int, str, set[str]]:
    """`(exit code, stdout, top-level modules loaded)` of the real entry point in a new process."""
    code = (
        "import sys; from llmtune.cli import main; status = main(sys.argv[1:]);"
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, encoding="utf-8", timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, done.stdout, set(done.stderr.split())


def stand_in(monkeypatch, word: str, main) -> None:
    command = types.ModuleType(f"llmtune.commands.{word}")
    command.main = main
    monkeypatch.setitem(sys.modules, command.__name__, command)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_word(words, capsys):
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {word} " in out for word in cli.WORDS)


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["train", "--help"], ["ls"], ["--complete", "llmtune tr"]]
)
def test_quick_words_load_neither_hydra_nor_torch(words, tmp_path):
    status, out, modules = loaded_by(*words, cwd=tmp_path)
    assert status == 0
    assert out
    assert not modules & {*HEAVY, "hydra", "omegaconf", "numpy"}


@pytest.mark.parametrize("words", [["train", "--cfg", "job"], ["check", "--cfg", "job"], ["show", "optimizer.lr"]])
def test_words_about_config_do_not_load_torch(words, tmp_path):
    status, out, modules = loaded_by(*words, cwd=tmp_path)
    assert status == 0
    assert "lr" in out
    assert not modules & set(HEAVY)
    assert list(tmp_path.iterdir()) == []


def test_help_of_a_word_lists_groups_and_options(capsys):
    assert cli.main(["train", "task=sentiment", "--help"]) == 0
    out = capsys.readouterr().out
    assert "freeze_policy  adapters_only, bias_only, bottom_layers, " in out
    assert "-m, --multirun" in out


def test_unknown_word_tells_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    out, err = capsys.readouterr()
    allowed = ", ".join(cli.WORDS)
    assert (out, err) == ("", f"llmtune: trian: is no word of llmtune; allowed: {allowed}; did you mean 'train'?\n")


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (LlmtuneError("it broke"), 1, "llmtune train: it broke\n"),
        (ConfigError(Fault("a", "b", "c", "d"), Fault("e", "f")), 2, "llmtune train: 2 faults\n  a: b; c; d\n  e: f\n"),
        (Diverged("NaN at step 3"), 3, "llmtune train: NaN at step 3\n"),
        (Stopped("stopped"), 75, "llmtune train: stopped\n"),
        (KeyboardInterrupt(), 75, "llmtune: stopped\n"),
    ],
)
def test_errors_become_exit_codes(error, status, says, monkeypatch, capsys):
    def fail(argv):
        raise error

    stand_in(monkeypatch, "train", fail)
    monkeypatch.delenv("LLMTUNE_DEBUG", raising=False)
    assert cli.main(["train"]) == status
    assert capsys.readouterr().err == says


def test_debug_adds_the_traceback(monkeypatch, capsys):
    def fail(argv):
        raise ConfigError("wrong")

    stand_in(monkeypatch, "train", fail)
    monkeypatch.setenv("LLMTUNE_DEBUG", "1")
    assert cli.main(["train"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("llmtune train: wrong\n")


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(argv):
        raise ZeroDivisionError

    stand_in(monkeypatch, "train", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
def test_a_reader_that_leaves_is_no_error(tmp_path):
    line = f"'{sys.executable}' -u -m llmtune ls | head -1"
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("adapter=\n", "")


# -- ls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["freeze_policy", "freeze-policies", "freeze_policies", "freeze_policy="])
def test_ls_prints_one_line_an_option(word, capsys):
    assert cli.main(["ls", word]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "freeze_policy="
    said = dict(line.split(maxsplit=1) for line in out[1:])
    assert said["none"] == "Everything trains; with an adapter, the adapter and the head."
    assert len({line.index(said[line.split()[0]]) for line in out[1:]}) == 1


def test_ls_finds_options_of_the_user(tmp_path, monkeypatch, capsys):
    for folder in ("conf", "more"):
        (tmp_path / folder / "optimizer").mkdir(parents=True)
        (tmp_path / folder / "optimizer" / f"of_{folder}.yaml").write_text(f"# Mine in {folder}.\nname: adamw\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ls", "optimizers", "--config-dir", "more"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"of_conf +Mine in conf\.", out)
    assert re.search(r"of_more +Mine in more\.", out)


def test_ls_of_no_group_tells_the_nearest(capsys):
    assert cli.main(["ls", "modles"]) == 2
    assert "did you mean 'model'?" in capsys.readouterr().err


# -- show -----------------------------------------------------------------------------------------------------------


def test_show_tells_meaning_value_and_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["show", "optimizer.warmup"]) == 0
    first, meaning, place = capsys.readouterr().out.splitlines()
    assert first == "optimizer.warmup=0.1"
    assert meaning.split(maxsplit=1) == ["meaning", "below 1: share of all steps; from 1 on: steps"]
    path, _, line = place.split()[-1].rpartition(":")
    assert Path(path) == ROOT / "conf" / "optimizer" / "adamw.yaml"
    assert Path(path).read_text().splitlines()[int(line) - 1].startswith("warmup: 0.1")


def test_show_tells_what_was_typed_and_what_stands_in_a_recipe(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("optimizer.lr: 3e-5\ntrain: {keep: 2}\n")
    assert cli.main(["show", "optimizer.lr", "my.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[::2] == ["optimizer.lr=3e-05", "  set by   my.yaml"]
    assert cli.main(["show", "train.keep", "my.yaml", "train.keep=3"]) == 0
    assert capsys.readouterr().out.splitlines()[::2] == ["train.keep=3", "  set by   typed"]


def test_show_of_a_section_lists_its_keys(capsys):
    assert cli.main(["show", "freeze-policy", "freeze_policy=bottom_layers"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "freeze_policy=bottom_layers  # The embeddings and the lowest layers stay as they are."
    assert [line.split("=")[0] for line in rest] == ["freeze_policy.name", "freeze_policy.layers"]


def test_show_lists_every_key(capsys):
    assert cli.main(["show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seed=1 ")
    assert all("  # " in line or " # " in line for line in lines if line.startswith("train."))


def test_show_of_the_prefix_cache_says_why(capsys):
    assert cli.main(["show", "train.prefix_cache", "freeze_policy=head_only", "train.epochs=3"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "train.prefix_cache=auto"
    assert last.startswith("  here     prefix cache: on: 2 of 2 layers are frozen")


@pytest.mark.parametrize(("key", "meant"), [("lr", "optimizer.lr"), ("optimizer.lrr", "optimizer.lr"), ("sed", "seed")])
def test_show_of_no_key_tells_the_nearest(key, meant, capsys):
    assert cli.main(["show", key]) == 2
    assert f"did you mean '{meant}'?" in capsys.readouterr().err


# -- completion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell, capsys):
    assert cli.main(["--completion", shell]) == 0
    assert "llmtune --complete" in capsys.readouterr().out


def test_completion_of_no_shell(capsys):
    assert cli.main(["--completion", "bsh"]) == 2
    assert capsys.readouterr().err == (
        "llmtune: --completion: 'bsh' is no shell that llmtune knows; allowed: bash, zsh, fish; did you mean 'bash'?\n"
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("llmtune tr", ["train"]),
        ("llmtune train freeze_policy=bot", ["bottom_layers"]),
        ("llmtune train optimizer.w", ["optimizer.warmup=", "optimizer.weight_decay="]),
        ("llmtune train task=sentiment hard", ["hardware=", "hardware."]),
    ],
)
def test_completion_in_a_real_bash(line, words, tmp_path, capsys):
    assert cli.main(["--completion", "bash"]) == 0
    llmtune = tmp_path / "llmtune"
    llmtune.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llmtune "$@"\n')
    llmtune.chmod(0o755)
    script = f"""{capsys.readouterr().out}
    compopt() {{ :; }}
    COMP_LINE='{line}' COMP_POINT={len(line)}
    _llmtune
    printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, encoding="utf-8", timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.stdout.splitlines(), done.stderr) == (words, "")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_says_no_is_a_message(number: int, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def fail(argv: list[str]) -> int:
        raise OSError(number, os.strerror(number), "runs/night/speed.jsonl")

    monkeypatch.setattr("llmtune.commands.train.main", fail)
    assert cli.main(["train", "task=sentiment"]) == 1
    said = capsys.readouterr().err
    assert said == (
        f"llmtune train: runs/night/speed.jsonl: can't be written: {os.strerror(number)}; "
        "make room, then the same with resume=auto\n"
    )
