"""Two processes with one batch give the loss, the gradient and the state of one process, for every method."""

import pytest
import torch
from torch import Tensor

from kdbench.config.build import Builder
from kdbench.config.compose import Composer
from kdbench.config.jobs import make_jobs
from kdbench.config.recipes import ChainBuilder
from kdbench.core.ranks import world
from kdbench.core.types import Batch, Progress
from kdbench.launch import ranks_running
from kdbench.store import Store
from tests.golden.curves import DATA, FOLDER, METHODS, PAIR

SIZE = 9  # the ranks' shares are unequal
TINY = {"crd": ("method.negatives=40",)}


def step(method: str, *, synchronised: bool = True) -> dict[str, Tensor]:
    """Loss, gradients averaged as DDP does, and buffers after one step of a method in float64."""
    (job,) = make_jobs(Composer(), [f"method={method}", *PAIR, *TINY.get(method, ())])
    nowhere = Store(FOLDER / "nowhere")
    recipe = ChainBuilder(nowhere, lambda *_: None).build(job).links[-1].recipe
    builder = Builder(nowhere, FOLDER)
    student = builder.network(recipe, DATA)
    teachers = [builder.network(teacher, DATA) for teacher in recipe.teachers]
    made = builder.distiller(recipe, student, teachers, DATA, 2).train().double()
    made._synchronised = synchronised
    progress = Progress(10, 20, 1)
    made.progress = lambda: progress  # type: ignore[method-assign] (there is no trainer to ask)
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(64, generator=generator)[:SIZE]
    inputs = torch.rand(SIZE, 3, 16, 16, generator=generator, dtype=torch.float64)
    loss = made.training_step(Batch(inputs, index % 10, index), 0)
    loss.backward()
    found = {"loss": loss.detach()}
    for name, parameter in made.named_parameters():
        if parameter.grad is not None:
            if world() > 1:
                torch.distributed.all_reduce(parameter.grad)
            found[f"gradient of {name}"] = parameter.grad / world()
    for criterion in made.criteria.values():
        criterion.after_step(progress)  # type: ignore[operator]
    return found | dict(made.named_buffers())


def all_methods() -> dict[str, dict[str, Tensor]]:
    return {method: step(method) for method in METHODS} | {"apart": step("kd", synchronised=False)}


def prepare(rank: int):
    torch.set_num_threads(1)
    return all_methods


@pytest.fixture(scope="module")
def together() -> dict[str, dict[str, Tensor]]:
    with ranks_running(2, "cpu", prepare):
        return all_methods()


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_give_what_one_process_gives(method, together):
    alone = step(method)
    assert together[method].keys() == alone.keys()
    assert any(name.startswith("gradient") for name in alone)
    torch.testing.assert_close(together[method], alone, rtol=1e-5, atol=1e-9)


def test_statistics_of_each_rank_s_own_rows_are_another_training(together):
    with pytest.raises(AssertionError):
        torch.testing.assert_close(together["apart"], together["kd"], rtol=1e-3, atol=1e-6)
