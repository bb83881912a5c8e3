"""`python -m ctml.data` lists the datasets; `python -m ctml.data omniglot` fetches and verifies one."""

import argparse
import sys

from ctml.data import DataError, available, data_home, fetch, load
from ctml.data.download import digest, matches
from ctml.data.registry import DATASETS, Archive


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ctml.data", description=__doc__)
    parser.add_argument("dataset", nargs="?", help=f"one of: {', '.join(available())}")
    parser.add_argument("--root", help="data folder instead of $CTML_DATA")
    parser.add_argument("--no-download", action="store_true", help="only look at what is there")
    options = parser.parse_args(arguments)
    if options.dataset is None:
        print(f"data folder: {data_home()}")
        for dataset in DATASETS.values():
            print(f"  {dataset.name:16} {dataset.summary}; {dataset.licence}")
        return 0
    try:
        print(_report(options.dataset, options.root, not options.no_download))
    except (DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _report(name: str, root: str | None, download: bool) -> str:
    """Fetch, verify and load; say it in one line."""
    paths = fetch(name, root=root, download=download)
    splits = [split for split in DATASETS[name].splits if (name, split) != ("omniglot", "val")]
    pools = [load(name, split, root=root, download=download) for split in splits]
    contents = ", ".join(f"{pool.source}: {pool.n_classes} classes, {len(pool.examples):,} examples" for pool in pools)
    archives = {archive.name: archive for archive in DATASETS[name].archives}
    verdicts = [f"{path.name} {_verdict(path, archives.get(path.name))}" for path in paths]
    return "; ".join([contents, *(verdicts or ["generated, nothing to fetch"])])


def _verdict(path, archive: Archive | None) -> str:
    if path.is_dir():
        return "(folder placed by hand: judged by its contents)"
    same = matches(path, archive) if archive else None
    if archive and same:
        return f"matches {archive.checksum}"
    return f"sha256:{digest(path)} ({'placed by hand' if same is False or not archive else archive.vouched})"


if __name__ == "__main__":
    sys.exit(main())
