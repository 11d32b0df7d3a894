"""Which sampler, order and schedule to use in K steps: a study of two corpora and two tasks, from training to figures.

    python benchmarks/study.py --out study --english shakespeare.txt
    python benchmarks/study.py --out study --english shakespeare.txt --seed 1

Trains small models of Python's standard library, of an English text, of sudokus and of brackets, and measures orders
and schedules against each other: by loss profiles and exact walks, by advice and its check, by generative frontiers and
adaptive samplers, by answers that a rule can check. A part is a file in ``--out``; what is there is not measured again.
The seed decides on the training, on what is generated, and on which sequences are looked at. At the end the tables and
figures of all seeds in the folder are written, from the files alone: ``study.md`` and ``figures/``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from study_parts import tasks, text
from study_parts.models import CORPORA, scorer_of, train
from study_parts.report import write_report
from study_parts.results import Results
from study_parts.size import CPU, DECIDED_BY, GPU, TINY, Size

from mdm_lightning.errors import UserError


def measure(data: str, folder: Path, size: Size, seed: int, english: str | None, chosen: Sequence[str]) -> None:
    """Trains the model of a set of data and measures what is not there yet of the chosen parts; none chosen: of all."""
    runs = folder / "runs"
    train(data, runs / data, size, seed, english)
    if data in CORPORA:
        parts = text.parts(runs / data, lambda: scorer_of(data, runs, size, seed, english), seed, size)
    else:
        parts = tasks.parts(runs / data, seed, size)
    results = Results(folder / data)
    for name, part in parts.items():
        if name in chosen or not chosen:
            results.part(name, {**size.asked(name), "seed": seed}, part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of all seeds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--english", help="a file or folder of English text; without it that corpus is left out")
    parser.add_argument(
        "--parts", nargs="+", metavar="NAME", default=[], help=f"of {', '.join(DECIDED_BY)}; default all"
    )
    parser.add_argument("--data", nargs="+", metavar="NAME", help="of stdlib, english and the tasks; default all")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--gpu", action="store_true", help="larger models and more sequences, on a GPU")
    group.add_argument("--tiny", action="store_true", help="to see that all parts run: figures mean nothing")
    options = parser.parse_args()
    size = GPU if options.gpu else TINY if options.tiny else CPU
    known = [data for data in (*CORPORA, *size.tasks) if options.english or data != "english"]
    chosen = options.data or known
    try:
        if unknown := [data for data in chosen if data not in known]:
            raise UserError(f"--data {unknown[0]}: choose of {', '.join(known)} (english needs --english FILE)")
        if unknown := [part for part in options.parts if part not in DECIDED_BY]:
            raise UserError(f"--parts {unknown[0]}: choose of {', '.join(DECIDED_BY)}")
        for data in chosen:
            measure(data, options.out / f"seed{options.seed}", size, options.seed, options.english, options.parts)
        print(f"\n{write_report(options.out)}\n\n{options.out}/study.md and figures beside it")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
