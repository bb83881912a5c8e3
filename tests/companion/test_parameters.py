"""Parameters are literals, and values from outside are checked before anything runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ctml.companion.parameters import check_settings, choose, parse_settings, read_parameters
from ctml.companion.project import Refusal


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
