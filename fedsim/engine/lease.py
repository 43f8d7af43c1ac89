"""An actor's lease on life: the process that started it. Ray ends an actor whose driver is gone, but when a node's
raylet dies the actors of that node go on running, and the driver has put others in their place by then. They end
themselves.
"""

from __future__ import annotations

import os
import threading
import time

LOOK_S = 1.0
ORPHAN_EXIT = 70


def hold() -> None:
    """From now on this process ends soon after the one that started it, whatever it is busy with."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="fedsim-lease", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:  # an orphan is given another parent
        time.sleep(LOOK_S)
    os._exit(ORPHAN_EXIT)
