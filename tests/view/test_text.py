"""Names from files have no effect on the page."""

from __future__ import annotations

import numpy as np

from dexjax.view.objects import _describe_mesh
from dexjax.view.text import plain


def test_markup_in_names_is_text():
    assert plain("mug_000") == "mug_000"
    found = plain("<iframe srcdoc='x'>\n![](http://a)")
    assert "<" not in found and "\n" not in found and "\\!\\[\\]" in found
    assert plain("a\\*b") == "a\\\\\\*b"


def test_panels_escape_names():
    class Mesh:
        vertices, faces = np.eye(3), np.array([[0, 1, 2]])

    assert "<img" not in _describe_mesh("<img src=x>", Mesh())
