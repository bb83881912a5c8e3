"""The command line behind the Makefile: `python -m ctml.companion --help`."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from ctml.companion import outside
from ctml.companion.claims import ClaimError, claims_of, read_claims
from ctml.companion.headless.display import Display, make_console, print_table
from ctml.companion.headless.interrupts import Stopped, stopping
from ctml.companion.headless.job import Job
from ctml.companion.headless.runner import Finished, execute_stale
from ctml.companion.pairing import sync, unpaired
from ctml.companion.parameters import parse_settings, read_parameters
from ctml.companion.presets import values_by_preset
from ctml.companion.project import PRESETS, Project, Refusal, check_known
from ctml.companion.publish import report
from ctml.companion.runs import cluster
from ctml.locks import held


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code: 1 for a failed notebook, 2 for a refusal."""
    options = _parser().parse_args(arguments)
    try:
        with stopping():
            return options.do(Project.around(), options)
    except (Refusal, ClaimError) as error:
        print(f"ctml: {error}", file=sys.stderr)
        return 2
    except Stopped as request:
        with contextlib.suppress(OSError):  # a terminal that is gone
            print("ctml: stopped. Finished runs are kept; start again to go on where this ended.", file=sys.stderr)
        return 128 + request.number
    except BrokenPipeError:  # nobody reads any more, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        line = outside.reason(type(error).__name__, str(error))
        if line is None:
            raise
        print(f"ctml: {line}", file=sys.stderr)
        return 2


def _reproduce(project: Project, options: argparse.Namespace) -> int:
    return _run(options, project, _jobs(project, options))


def _run(options: argparse.Namespace, project: Project, jobs: Sequence[Job]) -> int:
    cluster.check()
    console = make_console()
    finished = execute_stale(jobs, _count(options.jobs), Display(console))
    if any(f.status == "ok" and f.job.folder.is_relative_to(project.results) for f in finished):
        # who runs one notebook, perhaps one of their own, finds it in results/; README is that of the whole
        with held(project.publishing, "renews the tables"):
            report.update(project, keep=("README.md", "codecheck.yml") if options.nb else ())
    for item in finished:
        if item.status == "failed":
            console.print(f"\n{item.job.notebook.name} failed in\n{item.detail}", markup=False, highlight=False)
    rows = [[f.job.notebook.name, f"{f.seconds:.0f}", f.status, f.reason] for f in finished]
    print_table(console, f"Notebooks at preset {options.preset}", ["notebook", "seconds", "status", "reason"], rows)
    print_table(console, "Claims", ["claim", "where", "measured", "verdict", "reason"], _verdicts(finished))
    done = [f for f in finished if f.status != "failed"]
    if done and done[0].job.folder.is_relative_to(project.build):
        console.print(f"\nResults: {os.path.commonpath([f.job.folder for f in done])}", markup=False, highlight=False)
    return int(any(f.status == "failed" for f in finished))


def _smoke(project: Project, options: argparse.Namespace) -> int:
    options.preset = "smoke"
    return _reproduce(project, options)


def _rehearse(project: Project, options: argparse.Namespace) -> int:
    return _run(options, project, [Job.rehearsed(project, notebook) for notebook in project.select(options.nb)])


def _status(project: Project, options: argparse.Namespace) -> int:
    jobs = _jobs(project, options)
    reasons = [job.why_stale() for job in jobs]
    results = [job.published() for job in jobs]
    rows = [
        [job.notebook.name, "fresh" if why is None else "stale", why or "", found]
        for job, why, found in zip(jobs, reasons, results, strict=True)
    ]
    columns = ["notebook", "on this machine", "why", "what lies in results"]
    console = make_console()
    print_table(console, f"Notebooks at preset {options.preset}", columns, rows)
    damaged = any(found.startswith("DAMAGED") for found in results)
    if not damaged and (pages := report.outdated(project)):
        console.print(f"\nNot what the results say: {', '.join(pages)} (python -m ctml.companion claims renews them)")
    return int(damaged)


