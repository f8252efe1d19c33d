from pathlib import Path

import pytest

from kdbench.config.compose import Composer, Setting
from kdbench.config.jobs import Job, make_jobs
from kdbench.config.recipes import ChainBuilder
from kdbench.config.source import config_root
from kdbench.config.studies import Study, chains
from kdbench.core.errors import ConfigError
from kdbench.core.recipe import topological
from kdbench.store import Store

COMPOSER = Composer()
SIZES = ["l", "m", "s", "xs"]
STUDIES = sorted(file.stem for file in (config_root() / "study").glob("[!_]*.yaml") if file.stem != "none")

FEWER = {"cifar100_pairs": ["study.pairs=[resnet110_resnet20,resnet32x4_resnet8x4]"]}  # which have all arms


def jobs(*overrides: str) -> list[Job]:
    return make_jobs(COMPOSER, overrides, multirun=True)


def trainings(found: list[Job]) -> int:
    builder = ChainBuilder(Store(Path("nowhere")), lambda *_: None)
    return len(list(topological(builder.build(job).links[-1].recipe for job in found)))


def test_all_paths_are_every_decreasing_list_from_the_largest() -> None:
    found = chains(SIZES, {"from": "first", "through": "any", "to": "each"})
    assert len(found) == len(set(found)) == 2**3 - 1
    assert {chain for chain in found if chain[-1] == "xs"} == {
        ("l", "xs"), ("l", "m", "xs"), ("l", "s", "xs"), ("l", "m", "s", "xs"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        ({}, [("l", "xs")]),
        ({"from": "none", "to": "each"}, [("m",), ("s",), ("xs",)]),
        ({"from": "none", "to": "all"}, [("l",), ("m",), ("s",), ("xs",)]),
        ({"from": "each"}, [("l", "xs"), ("m", "xs"), ("s", "xs")]),
        ({"through": "one"}, [("l", "m", "xs"), ("l", "s", "xs")]),
        ({"through": ["m", "s"], "to": ["s", "xs"]}, [("l", "m", "s", "xs")]),
        ({"from": "s", "to": "m"}, []),
    ],
)
def test_the_words_of_a_chain(ends: dict[str, object], found: list[tuple[str, ...]]) -> None:
    assert chains(SIZES, ends) == found


