import csv
import io
from dataclasses import replace

from report_toy import collected, gap, paths, study

from kdbench.report.arms import arm_records, arm_table, markdown
from kdbench.report.flags import find_flags
from kdbench.report.scores import against_root, one_family
from kdbench.report.tables import as_csv, as_markdown, network_table, score_table
from kdbench.report.words import claim_sentence, points, sentences


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_every_number_of_every_arm() -> None:
    result = study()
    read = rows(as_csv(arm_records(result)))
    assert [row["arm"] for row in read] == [arm.name for arm in result.arms]
    assisted = next(row for row in read if row["published"])
    assert assisted["arm"] == "plain10 -> plain4 -> plain2"
    assert (assisted["published"], assisted["published_confidence"], assisted["n"]) == ("73.51", "paper_text", "3")
    assert (assisted["reference"], assisted["correction"], assisted["p_corrected"]) == (
        "plain10 -> plain2",
        "Holm",
        "0.04",
    )
    assert (assisted["images"], assisted["chain_images"]) == ("450000", "1350000")
    assert (assisted["seconds"], assisted["chain_seconds"]) == ("30.0", "90.0")
    assert read[0]["difference"] == ""


def test_smoke_shows_nothing_published() -> None:
    result = study(size="smoke")
    assert all(row["published"] == "" for row in rows(as_csv(arm_records(result))))
    assert "73.51" not in markdown(result)
    assert "0.94" not in markdown(result)
    assert "smoke run" in markdown(result)


def test_markdown_is_a_table_with_flags_claims_and_command() -> None:
    text = markdown(study())
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in lines[:11]}) == 1
    assert "> **unequal budgets: training images, whole chain 900k to 2.25M**" in text
    assert "- Undecided at n=3: an assistant of intermediate size helps." in text
    assert "| at most 1 | plain10 \u2192 plain8 \u2192 plain2 |" in text
    assert "```sh\nkdbench -m study=toy_paths seed=1,2,3\n```" in text


def test_bars_in_labels_do_not_break_markdown() -> None:
    result = collected([("plain2",)])
    arm = replace(result.arms[0], label="a | b")
    assert as_markdown(arm_table(replace(result, arms=(arm,)))).splitlines()[-1].startswith("| a \\| b |")


def test_columns_without_anything_to_say_are_left_out() -> None:
    headings = [field.heading for field in arm_table(collected([("plain2",)]))]
    assert "published %" not in headings
    assert "difference" not in headings
    assert "agree %" not in headings
    assert headings[:3] == ["arm", "test %", "n"]


def test_network_table_has_every_digest() -> None:
    result = collected(paths())
    assert network_table(result.networks)[-1].texts == [network.digest for network in result.networks]


def test_scores_are_listed_best_first() -> None:
    middle = next(field for field in score_table(collected(paths())) if field.heading == "score, alpha 0.5")
    assert middle.values == sorted(value for value in middle.values or [] if value is not None)


def test_students_of_every_teacher_are_scored_but_only_one_family_is_drawn() -> None:
    scored = against_root(collected(gap()))
    assert len(scored) == len(score_table(collected(gap()))[0].texts) == 4
    assert len(one_family(scored)) == 1


def test_sentence_gives_difference_interval_seeds_and_source() -> None:
    (sentence,) = sentences(study())
    assert sentence.startswith("Undecided at n=3: an assistant of intermediate size helps. plain10 \u2192 plain4")
    assert "n=3); published +0.94 (paper: TAKD (arXiv 1902.03393) Fig. 5, paper_text)." in sentence


def test_sentence_of_a_claim_without_replicates_says_the_verdict_alone() -> None:
    result = study()
    claim = replace(result.claims[0], ours=None, verdict="undecided at n=0")
    assert claim_sentence(claim, result) == "Undecided at n=0: an assistant of intermediate size helps."


def test_differences_have_a_sign_unless_they_round_to_nothing() -> None:
    assert [points(value) for value in (0.494, -0.494, 0.001, -0.001)] == ["+0.49", "\u22120.49", "0.00", "0.00"]


def test_flags_say_what_is_unequal() -> None:
    result = collected([("plain2",), ("plain10", "plain2"), ("plain10",)])
    flags = find_flags(result.networks, result.arms)
    assert flags == ("unequal budgets: training images, whole chain 450k to 900k",)
    one, *others = result.arms
    strange = tuple(replace(network, select_on="test", protocol="best epoch on the test set", epochs=20, seed=7)
                    for network in one.networks[:1])  # fmt: skip
    flags = "\n".join(find_flags(result.networks, [replace(one, networks=strange), *others]))
    for words in ("selected on the test set", "different protocols", "epochs of the final network 10 to 20",
                  "do not share their seeds", "a single seed"):  # fmt: skip
        assert words in flags


def test_seeds_of_students_alone_are_told_from_those_of_whole_chains() -> None:
    result = collected([("plain10", "plain2")])
    arm = next(arm for arm in result.arms if len(arm.chain) == 2)
    words = "students of all seeds have the same teacher"
    assert words not in "".join(find_flags(result.networks, [arm]))
    fixed = tuple(replace(network, teacher_digest=arm.networks[0].teacher_digest) for network in arm.networks)
    assert words in "".join(find_flags(result.networks, [replace(arm, networks=fixed)]))
