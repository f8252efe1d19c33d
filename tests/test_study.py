import dataclasses
import json
import math
import statistics
from pathlib import Path

import pytest

from kdbench.config.compose import Composer
from kdbench.core.errors import ConfigError
from kdbench.report.arms import arm_table
from kdbench.report.literature import read_published
from kdbench.report.pair_table import pair_table
from kdbench.report.results import Arm, Claim, Network, StudyResult
from kdbench.report.summary import paired_p_value
from kdbench.report.words import claim_sentence
from kdbench.study import _of_study, _unsuitable, collect, compare, holm

PLAIN = {"from": "first", "to": "last"}
ASSISTED = {"from": "first", "through": "one", "to": "last"}
STUDY = {
    "name": "toy", "question": "Does it help?", "source": "Toy et al.", "family": "plain", "size": "full",
    "networks": ["l", "m", "s", "xs"], "reference": PLAIN, "published": None,
    "arms": {"scratch": {"from": "none", "to": "all"}, "kd": PLAIN, "takd": ASSISTED,
             "longer": {**PLAIN, "epochs_times": 2}},
    "claims": [{"text": "any assistant helps", "better": ASSISTED, "than": PLAIN}],
}  # fmt: skip
NETWORK = Network(digest="", name="", role="student", chain=(), seed=0, method="kd", variant="", dataset="cifar10",
                  protocol="", select_on="last", parameters=1, macs=1.0, epochs=1, images=1, teacher_queries=0,
                  extra_parameters=0, seconds=1.0, val_acc=None, best_val_acc=None, test_acc=0.0)  # fmt: skip


def result_of(
    accuracies: dict[tuple[str, str], list[float]], dataset: str = "cifar10", **changes: object
) -> StudyResult:
    """A study whose arms, named ``(arm, "l s xs")``, reached these accuracies with seeds 1, 2, ..."""
    networks, jobs = [], []
    for (arm, words), values in accuracies.items():
        chain = tuple(words.split())
        for seed, value in enumerate(values, start=1):
            digest = f"{arm} {words} {seed}"
            networks.append(
                dataclasses.replace(NETWORK, digest=digest, name=chain[-1], chain=chain, seed=seed, test_acc=value)
            )
            named = [{"name": name, "digest": digest if name == chain[-1] else name} for name in chain]
            jobs.append({"arm": arm, "protocol": "clean", "networks": named})
    arms = (Arm("run", "run", ("xs",), None, tuple(networks)),)
    plain = StudyResult("toy", "", "", "", "", dataset, "full", (), tuple(networks), arms)
    return _of_study(plain, {**STUDY, **changes}, jobs)


def verdict(accuracies: dict[tuple[str, str], list[float]], **claim: object) -> str:
    claims = [{**STUDY["claims"][0], **claim}]
    return result_of(accuracies, claims=claims).claims[0].verdict


DIRECT = {("kd", "l xs"): [80.0, 81.0, 79.5, 80.2]}
BETTER = [82.1, 83.0, 81.4, 82.3]
EQUAL = [80.01, 80.99, 79.52, 80.19]


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_never_falls() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def tails(t: float, df: int) -> float:
    """Probability beyond t on both sides, by summing Student's density."""
    factor = math.gamma((df + 1) / 2) / (math.gamma(df / 2) * math.sqrt(df * math.pi))
    width = t / 20_000
    inside = sum((1 + ((k + 0.5) * width) ** 2 / df) ** (-(df + 1) / 2) * width for k in range(20_000))
    return 1 - 2 * factor * inside


@pytest.mark.parametrize("differences", [[1.0, 2.0, 3.0], [0.5, -0.2, 0.4, 0.1, 0.3], [2.0, 2.1, 1.9, 2.0, 2.2, 2.1]])
def test_the_paired_p_value_is_that_of_the_t_test(differences: list[float]) -> None:
    n = len(differences)
    t = statistics.fmean(differences) / (statistics.stdev(differences) / math.sqrt(n))
    assert paired_p_value(differences) == pytest.approx(tails(t, n - 1), abs=1e-7)


