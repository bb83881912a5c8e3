"""Every learner's docstring has an example, and it does what it says, within a second."""

import doctest
import importlib
import time
from pathlib import Path

import pytest

import ctml
from ctml.learners.by_name import make_learner

LEARNERS = Path(ctml.__file__).parent / "learners"
MODULES = [f"ctml.learners.{path.stem}" for path in sorted(LEARNERS.glob("[a-z]*.py"))] + [
    ctml.meta_train.__module__,
    ctml.meta_test.__module__,
]
BASES = {ctml.Learner, ctml.GradientLearner}
PUBLIC = [getattr(ctml, name) for name in ctml.__all__]
METHODS = [c for c in PUBLIC if isinstance(c, type) and issubclass(c, ctml.Learner) and c not in BASES]


def examples(thing) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder(recurse=False).find(thing) if test.examples]


@pytest.mark.parametrize(
    "thing", [*METHODS, make_learner, ctml.stack, ctml.meta_train, ctml.meta_test], ids=lambda t: t.__name__
)
def test_there_is_an_example_that_a_reader_can_paste(thing):
    (test,) = examples(thing)
    test.globs = {}  # nothing but what the example itself imports
    started = time.process_time()
    assert doctest.DocTestRunner().run(test).failed == 0
    assert time.process_time() - started < 2, "an example is quick"


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
