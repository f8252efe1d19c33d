"""A study of all paths from plain10 to plain2 with made-up numbers; needs no store."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from kdbench.report.results import Arm, Claim, Comparison, Network, Published, StudyResult
from kdbench.report.summary import summarise

PARAMETERS = {"plain2": 13_082, "plain4": 37_338, "plain6": 82_778, "plain8": 327_962, "plain10": 2_487_850}
MACS = {"plain2": 1.04e6, "plain4": 6.36e6, "plain6": 9.89e6, "plain8": 13.45e6, "plain10": 71.8e6}
ALONE = {"plain2": 70.2, "plain4": 78.1, "plain6": 81.9, "plain8": 84.6, "plain10": 87.0}
SOURCE = "paper: TAKD (arXiv 1902.03393) Fig. 5"
LANDSCAPE = {"loss": 0.5, "rise": 0.25, "places": [-1.0, 0.0, 1.0],
             "surface": [[2.5, 1.5, 2.5], [1.5, 0.5, 1.5], [2.5, 1.5, None]]}  # fmt: skip
SIZES = ("plain10", "plain8", "plain6", "plain4", "plain2")


def network(chain: tuple[str, ...], seed: int, **changes: object) -> Network:
    """A network of this chain; deterministic, and better the smaller its largest hop."""
    name, taught = chain[-1], len(chain) > 1
    hop = max((math.log(PARAMETERS[a] / PARAMETERS[b]) for a, b in itertools.pairwise(chain)), default=0.0)
    noise = (int(sha256(f"{chain}{seed}".encode()).hexdigest()[:4], 16) / 65535 - 0.5) * 0.8
    accuracy = ALONE[name] + (3.0 - 0.5 * hop if taught else 0.0) + noise
    rows = [{"epoch": float(n), "train/loss": 2 / n, "val/acc": accuracy - 20 / n, "train/acc": accuracy - 18 / n}
            for n in range(1, 11)]  # fmt: skip
    plain = Network(
        digest=_name(chain, seed), name=name, role="student" if taught else "teacher", chain=chain, seed=seed,
        method="kd" if taught else None, variant=_name(chain), dataset="toy",
        protocol="validation split held out, last epoch", select_on="last", parameters=PARAMETERS[name],
        macs=MACS[name], epochs=10, images=450_000, teacher_queries=450_000 if taught else 0, extra_parameters=0,
        seconds=30.0, val_acc=accuracy + 0.3, best_val_acc=accuracy + 0.6, test_acc=accuracy,
        agreement=88.0 if taught else None, size_bytes=4 * PARAMETERS[name],
        teacher_digest=_name(chain[:-1], seed) if taught else None, root_digest=_name(chain[:1], seed),
        history=tuple(rows),
        evals={"landscape": LANDSCAPE}, headlines={"landscape rise": 0.25},
    )  # fmt: skip
    return replace(plain, **changes)  # pyright: ignore[reportArgumentType]


def _name(chain: tuple[str, ...], seed: int | None = None) -> str:
    return sha256(f"{chain}{'' if seed is None else seed}".encode()).hexdigest()


def collected(chains: Sequence[tuple[str, ...]], seeds: Sequence[int] = (1, 2, 3), **changes: object) -> StudyResult:
    """A run without a study: all of these networks, with those into the smallest one as arms."""
    networks = [network(chain, seed) for chain in chains for seed in seeds]
    smallest = min((chain[-1] for chain in chains), key=PARAMETERS.__getitem__)
    arms = tuple(
        Arm(" -> ".join(chain), " -> ".join(chain), chain, "kd" if len(chain) > 1 else None,
            tuple(one for one in networks if one.chain == chain))
        for chain in chains if chain[-1] == smallest
    )  # fmt: skip
    plain = StudyResult(
        name="toy", title="Toys", source="", command="kdbench -m seed=1,2,3",
        protocol="validation split held out, last epoch", dataset="toy", size="full", flags=(),
        networks=tuple(networks), arms=arms,
    )  # fmt: skip
    return replace(plain, **changes)  # pyright: ignore[reportArgumentType]


def paths() -> list[tuple[str, ...]]:
    """Every size alone, and every path from plain10: 20 chains."""
    taught = [(SIZES[0], *middle, end) for position, end in enumerate(SIZES[1:], 1)
              for count in range(position) for middle in itertools.combinations(SIZES[1:position], count)]  # fmt: skip
    return [*((size,) for size in SIZES), *taught]


def gap() -> list[tuple[str, ...]]:
    """Every size alone, and plain2 taught directly by each larger one."""
    return [*((size,) for size in SIZES), *((size, "plain2") for size in SIZES[:-1])]


def study(**changes: object) -> StudyResult:
    """All paths, with a claim, a comparison and a published value; ``size="smoke"`` and the like change it."""
    plain = collected(paths())
    assisted = next(arm for arm in plain.arms if arm.chain == ("plain10", "plain4", "plain2"))
    direct = next(arm for arm in plain.arms if arm.chain == ("plain10", "plain2"))
    ours = summarise([a.test_acc - b.test_acc for a, b in zip(assisted.networks, direct.networks, strict=True)])
    toy = replace(
        plain,
        name="toy_paths",
        title="All paths from plain10 to plain2",
        source=SOURCE,
        command="kdbench -m study=toy_paths seed=1,2,3",
        flags=("unequal budgets: training images, whole chain 900k to 2.25M",),
        comparisons=(Comparison(assisted.name, direct.name, ours.mean, ours.low, ours.high, 0.02, 0.04, "Holm"),),
        claims=(Claim("an assistant of intermediate size helps", assisted.name, direct.name, 0.94, ours, "above", 1.0,
                      "undecided at n=3", SOURCE, "paper_text"),),
        published=(Published(assisted.name, "10 -> 4 -> 2", 73.51, None, SOURCE, "paper_text"),),
    )  # fmt: skip
    return replace(toy, **changes)  # pyright: ignore[reportArgumentType]
