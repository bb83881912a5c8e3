"""Time meta-iterations of policies, and bodies that move.

    python benchmarks/policies.py                 about a minute; writes results/benchmark/policies.csv and .json
    python benchmarks/policies.py --seconds 1 --out .build/benchmark              a quick look

A meta-iteration is 2-D navigation as Finn, Abbeel, Levine 2017 have it: 20 tasks x 20 trajectories x 100 steps, before
and after adaptation, TRPO with ten curvature products and a line search; policies with two layers of 32 and of 100,
both orders. Beside its time stands the arithmetic of its matrix products (counted, not estimated) and the share of it
at the rate that this machine reaches in a matrix product by itself. Bodies: control steps of single bodies a second, in
batches and for one Gymnasium environment stepped in Python.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from ctml.companion import manifest
from ctml.flows.tableaus import MIDPOINT
from ctml.rl import TRPO, GaussianPolicy, MetaPolicy, Navigation, outer_step
from ctml.rng import generator

TASKS = 20


def repeated(work: Callable[[], object], seconds: float) -> list[float]:
    """Return the times of calls, the first one left out, until they have taken so many seconds."""
    work()
    found: list[float] = []
    while sum(found) < seconds or len(found) < 3:
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


def matrix_rate(seconds: float, n: int = 1536) -> float:
    """Return the floating-point operations a second of a matrix product in float32, with torch's threads."""
    a, b = torch.rand(2, n, n)
    return 2 * n**3 / min(repeated(lambda: a @ b, seconds))


def meta_iteration(hidden: int, order: str) -> Callable[[], object]:
    """Return one meta-iteration as work to be timed; the policy trains on."""
    stream = generator(0, "benchmark policies")
    policy = GaussianPolicy(2, 2, hidden=(hidden, hidden), generator=stream)
    learner = MetaPolicy(policy, Navigation(100), MIDPOINT, inner_lr=0.1, order=order, trajectories=20)
    return lambda: outer_step(learner, learner.environment.sample(TASKS, stream), TRPO(), stream)


def navigation(seconds: float) -> pd.DataFrame:
    """Time meta-iterations and count their matrix products."""
    rows, rate = [], matrix_rate(seconds)
    for hidden in (32, 100):
        for order in ("first", "second"):
            work = meta_iteration(hidden, order)
            with FlopCounterMode(display=False) as counted:
                work()
            found, operations = median(repeated(work, seconds)), counted.get_total_flops()
            share = operations / rate / found
            rows.append((hidden, order, 1000 * found, operations / 1e9, rate / 1e9, share))
    columns = ("hidden", "order", "ms", "GFLOP of matrix products", "GFLOP/s of this machine", "share of its rate")
    return pd.DataFrame(rows, columns=columns)


def bodies(seconds: float, n: int = 200, steps: int = 20) -> pd.DataFrame:
    """Count the control steps a second of single bodies; each is five frames of the physics."""
    from ctml.rl.mujoco import BODIES, Locomotion, gymnasium_body

    rows = []
    for name, body in BODIES.items():
        fleet, single, stream = Locomotion(name, "direction"), gymnasium_body(body), generator(0, "benchmark bodies")
        fleet.reset(fleet.sample(2, stream), n // 2, stream)
        single.reset(seed=0)

        def together(fleet=fleet, stream=stream) -> None:
            for _ in range(steps):
                fleet.step(2 * torch.rand(2, n // 2, fleet.actions, generator=stream) - 1)

        def alone(single=single) -> None:
            for _ in range(n):
                single.step(single.action_space.sample())

        batched, one = n * steps / median(repeated(together, seconds)), n / median(repeated(alone, seconds))
        rows.append((name, batched, one, batched / one))
        single.close()
    return pd.DataFrame(rows, columns=("body", "in batches, steps/s", "one in Gymnasium, steps/s", "ratio"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name, table in (("navigation", navigation(given.seconds)), ("bodies", bodies(given.seconds))):
        table.to_csv(given.out / f"policies_{name}.csv", index=False, float_format="%.4g")
        print(table.to_string(index=False, float_format="%.4g"), end="\n\n")
    about = {"threads": torch.get_num_threads(), "hardware": manifest.hardware(), "versions": manifest.versions()}
    (given.out / "policies.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