def test_a_p_value_needs_two_seeds_and_some_spread() -> None:
    assert paired_p_value([1.0]) is None
    assert paired_p_value([1.0, 1.0]) == 0.0
    assert paired_p_value([0.0, 0.0]) == 1.0


def test_arms_are_paired_by_seed_not_by_place() -> None:
    found = result_of(DIRECT | {("takd", "l s xs"): BETTER})
    direct, through = found.arms
    shuffled = dataclasses.replace(through, networks=through.networks[::-1])
    (test,) = compare([(shuffled, direct)])
    assert test.difference.mean == pytest.approx(2.025)
    assert test.difference.sd == pytest.approx(0.0957, abs=1e-3)
    unpaired = dataclasses.replace(
        direct, networks=tuple(dataclasses.replace(n, seed=n.seed + 9) for n in direct.networks)
    )
    assert compare([(through, unpaired)]) == []


def test_a_clear_gain_is_supported_and_a_clear_loss_is_not() -> None:
    assert verdict(DIRECT | {("takd", "l s xs"): BETTER}) == "supported"
    assert verdict({("kd", "l xs"): BETTER, ("takd", "l s xs"): DIRECT["kd", "l xs"]}) == "not supported"


def test_a_gain_too_small_to_matter_is_not_supported_and_noise_is_undecided() -> None:
    assert verdict(DIRECT | {("takd", "l s xs"): EQUAL}) == "not supported"
    assert verdict(DIRECT | {("takd", "l s xs"): [82.0, 79.0, 81.0, 80.0]}) == "undecided at n=4"
    assert verdict({("kd", "l xs"): [80.0], ("takd", "l s xs"): [85.0]}) == "undecided at n=1"


def test_every_needs_all_and_some_needs_one() -> None:
    mixed = DIRECT | {("takd", "l m xs"): BETTER, ("takd", "l s xs"): EQUAL}
    assert verdict(mixed) == "not supported"
    assert verdict(mixed, quantifier="some") == "supported"
    (claim,) = result_of(mixed).claims
    assert claim.arm == "takd: l -> s -> xs"  # the weakest one is shown


def test_the_longest_must_beat_each_of_the_others() -> None:
    paths = DIRECT | {("takd", "l s xs"): EQUAL, ("takd", "l m s xs"): BETTER}
    everything = {"from": "first", "through": "any", "to": "last"}
    assert verdict(paths, better=everything, quantifier="longest_is_best") == "supported"
    swapped = DIRECT | {("takd", "l s xs"): BETTER, ("takd", "l m s xs"): EQUAL}
    assert verdict(swapped, better=everything, quantifier="longest_is_best") == "not supported"


def test_the_heuristic_is_judged_by_the_assistant_that_it_chooses() -> None:
    alone = {
        ("scratch", "l"): [90.0] * 4,
        ("scratch", "m"): [84.9] * 4,
        ("scratch", "s"): [82.0] * 4,
        ("scratch", "xs"): [80.0] * 4,
    }
    through = {("takd", "l m xs"): BETTER, ("takd", "l s xs"): DIRECT["kd", "l xs"]}
    assert verdict(alone | through, quantifier="chosen") == "supported"
    swapped = {("takd", "l m xs"): DIRECT["kd", "l xs"], ("takd", "l s xs"): BETTER}
    assert verdict(alone | swapped, quantifier="chosen") == "not supported"
    assert verdict(through, quantifier="chosen").startswith("cannot be judged")


def test_variants_of_an_arm_are_compared_with_the_plain_one_and_have_labels_of_their_own() -> None:
    found = result_of(DIRECT | {("longer", "l xs"): BETTER})
    assert [arm.label for arm in found.arms] == ["l -> xs (kd)", "l -> xs (longer)"]
    assert [(test.arm, test.reference) for test in found.comparisons] == [("longer: l -> xs", "kd: l -> xs")]


