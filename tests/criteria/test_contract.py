"""What every method promises, for each file in configs/method; a new method is tested by being there."""

import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from kdbench.config.compose import Composer
from kdbench.config.values import GUIDANCE
from kdbench.core.errors import ConfigError
from kdbench.core.taps import TapReader, expand_taps
from kdbench.core.targets import resolve_target
from kdbench.core.types import Batch, DataSpec, Mix, Progress
from kdbench.criteria import Criterion, Teachers
from kdbench.models.cifar_resnet import CifarResNet
from kdbench.models.network import Network, find_head
from kdbench.models.plain_cnn import PlainCNN
from kdbench.models.probe import probe

FILES = sorted((Path(__file__).parents[2] / "configs/method").glob("*.yaml"))
NOT_KNOBS = {"guidance", "criteria", "weights", "taps", "phases", "clip"}
COMPOSER = Composer()
LABELS = torch.arange(64) % 5
DATA = DataSpec("fake", 10, (3, 16, 16), (0.5,) * 3, (0.25,) * 3, train_size=64, index_size=len(LABELS), labels=LABELS)
TEACHERS = {
    "homogeneous": [lambda: CifarResNet(8, num_classes=10)],
    "heterogeneous": [lambda: PlainCNN(6, num_classes=10, image_size=(16, 16))],
    "several teachers": [lambda: CifarResNet(14, num_classes=10), lambda: CifarResNet(8, num_classes=10)],
}


class Method(NamedTuple):
    """A method's config, and its criteria as classes, options and versions."""

    yaml: Any
    targets: dict[str, type[Criterion]]
    options: dict[str, dict[str, Any]]
    versions: dict[str, int]

    def taps(self, side: str) -> list[str]:
        """What all criteria read of one side."""
        return [tap for sides in self.yaml["taps"].values() for tap in sides[side]]


def weighed(method) -> set[str]:
    """The terms that count in some phase of the training."""
    return {term for part in (method, *method.get("phases", {}).values()) for term in part["weights"]}


def load(path) -> Method:
    method = COMPOSER.resolve((f"method={path.stem}",), ())["method"]
    options = {name: dict(node) for name, node in method["criteria"].items()}
    targets = {name: resolve_target(node.pop("_target_"), base=Criterion) for name, node in options.items()}
    versions = {name: node.pop("version") for name, node in options.items()}
    return Method(method, targets, options, versions)


METHODS = [pytest.param(path, id=path.stem) for path in FILES]
LOSSES = [pytest.param(path, id=path.stem) for path in FILES if load(path).targets]


def wrapped(body, name):
    return Network(
        body, name=name, num_classes=10, mean=DATA.mean, std=DATA.std, taps=body.taps, heads=[find_head(body, 10)]
    )


class Side:
    """A network with what a criterion is told of it."""

    def __init__(self, network, taps):
        self.network = network
        taps = expand_taps(self.network, taps)
        self.spec = probe(self.network, taps, DATA)
        self.read = TapReader(self.network, taps)


class Rig:
    """A student, its teachers and a method's criteria on one batch: what the distiller does, and no more."""

    def __init__(self, path, pair):
        self.method = load(path)
        torch.manual_seed(0)
        self.student = Side(wrapped(CifarResNet(8, num_classes=10), "student"), self.method.taps("student"))
        self.teachers = [Side(wrapped(build(), "teacher"), self.method.taps("teacher")) for build in TEACHERS[pair]]
        for teacher in self.teachers:
            teacher.network.eval()
        self.batch = Batch(torch.rand(8, 3, 16, 16), LABELS[:8], torch.arange(8))
        self.student = self.grafted()
        self.criteria = self.build()

    def grafted(self):
        student = self.student
        for name, target in self.method.targets.items():
            if target.deploys:
                others = [teacher.spec for teacher in self.teachers]
                student.network.graft(*target(**self.method.options[name]).parts(student.spec, others, DATA))
                student = Side(student.network, self.method.taps("student"))
        return student

    def build(self):
        torch.manual_seed(1)
        criteria = {name: target(**self.method.options[name]) for name, target in self.method.targets.items()}
        for criterion in criteria.values():
            criterion.setup(self.student.spec, [teacher.spec for teacher in self.teachers], DATA)
        return nn.ModuleDict(criteria)

    def terms(self):
        torch.manual_seed(2)  # for criteria that draw
        # The teachers keep their graph, so that only a criterion can hold the gradient back.
        teachers = [teacher.read(self.batch.inputs) for teacher in self.teachers]
        student = self.student.read(self.batch.inputs)
        terms = {}
        for criterion in self.criteria.values():
            own = criterion(student, teachers, self.batch)
            assert not terms.keys() & own.keys()
            terms |= own
        return terms

    def step(self):
        torch.stack(list(self.terms().values())).sum().backward()
        torch.optim.SGD([*self.student.network.parameters(), *self.criteria.parameters()], lr=0.1).step()
        for criterion in self.criteria.values():
            criterion.after_step(Progress(1, 8, 8))  # pyright: ignore[reportCallIssue]

    def answers(self):
        return [teacher.read(self.batch.inputs).logits.detach() for teacher in self.teachers]


