from collections.abc import Sequence
from pathlib import Path

import pytest

from kdbench.config.compose import Composer
from kdbench.config.jobs import Job, make_jobs
from kdbench.core.errors import ConfigError

COMPOSER = Composer()


def jobs(*overrides: str, multirun: bool = False) -> list[Job]:
    return make_jobs(COMPOSER, overrides, multirun=multirun)


def problems(*overrides: str, multirun: bool = False) -> Sequence[str]:
    with pytest.raises(ConfigError) as caught:
        jobs(*overrides, multirun=multirun)
    return caught.value.problems


def test_the_default_is_the_bundled_chain() -> None:
    (job,) = jobs()
    names = [job.config["teacher"]["name"], *job.config["assistants"], job.config["student"]["name"]]
    assert names == ["plain6", "plain4", "plain2"]
    assert job.config["dataset"]["name"] == "digits"


def test_whoever_chooses_a_network_starts_without_the_default_assistant() -> None:
    (job,) = jobs("teacher=resnet20")
    assert "assistants" not in job.config
    (job,) = jobs("teacher=resnet20", "assistants=[resnet14]")
    assert list(job.config["assistants"]) == ["resnet14"]


def test_assistants_keep_their_order_and_each_has_its_own_keys() -> None:
    (job,) = jobs("assistants=[resnet20,resnet14]", "assistants.resnet14.seed=7")
    assert list(job.config["assistants"]) == ["resnet20", "resnet14"]
    assert [node["seed"] for node in job.config["assistants"].values()] == [None, 7]


def test_everything_wrong_is_named_at_once_with_its_nearest_match() -> None:
    found = problems("metod=kd", "method.temprature=2", "+foo=1", "teacher=resnet200", "seed=x")
    text = "\n".join(found)
    assert "metod: no such key or group; did you mean 'method'?" in text
    assert "method.temprature: no such key; did you mean 'temperature'?" in text
    assert "foo: no such key" in text
    assert "teacher=resnet200: unknown; did you mean 'resnet20'?" in text
    assert "seed=x: a whole number is expected (default: 0)" in text
    assert len(found) == 5


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("method.temperature=hot", "a number is expected"),
        ("method.scale=1", "true or false is expected"),
        ("trainer.max_epochs=1.5", "a whole number is expected"),
        ("dataset.name=[a]", "a word is expected"),
        ("trust=kdbench", "a list is expected"),
        ("teacher=null", "choose an option, none for no teacher"),
        ("teacher=[plain2]", "takes one option, not a list"),
        ("assistants=[plain4,plain4]", "named twice"),
        ("seed=1,2", "add -m"),
        ("~teacher", "deleting cannot be used"),
        ("optim@student=sgd", "packages cannot be used"),
        ("=3", "not an override"),
        ("seed", "not an override"),
        ("trainer.limit_train_batches=0.5", "a whole number is expected"),
        ("trainer.threads=all", "a whole number is expected"),
        ("teacher.seed=abc", "a whole number is expected"),
        ("dataset.train_size=abc", "a whole number is expected"),
        ("sweep={workers: 2}", "set them one by one"),
        ("hydra.searchpath=[file:///nowhere]", "--config-dir"),
        ("hops.plain4.trainer.threads=1", "the same for all networks"),
        ("hops.plain4=3", "the form is hops.NETWORK.KEY"),
        ("hops.plain8.optim.lr=1", "no arm trains a network 'plain8'"),
        ("hops.plain4.optim.lrr=1", "hops.plain4.optim.lrr: no such key; did you mean 'lr'?"),
        ("hops.plain4.dataset.val_fraction=0.2", "is the same for all networks"),
        ("hops.plain4.method=kdd", "method=kdd: unknown"),
        ("method=[kd,label_smoothing]", "method.weights.task is 0.1 in kd and 0.0 in label_smoothing"),
        ("method=[kd,dense_guidance]", "both have 'kd'"),
        ("optim.lr=${nowhere}", "nowhere"),
    ],
)
def test_one_line_names_the_fix(override: str, words: str) -> None:
    assert words in "\n".join(problems(override))