def test_published_values_stand_beside_the_arm_of_their_chain_and_vanish_in_a_smoke_run() -> None:
    accuracies = {
        ("scratch", "plain2"): [70.0],
        ("kd", "plain10 plain2"): [72.0],
        ("takd", "plain10 plain4 plain2"): [73.0],
    }
    about = {
        "networks": ["plain10", "plain4", "plain2"],
        "published": {"file": "takd.csv", "studies": ["table1_cnn_c10"]},
    }
    found = result_of(accuracies, **about)
    assert {value.arm: value.value for value in found.published} == {
        "scratch: plain2": 70.16, "kd: plain10 -> plain2": 72.57, "takd: plain10 -> plain4 -> plain2": 73.51,
    }  # fmt: skip
    assert found.claims[0].published == pytest.approx(0.94)
    assert result_of(accuracies, **about, size="smoke").published == ()


def test_a_missing_file_of_published_values_is_named() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'takd\.csv'"):
        read_published("take.csv")


def test_collect_refuses_a_folder_without_a_record(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match="run the same command again"):
        collect(tmp_path)


def measured(
    accuracies: dict[tuple[str, str], list[float]], rises: dict[str, list[float | None]], **claim: object
) -> Claim:
    """The claim's outcome where each arm's networks have these rises, as ``eval=[landscape]`` measures them."""
    plain = result_of(accuracies)
    values = {f"{arm} {words} {seed}": rise for (arm, words) in accuracies for seed, rise in enumerate(rises[arm], 1)}
    networks = tuple(
        dataclasses.replace(one, evals={"landscape": {"rise": values[one.digest]}}) for one in plain.networks
    )
    jobs = [{"arm": one.digest.split()[0], "protocol": "clean",
             "networks": [{"name": name, "digest": one.digest} for name in one.chain]} for one in networks]  # fmt: skip
    arms = (Arm("run", "run", ("xs",), None, networks),)
    study = {**STUDY, "claims": [{**STUDY["claims"][0], "measure": "landscape.rise", **claim}]}
    return _of_study(dataclasses.replace(plain, networks=networks, arms=arms), study, jobs).claims[0]


def test_a_claim_may_be_about_an_evaluation_of_which_less_is_better() -> None:
    both = DIRECT | {("takd", "l s xs"): BETTER}
    flat, steep = [0.11, 0.12, 0.10, 0.13], [0.52, 0.50, 0.53, 0.55]
    claim = measured(both, {"kd": steep, "takd": flat}, smaller_is_better=True)
    assert (claim.verdict, claim.direction, claim.measure) == ("supported", "below", "landscape.rise")
    assert claim.ours is not None
    assert claim.ours.mean == pytest.approx(-0.41)
    assert "of landscape.rise: -0.4100 (95 %" in claim_sentence(claim, result_of(both))
    assert measured(both, {"kd": flat, "takd": steep}, smaller_is_better=True).verdict == "not supported"
    assert measured(both, {"kd": flat, "takd": steep}).verdict == "supported"


def test_a_claim_about_what_nobody_measured_cannot_be_judged() -> None:
    both = DIRECT | {("takd", "l s xs"): BETTER}
    assert verdict(both, measure="pgd.acc").startswith("cannot be judged")
    some = measured(both, {"kd": [0.5, 0.6, 0.7, None], "takd": [0.1, 0.2, 0.3, 0.4]}, smaller_is_better=True)
    assert some.ours is not None
    assert some.ours.n == 3


def test_arms_are_compared_under_the_same_condition_alone() -> None:
    plain = result_of({("kd", "l xs"): [80.0, 81.0], ("longer", "l xs"): [82.0, 83.5]})
    twice = tuple(dataclasses.replace(one, digest=f"{one.digest} {noise}", test_acc=one.test_acc - 10 * noise)
                  for noise in (0, 1) for one in plain.networks)  # fmt: skip
    jobs = [{"arm": one.digest.split()[0], "condition": f"noise {one.digest[-1]}", "protocol": "clean",
             "networks": [{"name": "l", "digest": "l"}, {"name": "xs", "digest": one.digest}]}
            for one in twice]  # fmt: skip
    arms = (Arm("run", "run", ("xs",), None, twice),)
    claims = [{"text": "longer is better", "better": {"arm": ["longer"]}, "than": {"arm": "kd"}}]
    found = _of_study(dataclasses.replace(plain, networks=twice, arms=arms), {**STUDY, "claims": claims}, jobs)
    assert [arm.label for arm in found.arms][:2] == ["l -> xs (kd), noise 0", "l -> xs (longer), noise 0"]
    assert [(one.arm, one.reference) for one in found.comparisons] == [
        (f"longer: l -> xs, noise {noise}", f"kd: l -> xs, noise {noise}") for noise in (0, 1)
    ]
    assert found.claims[0].ours is not None
    assert found.claims[0].ours.mean == pytest.approx(2.25)


