"""What a study found: its arms, the paired tests between them, and what they say of its claims."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdbench.config.pairs import network_sets
from kdbench.config.studies import NONE, chains
from kdbench.report.collect import RECORD, collect_run
from kdbench.report.flags import find_flags
from kdbench.report.literature import published_values
from kdbench.report.queries import choose_assistant
from kdbench.report.results import Arm, Claim, Comparison, Network, Published, StudyResult, Summary
from kdbench.report.summary import paired_p_value, summarise

ALPHA = 0.05  # of the family of tests
MARGIN = 0.1  # points: a gain that is surely smaller is no gain worth claiming
HOLM = "Holm"


@dataclass(frozen=True)
class Measure:
    """What arms are compared by.

    Attributes:
        name: ``NAME.KEY`` of a result of an evaluation; empty for test accuracy, in percent.
        smaller_is_better: Whether it counts against an arm.
    """

    name: str = ""
    smaller_is_better: bool = False

    @property
    def margin(self) -> float:
        """A gain that is surely smaller is no gain worth claiming; in the measure's unit."""
        return MARGIN if not self.name or self.name.endswith("acc") else 0.0

    def of(self, network: Network) -> float | None:
        """Of one network; ``None`` where nobody measured it."""
        name, _, key = self.name.partition(".")
        return network.evals.get(name, {}).get(key) if self.name else network.test_acc


@dataclass(frozen=True)
class Test:
    """Two arms over the seeds that they share.

    Attributes:
        arm: The one that is tested.
        reference: The one it is compared with.
        difference: Arm minus reference, over seeds; of accuracies in points.
        p: Of the paired t test, two-sided; ``None`` for fewer than two seeds.
        corrected: By Holm over the tests made together.
    """

    arm: Arm
    reference: Arm
    difference: Summary
    p: float | None
    corrected: float | None = None
    measure: Measure = Measure()

    @property
    def gain(self) -> float:
        """The mean difference, positive where the arm is better."""
        return -self.difference.mean if self.measure.smaller_is_better else self.difference.mean

    @property
    def supported(self) -> bool:
        """Whether the arm is better: significantly so, and by the sign."""
        return self.corrected is not None and self.corrected < ALPHA and self.gain > 0

    @property
    def refuted(self) -> bool:
        """Whether a gain of the measure's margin or more lies outside the interval."""
        if self.difference.high is None:
            return False
        return self.gain + (self.difference.high - self.difference.mean) < self.measure.margin


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Corrects p values for being several, so that the chance of any false positive stays what it was for one.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    order = sorted((value, position) for position, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, position) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[position] = largest
    return corrected


def compare(pairs: Sequence[tuple[Arm, Arm]], measure: Measure = Measure()) -> list[Test]:
    """Paired tests of arms against references, corrected together; pairs that share no measured seed are left out."""
    tests = []
    for arm, reference in pairs:
        ours, theirs = ({one.seed: value for one in side.networks if (value := measure.of(one)) is not None}
                        for side in (arm, reference))  # fmt: skip
        differences = [value - theirs[seed] for seed, value in ours.items() if seed in theirs]
        if differences:
            tests.append(Test(arm, reference, summarise(differences), paired_p_value(differences), measure=measure))
    return [replace(test, corrected=value) for test, value in zip(tests, holm([test.p for test in tests]), strict=True)]


def collect(folder: Path) -> StudyResult:
    """Everything a report shows of a run folder, with what its study asks where it is one.

    Raises:
        ConfigError: The record cannot be read, or nothing of it is in the store.
        StoreError: A network of it is damaged.
    """
    result = collect_run(folder)
    record = json.loads((folder / RECORD).read_bytes())
    if record.get("command"):
        result = replace(result, command=record["command"])
    study = record.get("study")
    if not study or study["name"] == NONE:
        return result
    return replace(_of_study(result, study, record["jobs"]), unsuitable=_unsuitable(record))


