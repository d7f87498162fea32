"""Parts for the tests of ``benchmarks.harness.part_server``: they answer, fail, die, talk, or never end."""

from __future__ import annotations

import os
import threading
from typing import Any

from benchmarks.harness.part_server import serve


class Parts:
    def __init__(self, setup: dict[str, Any]) -> None:
        self.setup, self.asked = setup, 0

    def __call__(self, part: str) -> Any:
        self.asked += 1
        if part == "hang":
            threading.Event().wait()
        if part == "fail":
            raise ValueError("no such rows")
        if part == "die":
            os._exit(3)
        if part == "talk":
            print("a library talks", flush=True)
        return {"asked": self.asked, "cores": len(os.sched_getaffinity(0)), "setup": self.setup}


if __name__ == "__main__":
    serve(Parts)