def test_pairs_are_compared_within_themselves_and_beside_each_publication() -> None:
    known = {"a": {"teacher": "resnet56", "student": "resnet20"}, "b": {"teacher": "resnet110", "student": "resnet20"}}
    sources = [{"file": "cifar100_pairs.csv", "studies": [name]} for name in ("RepDistiller", "LSKD")]
    about = {
        "known_pairs": known, "pairs": None, "published": sources,
        "arms": {"kd": {}, "dkd": {"set": {"method": "dkd"}}},
        "claims": [{"text": "DKD is better", "better": {"arm": "dkd"}, "than": {"arm": "kd"}}],
    }  # fmt: skip
    accuracies = {
        (arm, f"{pair['teacher']} resnet20"): [value, value + 0.1, value + gain]
        for pair in known.values() for arm, value, gain in (("kd", 70.0, 0.2), ("dkd", 71.0, 0.3))
    }  # fmt: skip
    found = result_of(accuracies, dataset="cifar100", **about)
    assert [(one.arm, one.reference) for one in found.comparisons] == [
        (f"dkd: {teacher} -> resnet20", f"kd: {teacher} -> resnet20") for teacher in ("resnet56", "resnet110")
    ]
    assert all(one.p_corrected == one.p for one in found.comparisons)  # one test in each pair
    assert found.claims[0].published is None  # nobody printed both: values of two publications are not comparable
    heading, first, _ = pair_table(dataclasses.replace(found, unsuitable={"fsp: resnet56 -> resnet20": "unequal"}))
    assert heading.texts == ["kd", "dkd", "fsp"]
    assert (first.texts[2], first.notes) == ("N/A", ["70.66 RepDistiller", "71.97 LSKD", "unequal"])
    assert {field.heading for field in arm_table(found)} >= {"RepDistiller %", "LSKD %"}


def published_rows() -> dict[tuple[str, str, str, str], float]:
    return {
        (row["study"], row["teacher"], row["student"], row["method"]): float(row["value"])
        for row in read_published("cifar100_pairs.csv") if row["study"] in ("RepDistiller", "LSKD", "mdistiller")
    }  # fmt: skip


def test_the_claims_over_pairs_are_what_their_sources_print() -> None:
    study, rows = Composer().resolve(("study=cifar100_pairs",), ())["study"], published_rows()
    pairs = {(pair["teacher"], pair["student"]) for pair in study["known_pairs"].values()}
    for claim in study["claims"]:
        better, than = claim["better"]["arm"], claim["than"]["arm"]
        gaps = [
            value - rows[study_name, teacher, student, than]
            for (study_name, teacher, student, method), value in rows.items()
            if method == better and (teacher, student) in pairs and (study_name, teacher, student, than) in rows
        ]
        assert all(gap > 0 for gap in gaps), claim["text"]


def test_what_a_method_cannot_serve_is_told_from_what_a_failed_teacher_left() -> None:
    job = {"arm": "fsp", "networks": [{"name": "l", "digest": "t"}, {"name": "xs", "digest": "s"}]}
    final = {"status": "skipped", "reason": "unequal channels"}
    done, failed = ({"jobs": [job], "networks": {"t": {"status": status}, "s": final}} for status in ("done", "failed"))
    assert _unsuitable(done) == {"fsp: l -> xs": "unequal channels"}
    assert _unsuitable(failed) == {}
