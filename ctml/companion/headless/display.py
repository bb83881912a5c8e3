"""What a person sees while notebooks run: a live display on a terminal, plain lines in a log."""

import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

_LOG_WIDTH = 150  # a log has no width of its own
_QUIET_SECONDS = 30  # between two lines about the same notebook in a log


class Display:
    """Progress of several notebooks at once."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or make_console()
        self.steps: dict[str, tuple[str, float]] = {}
        self.done = (0, 0)
        self._said: dict[str, tuple[float, str]] = {}
        self._live = Live(console=self.console, get_renderable=self._render, transient=True, refresh_per_second=5)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, markup=False, highlight=False)

    def started(self, name: str, reason: str) -> None:
        """Announce a notebook and why it runs."""
        self.say(f"{name}: runs ({reason})")
        self._said[name] = (time.monotonic(), "")

    def progress(self, name: str, step: str, seconds: float) -> None:
        """Show what a notebook is doing."""
        self.steps[name] = (step, seconds)
        said, before = self._said[name]
        if not self.console.is_terminal and step != before and time.monotonic() - said > _QUIET_SECONDS:
            self.say(f"{name}: {step}, {seconds:.0f} s")
            self._said[name] = (time.monotonic(), step)

    def finished(self, name: str, status: str, seconds: float) -> None:
        """Announce how a notebook ended."""
        self.steps.pop(name, None)
        self.say(f"{name}: {status}, {seconds:.0f} s")

    def left(self, done: int, total: int) -> None:
        """Tell how many notebooks are done."""
        self.done = (done, total)

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, (step, seconds) in self.steps.items():
            table.add_row(f"[bold]{name}[/bold]", step, f"{seconds:.0f} s")
        table.add_row(f"[dim]{self.done[0]} of {self.done[1]} notebooks done[/dim]", "", "")
        return table


def clock(moment: float) -> str:
    """Return a moment, in seconds since the epoch, as a person notes it for the next morning: `02:40 (Nov 22)`."""
    return time.strftime("%H:%M (%b %d)", time.localtime(moment))


def make_console() -> Console:
    """Return a console as wide as the terminal; a log gets a fixed width and no line is cut short."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_LOG_WIDTH)


def print_table(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with a title, or nothing if it has no rows."""
    rows = list(rows)
    if not rows:
        return
    colours = {
        "ok": "green",
        "reproduced": "green",
        "checked": "green",
        "fresh": "cyan",
        "same trend": "yellow",
        "failed": "red",
        "not reproduced": "red",
    }
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"[{colours[cell]}]{cell}[/]" if cell in colours else cell.replace("[", r"\[") for cell in row))
    console.print()
    console.print(table)
