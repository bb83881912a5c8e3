"""Equations of Markdown text as MathML, which browsers draw by themselves: no script, no network."""

import re

from latex2mathml.converter import convert

# code first, so that a dollar sign in code starts no equation
_PARTS = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<display>.+?)\$\$|(?<![\\$])\$(?!\s)(?P<inline>[^$]+?)(?<![\s\\])\$(?!\d)",
    re.DOTALL,
)
_ENTITIES = {"*": "&#42;", "_": "&#95;", "`": "&#96;", "~": "&#126;", "\n": " "}  # or Markdown would read them


def with_mathml(text: str) -> str:
    """Return Markdown text with its equations as MathML; one that cannot be converted stays as it is written."""
    return _PARTS.sub(_converted, text)


def _converted(found: re.Match[str]) -> str:
    if found["code"] is not None:
        return found[0]
    latex = (found["display"] or found["inline"]).strip()
    # the converter knows neither aligned nor arg, and draws no equation numbers
    latex = latex.replace("{aligned}", "{align*}").replace(r"\arg", r"\operatorname{arg}")
    latex = re.sub(r"\\tag\{([^}]*)\}", r"\\qquad (\\text{\1})", latex)
    try:
        made = convert(latex, display="block" if found["display"] else "inline")
    except Exception:  # the converter has a dozen kinds of error for what it cannot read
        return f"`{latex}`"
    made = re.sub(r"&(?!#|\w+;)", "&amp;", made)
    for sign, entity in _ENTITIES.items():
        made = made.replace(sign, entity)
    return f"\n\n{made}\n\n" if found["display"] else made
