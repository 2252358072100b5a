"""Text from files as text on the page."""

from __future__ import annotations

import html
import re

_MARKS = re.compile(r"([\\`*\[\]!])")


def plain(text: object) -> str:
    """A name or message for a markdown panel, without effect: the page renders HTML and pictures in
    markdown, and names come from other people's files."""
    return _MARKS.sub(r"\\\1", html.escape(" ".join(str(text).split()), quote=False))
