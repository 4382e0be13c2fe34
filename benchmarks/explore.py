"""Reaction time of `saaae explore`: python benchmarks/explore.py run [reactions]

A client asks the server of a run for pictures, one after another, over a connection of this machine: the decoded image
of a moved slider, all pictures of a new image, a path and samples. The table has median and 95th percentile of the
time from question to answer, and the processor time of client and server for one, which other programs on the machine
change less. All threads that torch takes are used: `OMP_NUM_THREADS=1` for one.
"""

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import socket

import uvicorn

from saaae.explore.load import load
from saaae.explore.server import HOST, Page

Question = tuple[str, dict[str, Any]]


def questions(page: Page) -> dict[str, Callable[[int], Question]]:
    """The n-th question of each kind; no two are equal, so that no cache answers."""
    explored = page.models[0]
    dimension, count = str(int(explored.weights.argmax())), page.gallery.count
    asked: dict[str, Callable[[int], Question]] = {
        "a slider": lambda n: ("decode", {"edits": {dimension: 0.01 * n}}),
        "a new image": lambda n: ("view", {"image": f"test/{n % count}", "corruption": "gaussian", "noise": n}),
    }
    if explored.network.generates:
        asked["a path"] = lambda n: ("path", {"other": f"test/{count - 1}", "edits": {dimension: 0.01 * n}})
    if explored.samples_prior:
        asked["16 samples"] = lambda n: ("samples", {"seed": n})
    return asked


def reactions(connection: http.client.HTTPConnection, ask: Callable[[int], Question], count: int) -> Iterator[float]:
    """Seconds of each of `count` reactions, after one that is not counted."""
    for number in range(count + 1):
        name, question = ask(number)
        start = time.perf_counter()
        connection.request("POST", f"/token/{name}", json.dumps(question))
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(content.decode())
        if number:
            yield time.perf_counter() - start


def main(run: str, count: int = 200) -> None:
    """Prints the table."""
    if count < 2:
        sys.exit(f"{count} reactions: expected at least 2, of which there are percentiles")
    page = load([Path(run)], count=16)
    with socket.create_server((HOST, 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(page.application("token"), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        connection = http.client.HTTPConnection(HOST, listening.getsockname()[1])
        try:
            print("| reaction to | median, ms | 95th percentile, ms | processor, ms |\n|---|---|---|---|")
            for kind, ask in questions(page).items():
                start = time.process_time()
                times = [1000 * each for each in reactions(connection, ask, count)]
                spent = 1000 * (time.process_time() - start) / (count + 1)
                print(f"| {kind} | {median(times):.0f} | {quantiles(times, n=20)[-1]:.0f} | {spent:.0f} |", flush=True)
        finally:
            connection.close()
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
