"""What `dear distill FOLDER` is worth for a folder of plain files, few queries, no judgements.

    python benchmarks/folders.py make --data FOLDER --work FOLDER --man FOLDER --packages FILE
    python benchmarks/folders.py measure --work FOLDER [--only man,debian] [--avx2]

make writes folders as people have them, NAME/corpus/ and NAME/queries.txt, and apart from them, in
held/NAME/, 300 test queries with judgements, 50 of which are the texts in queries.txt:

    man          manual pages (--man: a `man` tree, such as /usr/share/man; needs groff)
    debian       descriptions of packages (--packages: Debian's Translation-en, unpacked or .gz)
    medquad, insuranceqa    passages and real questions, of --data

Queries of the first two are one-line descriptions, which no file holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from folders_make import Source, man_pages, packages, questions, write_folder

from dear.artifacts import write_json

NAMES = ("man", "debian", "medquad", "insuranceqa")


def make(options: argparse.Namespace) -> None:
    sources: dict[str, Callable[[], Source]] = {
        "man": lambda: man_pages(options.man, options.files),
        "debian": lambda: packages(options.packages, options.files),
        "medquad": lambda: questions(options.data, "medquad"),
        "insuranceqa": lambda: questions(options.data, "insuranceqa"),
    }
    for name in options.only.split(","):
        held = options.work / "held" / name
        counts = write_folder(sources[name](), options.work / name, held)
        write_json(held / "made.json", counts)
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
    options = parser.parse_args()
    make(options)


if __name__ == "__main__":
    main()
