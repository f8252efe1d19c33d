"""Short loss curves, one per method: what its numbers are today. Run as a script it writes the files anew."""

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

from kdbench.config.build import Builder
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.config.recipes import ChainBuilder
from kdbench.config.source import config_root
from kdbench.core.types import Batch, DataSpec, Progress
from kdbench.store import Store

FOLDER = Path(__file__).parent
STEPS = 5
DATA = DataSpec(
    "fake", 10, (3, 16, 16), (0.5,) * 3, (0.25,) * 3, train_size=64, index_size=64, labels=torch.arange(64) % 10
)
PAIR = ("teacher=resnet14", "student=resnet8", "dataset=fake", "dataset.image_size=16", "optim=constant")
METHODS = sorted(path.stem for path in (config_root() / "method").glob("*.yaml"))


def curve(method: str) -> dict[str, Any]:
    """Every term of ``method`` over five steps of each phase on fixed data, with the versions of its criteria."""
    (job,) = make_jobs(Composer(), [f"method={method}", *PAIR])
    nowhere = Store(FOLDER / "nowhere")
    links = ChainBuilder(nowhere, lambda *_: None).build(job).links
    recipe = links[-1].recipe
    builder = Builder(nowhere, FOLDER)
    student = builder.network(recipe, DATA)
    teachers = [builder.network(teacher, DATA) for teacher in recipe.teachers]
    made = builder.distiller(recipe, student, teachers, DATA, STEPS).train()
    generator = torch.Generator().manual_seed(0)
    rows = []
    for phase, step in itertools.product(range(len(recipe.phase_epochs)), range(STEPS)):
        if step == 0:
            made.enter_phase(phase)
            optimizer = made.configure_optimizers()["optimizer"]
        progress = Progress(step, STEPS, STEPS)
        made.progress = lambda progress=progress: progress  # type: ignore[method-assign] (there is no trainer to ask)
        index = torch.randperm(64, generator=generator)[:16]
        batch = Batch(torch.rand(16, 3, 16, 16, generator=generator), index % 10, index)
        optimizer.zero_grad()
        made.training_step(batch, step).backward()
        optimizer.step()
        for criterion in made.criteria.values():
            criterion.after_step(progress)  # type: ignore[operator]
        rows.append({name: value for name, value in made.epoch_averages().items() if "weight" not in name})
    versions = {name: node["version"] for name, node in job.config["method"]["criteria"].items()}
    return {
        "versions": versions,
        "rows": [{name: float(f"{value:.6g}") for name, value in row.items()} for row in rows],
    }


def may_change(method: str, old: dict[str, Any], new: dict[str, Any], changelog: str) -> str | None:
    """Why a stored curve may not be replaced; nothing if it may."""
    if old["rows"] == new["rows"]:
        return None
    if old["versions"] == new["versions"]:
        return f"{method}: its numbers moved but no version; bump `version` in its criterion and its YAML"
    numerics = "".join(re.findall(r"### Numerics\n(.*?)(?=\n##|\Z)", changelog, re.DOTALL))
    if method not in numerics:
        return f"{method}: its version moved; say what changed under Numerics in CHANGELOG.md, naming {method}"
    return None


def main() -> None:
    """Writes the curves of all methods, or of those named."""
    changelog = (FOLDER.parents[1] / "CHANGELOG.md").read_text()
    for method in sys.argv[1:] or METHODS:
        file, new = FOLDER / f"{method}.json", curve(method)
        if file.exists() and (reason := may_change(method, json.loads(file.read_text()), new, changelog)):
            sys.exit(reason)
        file.write_text(json.dumps(new, indent=1) + "\n")


if __name__ == "__main__":
    main()
