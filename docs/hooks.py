# SPDX-License-Identifier: Apache-2.0
"""Hooks of MkDocs: equations become MathML, which browsers draw without a script or a font."""

import html
import re

from latex2mathml.converter import convert

_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def on_page_content(content: str, **_) -> str:
    """Return the page with its equations, which Arithmatex has marked, as MathML."""

    def mathml(match: re.Match) -> str:
        display = "block" if match[1] == "div" else "inline"
        return convert(html.unescape(match[2]), display=display)

    return _EQUATION.sub(mathml, content)
