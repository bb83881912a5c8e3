"""Parameters are literals, and values from outside are checked before anything runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ctml.companion.parameters import check_settings, parse_settings, read_parameters
from ctml.companion.presets import check_open_notebook, choose, values_by_preset
from ctml.companion.project import Refusal

RANGES = """\
PRESET = "quick"  # smoke | quick | paper
seeds: int | None = None  # >= 1: runs of each method; None: as the preset says
rate = 0.1  # > 0 and < 1
order: str | None = None  # first | second
shots: list[int] | None = None  # each >= 1
device = "cpu"  # cpu | cuda | cuda:*: where it runs
far: list[float] | None = None  # 2 or more, each > 0
letters = "glyphs"  # glyphs | omniglot or glyphs
free = 1.0  # a number that means something else
"""


def notebook(tmp_path: Path, cell: str) -> Path:
    path = tmp_path / "n.py"
    path.write_text(f'# %%\nimport this\n\n# %% tags=["parameters"]\n{cell}\n# %%\nother = 1\n')
    return path


def test_the_tagged_cell_is_read(tmp_path: Path) -> None:
    found = read_parameters(notebook(tmp_path, 'PRESET = "quick"\nways: int | None = None\nrates = [0.1, 1e-2]\n'))
    assert {name: p.default for name, p in found.items()} == {"PRESET": "quick", "ways": None, "rates": [0.1, 0.01]}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("ways = 5", "PRESET"),
        ('PRESET = "quick"\nways = 2 + n', "parameter ways must be a literal, not '2 \\+ n'"),
        ('PRESET = "quick"\nprint(1)', "holds only `name = literal`, not 'print\\(1\\)'"),
        ('PRESET = "quick"\nseeds = (1, 2)', "seeds must be a number, text, list"),
    ],
)
def test_a_wrong_cell_is_refused_by_name(cell: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=message):
        read_parameters(notebook(tmp_path, cell))


def test_a_notebook_without_the_cell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "n.py"
    path.write_text("# %%\nPRESET = 1\n")
    with pytest.raises(Refusal, match=r"n\.py has no parameters cell"):
        read_parameters(path)


def test_settings_are_literals_or_text() -> None:
    assert parse_settings("ways=20 rate=1e-2 name=abc flag=True seeds=[1,2] none=None") == {
        "ways": 20, "rate": 0.01, "name": "abc", "flag": True, "seeds": [1, 2], "none": None,
    }  # fmt: skip
    assert parse_settings('name="two words" seeds=[1, 2]') == {"name": "two words", "seeds": [1, 2]}
    assert parse_settings("") == {}


@pytest.mark.parametrize("text", ["ways", "ways = 20", "=3", "a-b=1", "ways=", "ways=1 ways=2", "name='open"])
def test_settings_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(Refusal, match="SET"):
        parse_settings(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"way": 20}, r"Unknown parameter of notebook demo 'way'\. Did you mean ways\? There is: ways, rate, shots"),
        ({"ways": "many"}, r"Parameter ways takes int \(default 5\), not 'many' of type str"),
        ({"ways": 2.5}, "ways takes int"),
        ({"ways": True}, "ways takes int"),
        ({"shots": "x"}, "shots takes int or None"),
        ({"PRESET": "paper"}, "PRESET=paper"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    known = read_parameters(notebook(tmp_path, 'PRESET = "quick"\nways = 5\nrate = 0.1\nshots: int | None = None\n'))
    with pytest.raises(Refusal, match=message):
        check_settings(settings, known, "demo")


def test_right_settings_take_the_type_of_the_parameter(tmp_path: Path) -> None:
    known = read_parameters(
        notebook(tmp_path, 'PRESET = "quick"\nrate = 0.1\nname = "a"\nshots: int | None = None\nx = None\n')
    )
    checked = check_settings({"rate": 1, "name": 5, "shots": 3, "x": [1]}, known, "demo")
    assert checked == {"rate": 1.0, "name": "5", "shots": 3, "x": [1]}
    assert type(checked["rate"]) is float


@dataclass(frozen=True)
class Config:
    ways: int
    shots: int = 1


def test_none_keeps_what_the_preset_says() -> None:
    presets = {"quick": Config(5), "paper": Config(20)}
    assert choose(presets, "quick", ways=None, shots=3) == Config(5, 3)
    assert choose(presets, "paper", ways=7) == Config(7, 1)


@pytest.mark.parametrize(("preset", "given"), [("huge", {}), ("quick", {"wayz": 3})])
def test_unknown_names_are_refused_by_choose(preset: str, given: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match=r"Unknown (preset 'huge'|parameter 'wayz')"):
        choose({"quick": Config(5)}, preset, **given)


def test_a_comment_states_the_range(tmp_path: Path) -> None:
    known = read_parameters(notebook(tmp_path, RANGES))
    assert {name: p.range and p.range.text for name, p in known.items() if name != "PRESET"} == {
        "seeds": ">= 1", "rate": "> 0 and < 1", "order": "first | second", "shots": "each >= 1",
        "device": "cpu | cuda | cuda:*", "far": "2 or more, each > 0", "letters": "glyphs | omniglot or glyphs",
        "free": None,
    }  # fmt: skip
    assert known["seeds"].meaning == "runs of each method; None: as the preset says"
    assert known["free"].meaning == "a number that means something else"
    right = {"seeds": 1, "rate": 0.99, "order": None, "shots": [1, 5], "device": "cuda:3", "letters": "glyphs"}
    assert check_settings(right, known, "demo") == right


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seeds", 0, r"Parameter seeds must be >= 1, not 0 \(default None: runs of each method; None: as the preset"),
        ("seeds", -1, "seeds must be >= 1, not -1"),
        ("seeds", 2**63 - 1, None),
        ("seeds", 2**63, "seeds must be >= 1, not 92"),
        ("rate", 10**400, "rate takes float"),
        ("rate", 0.0, "rate must be > 0 and < 1, not 0"),
        ("rate", 1, "rate must be > 0 and < 1, not 1"),
        ("rate", float("inf"), "rate must be > 0 and < 1, not inf"),
        ("rate", float("nan"), "rate must be > 0 and < 1, not nan"),
        ("free", float("inf"), "free must be finite, not inf"),
        ("order", "third", r"order must be first \| second, not 'third'"),
        ("shots", [], r"shots must be each >= 1, not \[\]"),
        ("shots", [5, 0], r"shots must be each >= 1, not \[5, 0\]"),
        ("shots", [1.5], r"shots takes list\[int\] or None \(default None\), not \[1.5\] of type list"),
        ("shots", 5, r"shots takes list\[int\] or None"),
        ("far", [1], r"far must be 2 or more, each > 0, not \[1\]"),
        ("far", [1, 0.0], "far must be 2 or more"),
        ("device", "tpu", "device must be cpu"),
        ("letters", "nonsense or glyphs", "letters must be glyphs"),
    ],
)
def test_what_is_out_of_range_is_refused_from_outside_and_by_hand(
    name: str, value: Any, message: str | None, tmp_path: Path
) -> None:
    known = read_parameters(notebook(tmp_path, RANGES))
    by_hand = {"In": ["", "import this", RANGES], **{p.name: p.default for p in known.values()}, name: value}
    if message is None:
        check_settings({name: value}, known, "demo")
        check_open_notebook(by_hand)
        return
    with pytest.raises(Refusal, match=message):
        check_settings({name: value}, known, "demo")
    with pytest.raises(Refusal, match=message):
        check_open_notebook(by_hand)


def test_by_hand_the_cell_that_was_run_last_counts() -> None:
    wider = RANGES.replace("# >= 1", "# >= 0")
    check_open_notebook({"In": ["", RANGES, wider, "PRESET = 3 +"], "seeds": 0})
    with pytest.raises(Refusal, match="seeds must be >= 1, not 0"):
        check_open_notebook({"In": ["", wider, RANGES], "seeds": 0})
    check_open_notebook({"seeds": 0})  # no notebook is open


def test_a_script_is_checked_too(tmp_path: Path) -> None:
    path = notebook(tmp_path, RANGES)
    with pytest.raises(Refusal, match="seeds must be >= 1, not -3"):
        check_open_notebook({"__file__": str(path), "seeds": -3})
    path.write_text("seeds = -3\n")
    check_open_notebook({"__file__": str(path), "seeds": -3})


CONFIGURATION = """\
# %%
raise SystemExit("reading runs nothing")

