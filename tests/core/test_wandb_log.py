"""Weights & Biases: what is sent, without its servers; and wandb's own offline mode."""

from __future__ import annotations

import sys
import types

import pytest

from dexjax.core.errors import MissingExtraError
from dexjax.core.wandb_log import WandbLog


class Recorder(types.ModuleType):
    """Stands in for wandb: remembers what it is given."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.logged, self.finished, self.axes = [], [], 0, []

    def init(self, **settings):
        self.started.append(settings)
        return self

    def define_metric(self, name, step_metric=None):
        self.axes.append((name, step_metric))

    def log(self, row):
        self.logged.append(row)

    def finish(self):
        self.finished += 1


def test_finite_scalars_over_environment_steps(tmp_path, monkeypatch):
    wandb = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    log = WandbLog("grasping", tmp_path, {"train": {"seed": 1}})
    log.append(512, {"loss/kl": 0.01, "time/eta_seconds": float("nan")})
    log.close()
    assert wandb.started[0]["project"] == "grasping"
    assert wandb.started[0]["config"] == {"train": {"seed": 1}}
    assert wandb.logged == [{"env_steps": 512, "loss/kl": 0.01}]
    assert ("*", "env_steps") in wandb.axes and wandb.finished == 1
    # A resumed run goes on in the same place; another folder is another run.
    WandbLog("grasping", tmp_path, {})
    (tmp_path / "other").mkdir()
    WandbLog("grasping", tmp_path / "other", {})
    ids = [s["id"] for s in wandb.started]
    assert ids[0] == ids[1] != ids[2]
    assert all(s["resume"] == "allow" for s in wandb.started)


def test_without_wandb_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"dexjax\[wandb\].*metrics.jsonl"):
        WandbLog("grasping", tmp_path, {})


def test_real_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install 'dexjax[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log = WandbLog("grasping", tmp_path, {"seed": 1})
    log.append(512, {"loss/kl": 0.01})
    log.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