def _list(project: Project, options: argparse.Namespace) -> int:
    rows = []
    for notebook in project.select(options.nb):
        text = notebook.source.read_text(encoding="utf-8")
        at_presets = values_by_preset(text)
        name = f"{notebook.name} ({len(claims_of(notebook))} claims)"
        for parameter in read_parameters(notebook.source).values():
            if parameter.name == "PRESET":
                continue
            values = repr(parameter.default)
            if parameter.default is None:
                known = {preset: at_presets.get(preset, {}).get(parameter.name) for preset in PRESETS}
                values = ", ".join(f"{preset} {value}" for preset, value in known.items() if value is not None)
            limits = parameter.range.text if parameter.range else parameter.takes
            rows.append([name, parameter.name, limits, values, parameter.meaning])
            name = ""
    columns = ["notebook", "parameter", "may be", "is", "meaning"]
    print_table(make_console(), 'Parameters, which SET="name=value" changes', columns, rows)
    return 0


def _sync(project: Project, options: argparse.Namespace) -> int:
    names = (unpaired if options.check else sync)(project, bare=options.bare)
    for name in names:
        print(f"notebooks/{name}.ipynb {'is not that of its .py: run make sync' if options.check else 'written'}")
    return int(options.check and bool(names))


def _claims(project: Project, options: argparse.Namespace) -> int:
    for path in sorted((project.root / "notebooks").rglob("claims.toml")):
        read_claims(path)
    pages = report.outdated(project) if options.check else report.update(project)
    for page in pages:
        print(f"{page} {'is not up to date: python -m ctml.companion claims' if options.check else 'written'}")
    return int(options.check and bool(pages))


def _site(project: Project, options: argparse.Namespace) -> int:
    from ctml.companion.publish.site import build

    print(f"Site: {build(project)}")
    return 0


def _jobs(project: Project, options: argparse.Namespace) -> list[Job]:
    """Turn the request into jobs, refusing anything unknown before the first of them starts."""
    check_known("preset", options.preset, PRESETS)
    settings = parse_settings(options.set)
    return [Job.checked(project, notebook, options.preset, settings) for notebook in project.select(options.nb)]


def _count(text: str) -> int:
    if not text.isdigit() or text == "0":
        raise Refusal(f"JOBS={text!r} is no number of notebooks: give 1 or more.")
    return int(text)


def _verdicts(finished: Sequence[Finished]) -> list[list[str]]:
    rows = []
    for item in finished:
        if item.status != "failed":
            result = report.Published(item.job.notebook, item.job.preset, item.job.folder)
            rows += [[c["id"], c["where"], c["measured"], c["verdict"], c["reason"]] for c in result.claims]
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ctml.companion", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, do: object, text: str, *, runs: bool) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(do=do, preset="quick", nb="", jobs="1", set="")
        if runs:
            added.add_argument("--nb", help="notebooks: names, folders or patterns (default: all)")
            added.add_argument(
                "--set", help='parameters to change, as in "ways=20 shots=5"; results go to .build/variants'
            )
        return added

    for name, do, text in (
        ("reproduce", _reproduce, "run every notebook whose results are not those of the code"),
        ("status", _status, "say which results are not those of the code, and why"),
    ):
        added = command(name, do, text, runs=True)
        added.add_argument("--preset", help=f"one of {', '.join(PRESETS)} (default: quick)")
        added.add_argument("--jobs", help="notebooks at once (default: 1; each uses the cores that are left)")
    smoke = command("smoke", _smoke, "run notebooks at preset smoke, into .build/smoke", runs=True)
    smoke.add_argument("--jobs", help="notebooks at once")
    rehearse = command("rehearse", _rehearse, "take preset paper's path in two meta-steps, into .build", runs=False)
    rehearse.add_argument("--nb", help="notebooks: names, folders or patterns (default: all)")
    rehearse.add_argument("--jobs", help="notebooks at once")
    rehearse.set_defaults(preset="paper")
    command("list", _list, "list notebooks and their parameters", runs=True)
    checked = (
        ("sync", _sync, "write the .ipynb beside each .py"),
        ("claims", _claims, "renew the tables of claims and cost"),
    )
    for name, do, text in checked:
        added = command(name, do, text, runs=False)
        added.add_argument("--check", action="store_true", help="only say what is out of date")
        if do is _sync:
            added.add_argument("--bare", action="store_true", help="without the outputs that were saved, for a commit")
    command("site", _site, "build the static site in .build/site", runs=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
