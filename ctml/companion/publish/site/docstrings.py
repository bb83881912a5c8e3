"""Docstrings as they are written, made readable to reStructuredText: equations and tables in them keep their lines.

What is indented below plain text (an equation, a table of letters) becomes a block of text; bars, stars and indices,
which are mathematics here, lose their meaning as markup. Google's sections and lists stay what they are.
"""

import re

_SECTION = re.compile(r"(Args|Attributes|Example|Examples|Note|Raises|Returns|Yields):$")
_LIST_ITEM = re.compile(r"\s*([-*]|\d+\.) ")
# kept: code, strong words, emphasis, the mark of a list item, what is escaped; and then what is escaped here
_MARKUP = re.compile(r"(`+[^`]*`+|\*\*[^*]+\*\*|(?<!\w)\*\w[^*]*\*(?!\w)|^\s*\* |\\.)|([|*]|(?<=\w)_(?!\w))")


def as_rst(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText with Google's sections."""
    made: list[str] = []
    block = (
        ""  # what the indented lines are that stand here: "" (none), "text" or "rest" (of a section, of a list item)
    )
    above = ""  # the last line that was not empty
    for line in lines:
        if not line.strip():
            made.append("")
            continue
        indented = line.startswith(" ")
        if indented and not block:
            block = "rest" if _SECTION.match(above) or _LIST_ITEM.match(above) else "text"
            if block == "text":
                made += ["", ".. code-block:: text", ""]
        elif not indented:
            if block == "text" and made[-1]:
                made.append("")
            block = ""
        made.append(line if block == "text" else escaped(line))
        above = line
    return made


def escaped(line: str) -> str:
    """Return a line of prose in which `|theta|`, `a * b` and `x_` are no markup."""
    return _MARKUP.sub(lambda match: match[1] or f"\\{match[2]}", line)
