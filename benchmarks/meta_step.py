"""Time one second-order meta-step of MAML and of ANIL against other libraries, on this machine.

The unit is forward and meta-gradient of a meta-batch: 32 tasks, 5-way 1-shot, 15 queries a class, 28x28x1 images, Conv4
with 64 channels and max-pooling, transductive batch norm, 5 inner steps, float32. The images are random: time does not
depend on what they show. Contenders: ctml with 8 tasks at once (its memory does not grow with the number of tasks) and
with all at once, the plain loop over tasks in ordinary torch, and whichever of learn2learn, higher and TorchOpt can be
imported. Each lives in a process of its own, so that its peak memory is its own; they take turns, one meta-step each,
so that a busy machine slows all alike, and each round gives one ratio. Beside its time stands how far each
meta-gradient lies from the plain loop's in float64.

    python benchmarks/meta_step.py                     some minutes; writes results/benchmark/
    python benchmarks/meta_step.py --tasks 4 --rounds 1 --out .build/benchmark      a quick look
"""

import argparse
import csv
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

WAYS, SHOTS, QUERIES, SIDE, WIDTH, INNER_STEPS, INNER_LR = 5, 1, 15, 28, 64, 5, 0.1
METHODS = ("maml", "anil")


def tasks(n: int) -> list[tuple[torch.Tensor, ...]]:
    """Return n tasks (support x, support y, query x, query y) of random images."""
    g = torch.Generator().manual_seed(0)
    draw = [(torch.rand(WAYS * k, 1, SIDE, SIDE, generator=g), k) for _ in range(n) for k in (SHOTS, QUERIES)]
    examples = [(x, torch.arange(WAYS).repeat_interleave(k)) for x, k in draw]
    return [(*examples[i], *examples[i + 1]) for i in range(0, 2 * n, 2)]


class Network(nn.Module):
    """Conv4 in ordinary torch layers: what the peers are given."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential()
        for i in range(4):
            conv = nn.Conv2d(WIDTH if i else 1, WIDTH, 3, padding=1, bias=False)
            norm = nn.BatchNorm2d(WIDTH, track_running_stats=False)
            self.body.append(nn.Sequential(conv, norm, nn.ReLU(), nn.MaxPool2d(2)))
        self.body.append(nn.Flatten())
        self.head = nn.Linear(WIDTH * (SIDE // 16) ** 2, WAYS)

    def forward(self, x):
        return self.head(self.body(x))


def network() -> Network:
    """Return the same initial weights to everyone."""
    torch.manual_seed(0)  # ordinary layers draw from the global generator; this process does nothing else
    return Network()


def per_task(model: Network, method: str, task):
    """Return (module to adapt, support x, support y, query x, query y): the network, or the head on features."""
    sx, sy, qx, qy = task
    return (model, sx, sy, qx, qy) if method == "maml" else (model.head, model.body(sx), sy, model.body(qx), qy)


def plain_loop(model: Network, method: str, task):
    module, sx, sy, qx, qy = per_task(model, method, task)
    params = dict(module.named_parameters())
    for _ in range(INNER_STEPS):
        loss = F.cross_entropy(functional_call(module, params, (sx,)), sy)
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {k: p - INNER_LR * g for (k, p), g in zip(params.items(), gradients, strict=True)}
    return F.cross_entropy(functional_call(module, params, (qx,)), qy)


def learn2learn(model: Network, method: str, task):
    from learn2learn.algorithms.maml import MAML

    module, sx, sy, qx, qy = per_task(model, method, task)
    learner = MAML(module, lr=INNER_LR).clone()
    for _ in range(INNER_STEPS):
        learner.adapt(F.cross_entropy(learner(sx), sy))
    return F.cross_entropy(learner(qx), qy)


def higher(model: Network, method: str, task):
    import higher

    module, sx, sy, qx, qy = per_task(model, method, task)
    optimizer = torch.optim.SGD(module.parameters(), lr=INNER_LR)
    with higher.innerloop_ctx(module, optimizer, copy_initial_weights=False) as (fast, step):
        for _ in range(INNER_STEPS):
            step.step(F.cross_entropy(fast(sx), sy))
        return F.cross_entropy(fast(qx), qy)


def torchopt(model: Network, method: str, task):
    import torchopt

    module, sx, sy, qx, qy = per_task(model, method, task)
    optimizer = torchopt.MetaSGD(module, lr=INNER_LR)
    start = torchopt.extract_state_dict(module, by="reference")
    for _ in range(INNER_STEPS):
        optimizer.step(F.cross_entropy(module(sx), sy))
    loss = F.cross_entropy(module(qx), qy)
    torchopt.recover_state_dict(module, start)
    return loss


def ctml_step(method: str, data, tasks_at_once: int | None):
    """Return a function that computes one meta-gradient with ctml, from the same weights as `network()`."""
    from ctml import ANIL, MAML, Examples, TaskBatch, cross_entropy
    from ctml.models import Conv4

    model = Conv4(1, WAYS, width=WIDTH, side=SIDE)
    for own, theirs in zip(model.parameters(), network().parameters(), strict=True):
        own.data.copy_(theirs.data)
    sx, sy, qx, qy = (torch.stack(part) for part in zip(*data, strict=True))
    options = {} if tasks_at_once is None else dict(tasks_at_once=tasks_at_once)
    learner = dict(maml=MAML, anil=ANIL)[method](
        model, cross_entropy, inner_lr=INNER_LR, inner_steps=INNER_STEPS, **options
    )
    batch = TaskBatch(Examples(sx, sy), Examples(qx, qy))
    return lambda: learner.meta_gradient(batch).mean().item(), model


def peer_step(task_loss, method: str, data, dtype: torch.dtype = torch.float32):
    """Return a function that loops over the tasks and accumulates their meta-gradients, as the peers' examples do."""
    model = network().to(dtype)

    def step():
        model.zero_grad()
        total = 0.0
        for task in data:
            loss = task_loss(model, method, task) / len(data)
            loss.backward()
            total += loss.item()
        return total

    return step, model