@pytest.fixture(params=list(TEACHERS))
def rig(request, path):
    try:
        return Rig(path, request.param)
    except ConfigError as error:
        if request.param == "homogeneous":
            raise
        pytest.skip(f"the method refuses this pair: {error}")


@pytest.mark.parametrize("path", METHODS)
def test_terms_are_finite_float32_scalars_with_the_weighted_names(path, rig):
    terms = rig.terms()
    assert terms.keys() == weighed(rig.method.yaml) - {"task"}
    assert all(term.shape == () and term.dtype == torch.float32 and term.isfinite() for term in terms.values())


@pytest.mark.parametrize("path", LOSSES)
def test_terms_are_finite_float32_scalars_under_bf16_autocast(path, rig):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = rig.terms()
    assert all(term.shape == () and term.dtype == torch.float32 and term.isfinite() for term in terms.values())


@pytest.mark.parametrize("path", LOSSES)
def test_gradient_reaches_the_student_and_every_connector_but_no_teacher(path, rig):
    rig.step()
    assert any(p.grad is not None and p.grad.any() for p in rig.student.network.parameters())
    assert not [name for name, p in rig.criteria.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(p.grad is None for teacher in rig.teachers for p in teacher.network.parameters())


@pytest.mark.parametrize("path", LOSSES)
def test_who_takes_mixed_samples_weighs_both_labels_by_their_shares(path, rig):
    if any(target.one_label for target in rig.method.targets.values()):
        pytest.skip("refuses mixed samples")
    rig.student.network.eval()  # its BatchNorm statistics would move between the forwards
    plain, others = rig.batch, rig.batch.target.flip(0)
    of_own, of_others = [], []
    for target, share, found in ((plain.target, 1.0, of_own), (others, 0.0, of_others)):
        for batch in (
            plain._replace(target=target),
            plain._replace(mix=Mix(others, torch.full((len(others),), share))),
        ):
            rig.batch = batch
            rig.criteria = rig.build()
            found.append(rig.terms())
    torch.testing.assert_close(*of_own)
    torch.testing.assert_close(*of_others)


@pytest.mark.parametrize("path", LOSSES)
def test_teachers_answer_the_same_before_and_after_a_step(path, rig):
    before = rig.answers()
    rig.step()
    torch.testing.assert_close(rig.answers(), before, rtol=0, atol=0)


@pytest.mark.parametrize("path", LOSSES)
def test_state_round_trips_into_a_criterion_made_anew(path, rig):
    rig.step()
    rig.student.network.eval()  # its BatchNorm statistics would move between the two forwards
    state = {name: value.clone() for name, value in rig.criteria.state_dict().items()}
    expected = rig.terms()
    rig.criteria = rig.build()
    rig.criteria.load_state_dict(state)
    torch.testing.assert_close(rig.terms(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("path", LOSSES)
def test_criterion_names_its_source_and_how_many_teachers_it_takes(path):
    for target in load(path).targets.values():
        assert "Source:" in inspect.cleandoc(target.__doc__ or "")
        assert isinstance(target.teachers, Teachers)


@pytest.mark.parametrize("path", LOSSES)
def test_yaml_and_criteria_agree_on_what_is_a_reconstruction(path):
    documents = [inspect.getdoc(target) or "" for target in load(path).targets.values()]
    assert path.read_text().startswith("# RECONSTRUCTION: ") == any("A reconstruction" in text for text in documents)


@pytest.mark.parametrize("path", METHODS)
def test_yaml_opens_with_its_description_and_stays_short(path):
    lines = path.read_text().splitlines()
    assert re.match(r"# [A-Z]", lines[0])
    assert len(lines) <= 25


@pytest.mark.parametrize("path", METHODS)
def test_yaml_has_the_common_keys_and_weighs_what_its_criteria_return(path):
    method = load(path).yaml
    assert method.keys() >= {"guidance", "criteria", "weights", "taps"}
    assert method["guidance"] in GUIDANCE
    assert method["taps"].keys() <= method["criteria"].keys()
    assert all(sides.keys() == {"student", "teacher"} for sides in method["taps"].values())
    assert weighed(method) == {"task"}.union(*(target.terms for target in load(path).targets.values()))


@pytest.mark.parametrize("path", METHODS)
def test_every_knob_of_the_yaml_reaches_a_criterion(path):
    raw = COMPOSER.compose((f"method={path.stem}",))
    used = set(re.findall(r"\$\{method\.(\w+)\}", OmegaConf.to_yaml(raw.method.criteria)))
    assert load(path).yaml.keys() - NOT_KNOBS == used


@pytest.mark.parametrize("path", METHODS)
def test_yaml_versions_are_those_of_the_criteria(path):
    method = load(path)
    assert method.versions == {name: target.version for name, target in method.targets.items()}


@pytest.mark.parametrize("path", LOSSES)
def test_yaml_gives_every_option_and_a_paper_s_own_file_gives_the_defaults(path):
    method = load(path)
    for name, target in method.targets.items():
        options = method.options[name]
        defaults = {key: p.default for key, p in inspect.signature(target).parameters.items()}
        assert options.keys() == defaults.keys()
        if target.__module__.rpartition(".")[2] == path.stem:  # others are variants, made to differ
            assert {
                key: tuple(value) if isinstance(value, list) else value for key, value in options.items()
            } == defaults
