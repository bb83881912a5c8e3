"""Statements written as plain text (`O(delta^(2/3))`, `dW(T)/dW_0`) as HTML with Greek letters, indices and powers."""

import html
import re

_GREEK = {
    "alpha": "α", "beta": "β", "delta": "δ", "epsilon": "ε", "eta": "η", "kappa": "κ", "lam": "λ", "lambda": "λ",
    "mu": "μ", "nu": "ν", "phi": "φ", "rho": "ρ", "sigma": "σ", "tau": "τ", "theta": "θ",
}  # fmt: skip
_SIGNS = (("(x)", "⊗"), (" x ", " × "), ("-&gt;", "→"), ("&lt;=", "≤"), ("&gt;=", "≥"), ("grad ", "∇"), ("sum ", "Σ "))
_WORD = re.compile(rf"(?<![a-zA-Z])({'|'.join(_GREEK)})(?![a-zA-Z])")
_POWER = re.compile(r"\^\(([^()]+)\)|\^(\w+)")
_INDEX = re.compile(r"(?<=\b[A-Za-zα-ω])_(\w+)|(?<=d[A-Zα-ω])_(\w+)")


def typeset(text: str) -> str:
    """Return the statement as HTML.

    Only what cannot be prose is changed: a Greek letter that stands alone, an index after a single letter, a power.
    """
    made = html.escape(text, quote=False)
    for written, sign in _SIGNS:
        made = made.replace(written, sign)
    made = _WORD.sub(lambda match: _GREEK[match[1]], made)
    made = _INDEX.sub(lambda match: f"<sub>{match[1] or match[2]}</sub>", made)
    return _POWER.sub(lambda match: f"<sup>{match[1] or match[2]}</sup>", made)
