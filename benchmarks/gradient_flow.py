"""Time exact meta-gradients of the head's gradient flow: adjoint against forward mode and plain autograd.

    python benchmarks/gradient_flow.py                 some minutes; writes results/benchmark/gradient_flow_*.csv, .json
    python benchmarks/gradient_flow.py --repeats 1 --out .build/benchmark              a quick look

Three tables, float32 unless said otherwise, 5-way 5-shot, median of `repeats` runs that alternate between the methods:

    methods  one meta-gradient (Phi, W_0 and T) for horizons worth 50 to 10,000 gradient steps at rate 0.01. The solver
             with fixed steps is the like-for-like comparison; adaptive steps are so few that part of the adjoint's
             time is what every method pays, the products with the embeddings (`embeddings_ms`)
    batch    16 tasks at once, 640 unit-norm features, rtol 1e-5, T = 0.1 to 1000, with the accepted steps, and how far
             a further step is from the time of its matrix products alone
    memory   most memory held at a time; what each further step adds, in units of one state (support x ways numbers)

Machines differ and neighbours disturb: read the ratios.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ctml.companion import manifest
from ctml.flows import Adaptive, FixedSteps, adapt_head
from ctml.flows.gradient_flow import Adjoint, CrossEntropy, ForwardMode, HeadFlow, ReducedFlow, Unrolled
from ctml.flows.tableaus import DORMAND_PRINCE, EULER, RK4
from ctml.memory import peak_bytes
from ctml.rng import generator
from ctml.tasks import Embeddings
from ctml.timing import in_turns

WAYS, SHOTS = 5, 5
SUPPORT = WAYS * SHOTS
METHODS = {"adjoint": Adjoint(), "forward": ForwardMode(), "unrolled": Unrolled()}
RATE = 0.01  # of the gradient descent that a horizon is compared with


def problem(n_tasks: int, d: int, unit_norm: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw rectified Gaussian embeddings of clustered classes; raw ones have the squared norm 800 whatever d."""
    g = generator(0, "benchmark embeddings")
    scale = None if unit_norm else (800 / d) ** 0.5
    tasks = Embeddings(WAYS, SHOTS, queries=0, d=d, noise=1.0, scale=scale, dtype=torch.float32)
    x, labels = tasks.sample(n_tasks, g).support
    head, cotangent = tasks.head(g), torch.randn(n_tasks, WAYS, d, generator=g)
    return x.to(dtype), labels, head.to(dtype), cotangent.to(dtype)


def meta_gradient(given: tuple[Tensor, Tensor, Tensor, Tensor], horizon: float, **options) -> Callable[[], None]:
    """Return one meta-gradient as work to be timed."""
    features, labels, head, cotangent = given

    def work() -> None:
        leaves = features.detach().requires_grad_(), head.detach().requires_grad_()
        time_ = torch.tensor(horizon, dtype=features.dtype, requires_grad=True)
        (adapt_head(leaves[0], labels, leaves[1], time_, **options) * cotangent).sum().backward()

    return work


