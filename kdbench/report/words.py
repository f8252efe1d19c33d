"""Sentences that are computed from results, for the terminal, the table and the page."""

from __future__ import annotations

from kdbench.report.results import Claim, Comparison, StudyResult, Summary


def arrows(label: str) -> str:
    """A chain as it is read: ``plain6 -> plain2`` with an arrow."""
    return label.replace(" -> ", " \u2192 ")


def plain(text: str) -> str:
    """The same in ASCII, for terminals and pipes of any encoding: the inverse of what this module beautifies."""
    for beautiful, typed in (("\u2192", "->"), ("\u2212", "-"), ("\u00b1", "+-")):
        text = text.replace(beautiful, typed)
    return text


def points(value: float) -> str:
    """A difference in points with its sign: ``+0.49``, ``\u22120.10``, ``0.00``."""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "\u2212")


def spread_text(summary: Summary) -> str:
    """``93.10 \u00b1 0.42``; a single replicate has no spread."""
    return f"{summary.mean:.2f}" + ("" if summary.sd is None else f" \u00b1 {summary.sd:.2f}")


def interval_text(low: float | None, high: float | None) -> str:
    """``95 %: 92.7 to 93.5``; nothing where there is none."""
    return "" if low is None or high is None else f"95 %: {low:.2f} to {high:.2f}".replace("-", "\u2212")


def p_text(comparison: Comparison) -> str:
    """The p value that counts: the corrected one, with the correction's name."""
    if comparison.p_corrected is not None:
        return f"p {_p(comparison.p_corrected)} ({comparison.correction})"
    return "" if comparison.p is None else f"p {_p(comparison.p)} (not corrected)"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def claim_sentence(claim: Claim, result: StudyResult) -> str:
    """What our numbers say of a claim, beside what was published unless the study is a smoke run."""
    labels = {arm.name: arrows(arm.label) for arm in result.arms}
    text = f"{claim.verdict[:1].upper()}{claim.verdict[1:]}: {claim.text.rstrip('.')}."
    if claim.ours is not None:
        interval = interval_text(claim.ours.low, claim.ours.high)
        beside = f"{interval}, n={claim.ours.n}" if interval else f"n={claim.ours.n}"
        difference = f"{points(claim.ours.mean)} points" if not claim.measure else f"{claim.ours.mean:+.4f}"
        subject = f" of {claim.measure}" if claim.measure else ""
        text += (f" {labels.get(claim.arm, claim.arm)} minus {labels.get(claim.reference, claim.reference)}{subject}: "
                 f"{difference} ({beside})")  # fmt: skip
        if claim.published is not None and result.size == "full":
            text += f"; published {points(claim.published)} ({claim.source}, {claim.confidence})"
        text += "."
    return text


def sentences(result: StudyResult) -> list[str]:
    """One for each claim."""
    return [claim_sentence(claim, result) for claim in result.claims]
