"""Random numbers: one generator per (seed, purpose), and no global state.

Two purposes of one seed give independent streams, so adding a draw in one place (evaluation, say) never shifts the
numbers of another (training): runs that share a seed stay paired.
"""

import hashlib

import torch


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the generator that belongs to a seed and a purpose.

    Args:
        seed: any int, the notebook's parameter.
        purpose: what the numbers are for ("meta-train", "initial weights", ...).
        device: where it draws; the streams of different devices differ.

    Returns:
        A fresh generator at the start of its stream.
    """
    digest = hashlib.sha256(f"{int(seed)}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
