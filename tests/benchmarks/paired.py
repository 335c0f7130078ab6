"""This checkout's worker against another's: `python -m tests.benchmarks.paired OTHER [--rounds 16] [--networks]`.

Each checkout has a process of its own (its own `.venv`, embedded Redis and log), and the two take short turns over the
same calls, because the speed of a shared machine drifts. Prints the median of the ratios of neighbouring turns, this
checkout's speed over the other's, with their quartiles, as JSON. Calls are judged at once, so that the worker itself is
measured; `--networks` judges them with the embedded bundle.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import quantiles

CALLS = 4

TURNS = """
import asyncio, sys, tempfile, time
from pathlib import Path
from tests.benchmarks import endurance as bench

async def main():
    calls, networks = int(sys.argv[1]), sys.argv[2] == "True"
    sound = bench.speech(bench.vowels_of)
    analyse = bench.local_analyser(bench.AppConfig()) if networks else bench.judge
    with tempfile.TemporaryDirectory(prefix="ut") as folder, bench.embedded_redis(Path(folder)) as url:
        for turn, _ in enumerate(sys.stdin):
            batch = [one for n in range(calls) for one in bench.call(sound, f"c-{turn}-{n}")]
            await asyncio.to_thread(bench.send, bench.RedisStreamProducer(url), batch)
            async with bench._worker(url, bench.Store.connect(url), analyse) as worker:
                started = time.perf_counter()
                await bench._through(worker, len(batch))
                print(time.perf_counter() - started, flush=True)

asyncio.run(main())
"""
"""What both checkouts run; it uses only names of `tests/benchmarks/endurance.py` that both have."""


class Checkout:
    """A process that works through a batch of calls whenever it is told to."""

    def __init__(self, folder: Path, *, networks: bool) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        command = [str(folder / ".venv/bin/python"), "-c", TURNS, str(1 if networks else CALLS), str(networks)]
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn_s(self) -> float:
        """Seconds that one batch takes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a checkout with an environment of its own (`make setup` there)")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--networks", action="store_true", help="judge with the embedded bundle")
    asked = parser.parse_args()
    pair = [Checkout(folder, networks=asked.networks) for folder in (Path.cwd(), asked.other.resolve())]
    ratios = []
    for turn in range(asked.rounds + 1):
        order = (0, 1) if turn % 2 else (1, 0)
        took_s = {index: pair[index].turn_s() for index in order}
        if turn:  # the first warms up
            ratios.append(took_s[1] / took_s[0])
    for checkout in pair:
        checkout.close()
    lower, middle, upper = quantiles(ratios, method="inclusive")
    found = {"speed_over_other": middle, "lower_quartile": lower, "upper_quartile": upper, "rounds": asked.rounds}
    sys.stdout.write(json.dumps({**found, "networks": asked.networks}) + "\n")


if __name__ == "__main__":
    main()
