"""Figures as they stand inside the page: their colours follow dark and light, their text is the page's."""

from __future__ import annotations

import io
import re
from html import escape

from matplotlib import rc_context

from kdbench.report.figures import Drawing
from kdbench.report.figures._style import COLOURS, RC


def as_svg(drawing: Drawing) -> str:
    """The file: the same bytes for the same results."""
    file = io.StringIO()
    with rc_context(RC):
        drawing.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": drawing.title})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def as_png(drawing: Drawing) -> bytes:
    """The file, on white, for where SVG is not welcome."""
    file = io.BytesIO()
    with rc_context(RC):
        drawing.figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
    return file.getvalue()


def inlined(svg: str, name: str, text: str) -> str:
    """A part of an HTML page, made of a file of :func:`as_svg`.

    Args:
        svg: The file.
        name: Goes before every id, for several figures share a page.
        text: For those who cannot see it.
    """
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r"<title>.*?</title>", "", body, flags=re.DOTALL)
    body = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font-family: [^;\"]+;? ?", "", body)
    for colour, variable in COLOURS.items():
        body = body.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None
    body = re.sub(r"<svg[^>]*>", f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(text)}">', body, count=1)
    return body.replace("xlink:href", "href")
