"""What a notebook needs around its mathematics: runs, figures, claims, and a record of how they came about.

Invariant: nothing here knows any mathematics, and nothing in `ctml` outside this package imports it.
"""

from ctml.companion import style
from ctml.companion.parameters import choose
from ctml.companion.study import Study

__all__ = ["Study", "choose", "style"]