REFERENCE = "loop in float64"
PEERS = {"loop": plain_loop, "learn2learn": learn2learn, "higher": higher, "torchopt": torchopt}


def serve(args) -> None:
    """Be one contender: say the loss and gradient once, then one line of seconds for each line on the input."""
    torch.set_num_threads(args.threads)
    name, method = args.serve
    data = tasks(args.tasks)
    if name.startswith("ctml"):
        step, model = ctml_step(method, data, args.tasks_at_once if name == "ctml" else None)
    elif name == REFERENCE:
        data = [tuple(part.double() if part.is_floating_point() else part for part in task) for task in data]
        step, model = peer_step(plain_loop, method, data, torch.float64)
    else:
        step, model = peer_step(PEERS[name], method, data)
    loss = step()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    print(json.dumps(dict(loss=loss, gradient=gradient.tolist())), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kibibytes on Linux
        print(json.dumps(dict(wall_s=wall, cpu_s=cpu, peak_gib=peak)), flush=True)


class Contender:
    """A contender's process, and what it said of itself."""

    def __init__(self, name: str, method: str, args):
        command = [sys.executable, __file__, "--serve", name, method, "--tasks", str(args.tasks)]
        command += ["--threads", str(args.threads)]
        command += ["--tasks-at-once", str(args.tasks_at_once)]
        self.name, self.runs = name, []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        first = self._read()
        self.loss, self.gradient = first["loss"], torch.tensor(first["gradient"])

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} stopped; its error is above")
        return json.loads(line)

    def run(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.runs.append(self._read())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(method: str, args) -> list[dict]:
    """Run all contenders in turn and return one row for each."""
    names = ["ctml", "ctml unsplit", "loop", *(p for p in PEERS if p != "loop" and importlib.util.find_spec(p))]
    names = [n for n in names if not args.only or n in args.only]
    reference = Contender(REFERENCE, method, args)
    reference.close()
    contenders = [Contender(name, method, args) for name in names]
    for _ in range(args.rounds):
        for contender in contenders:
            contender.run()
    rows = []
    for c in contenders:
        c.close()
        ratios = [r[args.clock] / own[args.clock] for r, own in zip(c.runs, contenders[0].runs, strict=True)]
        rows.append(
            dict(
                method=method,
                contender=c.name,
                wall_s=statistics.median(r["wall_s"] for r in c.runs),
                wall_s_min=min(r["wall_s"] for r in c.runs),
                cpu_s=statistics.median(r["cpu_s"] for r in c.runs),
                cpu_s_min=min(r["cpu_s"] for r in c.runs),
                ratio_to_ctml=statistics.median(ratios),
                peak_gib=c.runs[-1]["peak_gib"],
                loss=c.loss,
                gradient_error=float((c.gradient - reference.gradient).norm() / reference.gradient.norm()),
            )
        )
    return rows


def about(args) -> dict:
    """Say on what machine and with which versions the numbers were taken."""
    from ctml.companion.manifest import hardware  # here: the contenders' processes hold nothing of it

    machine = hardware()
    packages = ["torch", *(p for p in PEERS if p != "loop" and importlib.util.find_spec(p))]
    return dict(
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        processor=machine["processor"],
        cores=machine["cores"],
        threads=args.threads,
        python=platform.python_version(),
        versions={p: importlib.metadata.version(p) for p in packages},
        unit=dict(tasks=args.tasks, ways=WAYS, shots=SHOTS, queries=QUERIES, side=SIDE, width=WIDTH)
        | dict(inner_steps=INNER_STEPS, tasks_at_once=args.tasks_at_once, rounds=args.rounds),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--tasks-at-once", type=int, default=8, help="the tasks that ctml takes through together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall_s", "cpu_s"), default="wall_s", help="what the ratio compares")
    parser.add_argument("--only", nargs="*", help="contenders to run")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"))
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args)
    rows = []
    for method in args.methods:
        print(f"{method}: {args.tasks} tasks, {args.threads} threads, median of {args.rounds} rounds in turn")
        for row in compare(method, args):
            rows.append(row)
            print(
                f"  {row['contender']:<13}{row['wall_s']:7.2f} s (cpu {row['cpu_s']:.2f}, min {row['cpu_s_min']:.2f})"
                f"   {row['ratio_to_ctml']:5.2f} x ctml   peak {row['peak_gib']:.2f} GiB"
                f"   gradient off by {row['gradient_error']:.0e}"
            )
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "meta_step.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    (args.out / "manifest.json").write_text(json.dumps(about(args), indent=2) + "\n")


if __name__ == "__main__":
    main()
