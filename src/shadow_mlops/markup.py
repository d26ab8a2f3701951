"""HTML and SVG as a tree: its serialiser escapes every text and attribute, so no name in the data becomes markup."""

from __future__ import annotations

from importlib.resources import files
from typing import TypeAlias
from xml.etree import ElementTree as ET  # only written with, never parsed

Node: TypeAlias = ET.Element
Content: TypeAlias = Node | str | None


def element(tag: str, *contents: Content, **attributes: str | float | None) -> Node:
    """One element.

    Parameters
    ----------
    contents
        Texts and elements in their order; None is left out.
    attributes
        ``class_`` stands for ``class``, ``_`` for ``-``; None is left out, an empty text is an attribute without value.

    Examples
    --------
    >>> written(element("p", "a < b ", element("b", "<script>"), " c", class_='"x"'))
    '<p class="&quot;x&quot;">a &lt; b <b>&lt;script&gt;</b> c</p>'
    """
    node = ET.Element(tag)
    for name, value in attributes.items():
        if value is not None:
            node.set(name.rstrip("_").replace("_", "-"), f"{value:g}" if isinstance(value, float) else str(value))
    for content in contents:
        if isinstance(content, str):
            _append_text(node, content)
        elif content is not None:
            node.append(content)
    return node


def _append_text(node: Node, text: str) -> None:
    if len(node):
        node[-1].tail = (node[-1].tail or "") + text
    else:
        node.text = (node.text or "") + text


# Should a name of the data ever become markup in spite of the serialiser, the browser loads and runs nothing for it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(title: str, *sections: Node, footer: str) -> str:
    """One HTML file in the style of all reports: it asks for nothing from anywhere, runs no script, and prints."""
    style = (files("shadow_mlops") / "report.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", style),
    )
    body = element("body", element("main", *sections), element("footer", footer))
    return f"<!doctype html>\n{written(element('html', head, body, lang='en'))}\n"


def written(node: Node) -> str:
    """The tree as HTML5 text."""
    return ET.tostring(node, encoding="unicode", method="html")
