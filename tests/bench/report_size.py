"""What the report of a long search costs: time, memory, and the size of its page.

    python tests/bench/report_size.py                           5,000 trials of 50 epochs: 250,000 rows
    python tests/bench/report_size.py --trials 28 --epochs 20

The study is made up (`tests/made_study.py`) and written by the record's own writer; making it is not part of
what is measured. The report is then written by a process of its own, whose processor time and largest
resident memory are told.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # made_study, which imports tiny families from there

from made_study import make_study  # noqa: E402

TARGETS = {"seconds": 60.0, "peak_mb": 2000.0, "page_mb": 15.0}


def main() -> None:
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="loss-search-report-") as scratch:
        began = time.monotonic()
        directory, _ = make_study(
            Path(given.keep or scratch), given.trials, epochs=given.epochs, whole=not given.stopped
        )
        print(f"{given.trials:,} trials, {given.epochs} epochs: made in {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        command = [sys.executable, "-m", "search.cli", "report", str(directory.path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        page = directory.report / "index.html"
        found = {
            "trials": given.trials,
            "epochs": given.epochs,
            "seconds": seconds,
            "processor_s": used.ru_utime + used.ru_stime,
            "peak_mb": used.ru_maxrss / 1e3,
            "page_mb": page.stat().st_size / 1e6,
            "figures": len(list(directory.report.glob("*.png"))),
        }
    for name, target in TARGETS.items():
        held = "held" if found[name] < target else "missed"
        print(f"{name:12} {found[name]:10.1f}   target below {target:g}: {held}")
    print(f"{'processor_s':12} {found['processor_s']:10.1f}   {found['figures']} figures")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--stopped", action="store_true", help="with trials that rules ended early")
    parser.add_argument("--keep", type=Path, help="where the run stays, to look at")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
