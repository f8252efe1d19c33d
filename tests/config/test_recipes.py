from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.config.recipes import Chain, ChainBuilder
from kdbench.core.errors import ConfigError
from kdbench.core.recipe import topological
from kdbench.runner import check_all
from kdbench.store import Store
from tests.toy import recipes, settings

COMPOSER = Composer()


def chains(*overrides: str, multirun: bool = False, classes: Any = None, store: Path = Path("nowhere")) -> list[Chain]:
    builder = ChainBuilder(Store(store), lambda *_: classes)
    return [builder.build(job) for job in make_jobs(COMPOSER, overrides, multirun=multirun)]


def chain(*overrides: str, **options: Any) -> Chain:
    (made,) = chains(*overrides, **options)
    return made


def names(made: Chain) -> list[str]:
    return [link.recipe.chain() for link in made.links]


def test_a_chain_is_a_recipe_whose_teacher_is_a_recipe() -> None:
    made = chain()
    assert names(made) == ["plain6", "plain6 -> plain4", "plain6 -> plain4 -> plain2"]
    assert made.links[0].recipe.method is None
    assert made.links[2].recipe.teachers == (made.links[1].recipe,)


def test_arms_share_what_they_have_in_common() -> None:
    made = chains("assistants=[],[plain4],[plain8,plain4]", "dataset=fashion_mnist", "teacher=plain10", multirun=True)
    unique = list(topological(link.recipe for arm in made for link in arm.links))
    assert [recipe.chain() for recipe in unique] == [
        "plain10",
        "plain10 -> plain2",
        "plain10 -> plain4",
        "plain10 -> plain4 -> plain2",
        "plain10 -> plain8",
        "plain10 -> plain8 -> plain4",
        "plain10 -> plain8 -> plain4 -> plain2",
    ]


@pytest.mark.parametrize(
    "override",
    ["paths.data=elsewhere", "trainer.threads=1", "trainer.accelerator=cpu", "trainer.checkpoint_every=1", "logger=csv",
     "trainer.eval_batch_size=7", "dataset.root=somewhere", "sweep.workers=2"],
)  # fmt: skip
def test_what_changes_no_weight_changes_no_digest(override: str) -> None:
    assert chain(override).links[-1].recipe.digest == chain().links[-1].recipe.digest


@pytest.mark.parametrize(
    "override",
    ["method.temperature=5", "optim.lr=0.2", "seed=1", "trainer.batch_size=64", "trainer.precision=bf16-mixed",
     "trainer.layout=contiguous", "dataset.augment=crop_flip", "trainer.ema=0.9", "select_on=val", "protocol=paper",
     "student.widths=[4,8]", "dataset.split_seed=1"],
)  # fmt: skip
def test_what_changes_weights_changes_the_digest(override: str) -> None:
    assert chain(override).links[-1].recipe.digest != chain().links[-1].recipe.digest


def test_one_and_one_point_zero_are_one_for_a_float() -> None:
    one, other = chain("method.temperature=2"), chain("method.temperature=2.0")
    assert one.links[-1].recipe.digest == other.links[-1].recipe.digest


def test_the_method_does_not_touch_the_teacher() -> None:
    assert chain("method.temperature=5").links[0].recipe.digest == chain().links[0].recipe.digest


def test_the_seed_drives_all_and_a_teachers_own_seed_fixes_it() -> None:
    one, two = chains("teacher.seed=0", "seed=1,2", multirun=True)
    assert [link.recipe.seed for link in one.links] == [0, 1, 1]
    assert one.links[0].recipe == two.links[0].recipe
    assert one.links[1].recipe != two.links[1].recipe


def test_a_hop_changes_its_network_and_those_below() -> None:
    plain, hop = chain(), chain("hops.plain4.method.temperature=2")
    same = [a.recipe == b.recipe for a, b in zip(plain.links, hop.links, strict=True)]
    assert same == [True, False, False]
    method = hop.links[2].recipe.method
    assert method is not None
    assert method["criteria"]["kd"]["temperature"] == 4.0


def test_no_teacher_is_from_scratch_whatever_the_method() -> None:
    made = chain("teacher=none", "method.temperature=9")
    assert [link.role for link in made.links] == ["student"]
    assert made.links[0].recipe.method is None
    assert made.links[0].recipe == chain("teacher=none", "method=none").links[0].recipe
    assert "labels alone, without the method" in made.notes[0]