def _of_study(result: StudyResult, study: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> StudyResult:
    arms = _arms(result, study, jobs)
    protocols = dict.fromkeys(str(job["protocol"]) for job in jobs)
    published = published_values(result.dataset, arms, study)
    references = _chains(study, study["reference"])
    pairs = [
        (arm, reference)
        for arm in arms
        for reference in arms
        if reference.chain in references and _comparable(arm, reference)
        and _same_set(arm, reference, study) and _plain(reference, study)
    ]  # fmt: skip
    comparisons = [
        Comparison(test.arm.name, test.reference.name, test.difference.mean, test.difference.low, test.difference.high,
                   test.p, test.corrected, f"{HOLM} within the pair" if study.get("known_pairs") else HOLM)
        for networks in network_sets(study).values()
        for test in compare([both for both in pairs if set(networks).issuperset((*both[0].chain, *both[1].chain))])
    ]  # fmt: skip
    notes = [note for protocol in protocols for note in study.get("notes", {}).get(protocol) or []]
    missing = [f"not compared with {', '.join(study['missing'])}, which the source has"] if study.get("missing") else []
    smoke = ["smoke: a short run to see it work; its numbers mean nothing"] if study["size"] == "smoke" else []
    return replace(
        result,
        title=study["question"],
        source=study["source"],
        size=study["size"],
        protocol=f"{' and '.join(protocols)}: {result.protocol}",
        flags=(*smoke, *find_flags(result.networks, arms), *notes, *missing, *_failed(result.flags)),
        arms=arms,
        comparisons=tuple(comparisons),
        claims=tuple(_claim(claim, arms, study, published) for claim in study["claims"]),
        published=tuple(published),
        pairs=tuple((teacher, student) for teacher, student in network_sets(study).values())
        if study.get("known_pairs") else (),
    )  # fmt: skip


def _unsuitable(record: Mapping[str, Any]) -> dict[str, str]:
    """Why a method cannot serve a pair, by the name of the arm; not what was skipped since its teacher failed."""
    found = {}
    for job in record["jobs"]:
        *teachers, final = [record["networks"].get(network["digest"], {}) for network in job["networks"]]
        made = all(teacher.get("status") in ("done", "in store") for teacher in teachers)
        if final.get("status") == "skipped" and made:
            found[f"{job['arm']}: {' -> '.join(network['name'] for network in job['networks'])}"] = final["reason"]
    return found


def _failed(flags: Sequence[str]) -> list[str]:
    return [flag for flag in flags if flag.startswith(("failed", "skipped", "stopped"))]


def _arms(result: StudyResult, study: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> tuple[Arm, ...]:
    """The study's arms, a chain each, in its order; replicates by seed."""
    known = {network.digest: network for network in result.networks}
    found: dict[tuple[str, str, tuple[str, ...]], dict[str, Network]] = {}
    for job in jobs:
        digest = job["networks"][-1]["digest"]
        if digest in known:
            chain = tuple(network["name"] for network in job["networks"])
            found.setdefault((job["arm"], job.get("condition", ""), chain), {})[digest] = known[digest]
    sharing = [(condition, chain) for _, condition, chain in found]
    return tuple(
        Arm(
            name=f"{arm}: {' -> '.join(chain)}" + (condition and f", {condition}"),
            label=" -> ".join(chain)
            + (f" ({arm})" if sharing.count((condition, chain)) > 1 else "")
            + (condition and f", {condition}"),
            chain=chain,
            method=next(iter(networks.values())).method,
            networks=tuple(networks.values()),
            condition=condition,
        )
        for (arm, condition, chain), networks in found.items()
    )


def _key(arm: Arm) -> str:
    return arm.name.split(":")[0]


def _comparable(arm: Arm, other: Arm) -> bool:
    """Whether two arms make the same student under the same condition."""
    return arm.chain[-1] == other.chain[-1] and arm.condition == other.condition and arm is not other


def _plain(arm: Arm, study: Mapping[str, Any]) -> bool:
    """Whether an arm has no settings of its own: those are variants of the plain one over the same chain."""
    content = study["arms"][_key(arm)] or {}
    return not (content.get("set") or content.get("epochs_times"))


def _chains(study: Mapping[str, Any], ends: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [chain for networks in network_sets(study).values() for chain in chains(networks, ends)]


def _same_set(arm: Arm, other: Arm, study: Mapping[str, Any]) -> bool:
    """Whether two arms belong to one pair, where a study has pairs: students of two teachers are not rivals."""
    return any(set(networks).issuperset((*arm.chain, *other.chain)) for networks in network_sets(study).values())


def _chosen(arms: Sequence[Arm], study: Mapping[str, Any], where: Mapping[str, Any]) -> list[Arm]:
    """The arms that one side of a claim speaks of: by the arm's name, or by their chains."""
    if "arm" in where:
        names = where["arm"] if isinstance(where["arm"], list) else [where["arm"]]
        return [arm for arm in arms if _key(arm) in names]
    wanted = _chains(study, where)
    return [arm for arm in arms if arm.chain in wanted and _plain(arm, study)]


# -- claims -----------------------------------------------------------------------------------------------------------


def _every(tests: Sequence[Test]) -> tuple[str, Test]:
    verdict = "supported" if all(test.supported for test in tests) else "undecided"
    verdict = "not supported" if any(test.refuted for test in tests) else verdict
    return verdict, min(tests, key=lambda test: test.gain)


def _some(tests: Sequence[Test]) -> tuple[str, Test]:
    verdict = "supported" if any(test.supported for test in tests) else "undecided"
    verdict = "not supported" if all(test.refuted for test in tests) else verdict
    return verdict, max(tests, key=lambda test: test.gain)


def _against_others(arms: Sequence[Arm], best: Callable[[str], Arm | None], measure: Measure) -> list[Test]:
    """Tests of the arm that should be the best one of those with its student, against each of the others."""
    pairs = []
    for student in dict.fromkeys(arm.chain[-1] for arm in arms):
        if (favourite := best(student)) is not None:
            rivals = [arm for arm in arms if arm.chain[-1] == student and arm is not favourite]
            pairs += [(favourite, rival) for rival in rivals]
    return compare(pairs, measure)


def _longest(arms: Sequence[Arm], student: str) -> Arm:
    return max((arm for arm in arms if arm.chain[-1] == student), key=lambda arm: len(arm.chain))


def _halfway(arms: Sequence[Arm], all_arms: Sequence[Arm], student: str) -> Arm | None:
    """The arm through the assistant whose accuracy from scratch is nearest to the mean of teacher's and student's."""
    alone = {arm.chain[0]: summarise([network.test_acc for network in arm.networks]).mean
             for arm in all_arms if len(arm.chain) == 1}  # fmt: skip
    teacher = arms[0].chain[0]
    if len({student, teacher} & set(alone)) < 2 or len(alone) < 3:
        return None
    assistant = choose_assistant(alone, student, teacher)
    return next((arm for arm in arms if arm.chain == (teacher, assistant, student)), None)


def _tests_of(claim: Mapping[str, Any], arms: Sequence[Arm], study: Mapping[str, Any]) -> list[Test]:
    better = _chosen(arms, study, claim["better"])
    quantifier = claim.get("quantifier", "every")
    measure = Measure(claim.get("measure", ""), claim.get("smaller_is_better", False))
    if quantifier == "longest_is_best":
        return _against_others(better, partial(_longest, better), measure)
    if quantifier == "chosen":
        return _against_others(better, partial(_halfway, better, arms), measure)
    than = _chosen(arms, study, claim["than"])
    return compare([(arm, other) for arm in better for other in than
                    if _comparable(arm, other) and _same_set(arm, other, study)], measure)  # fmt: skip


def _claim(claim: Mapping[str, Any], arms: Sequence[Arm], study: Mapping[str, Any],
           published: Sequence[Published]) -> Claim:  # fmt: skip
    tests = _tests_of(claim, arms, study)
    source = str(claim.get("source", study["source"]))
    if not tests:
        missing = "cannot be judged: an arm is missing or not measured"
        return Claim(claim["text"], "", "", None, None, "above", None, missing, source, "")
    verdict, shown = (_some if claim.get("quantifier") == "some" else _every)(tests)
    if verdict == "undecided":
        verdict = f"undecided at n={min(test.difference.n for test in tests)}"
    above, below = _printed_together(published, shown)
    return Claim(
        text=claim["text"],
        arm=shown.arm.name,
        reference=shown.reference.name,
        published=None if above is None or below is None else above.value - below.value,
        ours=shown.difference,
        direction="below" if shown.measure.smaller_is_better else "above",
        tolerance=claim.get("tolerance"),
        measure=shown.measure.name,
        verdict=verdict,
        source=above.source if above else source,
        confidence=above.confidence if above else "",
    )


def _printed_together(published: Sequence[Published], test: Test) -> tuple[Published | None, Published | None]:
    """Published values of both arms by the first publication that has both: those of two are not comparable."""
    values = {(value.column, value.arm): value for value in reversed(published)}
    for value in published:
        if value.arm == test.arm.name and (below := values.get((value.column, test.reference.name))):
            return value, below
    return None, None
