"""Peak memory against work whose peak is known."""

import os

import pytest
import torch

from ctml.memory import peak_bytes

MEGABYTE = 1_000_000


def test_released_tensors_do_not_count_twice():
    def one_after_another():
        for _ in range(5):
            torch.zeros(MEGABYTE, dtype=torch.uint8)

    def together():
        return [torch.zeros(MEGABYTE, dtype=torch.uint8) for _ in range(5)]

    assert peak_bytes(one_after_another) == pytest.approx(MEGABYTE, rel=0.01)
    assert peak_bytes(together) == pytest.approx(5 * MEGABYTE, rel=0.01)


def test_a_graph_holds_its_activations():
    def chain(depth):
        def work():
            x = torch.ones(MEGABYTE // 4, requires_grad=True)
            y = x
            for _ in range(depth):
                y = y.sin()
            y.sum().backward()

        return work

    assert peak_bytes(chain(10)) - peak_bytes(chain(5)) == pytest.approx(5 * MEGABYTE, rel=0.05)


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="device=meta: memory is measured on cpu and cuda only"):
        peak_bytes(lambda: None, "meta")


def test_the_profiler_is_quiet_and_the_work_is_not(capfd):
    held = [torch.ones(1000)]

    def work():
        held.clear()  # released, though allocated before: the profiler warns of each
        os.write(2, b"a message of the work\n")

    peak_bytes(work)
    assert capfd.readouterr().err == "a message of the work\n"
    with pytest.raises(ZeroDivisionError):
        peak_bytes(lambda: 1 / 0)
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"
