"""What stands beside one open notebook: its runs, figures, tables and claims, and the folder they go to.

Invariants:
    * A notebook opened by hand writes below `.build`; only the runner publishes into `results/`, and only after the
      notebook went through to the end.
    * By hand a cell can be run again, and what it makes replaces what it made before; under the runner, where each cell
      is run once, a name that comes twice is a mistake.
"""

import json
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctml.companion import by_hand, manifest, slider, style
from ctml.companion.claims import ClaimError, Verdict, claims_of, judge
from ctml.companion.files import write_atomically
from ctml.companion.headless.order import Order
from ctml.companion.project import PRESETS, Notebook, Project, Refusal, check_known
from ctml.companion.runs.cache import Cache, DamagedRun
from ctml.companion.runs.map import map_runs
from ctml.companion.runs.sources import Sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class Study:
    """The companion of one notebook.

    Args:
        paper: the paper's slug, which is the notebook's folder; empty directly under `notebooks/`.
        notebook: name of the notebook's file without suffix.
        preset: the notebook's PRESET.
        parameters: everything the numbers depend on, for the manifest (a dictionary, or a dataclass as one).

    Raises:
        Refusal: when preset or notebook does not exist.
    """

    def __init__(self, paper: str, notebook: str, preset: str, parameters: Mapping[str, Any] | None = None) -> None:
        check_known("preset", preset, PRESETS)
        self.order = Order.given()
        self.notebook, self.project = _found(f"{paper}/{notebook}" if paper else notebook, self.order)
        self.preset = preset
        self.parameters = dict(parameters or {})
        if self.order and (self.order.notebook, self.order.preset) != (self.notebook.name, preset):
            raise ValueError(
                f"the notebook calls itself {self.notebook.name} at preset {preset}, but it was started as "
                f"{self.order.notebook} at {self.order.preset}: pass preset=PRESET and the file's own name to Study"
            )
        self.folder = self.order.output if self.order else self.project.build / "lab" / preset / self.notebook.name
        self.claims = claims_of(self.notebook)
        self._source = "" if self.order else by_hand.source_text(self.notebook)
        self._verdicts: dict[str, Verdict] = {}
        self._figures: dict[str, dict[str, Any]] = {}
        self._tables: list[str] = []
        self._data: list[str] = []
        self._run_seconds = 0.0
        self._runs = 0
        self._started = time.perf_counter()
        style.use()

    def __reduce_ex__(self, protocol: object) -> Any:
        """Refuse to travel into a run, whose result would then depend on all that the notebook did before."""
        raise TypeError(
            "a study stays in its notebook: give a run what it needs as arguments; a parameter named checkpoint is "
            "given the run's own file"
        )

    def data(self, source: str) -> str:
        """Record which data the notebook uses, as in `study.data(pool.source)`, and return the name for a caption."""
        if source not in self._data:
            self._data.append(source)
        return source

    def map(self, function: Callable[..., Any], runs: Sequence[Mapping[str, Any]], *, threads: int = 1) -> list[Any]:
        """Return `function(**run)` for every run, in order: cached, in parallel, resumable.

        The result is kept under a key of the function's code, the notebook's names it reads, its arguments, the
        project's modules it reaches and `threads`: each run has so many torch threads on any machine, since float32
        sums depend on their number. A function with a parameter named `checkpoint` is given the path of a file that
        belongs to the run alone and is deleted when the run is done: `function(**run, checkpoint=path)`.

        Raises:
            TypeError: when a run is no dictionary of arguments, or gives the checkpoint itself.
            RunFailed: when runs failed, after the others have finished.
            RunLost: when no code is to blame: no memory, a process that was killed.
        """
        runs = list(runs)
        with _Bar(self.order, function.__name__, len(runs)) as progress, warnings.catch_warnings():
            if self.order:  # the run is done again; a notebook that is published need not tell of this machine's disk
                warnings.simplefilter("ignore", DamagedRun)
            outcomes = map_runs(
                function,
                runs,
                cache=Cache(self.project.build),
                sources=Sources(self.project.root),
                threads=threads,
                data=[source.partition("/")[0] for source in self._data],
                progress=progress,
            )
        self._run_seconds += sum(outcome.seconds for outcome in outcomes)
        self._runs += len(outcomes)
        return [outcome.result for outcome in outcomes]

    def figure(self, figure: "Figure", name: str, caption: str, *, where: str = "") -> None:
        """Save a figure as svg and png, show it with its caption, and close it.

        Args:
            where: the place in the paper that it answers, as in "Figure 2".
        """
        import matplotlib.pyplot as plt

        self._check_name(name, self._figures)
        for kind in ("svg", "png"):
            write_atomically(self.folder / "figures" / f"{name}.{kind}", style.render(figure, kind))
        self._figures[name] = {"name": name, "caption": caption, "where": where}
        _show_picture(self.folder / "figures" / f"{name}.png", caption)
        plt.close(figure)

    def slider(
        self, draw: "slider.Draw", values: Mapping[str, Any], name: str, caption: str, *, of: str, where: str = ""
    ) -> None:
        """Save and show a figure that a reader moves: a slider in JupyterLab and on the site, in print a filmstrip.

        Args:
            draw: draws one value on empty axes, as in `draw(ax, value)`.
            values: what stands at the slider, in order, to the value it stands for.
            of: what is moved, as in "horizon T".
            name, caption, where: as in `figure`.
        """
        self.figure(slider.filmstrip(draw, values), name, caption, where=where)
        drawn = slider.frames(draw, values)
        for place, picture in enumerate(drawn):
            write_atomically(self.folder / "figures" / name / f"{place:02d}.svg", picture)
        self._figures[name] |= {"moves": of, "values": list(values)}
        if self.order is None and by_hand.session() is not None:
            slider.show_in_lab(draw, values, of)

    def table(self, table: "DataFrame", name: str) -> "DataFrame":
        """Save a tidy table (one row an observation) as csv and return it."""
        self._check_name(name, self._tables)
        write_atomically(self.folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
        if name not in self._tables:
            self._tables.append(name)
        return table

    def claim(self, id: str, /, **samples: Any) -> Verdict:
        """Decide a claim of `claims.toml` from samples (numbers, lists, arrays, tensors) by the rule written there.

        Raises:
            ClaimError: when the claim is not this notebook's, or its rule does not fit the samples, or when the runner
                meets it a second time.
        """
        if id not in self.claims:
            listed = ", ".join(self.claims) or "none"
            raise ClaimError(
                f"{self.notebook.name} has no claim {id!r} in {self.notebook.source.parent.name}/claims.toml: {listed}."
            )
        if self.order and id in self._verdicts:
            raise ClaimError(f"claim {id!r} was decided before in this notebook: decide it once.")
        self._verdicts[id] = judge(self.claims[id], samples, unassessed=self._unassessed(id))
        return self._verdicts[id]

    def _unassessed(self, id: str) -> str:
        claim = self.claims[id]
        if self.preset == "smoke":
            return "numbers mean nothing at preset smoke"
        if PRESETS.index(self.preset) < PRESETS.index(claim.judged_at):
            return f"judged only at preset {claim.judged_at}"
        if changed := self._changed():
            return f"with {', '.join(f'{k}={v!r}' for k, v in changed.items())}"
        if claim.data and not any(claim.data in source.split("/") for source in self._data):
            return f"needs {claim.data}, used {', '.join(self._data) or 'no data set'}"
        return ""

    def _changed(self) -> dict[str, Any]:
        """Return the values that are not the notebook's own: given by SET, or put in by hand."""
        if self.order:
            return dict(self.order.changed)
        names = by_hand.session()
        if names is None or not self._source:
            return {}
        return by_hand.changed(self._source, self.preset, names, self.parameters)

    def _check_name(self, name: str, used: Collection[str]) -> None:
        if not name or not all(c.isalnum() or c in "-_" for c in name):
            raise ValueError(f"{name!r} is no file name: use letters, digits, - and _")
        if self.order and name in used:
            raise ValueError(f"{name!r} was saved before in this notebook: give each figure and table its own name")

    def close(self) -> "DataFrame":
        """Write `claims.json` and `manifest.json` and return the table of claims.

        Raises:
            ClaimError: when a claim of this notebook was not decided.
        """
        import pandas

        if missing := [id for id in self.claims if id not in self._verdicts]:
            raise ClaimError(f"{self.notebook.name} must decide its claims: missing {', '.join(missing)}.")
        rows = [self._verdicts[id].as_row() for id in self.claims]
        _write_json(self.folder / "claims.json", rows)
        _write_json(self.folder / "manifest.json", self._manifest())
        shown = ["id", "says", "where", "value", "measured", "verdict", "reason"]
        return _whole(pandas.DataFrame(rows, columns=shown).set_index("id"))

    def _manifest(self) -> dict[str, Any]:
        outputs = [f"figures/{name}.{kind}" for name in self._figures for kind in ("svg", "png")]
        moved = {name: range(len(figure.get("values", ()))) for name, figure in self._figures.items()}
        outputs += [f"figures/{name}/{place:02d}.svg" for name, places in moved.items() for place in places]
        outputs += [f"{name}.csv" for name in self._tables] + ["claims.json"]
        return {
            "notebook": self.notebook.name,
            "notebook_sha256": manifest.file_hash(self.notebook.source) if self.notebook.source.is_file() else None,
            "preset": self.preset,
            "changed": self._changed(),
            "parameters": self.parameters,
            "data": self._data,
            "seconds": round(time.perf_counter() - self._started, 1),
            "run_seconds": round(self._run_seconds, 1),
            "runs": self._runs,
            "hardware": manifest.hardware(),
            "versions": manifest.versions(),
            "code": manifest.commit(self.project.root),
            "figures": list(self._figures.values()),
            "outputs": {name: manifest.file_hash(self.folder / name) for name in outputs},
        }


class _Bar:
    """Progress of one map: to the runner's file when it started the notebook, else a bar under the cell."""

    def __init__(self, order: Order | None, what: str, total: int) -> None:
        self.order, self.what, self.total = order, what, total

    def __enter__(self) -> "_Bar":
        from tqdm.auto import tqdm

        self.bar = None if self.order else tqdm(total=self.total, desc=self.what, leave=False)
        return self

    def __call__(self, done: int, total: int, left: float | None, remark: str) -> None:
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            self.bar.set_postfix_str(remark)
        elif self.order:
            until = None if left is None else time.time() + left
            self.order.tell(runs=[self.what, done, total], until=until, remark=remark)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def _found(name: str, order: Order | None) -> tuple[Notebook, Project]:
    """Return the notebook of a name and its checkout; outside any, the working folder stands for both."""
    try:
        project = Project(order.root) if order else Project.around()
    except Refusal:
        return Notebook(name, Path.cwd() / f"{name.rpartition('/')[2]}.py"), Project(Path.cwd())
    check_known("notebook", name, [n.name for n in project.notebooks()])
    return Notebook(name, project.root / "notebooks" / f"{name}.py"), project


def _whole(table: "DataFrame") -> "DataFrame":
    """Return a table that is shown with its texts whole, in lines as wide as the page."""
    import pandas

    class Whole(pandas.DataFrame):
        def _repr_html_(self) -> str | None:
            with pandas.option_context("display.max_colwidth", None):
                return super()._repr_html_()  # pyright: ignore[reportAttributeAccessIssue]

    return Whole(table)


def _show_picture(path: Path, caption: str) -> None:
    from IPython.core.getipython import get_ipython
    from IPython.display import Image, Markdown, display

    if get_ipython() is not None:
        display(Image(data=path.read_bytes(), metadata={"alt": caption}), Markdown(caption))


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n").encode())
