"""With every objective: stopped after 3 of 6 steps and gone on with is the run that was not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmtune.config.locate import conf_dir, option_files
from llmtune.core.errors import Stopped
from llmtune.preflight import Prepared
from llmtune.run.checkpoint import CheckpointStore
from tests.parity.test_resume_optimizers import files_of, stop_after
from tests.tiny import TINY, choice_of, prepared_of, trainer_of, write_rows

OBJECTIVES = option_files("objective", [conf_dir()])
OTHERS = {
    "adversarial, all at once": "objective=[supervised,fgm,pgd,freelb,smart,r_drop]",
    "weights that change": "objective=[supervised,fgm,mixup] objective.fgm.weight=0:0,0.5:1",
    "mixed anywhere": "objective=[supervised,mixup] objective.mixup.layer=random",
    "near the start, unfreezing": "objective=[supervised,l2_sp,ewc,mixout] freeze_policy=gradual freeze_policy.every=1",
    "neftune beside an adapter": "objective=[neftune] adapter=lora",
    "fgm before a prompt": "objective=[supervised,fgm] adapter=prompt",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_rows(tmp_path_factory.mktemp("rows"), rows=24)


def prepared_with(rows: list[str], words: list[str]) -> Prepared:
    return prepared_of(
        *TINY, *rows, "train.batch_rows=8", "train.micro_rows=4", "train.max_steps=6", "train.eval_every=2",
        "train.save_every=null", "model.dropout=0.1", *words,
    )  # fmt: skip


def stopped_equals_unstopped(prepared: Prepared, folder: Path) -> None:
    trainer_of(prepared, folder / "unstopped").fit()
    stopped = trainer_of(prepared, folder / "stopped")
    stop_after(stopped, 3)
    with pytest.raises(Stopped):
        stopped.fit()
    torch.manual_seed(5)
    again = trainer_of(prepared, folder / "stopped")
    checkpoint = CheckpointStore(folder / "stopped" / "checkpoints", keep=1).newest_good(print)
    assert checkpoint is not None
    assert checkpoint.step == 3
    again.resume(checkpoint)
    again.fit()
    found = files_of(folder / "stopped")
    assert found == files_of(folder / "unstopped")
    assert len(found) >= 3


@pytest.mark.parametrize("option", OBJECTIVES)
def test_every_objective_resumes_exactly(option: str, rows: list[str], tmp_path: Path) -> None:
    chosen = choice_of("objective", option)
    if option != "supervised" and "supervised" not in chosen[0]:
        chosen[0] = chosen[0].replace("=[", "=[supervised,")
    stopped_equals_unstopped(prepared_with(rows, chosen), tmp_path)


@pytest.mark.parametrize("words", OTHERS.values(), ids=OTHERS)
def test_objectives_together_resume_exactly(words: str, rows: list[str], tmp_path: Path) -> None:
    stopped_equals_unstopped(prepared_with(rows, words.replace("'", "").split()), tmp_path)
