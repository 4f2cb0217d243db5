"""What `dear distill FOLDER` is worth for a folder of plain files, few queries, no judgements.

    python benchmarks/folders.py make --data FOLDER --work FOLDER --man FOLDER --packages FILE
    python benchmarks/folders.py measure --data FOLDER --work FOLDER [--only man] [--avx2]

make writes folders as people have them, NAME/corpus/ and NAME/queries.txt, and apart from them, in
held/NAME/, 300 test queries with judgements, 50 of which are the texts in queries.txt:

    man          manual pages (--man: a `man` tree, such as /usr/share/man; needs groff)
    debian       descriptions of packages (--packages: Debian's Translation-en, unpacked or .gz;
                 without it, those that apt has)
    medquad, insuranceqa    passages and real questions, of --data

Queries of the first two are one-line descriptions, which no file holds.

measure makes those that are not in --work, runs `dear distill` on each folder, for at most --limit
seconds, and ranks the held questions with what it made and recommended, and with what needs no
training: quality, with paired tests against the best of the latter, and milliseconds for a query.
Added to benchmarks/results/folders.json as NAME, or NAME-avx2: --avx2 leaves out all that is newer,
as benchmarks/demo.py does. What is in --work (distilled/, measured/, vectors/) is not made again;
remove the first two to measure another version.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from demo import AVX2
from folders_make import Source, man_pages, packages, questions, write_folder
from folders_measure import measure, show

from dear.artifacts import read_json, write_json

MADE = "made.json"
NAMES = ("man", "debian", "medquad", "insuranceqa")


def make(name: str, options: argparse.Namespace) -> None:
    sources: dict[str, Callable[[], Source]] = {
        "man": lambda: man_pages(options.man, options.files),
        "debian": lambda: packages(options.packages, options.files),
        "medquad": lambda: questions(options.data, "medquad"),
        "insuranceqa": lambda: questions(options.data, "insuranceqa"),
    }
    counts = write_folder(sources[name](), options.work / name, options.work / "held" / name)
    write_json(options.work / "held" / name / MADE, counts)
    print(f"{name}: {counts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=("make", "measure"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--man", type=Path, default=Path("/usr/share/man"))
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--files", type=int, default=5000, help="at most, of man and debian")
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--recipe", help="of measure; default: that of `dear distill`")
    parser.add_argument(
        "--set", action="append", default=[], help="of measure: as `dear distill`'s"
    )
    parser.add_argument("--suffix", default="", help="of the entry's name, with --set")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds for `dear distill`")
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/folders.json"))
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"no folder {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if options.verb == "make":
        for name in names:
            make(name, options)
        return
    wanted = {"OMP_NUM_THREADS": str(options.threads), **(AVX2 if options.avx2 else {})}
    if any(os.environ.get(key) != value for key, value in wanted.items()):
        # PyTorch reads them as it is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)
    suffix = options.suffix + ("-avx2" if options.avx2 else "")
    for name in names:
        if not (options.work / "held" / name / MADE).is_file():
            make(name, options)
        entry = measure(
            options.work,
            name,
            suffix,
            recipe=options.recipe,
            changes=options.set,
            limit_s=options.limit,
        )
        known = read_json(options.output) if options.output.is_file() else {}
        write_json(options.output, known | {name + suffix: entry})
        show(name + suffix, entry)


if __name__ == "__main__":
    main()
