import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR

from kdbench.core.errors import ConfigError
from kdbench.core.targets import resolve_target
from kdbench.optim import lr_factor, make_optimizer, make_scheduler, schedule_notes

FILES = sorted((Path(__file__).parents[1] / "configs/optim").glob("*.yaml"))
CASES = [pytest.param(path, id=path.stem) for path in FILES]
# Ways to run an optimiser that change speed, not its meaning, and signs that a study never turns.
NOT_IN_YAML = {"params", "maximize", "foreach", "fused", "capturable", "differentiable"}
ONE_CYCLE = {"kind": "one_cycle", "warmup": 0.3, "start": 0.04, "end": 0.04 / 1e4}
STEPS = {"kind": "steps", "milestones": [150, 180, 210], "gamma": 0.1}
COSINE = {"kind": "cosine", "warmup_epochs": 5, "end": 0.0}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.1, "version": 1, "schedule": {"kind": "constant"}}


def load(path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(path), resolve=True)


def parameters():
    return nn.Linear(2, 2).parameters()


def rates(scheduler, count):
    """The learning rate at each of the first `count` steps."""
    values = []
    for _ in range(count):
        values.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize("path", CASES)
def test_yaml_makes_its_optimiser_with_every_option_of_it(path):
    config = load(path)
    options = config.keys() - {"_target_", "schedule", "version"}
    signature = inspect.signature(resolve_target(config["_target_"], base=Optimizer))
    assert options == set(signature.parameters) - NOT_IN_YAML
    optimizer = make_optimizer(config, parameters())
    for key in options:
        assert optimizer.defaults[key] == pytest.approx(config[key])
    assert path.read_text().startswith("# ")
    assert config["version"] == 1


@pytest.mark.parametrize("path", CASES)
def test_yaml_s_schedule_gives_positive_factors_up_to_one(path):
    schedule = load(path)["schedule"]
    factors = [lr_factor(schedule, step, 600, 10) for step in range(600)]
    assert min(factors) > 0
    assert max(factors) == pytest.approx(1.0)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 10, 100, 333])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.9])
def test_one_cycle_equals_pytorch_s(total, warmup):
    torch_s = OneCycleLR(
        torch.optim.SGD(parameters(), lr=9.0),
        max_lr=0.1,
        total_steps=total + 1,  # theirs refuses to be stepped after the last step
        pct_start=warmup,
        anneal_strategy="linear",
        cycle_momentum=False,
    )
    schedule = ONE_CYCLE | {"warmup": warmup}
    ours = make_scheduler(make_optimizer(SGD, parameters()), schedule, total_steps=total + 1, steps_per_epoch=1)
    assert rates(ours, total) == pytest.approx(rates(torch_s, total), rel=1e-9)


def test_one_cycle_ends_at_its_end_and_stays_there():
    factors = [lr_factor(ONE_CYCLE, step, 100, 10) for step in (0, 29, 99, 100)]
    assert factors == pytest.approx([0.04, 1.0, 4e-6, 4e-6])


def test_steps_equal_pytorch_s_multi_step():
    torch_s = MultiStepLR(torch.optim.SGD(parameters(), lr=0.1), [4 * m for m in (150, 180, 210)], gamma=0.1)
    ours = make_scheduler(make_optimizer(SGD, parameters()), STEPS, total_steps=960, steps_per_epoch=4)
    assert rates(ours, 960) == pytest.approx(rates(torch_s, 960), rel=1e-9)


def test_steps_reach_a_milestone_between_two_epochs():
    schedule = {"kind": "steps", "milestones": [1.5], "gamma": 0.1}
    assert [lr_factor(schedule, step, 8, 2) for step in range(4)] == pytest.approx([1, 1, 1, 0.1])


def test_cosine_warms_up_then_falls_to_its_end():
    factors = [lr_factor(COSINE, step, 150, 1) for step in range(151)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert factors[5:] == pytest.approx([(1 + math.cos(math.pi * k / 145)) / 2 for k in range(146)])
    assert lr_factor(COSINE | {"end": 0.1}, 150, 150, 1) == pytest.approx(0.1)


def test_cosine_without_warm_up_starts_at_one():
    assert lr_factor(COSINE | {"warmup_epochs": 0}, 0, 10, 1) == 1.0


def test_cosine_shorter_than_its_warm_up_only_warms_up():
    assert [lr_factor(COSINE, step, 2, 1) for step in range(3)] == pytest.approx([0.2, 0.4, 0.6])


def test_scheduler_starts_with_the_factor_of_step_0_and_resumes_from_its_state():
    def make():
        return make_scheduler(make_optimizer(SGD, parameters()), COSINE, total_steps=40, steps_per_epoch=2)

    whole = rates(make(), 20)
    broken = make()
    assert rates(broken, 8) == whole[:8]
    resumed = make()
    resumed.optimizer.load_state_dict(broken.optimizer.state_dict())
    resumed.load_state_dict(broken.state_dict())
    assert rates(resumed, 12) == whole[8:]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"kind": "one_cycel"}, "optim.schedule.kind='one_cycel': unknown; did you mean 'one_cycle'"),
        ({}, "optim.schedule.kind='': unknown; there is: constant, cosine, one_cycle, steps"),
        (STEPS | {"gama": 1}, "optim.schedule: 'gama' is no argument of steps; did you mean 'gamma'"),
        ({"kind": "steps", "gamma": 0.1}, "optim.schedule: steps: missing a required argument: 'milestones'"),
        (ONE_CYCLE | {"warmup": 30}, r"optim.schedule.warmup=30: a fraction of the training in \[0, 1\)"),
    ],
)
def test_a_wrong_schedule_is_refused_before_the_first_step(schedule, message):
    with pytest.raises(ConfigError, match=message):
        make_scheduler(make_optimizer(SGD, parameters()), schedule, total_steps=10, steps_per_epoch=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_target_": "torch.optim.SDG"}, "_target_=torch.optim.SDG"),
        ({"_target_": "torch.nn.Linear"}, "_target_=torch.nn.Linear: not a Optimizer class"),
        ({"momentun": 0.9}, "optim: 'momentun' is no argument of SGD; did you mean 'momentum'"),
        ({"lr": -1}, "optim: torch.optim.SGD refuses its options: Invalid learning rate"),
        ({"lr": "fast"}, "optim: torch.optim.SGD refuses its options"),
        ({"nesterov": True}, "Nesterov momentum requires a momentum"),
    ],
)
def test_a_wrong_optimiser_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        make_optimizer(SGD | change, parameters())


def test_an_optimiser_of_the_user_s_own_may_take_any_option(tmp_path, monkeypatch):
    (tmp_path / "own_optim.py").write_text(
        "from torch.optim import SGD\n\nclass Own(SGD):\n"
        "    def __init__(self, params, lr, **rest):\n        super().__init__(params, lr, **rest)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = SGD | {"_target_": "own_optim.Own", "momentum": 0.5}
    assert make_optimizer(config, parameters(), trusted=["own_optim"]).defaults["momentum"] == 0.5
    with pytest.raises(ConfigError, match="not trusted"):
        make_optimizer(config, parameters())


def test_notes_name_what_the_training_ends_before():
    assert schedule_notes(STEPS, 240) == []
    assert schedule_notes(STEPS, 180) == [
        "optim.schedule.milestones: the training ends with epoch 180, before 180, 210",
    ]
    assert schedule_notes(COSINE, 6) == []
    assert len(schedule_notes(COSINE, 5)) == 1
    assert schedule_notes(ONE_CYCLE, 1) == []
