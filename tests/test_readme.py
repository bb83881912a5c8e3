"""The README's Python runs as it stands, and its links lead somewhere."""

import copy
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import ctml
from ctml.models import MLP
from ctml.rng import generator
from ctml.tasks import Sinusoid

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_learner_of_the_readme_is_maml_with_falling_steps_of_second_order():
    names: dict = {}
    exec(BLOCKS[0], names)
    learner = names["Falling"](
        MLP([1, 8, 1], generator=generator(0, "weights")).double(), ctml.mse, inner_lr=0.05, inner_steps=2
    )
    batch = Sinusoid().sample(3, generator(0, "t")).to(dtype=torch.float64)
    learner.meta_gradient(batch)
    slope = sum(float((p.grad * p).detach().sum()) for p in learner.parameters())  # along theta itself
    ends = []
    for scale in (1 + 1e-5, 1 - 1e-5):
        other = copy.deepcopy(learner)
        with torch.no_grad():
            for p in other.parameters():
                p *= scale
            ends.append(float(other.meta_loss(batch).mean()))
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-7)
    first = ctml.MAML(learner.model, ctml.mse, inner_lr=0.05, inner_steps=1, order="first")
    one_step = first.adapt(batch.support)
    two_steps = learner.adapt(batch.support)
    first.inner_lr = 0.025
    for name, value in first.inner_step(one_step, batch.support, 1).items():
        torch.testing.assert_close(two_steps[name], value)
    assert all(p.grad is not None for p in learner.parameters())


def test_the_readmes_folder_of_images_makes_tasks(tmp_path, monkeypatch):
    shades = generator(0, "images")
    for name in "abcdef":
        folder = tmp_path / "my_images" / "train" / name
        folder.mkdir(parents=True)
        for i in range(16):
            pixels = torch.randint(0, 256, (40, 30, 3), generator=shades, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTML_DATA", str(tmp_path / "data"))
    names: dict = {}
    exec(BLOCKS[1], names)
    batch = names["tasks"].sample(2, generator(0, "t"))
    assert batch.support.x.shape == (2, 5, 3, 32, 32)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_to_files(target):
    if not target.startswith("http"):
        assert (ROOT / target).exists(), f"README links to {target}, which is not there"
