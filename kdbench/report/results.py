"""What a report is made of: plain data, whoever collected it. Accuracies in percent, differences in points."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdbench.core.errors import ConfigError


@dataclass(frozen=True)
class Network:
    """One trained network.

    Attributes:
        digest: Its full name.
        name: Of its architecture, e.g. ``plain4``.
        role: ``teacher``, ``assistant`` or ``student``.
        chain: Names from the teacher to itself; its own alone when nobody taught it. Of several teachers, the nearest
            path, marked as the recipe's chain marks it: ``3 x plain6``.
        seed: Its seed.
        method: The criteria, ``kd+at``; ``None`` for the task loss alone.
        variant: Digest of the recipe without its seeds: replicates share it.
        dataset: What it was trained and measured on.
        protocol: How it was trained and selected, in words.
        select_on: ``last``, ``val`` or ``test``.
        parameters: Frozen ones included.
        macs: Multiply-accumulates of one sample.
        epochs: Trained.
        images: Samples seen in training.
        teacher_queries: Samples that its teachers were asked about.
        extra_parameters: Of connectors and other parts that are not deployed.
        seconds: Wall time of its training.
        val_acc: Of the selected weights; ``None`` without a validation split.
        best_val_acc: Of the best epoch on validation; ``None`` without a validation split.
        test_acc: Of the selected weights.
        queried_images: Different images that its teachers were asked about; ``None`` where nobody counted.
        agreement: Test samples on which it and its teacher predict the same class, in percent.
        size_bytes: Of its weights on disk.
        teacher_digest: The nearest network that taught it.
        root_digest: The first network of its chain.
        evals: Later measurements by name.
        headlines: The number of each that the run asked for, by its heading.
        history: One row per epoch.
    """

    digest: str
    name: str
    role: str
    chain: tuple[str, ...]
    seed: int
    method: str | None
    variant: str
    dataset: str
    protocol: str
    select_on: str
    parameters: int
    macs: float
    epochs: int
    images: int
    teacher_queries: int
    extra_parameters: int
    seconds: float
    val_acc: float | None
    best_val_acc: float | None
    test_acc: float
    queried_images: int | None = None
    agreement: float | None = None
    size_bytes: int | None = None
    teacher_digest: str | None = None
    root_digest: str | None = None
    evals: Mapping[str, Any] = field(default_factory=dict)
    headlines: Mapping[str, float | None] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = field(default=(), repr=False)

    @property
    def id8(self) -> str:
        """Its short name."""
        return self.digest[:8]


@dataclass(frozen=True)
class Arm:
    """One way to make the final network, with a replicate per seed.

    Attributes:
        name: Unique in the study.
        label: What figures and tables call it.
        chain: Names from the teacher to the final network.
        method: As of its networks.
        networks: The final networks, one per seed.
        condition: Of its study; empty where there is none.
    """

    name: str
    label: str
    chain: tuple[str, ...]
    method: str | None
    networks: tuple[Network, ...]
    condition: str = ""

    @property
    def key(self) -> str:
        """What the study's YAML calls it, shared by all its chains."""
        return self.name.partition(":")[0]


@dataclass(frozen=True)
class Summary:
    """Replicates in short: mean, standard deviation (``None`` for one), number, ends of a 95 % interval."""

    mean: float
    sd: float | None
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """An arm against another one: difference in points with its 95 % interval; p values of a paired test.

    Attributes:
        arm: Name of the arm.
        reference: Name of the arm it is compared with.
        difference: Mean of arm minus reference over shared seeds.
        low: End of its interval.
        high: End of its interval.
        p: Without correction.
        p_corrected: After ``correction``.
        correction: Name of the correction for several tests.
    """

    arm: str
    reference: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None
    correction: str


@dataclass(frozen=True)
class Published:
    """A published value beside ours.

    Attributes:
        arm: Name of the arm it belongs to; ``None`` if the study has none like it.
        label: What the source calls it.
        value: In percent.
        sd: Where the source gives one.
        source: Paper and table.
        confidence: How surely we know it: ``paper_text``, ``author_issue``, ``secondary``, ...
        column: Who published it, in a word: a study over several publications has a column for each.
    """

    arm: str | None
    label: str
    value: float
    sd: float | None
    source: str
    confidence: str
    column: str = ""


@dataclass(frozen=True)
class Claim:
    """A published statement and what our numbers say of it.

    Attributes:
        text: The statement.
        arm: Name of the arm it is about.
        reference: Name of the arm it is compared with.
        published: The published difference in points.
        ours: The same of our replicates; ``None`` if an arm is missing.
        direction: What the statement says of the difference, e.g. ``above``.
        tolerance: Points within which the published value counts as met.
        verdict: Computed by the study, never by hand: ``supported``, ``not supported``, ``undecided at n=3``.
        source: Paper and table.
        confidence: How surely we know the published value.
        measure: ``NAME.KEY`` of an evaluation, where it is not about test accuracy.
    """

    text: str
    arm: str
    reference: str
    published: float | None
    ours: Summary | None
    direction: str
    tolerance: float | None
    verdict: str
    source: str
    confidence: str
    measure: str = ""


@dataclass(frozen=True)
class StudyResult:
    """Everything a report shows.

    Attributes:
        name: Of the study or the run folder; the report's folder is called so.
        title: One line for people.
        source: Paper the study follows; empty for a run of one's own.
        command: The exact command that reproduces it.
        protocol: In words.
        dataset: Name, or names.
        size: ``smoke`` shows no published values.
        flags: What a reader must know, in words: unequal budgets, selection on the test set, failed networks.
        networks: All of them, teachers first.
        arms: In the order of the study.
        comparisons: Tables show an arm's first; ``results.json`` has all.
        claims: Of the study's source.
        published: Values of the source.
        pairs: Teacher and student of each pair that the study runs over; none where it has one set of networks.
        unsuitable: Why an arm was not trained, by the name that it would have.
    """

    name: str
    title: str
    source: str
    command: str
    protocol: str
    dataset: str
    size: Literal["full", "smoke"]
    flags: tuple[str, ...]
    networks: tuple[Network, ...]
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...] = ()
    claims: tuple[Claim, ...] = ()
    published: tuple[Published, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    unsuitable: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.arms:
            raise ConfigError(f"{self.name}: no network of it is in the store; run it, then report again")

    def lineage(self, network: Network) -> list[Network]:
        """The networks of its chain, itself first, as far as they were collected."""
        known = {other.digest: other for other in self.networks}
        path = [network]
        while (teacher := known.get(path[-1].teacher_digest or "")) is not None:
            path.append(teacher)
        return path

    def root(self, network: Network) -> Network | None:
        """The first network of its chain; ``None`` if it has no teacher or that one was not collected."""
        if network.root_digest in (None, network.digest):
            return None
        return next((other for other in self.networks if other.digest == network.root_digest), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form; histories stay in the store."""
        plain = dataclasses.asdict(self)
        for holder in (plain, *plain["arms"]):
            for network in holder["networks"]:
                del network["history"]
        for arm in plain["arms"]:  # the networks themselves stand in the list of all
            arm["networks"] = [network["digest"] for network in arm["networks"]]
        return plain