# %%
@dataclass
class Config:
    seeds: int = 5
    rate: float = 1e-3  # ours
    spreads: tuple = (0.1, 1.0)

PAPER = Config()
TINY = {"seeds": 1, "spreads": (2.0,)}
PRESETS = {"paper": PAPER, "quick": replace(PAPER, seeds=1 + 2), "smoke": replace(PAPER, rate=1.0, **TINY)}
"""


def test_the_values_of_the_presets_are_read_and_not_run() -> None:
    assert values_by_preset(CONFIGURATION) == {
        "paper": {"seeds": "5", "rate": "0.001", "spreads": "(0.1, 1.0)"},
        "quick": {"seeds": "1 + 2", "rate": "0.001", "spreads": "(0.1, 1.0)"},
        "smoke": {"seeds": "1", "rate": "1.0", "spreads": "(2.0,)"},
    }
    assert values_by_preset("# %%\nPRESETS = make()\n") == {}
    assert values_by_preset("# %%\nPRESETS = \n") == {}


@dataclass(frozen=True)
class Part:
    iterations: int = 500
    seeds: int = 5


@dataclass(frozen=True)
class Plan:
    meta_steps: int = 60_000
    width: int = 64
    device: str = "cuda"
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = field(default_factory=dict)


def test_a_rehearsal_is_shorter_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    long = Plan(parts=(Part(), Part(7, 1)), by_name={"body": Part(500, 40)})
    assert choose({"paper": long}, "paper") == long
    monkeypatch.setenv("CTML_REHEARSAL", "1")
    short = Plan(2, 64, "cpu", parts=(Part(2, 2), Part(2, 1)), by_name={"body": Part(2, 2)})
    assert choose({"paper": long}, "paper") == short
