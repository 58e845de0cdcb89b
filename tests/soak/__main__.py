r"""A soak: faults without end against the programs that keep results, from a seed.

    python -m tests.soak --minutes=60 --seed=7 --output=experiments/results/soak/faults.csv

Each fault is dealt to a tiny training, sweep, figure or kernel: a kill or signal at a random time,
a full disk or a limit on files, a damaged file, two owners at once, a start that is to be refused,
a worker of two that is lost. Afterwards the same command must end with the metrics and weights of
an undisturbed run, or the fault must have been refused in one line. Anything else is a failure.

The programs are forked from this process, which has imported everything and run nothing.
"""

import argparse
import csv
import io
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence

from mfcnn import files
from tests.soak.faults import KINDS, WHOM, Soak
from tests.soak.programs import PROGRAMS


def soak(
    seed: int,
    faults: int,
    minutes: float,
    output: pathlib.Path | None = None,
    kinds: Sequence[str] = (),
    programs: Sequence[str] = (),
    lost: int = 0,
) -> Soak:
    """Deals faults until there are enough of them or the time is over.

    Args:
        seed: of all.
        faults: at most so many.
        minutes: at most so long, but for the last one.
        output: CSV file of the counts, written after each fault.
        kinds: some of `KINDS`; all if empty.
        programs: some of `WHOM`; all if empty.
        lost: one in so many faults is a lost worker; 0 for none.
    """
    deadline = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="soak") as scratch:
        chosen = [p for p in PROGRAMS if not programs or p.name in programs]
        result = Soak(seed, pathlib.Path(scratch), chosen)
        names = kinds or list(KINDS)
        for number in range(1, faults + 1):
            if time.monotonic() > deadline:
                break
            (kind,) = result.random.choices(names, [KINDS[name] for name in names])
            (whom,) = result.random.choices(chosen, [WHOM[p.name] for p in chosen])
            if lost and number % lost == 0:
                kind, whom = "lost", PROGRAMS[0]
            result.deal(kind, whom)
            if output:
                text = io.StringIO()
                writer = csv.DictWriter(
                    text, ["fault", "program", "outcome", "count"], lineterminator="\n"
                )
                writer.writeheader()
                writer.writerows(result.table())
                files.write_atomically(output, text.getvalue())
    return result


def main() -> int:
    """Soaks as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--faults", type=int, default=10**9)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--kinds", default="", help=f"some of {','.join(KINDS)}")
    parser.add_argument("--programs", default="", help=f"some of {','.join(WHOM)}")
    parser.add_argument("--lost", type=int, default=60, help="one in so many is a lost worker")
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    print(f"Seed {options.seed}.", flush=True)
    kinds = [kind for kind in options.kinds.split(",") if kind]
    programs = [name for name in options.programs.split(",") if name]
    result = soak(
        options.seed, options.faults, options.minutes, options.output, kinds, programs, options.lost
    )
    for row in result.table():
        print("{fault:8s} {program:8s} {outcome:24s} {count:5d}".format(**row))
    print(
        f"{sum(result.counts.values())} faults, {len(result.wrong)} of them neither recovered nor "
        f"refused; at most {result.memory:.0f} MiB a process."
    )
    return int(bool(result.wrong))


if __name__ == "__main__":
    sys.exit(main())
