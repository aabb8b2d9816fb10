"""Groups, users' folders, overlays, recipes and typed values come together in the right order."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from llmtune.config.check import checked
from llmtune.config.compose import composed, run_job
from llmtune.config.stored import load_config, plain
from llmtune.core.errors import ConfigError


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, content: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(content, encoding="utf-8")


def config_of(*lines: str):
    composition = composed(list(lines))
    return checked(composition.cfg, composition.origin, composition.faults)


def test_job_gets_the_config_the_plain_tree_and_what_was_typed():
    got = []
    assert (
        run_job(
            "train",
            ["optimizer.lr=1e-4", "freeze-policy=head_only", "train.epochs=2"],
            lambda *all: got.extend(all) or 7,
        )
        == 7
    )
    config, cfg, lines = got
    assert (config.optimizer.lr, config.freeze_policy.name, config.train.epochs) == (1e-4, "head_only", 2.0)
    assert lines == ["optimizer.lr=1e-4", "freeze_policy=head_only", "train.epochs=2"]
    assert OmegaConf.to_container(cfg) == plain(config)
    assert "hydra" not in cfg


def test_everything_given_is_kept_as_the_shell_delivered_it():
    config = config_of(
        "data.train=C:\\评论\\new=1;x.csv", "data.label_delimiter=;", "data.label_names=[no,'1',负面]", "run.name=2024",
        "data.columns.text=0", "data.columns.label='\"0\"'", "data.delimiter=\t", "model.revision=123e456",
    )  # fmt: skip
    assert config.data.train == "C:\\评论\\new=1;x.csv"
    assert config.data.label_names == ["no", "1", "负面"]
    assert (config.data.label_delimiter, config.data.delimiter) == (";", "\t")
    assert (config.data.columns.text, config.data.columns.label) == (0, '"0"')
    assert (config.run.name, config.model.revision) == ("2024", "123e456")


def test_two_objectives_stand_under_their_own_keys():
    write("conf/objective/again.yaml", "again:\n  name: supervised\n  weight: 0.3\n")
    config = config_of("objective=[supervised,again]", "objective.again.weight=0.5")
    assert {name: part.weight for name, part in config.objective.items()} == {"supervised": 1.0, "again": 0.5}


def test_a_foreign_conf_folder_adds_and_does_not_shadow():
    write("conf/train.yaml", "seed: 99\n")
    write("conf/optimizer/adamw.yaml", "name: adamw\nlr: 99\n")
    write("conf/optimizer/mine.yaml", "defaults: [adamw, _self_]\nlr: 2e-5\n")
    assert config_of().seed == 1
    assert config_of().optimizer.lr == "auto"
    assert config_of("optimizer=mine").optimizer.lr == 2e-5


def test_config_dir_adds_options_and_experiments():
    write("my conf/optimizer/fast.yaml", "defaults: [adamw, _self_]\nlr: 1e-3\n")
    write(
        "my conf/experiment/e.yaml",
        "# @package _global_\ndefaults:\n  - override /optimizer: fast\nseed: 5\ntask: {threshold: 0.4}\n",
    )
    got = []
    run_job(
        "train", ["experiment=e", "--config-dir", "my conf", "task=classification"], lambda *all: got.extend(all) or 0
    )
    assert (got[0].optimizer.lr, got[0].seed, got[0].task.threshold, got[0].task.name) == (
        1e-3,
        5,
        0.4,
        "classification",
    )


def test_what_is_typed_wins_over_task_experiment_and_recipe():
    write("conf/experiment/e.yaml", "# @package _global_\ntask: {threshold: 0.4}\nseed: 5\n")
    write("my.yaml", "experiment: e\nseed: 6\ntask.threshold: 0.3\n")
    assert config_of("my.yaml").task.threshold == 0.3
    assert (config_of("my.yaml", "seed=7").seed, config_of("my.yaml").seed, config_of("experiment=e").seed) == (7, 6, 5)


def test_origin_names_the_file_that_set_a_key():
    write("conf/optimizer/mine.yaml", "# Mine.\ndefaults: [adamw, _self_]\nlr: 2e-5 # as I like it\n")
    origin = composed(["optimizer=mine", "seed=3"]).origin
    assert origin.place("optimizer.lr") == "conf/optimizer/mine.yaml:3"
    assert origin.meaning("optimizer.lr") == "as I like it"
    assert origin.place("optimizer.eps").rpartition("/")[2] == "adamw.yaml:6"
    assert origin.place("seed") == "typed"
    assert origin.place("objective.supervised.weight").rpartition("/")[2] == "supervised.yaml:4"
    assert origin.place("task.threshold").rpartition("/")[2].startswith("sentiment.yaml:")
    assert origin.place("no.such.key") is None


def test_stored_config_is_read_back_equal(tmp_path):
    config = config_of(
        "data.label_names=[负面,'1']", "optimizer.lr=3e-5", "run.name=2024", "train.class_weights={a: 2}"
    )
    write("run/config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain(config))))
    assert load_config("run") == config
    assert load_config(tmp_path / "run" / "config.yaml") == config


def test_stored_config_is_a_recipe_too():
    config = config_of(
        "task=classification", "freeze_policy=bottom_layers", "freeze_policy.layers=1", "objective.supervised.weight=2"
    )
    write("run/config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain(config))))
    assert config_of("run/config.yaml") == config


def test_stored_config_with_an_interpolation_is_refused(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    config = plain(config_of())
    config["run"]["name"] = "${oc.env:HF_TOKEN}"
    write("run/config.yaml", OmegaConf.to_yaml(config))
    with pytest.raises(ConfigError) as caught:
        load_config("run")
    assert "run.name: holds an interpolation" in str(caught.value)
    assert "hf_secret" not in str(caught.value)


def test_stored_config_tells_its_faults_with_lines():
    config = plain(config_of())
    config["train"]["keep"] = 0
    config["zzz"] = 1
    write("run/config.yaml", OmegaConf.to_yaml(config))
    with pytest.raises(ConfigError) as caught:
        load_config("run")
    assert [fault.where for fault in caught.value.faults] == ["zzz", "train.keep"]
    assert "(run/config.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"), [("a: [", "is no YAML: line"), ("- a\n", "holds no config"), (None, "can't be read")]
)
def test_stored_config_that_is_none(content, says):
    if content is not None:
        write("run/config.yaml", content)
    with pytest.raises(ConfigError, match=says):
        load_config("run/config.yaml")


def test_printed_config_hides_secrets(capsys, monkeypatch):
    write("conf/model/mine.yaml", "defaults: [tiny_bert, _self_]\narchitecture: {api_key: abc, pad_token: '[PAD]'}\n")
    assert run_job("train", ["--cfg", "job", "model=mine"], lambda *_: pytest.fail("was started")) == 0
    out = capsys.readouterr().out
    assert "abc" not in out
    assert "pad_token: '[PAD]'" in out


def test_environment_is_read_where_asked(monkeypatch):
    monkeypatch.setenv("MY_DATA", "/data")
    assert config_of("data.train=${oc.env:MY_DATA}/a.csv").data.train == "/data/a.csv"
    assert config_of("run.name=${seed}").run.name == "1"


def test_no_word_of_composing_is_written_to_disk(tmp_path):
    run_job("train", ["seed=2"], lambda *_: 0)
    assert list(tmp_path.iterdir()) == []
