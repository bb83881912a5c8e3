"""One record on both sides of the process boundary."""

from pathlib import Path

import pytest

from ctml.companion.headless.order import Order


@pytest.fixture
def order(tmp_path: Path) -> Order:
    paths = {name: tmp_path / name for name in ("root", "source", "output", "executed", "news_file", "scratch")}
    return Order(runner=7, notebook="demo/01_line", preset="quick", changed={"ways": 20, "rates": [0.1]}, **paths)


def test_what_arrives_is_what_was_sent(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in order.environment().items():
        monkeypatch.setenv(name, value)
    assert Order.given() == order


def test_without_the_runner_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTML_ORDER", raising=False)
    assert Order.given() is None


def test_news_comes_in_order_and_only_when_it_is_whole(order: Order) -> None:
    assert order.news() == []
    order.tell(cell=[1, 5])
    order.tell(runs=["fit", 0, 4])
    with order.news_file.open("a") as file:
        file.write('{"cell": [2,')
    assert order.news() == [{"cell": [1, 5]}, {"runs": ["fit", 0, 4]}]