@pytest.mark.parametrize(
    ("ends", "words"),
    [({"from": "frist"}, "did you mean 'first'"), ({"to": "xxs"}, "did you mean 'xs'"), ({"thru": "one"}, "through"),
     ({"through": "oen"}, "did you mean 'one'")],
)  # fmt: skip
def test_a_wrong_word_is_named(ends: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chains(SIZES, ends)


def test_all_paths_of_the_plain_family_are_twenty_trainings() -> None:
    found = jobs("study=takd_paths", "study.size=smoke", "seed=1")
    assert len(found) == 19
    assert trainings(found) == 20


def test_a_study_has_its_own_seeds_unless_some_are_typed() -> None:
    assert {job.config["seed"] for job in jobs("study=takd_ta_size")} == {1, 2, 3}
    assert {job.config["seed"] for job in jobs("study=takd_ta_size", "seed=4,5")} == {4, 5}


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("protocol", ["clean", "paper", "released"])
def test_every_study_expands_under_every_protocol(name: str, protocol: str) -> None:
    found = jobs(f"study={name}", f"protocol={protocol}", "seed=1", *FEWER.get(name, []))
    assert {job.config["protocol"]["name"] for job in found} == {protocol}
    assert {job.arm for job in found} == set(found[0].config["study"]["arms"])
    assert not [text for job in found for text in job.unused if not text.startswith("method.")]


def test_the_released_code_is_slower_and_averages_over_classes() -> None:
    for job in jobs("study=takd_table1", "protocol=released", "seed=1"):
        assert job.config["method"]["reduction"] == "elementwise_mean"
        assert job.config["optim"]["lr"] == 0.01
        assert job.config["select_on"] == "test"


def test_smoke_is_random_images_of_the_own_shape_and_classes() -> None:
    (job, *_) = jobs("study=takd_table1", "study.size=smoke", "seed=1")
    assert [job.config["dataset"][key] for key in ("name", "num_classes", "image_size")] == ["fake", 100, 32]
    assert job.config["trainer"]["max_epochs"] == 2
    (job, *_) = jobs("study=takd_table1", "study.size=smoke", "seed=1", "dataset=digits")
    assert job.config["dataset"]["name"] == "digits"


def test_another_dataset_keeps_its_own_schedule() -> None:
    (job, *_) = jobs("study=takd_ta_size", "dataset=digits", "seed=1")
    assert job.config["trainer"]["max_epochs"] == 30
    assert job.config["optim"]["schedule"]["kind"] == "one_cycle"
    (job, *_) = jobs("study=takd_ta_size", "dataset=cifar10", "seed=1")
    assert job.config["trainer"]["max_epochs"] == 150


def test_what_is_typed_wins_and_a_typed_group_replaces_all_of_it() -> None:
    (job, *_) = jobs("study=takd_table1", "protocol=released", "optim=adamw", "trainer.max_epochs=3", "seed=1")
    assert job.config["optim"]["_target_"] == "torch.optim.AdamW"
    assert job.config["optim"]["lr"] == 0.001
    assert job.config["trainer"]["max_epochs"] == 3


def test_other_networks_can_be_studied() -> None:
    found = jobs("study=takd_paths", "study.networks=[plain8,plain4,plain2_narrow]", "dataset=digits", "seed=1")
    assert {job.config["student"]["name"] for job in found} == {"plain4", "plain2_narrow"}
    assert len(found) == 2 + 3


def test_controls_are_one_change_each() -> None:
    by_arm = {job.arm: job for job in jobs("study=takd_controls", "study.size=smoke", "seed=1")}
    assert by_arm["longer"].hop("student")["trainer"]["max_epochs"] == 2 * by_arm["kd"].config["trainer"]["max_epochs"]
    assert list(by_arm["smoothing"].config["method"]["criteria"]) == ["matched_smoothing"]
    builder = ChainBuilder(Store(Path("nowhere")), lambda *_: None)
    first, second = (
        builder.build(job).links[0].recipe
        for job in jobs("study=takd_controls", "study.size=smoke", "seed=1,2")
        if job.arm == "random_teacher"
    )
    assert first.epochs == 0
    assert first != second


def by_arm(*overrides: str) -> dict[str, Job]:
    return {job.arm: job for job in jobs("study=cifar100_pairs", "seed=1", *overrides)}


@pytest.mark.parametrize("name", ["takd_paths", "takd_scratch", "icd_pairs", "dpk_ratio", "ds_compression_curve"])
def test_the_networks_of_a_study_are_counted_without_composing_them(name: str) -> None:
    assert Study(COMPOSER, [Setting("study", name, f"study={name}")]).size() == trainings(
        jobs(f"study={name}", "seed=1")
    )


def test_pairs_and_methods_are_chosen_and_pairs_share_their_teachers() -> None:
    pairs = "study.pairs=[resnet32x4_resnet8x4,resnet32x4_ShuffleV1]"
    found = jobs("study=cifar100_pairs", "seed=1", pairs, "study.methods=[scratch,kd]")
    assert [(job.arm, job.config["student"]["name"]) for job in found] == [
        ("scratch", "resnet8x4"), ("kd", "resnet8x4"), ("scratch", "ShuffleV1"), ("kd", "ShuffleV1"),
    ]  # fmt: skip
    assert trainings(found) == 5


def test_a_pair_has_its_own_weights_and_a_network_its_own_learning_rate() -> None:
    light = by_arm("study.pairs=[resnet32x4_ShuffleV1]", "study.methods=[kd,dkd,mlkd]")
    assert [light["kd"].hop(role)["optim"]["lr"] for role in ("teacher", "student")] == [0.05, 0.01]
    assert light["dkd"].config["method"]["weights"]["nckd"]["end"] == 8.0
    assert light["mlkd"].hop("student")["trainer"]["max_epochs"] == 4 * 240
    thin = by_arm("study.pairs=[resnet56_resnet20]", "study.methods=[dkd,mlkd]")
    assert thin["dkd"].config["method"]["weights"]["nckd"]["end"] == 2.0
    assert thin["mlkd"].hop("student")["optim"]["lr"] == 0.025


@pytest.mark.parametrize(
    ("pair", "lr", "epochs", "weight"),
    [("resnet56_resnet20", 0.025, 480, 9.0), ("vgg13_vgg8", 0.01, 480, 6.0), ("resnet32x4_ShuffleV2", 0.01, 960, 6.0)],
)
def test_standardised_mlkd_runs_as_long_and_weighs_as_much_as_published(
    pair: str, lr: float, epochs: int, weight: float
) -> None:
    job = by_arm(f"study.pairs=[{pair}]", "study.methods=[mlkd+lskd]")["mlkd+lskd"]
    hop = job.hop("student")
    assert (hop["optim"]["lr"], hop["trainer"]["max_epochs"]) == (lr, epochs)
    assert {job.config["method"]["weights"][f"mlkd_{level}"] for level in ("instance", "class", "batch")} == {weight}


def test_what_is_typed_for_all_and_the_smoke_size_come_before_what_one_network_has() -> None:
    typed = by_arm("study.pairs=[resnet32x4_ShuffleV1]", "study.methods=[kd]", "optim.lr=0.3")
    assert typed["kd"].hop("student")["optim"]["lr"] == 0.3
    smoke = by_arm("study.pairs=[resnet32x4_ShuffleV1]", "study.methods=[mlkd]", "study.size=smoke")
    assert smoke["mlkd"].config["dataset"]["sizes"]["train"] == 64
    assert smoke["mlkd"].config["trainer"]["max_epochs"] == 1


def test_every_setting_of_a_pair_belongs_to_an_arm() -> None:
    (job, *_) = jobs("study=cifar100_pairs", "seed=1", "study.methods=[kd]")
    study = job.config["study"]
    assert len(study["known_pairs"]) == 13
    assert {arm for pair in study["known_pairs"].values() for arm in pair.get("arms", {})} <= set(study["arms"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["study=cifar100_pairs", "study.pairs=[vgg13_vgg9]"], "study.pairs: vgg13_vgg9: unknown; did you mean"),
        (["study=cifar100_pairs", "study.methods=[kdd]"], "study.methods: kdd: unknown; did you mean 'kd'"),
        (["study=cifar100_pairs", "study.pairs=vgg13_vgg8"], "a list is expected"),
        (["study=cifar100_pairs", "study.networks=[vgg13,vgg8]"], "choose some with study.pairs"),
        (["study=takd_pats"], "did you mean 'takd_paths'"),
        (["study=takd_paths", "study.family=plan"], "study.family=plan: unknown; did you mean 'plain'"),
        (["study=takd_paths", "study.size=smok"], "did you mean 'smoke'"),
        (["study=takd_paths", "teacher=plain8"], "study.networks"),
        (
            ["study=takd_compare", "method=dkd"],
            "the arms fitnet, at, fsp, bss, dml of study=",
        ),
        (["study=takd_paths,takd_table1"], "run one after the other"),
        (["study=takd_paths", "study.sise=1"], "no such key; did you mean 'size'"),
        (["study=takd_paths", "study.networks=[plain10,plain3]"], "student=plain3: unknown; did you mean"),
    ],
)
def test_one_line_names_the_fix(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        jobs(*overrides)
    assert len(caught.value.problems) == 1


def test_a_study_alone_is_told_to_be_a_sweep() -> None:
    with pytest.raises(ConfigError, match="add -m"):
        make_jobs(COMPOSER, ["study=takd_paths"])


def test_every_arm_is_trained_under_every_condition_whatever_data_are_typed() -> None:
    for typed in ([], ["dataset=digits"], ["study.size=smoke"]):
        found = jobs("study=beyond_label_noise", "seed=1", *typed)
        assert len(found) == 4 * 10
        rates = {job.condition: job.config["dataset"]["corruption"].get("rate") for job in found}
        assert rates == {"clean": None, "noise 0.2": 0.2, "noise 0.4": 0.4, "noise 0.6": 0.6}
        assert {job.arm for job in found if job.condition == "noise 0.4"} == set(found[0].config["study"]["arms"])


def test_under_each_condition_all_methods_share_one_teacher_of_the_same_data() -> None:
    builder = ChainBuilder(Store(Path("nowhere")), lambda *_: None)
    chains = [builder.build(job) for job in jobs("study=beyond_imbalance", "seed=1") if job.arm in ("kd", "at", "sp")]
    teachers = {chain.links[0].recipe.digest: chain.links[0].recipe for chain in chains}
    assert [teacher.data["corruption"].get("factor") for teacher in teachers.values()] == [None, 10.0, 50.0, 100.0]
    assert all(chain.links[0].recipe.data == chain.links[-1].recipe.data for chain in chains)


def test_what_conditions_set_cannot_be_typed_as_well() -> None:
    with pytest.raises(ConfigError, match=r"the conditions noise 0\.2, noise 0\.4, noise 0\.6 of study="):
        jobs("study=beyond_label_noise", "dataset.corruption.rate=0.1")


def test_a_study_asks_for_evaluations_and_a_typed_list_replaces_them() -> None:
    (job, *_) = jobs("study=kdiga_robustness", "seed=1")
    assert job.config["eval"]["pgd"]["epsilons"] == [1.0, 4.0, 8.0]
    (job, *_) = jobs("study=kdiga_robustness", "seed=1", "eval=[calibration]")
    assert list(job.config["eval"]) == ["calibration"]


def test_a_smoke_run_may_have_one_seed() -> None:
    assert {job.config["seed"] for job in jobs("study=kdiga_robustness", "study.size=smoke")} == {1}
    assert {job.config["seed"] for job in jobs("study=kdiga_robustness", "study.size=smoke", "seed=4,5")} == {4, 5}
