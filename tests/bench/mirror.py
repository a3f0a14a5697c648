"""What keeping a run in an object store costs.

    python tests/bench/mirror.py --trials 1000 --live 8 --rows-per-cycle 80

Plays a search's driver against moto's S3 server on loopback: `--trials` trials have ended, `--live` are in
training, and between two uploads `--rows-per-cycle` rows come in. Prints for a cycle: wall time, processor
time of this process (the server has its own), uploads, bytes; and what taking the run up again costs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from s3_server import BUCKET, S3Server  # noqa: E402  needs the path above
from toy_run import message, toy_space  # noqa: E402

CYCLES = 8
EPOCHS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--live", type=int, default=8)
    parser.add_argument("--rows-per-cycle", type=int, default=80)
    asked = parser.parse_args()
    import os

    with S3Server() as server, tempfile.TemporaryDirectory() as scratch:
        os.environ.update(
            server.environment, XDG_STATE_HOME=f"{scratch}/state", XDG_CACHE_HOME=f"{scratch}/cache"
        )
        measure(asked, Path(scratch))


def measure(asked: argparse.Namespace, scratch: Path) -> None:
    from search.run import Run
    from search.storage import Location

    space = toy_space(scratch, budget={"trials": asked.trials + asked.live + 10_000, "epochs": 10_000})
    directory = Run.create(space, Location(f"s3://{BUCKET}/bench"))
    with directory.kept(), directory.locked(), Run(directory, space) as run:
        mirror = directory.stored.mirror
        mirror._ending.set()  # cycles are called here, one at a time
        for _ in range(asked.trials):
            number = run.next_trial().number
            for epoch in range(1, EPOCHS + 1):
                run.receive(message(number, epoch, 0.5))
            run.end(number, "COMPLETE", "completed")
        live = [run.next_trial().number for _ in range(asked.live)]
        run.flush()
        begun = time.monotonic()
        mirror.sync()
        print(
            f"first upload of {asked.trials} ended trials: {time.monotonic() - begun:.1f} s, {mirror.traffic}"
        )
        epoch = 0
        for cycle in range(CYCLES):
            for row in range(asked.rows_per_cycle):
                if row % asked.live == 0:
                    epoch += 1
                run.receive(message(live[row % asked.live], epoch, 0.5))
            run.flush()
            before = _spent(mirror.traffic)
            mirror.sync()
            spent = _spent(mirror.traffic)
            requests, size, processor, wall = (b - a for a, b in zip(before, spent, strict=True))
            said = f"{requests} uploads, {size / 1e3:.0f} kB"
            print(f"cycle {cycle}: {wall:.2f} s, processor {processor:.2f} s, {said}")
        run.close()
        begun = time.monotonic()
    print(f"last upload: {time.monotonic() - begun:.1f} s")
    begun = time.monotonic()
    with type(directory).held(str(directory.stored.location), Path("runs")):
        print(f"taken up again from the store: {time.monotonic() - begun:.1f} s")
    begun = time.monotonic()
    type(directory).open(str(directory.stored.location), Path("runs"))
    print(f"copy for reading, first time: {time.monotonic() - begun:.1f} s")
    begun = time.monotonic()
    type(directory).open(str(directory.stored.location), Path("runs"))
    print(f"copy for reading, second time: {time.monotonic() - begun:.1f} s")


def _spent(traffic) -> tuple[int, int, float, float]:
    return traffic.requests, traffic.sent_bytes, time.process_time(), time.monotonic()


if __name__ == "__main__":
    main()
