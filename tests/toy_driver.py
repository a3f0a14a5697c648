"""A driver without Ray, as a process that can be killed: `toy_driver.py OUT SPACE` plays reports until it is.

It opens, mirrors and writes a run as a search does; a report comes every `ROW_S`.
"""

from __future__ import annotations

import sys
import time

from toy_run import message

from search.run import Run
from search.space import load_space
from search.storage import place_of

ROW_S = 0.1


def main(out: str, space_path: str) -> None:
    space = load_space(space_path)
    directory = Run.create(space, place_of(out))
    with directory.kept(), directory.locked(), Run(directory, space) as run:
        print(directory.path, flush=True)
        while (asked := run.next_trial()) is not None:
            for epoch in range(1, space.budget.epochs + 1):
                time.sleep(ROW_S)
                run.receive(message(asked.number, epoch, 0.5 + 0.001 * epoch))
                run.tick()
        run.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
