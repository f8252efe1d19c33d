"""One self-contained HTML page: opens from disk, asks nothing of any network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import repeat

from kdbench.report.arms import arm_table
from kdbench.report.console import count_text, time_text
from kdbench.report.figures import Drawing
from kdbench.report.pair_table import pair_table
from kdbench.report.results import StudyResult
from kdbench.report.svg import inlined
from kdbench.report.tables import Field, network_table, path_table, score_table
from kdbench.report.words import claim_sentence

_NUMBERS = """Accuracies are top-1, in percent, of the weights that the protocol selects; \u00b1 is the standard
deviation over seeds, n their number, and 95 % the interval of the mean (Student's t). Images are samples seen in
training; queries those that teachers were asked about, and images asked the different images among them, in whatever
view: measuring agreement on validation and test is no query. The chain counts all that was trained to make the final
network."""

_SCORES = """Lower is better. Students of different teachers are not comparable: a weaker teacher improves the score of
each. alpha is the weight of size; where the order depends on it, no student is simply the best."""


def render(result: StudyResult, drawings: Mapping[str, Drawing], svgs: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        result: What it shows.
        drawings: Titles and captions by name.
        svgs: The figures' files by name.
    """
    figures = "\n".join(_figure(name, drawing, svgs[name]) for name, drawing in drawings.items())
    body = "\n".join([
        _head(result),
        _claims(result),
        _section("Methods by pairs", _table(pair_table(result), "pairs")),
        _section("Results", _table(arm_table(result), "results") + f'<p class="note">{_NUMBERS}</p>'),
        _section("Figures", f'<div class="figures">{figures}</div>'),
        _section("Best path with at most k assistants", _table(path_table(result), "paths")),
        _scores(result),
        _networks(result),
        _section("Reproduce", f"<pre>{escape(result.command)}</pre>"),
    ])  # fmt: skip
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="kdbench">
<link rel="icon" href="data:,">
<title>{escape(result.title)}</title>
<style>
{_asset("page.css")}</style>
</head>
<body>
<main>
{body}
</main>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return (files("kdbench.report") / "assets" / name).read_text(encoding="utf-8")


def _head(result: StudyResult) -> str:
    seeds = sorted({network.seed for arm in result.arms for network in arm.networks})
    facts = {
        "Dataset": result.dataset,
        "Protocol": result.protocol,
        "Networks": str(len(result.networks)),
        "Seeds": ", ".join(map(str, seeds)),
        "Images seen in training": count_text(sum(network.images for network in result.networks)),
        "Training time": time_text(sum(network.seconds for network in result.networks)),
    }
    size = "smoke run: too small to conclude from" if result.size == "smoke" else "full size"
    over = f"{result.name} \u00b7 {size}" if result.source else result.name
    return f"""<header>
<p class="over">{escape(over)}</p>
<h1>{escape(result.title)}</h1>
{f'<p class="source">{escape(result.source)}</p>' if result.source else ""}
<dl class="facts">{"".join(f"<div><dt>{key}</dt><dd>{escape(text)}</dd></div>" for key, text in facts.items())}</dl>
{_list("flags", result.flags)}
</header>"""


def _list(style: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line[:1].upper() + line[1:])}.</li>" for line in lines)
    return f'<ul class="{style}" aria-label="What to know first">{items}</ul>' if items else ""


def _claims(result: StudyResult) -> str:
    items = []
    for claim in result.claims:
        verdict, _, rest = claim_sentence(claim, result).partition(": ")
        style = {"supported": "supported", "not supported": "not"}.get(claim.verdict, "open")
        items.append(f'<li class="{style}"><b>{escape(verdict)}</b> {escape(rest[:1].upper() + rest[1:])}</li>')
    return _section("What the numbers say", f'<ul class="claims">{"".join(items)}</ul>' if items else "")


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def _figure(name: str, drawing: Drawing, svg: str) -> str:
    return (
        f'<figure id="figure-{name}"><h3>{escape(drawing.title)}</h3>'
        f"{inlined(svg, name, drawing.caption)}<figcaption>{escape(drawing.caption)}</figcaption></figure>"
    )


def _scores(result: StudyResult) -> str:
    table = _table(score_table(result), "scores")
    note = f'<p class="note">{_SCORES}</p>' if table else ""
    return _section("Distillation score", table + note)


def _networks(result: StudyResult) -> str:
    table = _table(network_table(result.networks), "networks")
    summary = f"<summary>Digest, chain and cost of each of {len(result.networks)}</summary>"
    return _section("Networks", f"<details>{summary}{table}</details>")


def _table(fields: Sequence[Field], name: str) -> str:
    if not fields:
        return ""
    headings = "".join(
        f'<th{_number(field)} scope="col"{f" title={chr(34)}{escape(field.about)}{chr(34)}" if field.about else ""}>'
        f'<button type="button">{escape(field.heading)}</button></th>'
        for field in fields
    )
    rows = zip(*(_cells(field, first=index == 0) for index, field in enumerate(fields)), strict=True)
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table id="{name}">'
        f"<thead><tr>{headings}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _number(field: Field) -> str:
    return "" if field.values is None else ' class="number"'


def _cells(field: Field, *, first: bool) -> list[str]:
    tag, scope = ("th", ' scope="row"') if first else ("td", "")
    cells = []
    for text, value, note in zip(field.texts, field.values or field.texts, field.notes or repeat(""), strict=False):
        small = f"<small>{escape(note)}</small>" if note else ""
        key = "" if value is None else escape(str(value))
        cells.append(f'<{tag}{_number(field)}{scope} data-value="{key}">{escape(text)}{small}</{tag}>')
    return cells
