"""Lives of a run, each ended by SIGKILL at a random instant, until one comes to its end.

This process imports everything and computes nothing, so that a life begins with a fork instead of ten seconds of
imports. Prints the number of kills and the seconds of the last life.

    python zygote.py toy|SCENARIO.yaml DIR KILLS SEED HORIZON_S
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fedsim.build import directory, prepare, recording  # noqa: F401
from fedsim.build.resume import Resume
from fedsim.build.run import run
from fedsim.core.events import Finished
from tests.faults import toys

TOY_ROUNDS = 12


def life(what: str, folder: Path) -> None:
    if what == "toy":
        events = toys.run(toys.plan(folder, num_rounds=TOY_ROUNDS))
    else:
        events = list(run(what, (), folder, inline=True, how=Resume(wanted=True)))
    assert isinstance(events[-1], Finished)


def one(what: str, folder: Path, seconds: float | None) -> bool:
    """Whether a life came to its end in time; without a time it is left to live."""
    child = os.fork()
    if child == 0:
        try:
            life(what, folder)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status != 0:
                raise SystemExit(f"a life ended with status {status}")
            return True
        if end is not None and time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.001)


def main() -> None:
    what, folder, kills, seed, horizon = sys.argv[1], Path(sys.argv[2]), *map(float, sys.argv[3:6])
    rng, killed = random.Random(seed), 0
    while killed < kills:
        if one(what, folder, rng.uniform(0, horizon)):
            break
        killed += 1
    start = time.monotonic()
    one(what, folder, None)
    print(killed, time.monotonic() - start)


if __name__ == "__main__":
    main()
