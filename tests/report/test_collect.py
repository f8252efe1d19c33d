"""From a run folder and its store to results, and the command on top of it; networks of a few bytes, no training."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_toy import ALONE, MACS, PARAMETERS
from safetensors.numpy import save

from kdbench.cli import main
from kdbench.core.errors import ConfigError
from kdbench.core.recipe import Recipe
from kdbench.report.collect import collect_run, command_of, find_run, variant_of
from kdbench.store import Store

HISTORY = [{"epoch": float(n), "train/loss": 1 / n, "val/acc": 60.0 + n} for n in (1, 2)]


def recipe(names: Sequence[str], seed: int, temperature: float = 4.0) -> Recipe:
    *above, name = names
    return Recipe(
        network={"name": name},
        data={"name": "toys", "val_fraction": 0.1},
        method={"criteria": {"kd": {"temperature": temperature}}} if above else None,
        optim={"lr": 0.1},
        budget={"max_epochs": 2},
        select_on="last",
        seed=seed,
        teachers=(recipe(above, seed, temperature),) if above else (),
    )


def train(store: Store, made: Recipe) -> None:
    for teacher in made.teachers:
        train(store, teacher)
    accuracy = ALONE[made.name] + made.seed / 10
    metrics = {
        "epochs": 2, "images": 900, "val": {"acc": accuracy + 1}, "parameters": PARAMETERS[made.name],
        "test": {"acc": accuracy} | ({"agreement": 90.0} if made.teachers else {}), "macs": MACS[made.name],
        "teacher_queries": 900 * len(made.teachers), "extra_parameters": 0, "seconds": {"total": 3.0},
    }  # fmt: skip
    with store.draft(made) as draft:
        if draft.entry is None:
            weights = save({"weight": np.zeros(2, np.float32)})
            draft.write("last.safetensors", lambda file: file.write(weights))
            draft.commit(metrics, HISTORY, {})


def write_run(outputs: Path, jobs: Sequence[tuple[list[str], Recipe]], name: str = "sweep-1") -> Path:
    """Trains what the jobs name, and their record."""
    networks: dict[str, dict[str, str]] = {}
    record = []
    for overrides, final in jobs:
        train(Store(outputs / "store"), final)
        links = [final]
        while links[0].teachers:
            links.insert(0, links[0].teachers[0])
        roles = ["teacher", *["assistant"] * (len(links) - 2), "student"][-len(links) :]
        named = [{"role": role, "name": link.name, "digest": link.digest}
                 for role, link in zip(roles, links, strict=True)]  # fmt: skip
        record.append({"overrides": overrides, "unused": [], "networks": named})
        networks |= {link.digest: {"status": "done", "reason": ""} for link in links}
    folder = outputs / "runs" / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"jobs": record, "networks": networks}))
    return folder


@pytest.fixture
def sweep(outputs: Path) -> Path:
    chains = {"[]": ["plain6", "plain2"], "[plain4]": ["plain6", "plain4", "plain2"]}
    return write_run(outputs, [([f"assistants={text}", f"seed={seed}"], recipe(names, seed))
                               for text, names in chains.items() for seed in (1, 2)])  # fmt: skip


def test_sweep_becomes_arms_with_a_replicate_per_seed(sweep: Path) -> None:
    result = collect_run(sweep)
    assert [(arm.label, [one.seed for one in arm.networks]) for arm in result.arms] == [
        ("plain6 -> plain2", [1, 2]), ("plain6 -> plain4 -> plain2", [1, 2])
    ]  # fmt: skip
    assert len(result.networks) == 8
    assert result.command == "kdbench -m 'assistants=[],[plain4]' seed=1,2"
    assert result.flags == ("unequal budgets: training images, whole chain 1.80k to 2.70k",)
    assert (result.title, result.dataset) == ("plain2 taught by plain6", "toys")
    final = result.arms[1].networks[0]
    assert [one.name for one in result.lineage(final)] == ["plain2", "plain4", "plain6"]
    assert (root := result.root(final)) is not None
    assert root.name == "plain6"
    assert final.best_val_acc == 62.0


def test_networks_trained_alone_elsewhere_are_found(sweep: Path, outputs: Path) -> None:
    train(Store(outputs / "store"), recipe(["plain2"], 1))
    result = collect_run(sweep)
    assert [one.role for one in result.networks if one.chain == ("plain2",)] == ["alone"]
    assert len(result.arms) == 2


def test_settings_that_differ_are_named_and_never_averaged(outputs: Path) -> None:
    jobs = [([f"method.temperature={t}", f"seed={seed}"], recipe(["plain6", "plain2"], seed, t))
            for t in (2.0, 4.0) for seed in (1, 2)]  # fmt: skip
    labels = [arm.label for arm in collect_run(write_run(outputs, jobs)).arms]
    assert labels == [f"plain6 -> plain2, kd, method.temperature={t}" for t in (2.0, 4.0)]


def test_single_run_shows_its_whole_chain(outputs: Path) -> None:
    result = collect_run(write_run(outputs, [([], recipe(["plain6", "plain4", "plain2"], 0))]))
    assert [arm.label for arm in result.arms] == ["plain6", "plain6 -> plain4", "plain6 -> plain4 -> plain2"]
    assert result.command == "kdbench"


def test_failed_networks_are_flagged_and_left_out(sweep: Path) -> None:
    record = json.loads((sweep / "run.json").read_text())
    lost = "f" * 64
    record["jobs"].append({"overrides": ["seed=3"], "networks": [{"role": "student", "name": "x", "digest": lost}]})
    record["networks"][lost] = {"status": "failed", "reason": "loss is not finite"}
    (sweep / "run.json").write_text(json.dumps(record))
    result = collect_run(sweep)
    assert "failed: network ffffffff: loss is not finite" in result.flags
    assert len(result.arms) == 2


def test_variant_forgets_seeds_of_all_and_nothing_else() -> None:
    one = recipe(["plain6", "plain2"], 1)
    assert variant_of(one) == variant_of(recipe(["plain6", "plain2"], 2)) == variant_of(replace(one, seed=9))
    assert variant_of(one) != variant_of(recipe(["plain6", "plain2"], 1, 2.0))
    assert variant_of(one) != variant_of(recipe(["plain4", "plain2"], 1))


def test_jobs_that_are_no_grid_have_a_command_each() -> None:
    assert command_of([["seed=1", "a=x"], ["seed=2", "a=y"]]) == "kdbench seed=1 a=x\nkdbench seed=2 a=y"


def test_newest_run_is_meant_without_a_name(sweep: Path, outputs: Path) -> None:
    assert find_run(outputs, None) == sweep
    assert find_run(outputs, "sweep-1") == find_run(outputs, str(sweep)) == sweep


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep-2"], "did you mean 'sweep-1'?"),
        (["--nonsense"], "see kdbench report --help"),
        (["a", "b"], "see kdbench report --help"),
    ],
)
def test_wrong_command_is_one_line_and_writes_nothing(
    arguments: list[str], message: str, sweep: Path, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.exists()
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (outputs / "reports").exists()


def test_nothing_run_yet_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert "nothing was run yet" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"jobs": [], "networks": {}}'])
def test_damaged_record_is_refused(text: str, sweep: Path) -> None:
    (sweep / "run.json").write_text(text)
    with pytest.raises(ConfigError, match="run the same command again"):
        collect_run(sweep)


def test_run_whose_networks_are_gone_is_refused(sweep: Path, outputs: Path) -> None:
    (outputs / "store").rename(outputs / "elsewhere")
    with pytest.raises(ConfigError, match="no network of it is in the store"):
        collect_run(sweep)


def test_command_writes_the_same_bytes_again(sweep: Path, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = outputs / "reports" / sweep.name
    contents = []
    for _ in range(2):
        assert main(["report"]) == 0
        contents.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]
    assert {str(path) for path in contents[0]} >= {"index.html", "table.csv", "table.md", "results.json",
                                                   "figures/seeds.png", "figures/seeds.svg"}  # fmt: skip
    printed = capsys.readouterr().out
    assert re.search(r"plain6 -> plain4 -> plain2 +70\.35 \+- 0\.07", printed)
    assert printed.isascii()
    assert f"page: {folder / 'index.html'}" in printed
    digests = {network["digest"] for network in json.loads(contents[0][Path("results.json")])["networks"]}
    assert len(digests) == 8


def test_figures_that_no_longer_apply_are_removed(sweep: Path, outputs: Path) -> None:
    figures = outputs / "reports" / sweep.name / "figures"
    figures.mkdir(parents=True)
    (figures / "gap.svg").write_text("of an earlier report")
    (figures / "mine.svg").write_text("not kdbench's")
    assert main(["report"]) == 0
    assert not (figures / "gap.svg").exists()
    assert (figures / "mine.svg").exists()


def test_report_needs_no_torch(sweep: Path) -> None:
    code = "import sys; from kdbench.cli import main; print(main(['report'])); sys.exit('torch' in sys.modules)"
    assert sweep.exists()
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0