def test_a_float_takes_a_whole_number_and_a_weight_takes_a_schedule() -> None:
    (job,) = jobs("method.temperature=2", "method.weights.kd={start: 0, end: 1, until: 5}")
    assert repr(job.config["method"]["criteria"]["kd"]["temperature"]) == "2.0"
    assert job.config["method"]["weights"]["kd"]["until"] == 5


def test_arguments_of_library_networks_are_open() -> None:
    (job,) = jobs("teacher=timm/resnet18", "teacher.args.drop_rate=0.1")
    assert job.config["teacher"]["args"] == {"drop_rate": 0.1}
    assert job.config["teacher"]["name"] == "resnet18"


def test_a_sweep_is_the_product_of_its_values() -> None:
    arms = jobs("assistants=[],[plain4]", "seed=1,2", "method.temperature=2", multirun=True)
    assert [job.overrides for job in arms] == [
        (f"assistants={assistants}", f"seed={seed}", "method.temperature=2")
        for assistants in ("[]", "[plain4]")
        for seed in (1, 2)
    ]


def test_glob_and_range_are_expanded() -> None:
    assert len(jobs("seed=range(0,5)", multirun=True)) == 5
    names = {job.config["method"]["guidance"] for job in jobs("method=glob(*)", multirun=True)}
    assert names >= {"chain", "dense", "none"}


def test_an_override_applies_to_the_arms_that_have_the_key() -> None:
    kd, smooth = jobs("method=kd,label_smoothing", "method.epsilon=0.2", multirun=True)
    assert kd.unused == ("method.epsilon=0.2",)
    assert smooth.config["method"]["criteria"]["label_smoothing"]["epsilon"] == 0.2
    plain, chain = jobs("assistants=[],[plain4]", "hops.plain4.optim.lr=0.3", multirun=True)
    assert plain.unused == ("hops.plain4.optim.lr=0.3",)
    assert chain.hops["plain4"]["optim"]["lr"] == 0.3


def test_an_override_that_no_arm_has_is_an_error() -> None:
    assert "epsilon" in "\n".join(problems("method=kd,none", "method.epsilon=0.2", multirun=True))


def test_every_bad_job_of_a_sweep_is_named() -> None:
    found = problems("method.temperature=2,nonsense", "seed=1,x", multirun=True)
    assert {line.split(":")[0] for line in found} == {"method.temperature=nonsense", "seed=x"}


def test_a_hop_changes_one_network_only_also_by_a_whole_group() -> None:
    (job,) = jobs("hops.plain4.method=label_smoothing", "hops.plain4.method.epsilon=0.3", "method.temperature=9")
    assert list(job.hops["plain4"]["method"]["criteria"]) == ["label_smoothing"]
    assert job.hops["plain4"]["method"]["epsilon"] == 0.3
    assert job.config["method"]["temperature"] == 9.0


def test_methods_add_up_where_they_agree() -> None:
    (job,) = jobs(
        "method=[kd,label_smoothing]",
        "method.weights.task=0.1",
        "method.weights.label_smoothing=0.2",
        "method.guidance=chain",
    )
    assert set(job.config["method"]["criteria"]) == {"kd", "label_smoothing"}
    assert job.config["method"]["weights"] == {"task": 0.1, "kd": 0.9, "label_smoothing": 0.2}


def test_a_users_folder_adds_models_and_methods(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tiny.yaml").write_text(
        "_target_: kdbench.models.plain_cnn.PlainCNN\nsize: 2\nwidths: [2, 4]\n"
    )
    (job,) = make_jobs(Composer([tmp_path]), ["student=tiny", "teacher=plain2"])
    assert job.config["student"]["widths"] == [2, 4]
    with pytest.raises(ConfigError, match="does not exist"):
        Composer([tmp_path / "nowhere"])


def test_a_hundred_jobs_share_one_composition() -> None:
    composer = Composer()
    made = make_jobs(composer, ["seed=range(0,100)"], multirun=True)
    assert len(made) == 100
    assert len(composer._composed) == 1