def milliseconds(works: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Return the median time of each, alternating, after one warm-up."""
    return {name: 1e3 * median(seconds) for name, seconds in in_turns(works, repeats).items()}


def products_with_embeddings(given: tuple[Tensor, Tensor, Tensor, Tensor]) -> Callable[[], None]:
    """Return what any method does at least, whatever its steps: Gram matrix, logits, W(T), and their transposes."""
    features, _, head, cotangent = given
    s = features.new_zeros(len(features), SUPPORT, WAYS)

    def work() -> None:
        gram, logits = features @ features.mT, features @ head.mT
        torch.baddbmm(head, s.mT, features)  # W(T)
        torch.baddbmm(cotangent, logits.mT, features)  # dW_0
        (gram @ features).baddbmm_(logits, head.expand_as(cotangent)).baddbmm_(s, cotangent)  # dPhi

    return work


def methods(repeats: int):
    """Yield rows of adjoint, forward and unrolled."""
    fixed = ("RK4, 400 steps", FixedSteps(400, RK4), torch.float64)
    adaptive = ("Dormand-Prince, rtol 1e-5", Adaptive(1e-5, 1e-7), torch.float32)
    tight = ("Dormand-Prince, rtol 1.4e-8", Adaptive(1.4e-8, 1.4e-8), torch.float64)  # the authors' tolerance
    for name, solver, dtype in (fixed, adaptive, tight):
        for d in (1600, 16000):
            for n_tasks in (1, 8):
                given = problem(n_tasks, d, unit_norm=False, dtype=dtype)
                for steps in (1000,) if name == fixed[0] else (50, 1000, 10_000):
                    each = {
                        method: meta_gradient(given, RATE * steps, solver=solver, gradient=gradient)
                        for method, gradient in METHODS.items()
                    }
                    t = milliseconds(each | {"embeddings": products_with_embeddings(given)}, repeats)
                    yield {
                        "solver": name,
                        "d": d,
                        "tasks": n_tasks,
                        "gradient_steps": steps,
                        **{f"{method}_ms": round(ms, 2) for method, ms in t.items()},
                        "forward_over_adjoint": round(t["forward"] / t["adjoint"], 1),
                    }


def batch(repeats: int):
    """Yield rows of 16 tasks at once."""
    n_tasks, solver = 16, Adaptive(rtol=1e-5, atol=1e-5)
    features, labels, head, _ = given = problem(n_tasks, 640, unit_norm=True, dtype=torch.float32)
    least = None
    for horizon in (0.1, 1.0, 10.0, 100.0, 1000.0):
        head_flow = HeadFlow.of(features, labels, head, features.new_tensor(horizon), None, CrossEntropy())
        flow = ReducedFlow.of_head(head_flow)
        path = flow.solve(solver)
        state = torch.zeros_like(flow.logits)

        def products(flow=flow, state=state) -> None:
            """The matrix products of one step and of its transpose: two and one more for each stage."""
            for _ in range(3 * (DORMAND_PRINCE.stages - 1)):
                torch.bmm(state, flow.matrix)

        t = milliseconds({"all": meta_gradient(given, horizon, solver=solver), "products": products}, repeats)
        least = least or (t["all"], len(path.sizes))
        further = len(path.sizes) - least[1]
        per_step = (t["all"] - least[0]) / further if further else None
        yield {
            "horizon": horizon,
            "tasks": n_tasks,
            "steps": len(path.sizes),
            "evaluations": path.evaluations,
            "meta_gradient_ms": round(t["all"], 2),
            "further_step_ms": round(per_step, 3) if per_step else "",
            "products_of_a_step_ms": round(t["products"], 3),
        }


def memory():
    """Yield rows of peak memory, in states per step."""
    given = problem(1, 1600, unit_norm=True, dtype=torch.float32)
    one_state = SUPPORT * WAYS * given[0].element_size()
    for name, gradient in (
        {"adjoint": Adjoint(), "adjoint with checkpoints": Adjoint(checkpoints=True)} | METHODS
    ).items():
        works = {
            steps: meta_gradient(given, 1.0, solver=FixedSteps(steps, EULER), gradient=gradient)
            for steps in (1000, 10_000)
        }
        few, many = (peak_bytes(work) for work in works.values())
        for steps, peak in zip(works, (few, many), strict=True):
            yield {
                "method": name,
                "steps": steps,
                "peak_kib": round(peak / 1024, 1),
                "states_a_further_step": round((many - few) / one_state / 9000, 3),
            }


def main() -> None:
    """Run all tables and print them; write them to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.repeats} repeats", file=sys.stderr)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, table in (
        ("batch", batch(arguments.repeats)),
        ("memory", memory()),
        ("methods", methods(arguments.repeats)),
    ):
        rows = []
        for row in table:
            rows.append(row)
            print(f"{name}:  " + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        with (arguments.out / f"gradient_flow_{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    about = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "hardware": manifest.hardware(),
        "versions": {name: manifest.versions()[name] for name in ("python", "torch")},
        "threads": arguments.threads,
        "repeats": arguments.repeats,
    }
    (arguments.out / "gradient_flow.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
