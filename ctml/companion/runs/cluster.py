"""Runs on a Dask cluster, named by CTML_DASK=tcp://host:port.

Invariants:
    * A run is done only by a worker that has the same code, packages and data: each is asked before the first run, and
      one that comes later before its first run.
    * The scheduler shows each run under the name of its function. A run whose worker is lost is given to another.
    * A scheduler that is silent for SILENCE seconds is given up: the finished runs are kept.
"""

import contextlib
import logging
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ctml.companion.project import Refusal
from ctml.companion.runs.crew import Call
from ctml.companion.runs.needs import Needs
from ctml.companion.runs.worker import Outcome, do_run

SILENCE = 12  # seconds without an answer, or without a worker
_ASK_AGAIN = 2  # seconds

_HOST = re.compile(r"(?:tcp|tls)://(.+):(\d+)")
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx|inproc)://\S+")


class ClusterLost(Refusal):
    """The cluster cannot be had, or no longer."""


def address() -> str | None:
    """Return the scheduler that CTML_DASK names, None where it is not set.

    Raises:
        Refusal: when it is set to something that is no address.
    """
    given = os.environ.get("CTML_DASK")
    if given is not None and not _ADDRESS.fullmatch(given.strip()):
        raise ClusterLost(f"CTML_DASK={given!r} is no address of a Dask scheduler: give tcp://host:port, or unset it.")
    return given and given.strip()


def check() -> None:
    """Refuse a cluster that CTML_DASK names and that does not answer, before any work is done.

    Raises:
        Refusal: in one line.
    """
    if scheduler := address():
        with _connected(scheduler):
            pass


def compute(
    function: bytes, name: str, calls: Iterator[Call], threads: int, needs: Needs
) -> Iterator[tuple[str, bytes]]:
    """Yield key and pickled outcome of each call as it is done.

    Args:
        function: the pickled function.
        name: what the scheduler shows.
        calls: the runs.
        threads: torch threads of each.
        needs: the code and data that a worker must have.

    Raises:
        ClusterLost: when the scheduler does not answer, has no workers or falls silent.
    """
    scheduler = address()
    assert scheduler is not None
    with _connected(scheduler) as client:
        _refuse_others(client.run(needs.missing, on_error="return"), scheduler)
        futures = {}
        for call in calls:
            # the key's first part is what the dashboard shows, and it knows no other name of a run
            future = client.submit(
                _do, function, call, threads, needs, key=f"{name}-{call.key[:16]}", pure=False, retries=0
            )
            futures[future] = call.key
        try:
            while futures:
                for future in _finished(client, futures, scheduler):
                    yield futures.pop(future), _outcome(future, scheduler)
        finally:
            with contextlib.suppress(Exception):  # of a scheduler that is gone there is nothing to take back
                if futures and client.status == "running":
                    client.cancel(list(futures), force=True)


def _do(function: bytes, call: Call, threads: int, needs: Needs) -> bytes:
    if missing := needs.missing():
        return Outcome(None, 0.0, f"a worker of the cluster {missing}", outside=True).pickled()
    return do_run(function, call.arguments, call.checkpoint, threads)


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    client = _client(scheduler)
    try:
        deadline = time.monotonic() + SILENCE
        while not _workers(client, scheduler):
            if time.monotonic() > deadline:
                raise ClusterLost(f"The Dask scheduler at {scheduler} has no workers: start some, or unset CTML_DASK.")
            time.sleep(0.2)
        yield client
    finally:
        # in a thread, since closing waits for whatever the other end still owes
        threading.Thread(target=_close, args=[client], daemon=True).start()


def _client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise ClusterLost(
            f"CTML_DASK={scheduler} needs dask: pip install -e '.[cluster]', or unset CTML_DASK."
        ) from None
    for chatty in ("distributed", "tornado"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)  # what they would say ten times is said here once
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            if where := _HOST.fullmatch(scheduler):  # dask tries again and again, where nobody listens, too
                socket.create_connection((where[1].strip("[]"), int(where[2])), timeout=SILENCE).close()
            answer.put(Client(scheduler, timeout=SILENCE))
        except Exception as error:
            answer.put(error)

    threading.Thread(
        target=connect, daemon=True
    ).start()  # dask waits for ever for one who takes the call and is silent
    try:
        found = answer.get(timeout=SILENCE + 3)
    except queue.Empty:
        found = TimeoutError(f"silent for {SILENCE} seconds")
    if isinstance(found, Exception):
        said = str(found).strip().splitlines() or [type(found).__name__]
        raise ClusterLost(
            f"No Dask scheduler answers at CTML_DASK={scheduler} ({said[0]}): start one there, or unset CTML_DASK."
        )
    return found


def _close(client: Any) -> None:
    with contextlib.suppress(Exception):
        client.close(timeout=2)


def _workers(client: Any, scheduler: str) -> Mapping[str, Any]:
    """Ask the scheduler for its workers, which also tells whether it still answers."""
    try:
        return client.sync(client.scheduler.identity, callback_timeout=SILENCE)["workers"]
    except Exception:  # each layer below has errors of its own for a line that is dead
        raise _gone(scheduler) from None


def _gone(scheduler: str) -> ClusterLost:
    return ClusterLost(
        f"The Dask scheduler at {scheduler} no longer answers; finished runs are kept: "
        "start it and its workers again, then go on where this ended."
    )


def _finished(client: Any, futures: Mapping[Any, str], scheduler: str) -> Sequence[Any]:
    """Wait for some of the futures; now and then see whether there is still somebody to wait for."""
    asked = time.monotonic()
    alone: float | None = None
    while True:
        if done := [future for future in futures if future.done()]:
            return done
        time.sleep(0.05)
        if time.monotonic() - asked < _ASK_AGAIN:
            continue
        if _workers(client, scheduler):
            alone = None
        else:
            alone = alone or asked
            if time.monotonic() - alone > SILENCE:
                raise ClusterLost(
                    f"All workers of the Dask scheduler at {scheduler} are gone; finished runs are kept: "
                    "start workers again, then go on where this ended."
                )
        asked = time.monotonic()


def _outcome(future: Any, scheduler: str) -> bytes:
    """Return what a run gave; one that took several workers with it is a failure of that run alone."""
    if future.status == "finished":
        return future.result()
    if future.status == "cancelled":  # which nobody here asked for: the client does so when its line is dead
        raise _gone(scheduler)
    text = str(future.exception()).strip().splitlines()[0]
    return Outcome(None, 0.0, f"lost on the cluster: {text}", outside=True).pickled()


def _refuse_others(answers: Mapping[str, Any], scheduler: str) -> None:
    for worker, answer in answers.items():
        if isinstance(answer, Exception):
            text = str(answer).strip().splitlines() or [type(answer).__name__]
            answer = f"cannot import this checkout's code ({text[0]})"
        if answer:
            raise ClusterLost(f"Worker {worker} of CTML_DASK={scheduler} {answer}.")
