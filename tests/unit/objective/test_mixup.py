"""mixup: states and labels are mixed in pairs that do not depend on how rows are cut into batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from llmtune.core.errors import ConfigError
from llmtune.model.trunk import Trunk
from llmtune.objective.mixup import LAYER, PARTNER, SHARE
from tests.unit.objective.small import (
    LENGTHS,
    PROBLEMS,
    assert_same_gradients,
    batch_of,
    gradients_of,
    network_of,
    parts_of,
    settings_of,
    task_of,
)


def rows_of(problem: str) -> Dataset:
    batch = batch_of(problem)
    ids = batch.views["clean"]["input_ids"]
    label: list[Any] = batch.targets["label"].tolist()
    if problem == "multi_label":
        label = [[number for number, one in enumerate(row) if one] for row in label]
    return Dataset.from_dict({
        "input_ids": [ids[row, :length].tolist() for row, length in enumerate(LENGTHS)], "length": list(LENGTHS),
        "target": label,
    })  # fmt: skip


def made(family: str, problem: str = "single_label", **changed: Any) -> tuple[Any, Any, Any, Any]:
    network, task = network_of(family, problem), task_of(problem)
    if problem == "multi_label":
        task.labels = SimpleNamespace(names=["a", "b", "c"])
    splits = {"train": rows_of(problem)}
    parts = parts_of(network, task, splits=splits, token_table=SimpleNamespace(pad_token_id=0))
    return settings_of("mixup", **changed).build(parts), Trunk(network), task, network


def prepared(part: Any, problem: str = "single_label", rows: slice = slice(None)) -> Any:
    batch = batch_of(problem, rows)
    part.prepare(batch)
    return batch


@pytest.mark.parametrize("problem", PROBLEMS)
def test_words_and_labels_are_mixed_as_in_plain_torch(problem: str) -> None:
    part, trunk, task, network = made("bert", problem, alpha=1.0)
    batch = prepared(part, problem)
    expected, count = torch.zeros(()), 0.0
    for row, share in enumerate(batch.targets[SHARE].tolist()):
        ids = batch.views["clean"]["input_ids"][row, : LENGTHS[row]]
        other = batch.views[PARTNER]["input_ids"][row]
        other = other[other != 0]
        assert len(other) <= LENGTHS[row]
        words = network.get_input_embeddings()(ids)
        mixed = torch.cat([share * words[: len(other)] + (1 - share) * network.get_input_embeddings()(other),
                           words[len(other) :]])  # fmt: skip
        logits = network(inputs_embeds=mixed[None]).logits
        for key, part_of in (("label", share), (f"{PARTNER} label", 1 - share)):
            loss = task.loss(logits, {"label": batch.targets[key][row : row + 1]})
            expected, count = expected + part_of * loss.total, count + part_of * loss.count.item()
    found = part.loss(trunk, batch)
    assert found.count.item() == pytest.approx(count)
    assert part.count(batch) == pytest.approx(count)
    torch.testing.assert_close(found.total, expected, rtol=1e-4, atol=1e-4)
    close = {"rtol": 1e-3, "atol": 1e-4}
    assert_same_gradients(gradients_of(network, found.total), gradients_of(network, expected), **close)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("layer", ["embeddings", "random", 1, 2])
def test_sums_do_not_depend_on_how_rows_are_split(layer: int | str, family: str) -> None:
    part, trunk, _, _ = made(family, layer=layer)
    whole, *split = (part.loss(trunk, prepared(part, rows=rows)) for rows in (slice(None), slice(0, 2), slice(2, 6)))
    assert whole.total.item() == pytest.approx(sum(loss.total.item() for loss in split), rel=1e-4)
    assert whole.count.item() == pytest.approx(6)


def test_after_the_last_layer_of_a_decoder_the_last_tokens_are_mixed() -> None:
    part, trunk, _, network = made("gpt2", layer=2)
    with torch.no_grad():  # a norm between the last layer and the head would not let shares through
        network.transformer.ln_f = torch.nn.Identity()
    batch = prepared(part)
    share = batch.targets[SHARE][:, None]
    alone = [network(**batch.views[view]).logits for view in ("clean", PARTNER)]
    from llmtune.objective.pairs import mixed_logits

    found = mixed_logits(trunk, network, batch, PARTNER, batch.targets[SHARE], batch.targets[LAYER])
    torch.testing.assert_close(found, share * alone[0] + (1 - share) * alone[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, alone[0], atol=1e-2)


def test_the_layer_is_drawn_for_each_pair() -> None:
    part, *_ = made("bert", layer="random")
    batch = batch_of()
    batch.row_ids, batch.row_seeds = [0] * 60, list(range(60))
    part.prepare(batch)
    assert set(batch.targets[LAYER].tolist()) == {0, 1, 2}


def prospect_of(**train: Any) -> Any:
    prospect = parts_of(network_of("bert"), task_of())
    prospect.model_config = prospect.network.config
    prospect.config.model.name = "x"
    prospect.config.task = SimpleNamespace(name="y")
    prospect.config.train = SimpleNamespace(**{"gradient_checkpointing": False, **train})
    prospect.splits = {"train": SimpleNamespace(column_names=["input_ids", "length"])}
    return prospect


def test_what_can_not_be_mixed_is_refused() -> None:
    settings_of("mixup").check(prospect_of(gradient_checkpointing=True))
    settings_of("mixup", layer="random").check(prospect_of())
    with pytest.raises(ConfigError, match=r"layer: 3, but the model has 2 layers"):
        settings_of("mixup", layer=3).check(prospect_of())
    with pytest.raises(ConfigError, match=r"computed again, unmixed.*type objective.mixup.layer=embeddings"):
        settings_of("mixup", layer=1).check(prospect_of(gradient_checkpointing=True))
    prospect = prospect_of()
    prospect.model_config = SimpleNamespace(is_encoder_decoder=True)
    with pytest.raises(ConfigError, match="is an encoder-decoder"):
        settings_of("mixup").check(prospect)
    spread = prospect_of()
    spread.layers = SimpleNamespace(num_layers=3)
    with pytest.raises(ConfigError, match="what leaves a layer of bert models is not one module's"):
        settings_of("mixup", layer="random").check(spread)
    settings_of("mixup").check(spread)
    with pytest.raises(ValueError, match="layer: 'top' is not known"):
        settings_of("mixup", layer="top")