def test_a_method_without_teachers_trains_none() -> None:
    made = chain("method=label_smoothing")
    assert names(made) == ["plain2"]
    assert "not trained" in made.notes[0]
    assert made.links[0].recipe == chain("method=label_smoothing", "teacher=none").links[0].recipe


def test_dense_guidance_has_every_network_above_as_a_teacher() -> None:
    made = chain("method=dense_guidance")
    assert [teacher.name for teacher in made.links[2].recipe.teachers] == ["plain6", "plain4"]
    assert [teacher.name for teacher in made.links[1].recipe.teachers] == ["plain6"]


def test_an_ensemble_is_teachers_of_consecutive_seeds() -> None:
    made = chain("teacher.ensemble=3", "assistants=[]", "seed=5")
    assert [teacher.seed for teacher in made.links[-1].recipe.teachers] == [5, 6, 7]
    assert [link.role for link in made.links] == ["teacher"] * 3 + ["student"]


def test_generations_are_nested_in_each_other() -> None:
    made = chain("teacher=none", "generations=3")
    assert names(made) == ["plain2", "plain2 -> plain2", "plain2 -> plain2 -> plain2"]
    assert made.links[0].recipe.method is None
    assert made.links[1].recipe.method is not None


def test_protocols_decide_split_and_selection() -> None:
    clean, paper = chain().links[-1].recipe, chain("protocol=paper").links[-1].recipe
    assert (clean.data["val_fraction"], clean.select_on) == (0.1, "last")
    assert (paper.data["val_fraction"], paper.select_on) == (0.0, "test")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["select_on=test"], "needs protocol=paper"),
        (["protocol=paper", "select_on=val"], "holds out no validation"),
        (["select_on=best"], "select_on=best: unknown"),
        (["method.guidance=dens"], "did you mean 'dense'"),
        (["teacher.train=half"], "unknown"),
        (["student.train=none"], "random weights"),
        (["trainer.max_epochs=0"], "at least 1"),
        (["trainer.limit_train_batches=0"], "at least 1"),
        (["trainer.devices=0"], r"trainer.devices=0: must be at least 1"),
        (["trainer.loader_workers=-1"], "at least 0"),
        (["trainer.ema=2"], "between 0 and 1"),
        (["trainer.clip=-1"], "trainer.clip=-1.0: a norm greater than 0"),
        (["method=ckd", "method.clip=0"], "method.clip=0.0: a norm greater than 0"),
        (["trainer.precision=half"], "trainer.precision=half: unknown"),
        (["trainer.teacher_precision=bf16-mix"], "did you mean 'bf16-mixed'"),
        (["generations=0"], "at least 1"),
        (["teacher.ensemble=0"], "at least 1"),
        (["teacher=none", "assistants=[plain4]"], "has no teacher"),
        (["teacher.checkpoint=/nowhere/x.pt"], "no such file"),
        (["teacher=store/abcdef12"], "no such network"),
    ],
)
def test_one_line_names_the_fix(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chain(*overrides)


def test_a_teacher_with_fitting_weights_is_used_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({}, file)
    used = chain(f"teacher.checkpoint={file}", classes=10).links[0].recipe
    assert used.network["train"] == "none"
    assert used.epochs == 0
    assert used.optim is None
    trained = chain(f"teacher.checkpoint={file}", classes=100).links[0].recipe
    assert trained.network["train"] == "full"
    assert trained.epochs == 30


def test_a_used_teacher_does_not_depend_on_how_others_are_trained(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({}, file)
    given = (f"teacher.checkpoint={file}", "teacher.train=none")
    one = chain(*given).links[0].recipe
    other = chain(*given, "seed=3", "trainer.max_epochs=5", "optim.lr=1", "select_on=val").links[0].recipe
    assert one == other


def test_a_checkpoint_is_known_by_its_content_not_its_name(tmp_path: Path) -> None:
    for name, content in (("a.pt", 1), ("b.pt", 1), ("c.pt", 2)):
        (tmp_path / name).write_bytes(bytes([content]))
    a, b, c = (chain(f"student.checkpoint={tmp_path / name}.pt").links[-1].recipe for name in "abc")
    assert a == b
    assert a != c


def test_a_teacher_of_other_classes_is_never_used_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({}, file)
    with pytest.raises(ConfigError, match="its new head must be trained"):
        chain(f"teacher.checkpoint={file}", "teacher.train=none", classes=7)
    with pytest.raises(ConfigError, match="random weights"):
        chain("student.train=head")


def test_an_ensemble_of_one_and_the_same_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({}, file)
    with pytest.raises(ConfigError, match="would be the same"):
        chain(f"teacher.checkpoint={file}", "teacher.ensemble=3", classes=10)


@pytest.mark.parametrize(
    "override",
    ["select_on=test", "trainer.max_epochs=0", "method.guidance=bogus", "seed=-1", "optim.lr=0"],
)
def test_a_hop_obeys_the_same_rules(override: str) -> None:
    with pytest.raises(ConfigError):
        chain(f"hops.plain4.{override}")


@pytest.mark.parametrize("name", ["plain6", "teacher", "plain4", "plain2", "student"])
@pytest.mark.parametrize("key", ["seed=5", "optim.lr=0.07", "trainer.max_epochs=3"])
def test_a_hop_changes_the_network_it_names(name: str, key: str) -> None:
    index = {"plain6": 0, "teacher": 0, "plain4": 1, "plain2": 2, "student": 2}[name]
    before, after = chain().links, chain(f"hops.{name}.{key}").links
    changed = [old.recipe != new.recipe for old, new in zip(before, after, strict=True)]
    assert changed == [number >= index for number in range(3)]


def test_role_and_name_of_a_network_add_up() -> None:
    made = chain("hops.teacher.optim.lr=0.01", "hops.plain6.trainer.max_epochs=3").links[0].recipe
    assert made.optim is not None
    assert (made.optim["lr"], made.epochs) == (0.01, 3)


def test_generations_start_from_different_weights() -> None:
    seeds = [link.recipe.seed for link in chain("teacher=none", "generations=3", "seed=4").links]
    assert seeds == [4, 10_004, 20_004]


def test_networks_that_teach_nobody_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({}, file)
    made = chain(
        "assistants=[plain4]", f"assistants.plain4.checkpoint={file}", "assistants.plain4.train=none", classes=10
    )
    assert names(made) == ["plain4", "plain4 -> plain2"]
    assert "plain6" in made.notes[0]


def test_a_peer_is_the_network_above_untrained_from_weights_of_its_own() -> None:
    trained, learning = chain("method=kd"), chain("method=dml")
    peer, student = (link.recipe for link in learning.links[-2:])
    assert student.teachers == (peer,)
    assert (peer.epochs, peer.optim, peer.method, peer.network["train"]) == (0, None, None, "random")
    assert peer.seed != student.seed
    assert trained.links[-2].recipe not in topological([student])
    assert any("learns together" in note for note in learning.notes)
    assert chain("method=dml", "trainer.max_epochs=3").links[-2].recipe == peer


def test_a_teacher_that_is_used_as_it_is_is_its_own_peer() -> None:
    peer, student = (link.recipe for link in chain("method=dml", "assistants=[]", "teacher.train=random").links)
    assert student.teachers == (peer,)
    assert peer.seed == student.seed


def test_equal_networks_of_one_seed_cannot_learn_together(outputs: Path) -> None:
    def problems(*overrides: str) -> list[str]:
        equal = ("teacher=plain2", "student=plain2", "method=dml")
        return check_all(recipes(*equal, *overrides, outputs=outputs), settings(outputs))[0]

    assert problems("teacher.train=random")[0].endswith("use another teacher.seed")
    assert problems("teacher.train=random", "teacher.seed=1") == problems() == []


def test_published_weights_are_part_of_the_identity() -> None:
    def digest(identity: str | None) -> str:
        builder = ChainBuilder(Store(Path("nowhere")), lambda *_: 1000, lambda _: identity)
        (job,) = make_jobs(COMPOSER, ["teacher=timm/resnet18", "teacher.pretrained=true"])
        recipe = builder.build(job).links[0].recipe
        assert recipe.network["init"] == (identity and {"published": identity})
        assert recipe.network["train"] == "full", "other classes than the data"
        return recipe.digest

    assert len({digest("timm/resnet18.a1_in1k"), digest("timm/resnet18.b"), digest(None)}) == 3


def test_a_method_may_ask_for_a_clip_that_the_trainer_overrules() -> None:
    def clips(*typed: str) -> list[float | None]:
        return [link.recipe.budget["clip"] for link in chain("method=ckd", *typed).links]

    assert clips() == [None, 5.0, 5.0]  # only who is taught by it
    assert clips("trainer.clip=2.0") == [2.0, 2.0, 2.0]
    assert clips("method.clip=null") == [None, None, None]
