"""Put small faults into the code, one at a time, and count those that the tests notice.

    python benchmarks/mutants.py --rooms losses data models --sample 30 --seed 0
    python benchmarks/mutants.py --again

Every fault that the operators below can make in a room's modules is listed; the sample is drawn
with the seed, the same number from each room, at most one from each function. A fault is put into
a copy of the tree, and tests run until one fails: first the room's test files that import the
module itself, then others that do, then the room's whose imports reach it in three steps. What no
import shows (a command in another process) is not run: the whole suite may notice more. In the
end the tests that noticed run without a fault: those that fail then are left out, and what they
noticed runs again. A test that does not end counts as one that noticed.

The output holds each fault with its outcome; a run that was ended goes on where it was. Faults
that were written into such a file by hand run, too (results/faults.json); "tests" in an entry says
which tests, as arguments of pytest. A survivor is examined by hand: write `"equivalent": "why"` or
`"mended": "which test"` into its entry, and `--again` runs the mended ones once more and keeps the
first outcome beside it.

Needs the development environment; DEAR_SHARED_DATA, or shared/data beside the repository, for the
tests that read collections.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TREE = ("src", "tests", "recipes", "benchmarks", "docs")
DISTANCE = 3
"""Imports between a test of the room and the module, at most."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "argmax": "argmin"}


def mutations(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(kind, what takes the node's place), for each fault that can be made at this node itself."""

    def other(kind: str, **fields: Any) -> tuple[str, ast.AST]:
        changed = copy.copy(node)
        for name, value in fields.items():
            setattr(changed, name, value)
        return kind, changed

    match node:
        case ast.Compare():
            for i, op in enumerate(node.ops):
                ops = [*node.ops[:i], COMPARISONS[type(op)](), *node.ops[i + 1 :]]
                yield other("comparison", ops=ops)
        case ast.BinOp() if type(node.op) in ARITHMETIC and not _is_text(node):
            yield other("arithmetic", op=ARITHMETIC[type(node.op)]())
        case ast.AugAssign() if type(node.op) in ARITHMETIC and not _is_text(node.value):
            yield other("arithmetic", op=ARITHMETIC[type(node.op)]())
            yield "statement dropped", ast.Pass()
        case ast.BoolOp():
            yield other("and/or", op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
            for i in range(len(node.values)):
                rest = node.values[:i] + node.values[i + 1 :]
                yield "operand dropped", rest[0] if len(rest) == 1 else other("", values=rest)[1]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield "negation dropped", node.operand
        case ast.If() | ast.While() | ast.IfExp():
            yield other("condition negated", test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Constant(value=bool() as value):
            yield other("constant", value=not value)
        case ast.Constant(value=int() as value):
            yield other("constant", value=value + 1)
            yield other("constant", value=value - 1)
        case ast.Constant(value=float() as value):
            yield other("constant", value=value * 2 if value else 1.0)
        case ast.Name() if node.id in NAMES:
            yield other("name", id=NAMES[node.id])
        case ast.Attribute() if node.attr in NAMES:
            yield other("name", attr=NAMES[node.attr])
        case ast.Call():
            for i in range(len(node.keywords)):
                rest = node.keywords[:i] + node.keywords[i + 1 :]
                yield other("keyword dropped", keywords=rest)
            for i in range(len(node.args) - 1):
                a, b = node.args[i : i + 2]
                if ast.dump(a) != ast.dump(b) and ast.Starred not in (type(a), type(b)):
                    swapped = [*node.args[:i], b, a, *node.args[i + 2 :]]
                    yield other("arguments swapped", args=swapped)
        case ast.Expr(value=ast.Call() | ast.Yield()) | ast.Raise() | ast.Continue() | ast.Break():
            yield "statement dropped", ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "statement dropped", ast.Pass()


def _is_text(node: ast.AST) -> bool:
    return any(
        isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str))
        for n in ast.walk(node)
    )


def faults_in(path: Path) -> Iterator[dict[str, Any]]:
    """Every fault of one file: where it is, what the lines were, what they become."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    for function, node in _nodes(ast.parse(source), ""):
        for kind, changed in mutations(node):
            # brackets keep an expression in its place; a statement needs none
            text = ast.unparse(ast.fix_missing_locations(changed))
            text = text if isinstance(node, ast.stmt) else f"({text})"
            first, last = node.lineno - 1, node.end_lineno
            if isinstance(node, ast.If | ast.While):  # the condition alone, its block stays
                test = node.test
                first, last = test.lineno - 1, test.end_lineno
                text = f"(not ({ast.unparse(test)}))"
                start, end = test.col_offset, test.end_col_offset
            else:
                start, end = node.col_offset, node.end_col_offset
            before = "".join(lines[first:last])
            head = lines[first].encode()[:start].decode()
            tail = lines[last - 1].encode()[end:].decode()
            after = head + text + tail
            where = {"file": str(path.relative_to(ROOT)), "line": first + 1, "function": function}
            yield {**where, "kind": kind, "before": before, "after": after}


def _nodes(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
    """Nodes that tests can be asked to know: no types, texts of errors, logs or decorators."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    skipped: tuple[Any, ...] = ("annotation", "returns", "decorator_list", "type_comment")
    if isinstance(node, ast.Raise):
        skipped += ("exc", "cause")
    if isinstance(node, ast.JoinedStr):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.Expr) and ast.unparse(node).startswith(("logger.", "warnings.")):
        return
    if hasattr(node, "lineno"):
        yield function, node
    for name, value in ast.iter_fields(node):
        if name not in skipped:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _nodes(child, function)


def draw(rooms: list[str], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` faults, the same number from each room, each in a function of its own."""
    found: list[dict[str, Any]] = []
    for number, room in enumerate(rooms):
        place = ROOT / "src" / "dear" / room
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        faults = [fault for path in files for fault in faults_in(path)]
        random.Random(f"{seed}/{room}").shuffle(faults)
        one_each = {(f["file"], f["function"]): f for f in reversed(faults)}
        mine = [f for f in faults if one_each[f["file"], f["function"]] is f]
        share = count // len(rooms) + (number < count % len(rooms))
        found += mine[:share]
    return found


@functools.cache
def imports() -> dict[Path, set[Path]]:
    """The project's own files that each file of src and tests imports, at any depth inside it."""
    files = [p for top in ("src/dear", "tests") for p in (ROOT / top).rglob("*.py")]
    names = {}
    for path in files:
        parts = path.relative_to(ROOT / ("src" if path.is_relative_to(ROOT / "src") else "tests"))
        dotted = ".".join(parts.with_suffix("").parts).removesuffix(".__init__")
        names[dotted] = path
        if not path.is_relative_to(ROOT / "src"):
            names.setdefault(path.stem, path)  # helpers of tests are imported by their bare names
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    handed_on = {}  # (package, name) → the module that the package has it from
    for dotted, path in names.items():
        if path.name == "__init__.py":
            for node in ast.walk(trees[path]):
                if isinstance(node, ast.ImportFrom) and node.module:
                    handed_on |= {(dotted, a.asname or a.name): node.module for a in node.names}
    found: dict[Path, set[Path]] = {}
    for path, tree in trees.items():
        wanted: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    passed = handed_on.get((node.module, alias.name), node.module)
                    wanted.add(submodule if submodule in names else passed)
        found[path] = {names[name] for name in wanted if name in names}
    return found


def tests_of(module: Path, room: str) -> list[list[str]]:
    """Test files to run, in lots: the room's that import the module, others that do, the room's
    that import what imports it."""
    importers: dict[Path, set[Path]] = {}
    for path, used in imports().items():
        for one in used:
            importers.setdefault(one, set()).add(path)
    distance, waiting = {module: 0}, deque([module])
    while waiting:
        here = waiting.popleft()
        for path in importers.get(here, ()):
            # a test's helper module, or a package that hands a name on, is no step of its own
            free = "tests" in here.parts or here.name == "__init__.py"
            if path not in distance:
                distance[path] = distance[here] + (0 if free else 1)
                waiting.append(path)
    ours = ROOT / "tests" / room
    lots: list[list[str]] = [[], [], []]
    for test in sorted(
        (ROOT / "tests").rglob("test_*.py"),
        key=lambda t: (module.stem not in t.stem, distance.get(t, 99), t),
    ):
        far, is_ours = distance.get(test, 99), ours in test.parents
        if far <= 1 or (is_ours and far <= DISTANCE):
            lots[2 if far > 1 else int(not is_ours)].append(str(test.relative_to(ROOT)))
    if not any(lots):  # a module without tests in its own room
        lots = [[str(t.relative_to(ROOT)) for t in distance if t.name.startswith("test_")]]
    return [lot for lot in lots if lot]


class Tree:
    """A copy of the project in which a fault is put in, tested and taken out again."""

    def __init__(self, place: Path, *, test_timeout_s: float, broken: list[str]) -> None:
        self.place = place
        self.root = place / "tree"
        self.test_timeout_s = test_timeout_s
        self.broken = broken
        self.root.mkdir()
        for name in TREE:
            hidden = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.root / name, ignore=hidden)
        for file in ROOT.iterdir():
            if file.is_file() and not file.name.startswith("."):
                shutil.copy2(file, self.root / file.name)

    def run(self, fault: dict[str, Any]) -> dict[str, Any]:
        """Its outcome (killed, timeout, survived, stale), by which test, in how many seconds."""
        path = self.root / fault["file"]
        room = Path(fault["file"]).relative_to("src/dear").parts[0].removesuffix(".py")
        lots = [fault["tests"]] if "tests" in fault else tests_of(ROOT / fault["file"], room)
        original, times = path.read_text(encoding="utf-8"), path.stat()
        started = time.perf_counter()
        if not put_in(fault, path):
            return {"outcome": "stale"}
        try:
            found = next(filter(None, map(self._first_failure, lots)), ("survived", None))
        finally:
            path.write_text(original, encoding="utf-8")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        seconds = round(time.perf_counter() - started)
        outcome, test = found
        return {"outcome": outcome, **({"by": test} if test else {}), "seconds": seconds}

    def failing_anyway(self, tests: list[str]) -> list[str]:
        """Those of these tests that fail without a fault, too."""
        found = []
        while left := [test for test in tests if test not in found]:
            failure = self._first_failure(left)
            if failure is None or failure[1] is None:
                break
            found.append(failure[1])
        return found

    def _first_failure(self, tests: list[str]) -> tuple[str, str | None] | None:
        data = os.environ.get("DEAR_SHARED_DATA") or ROOT.parent / "shared" / "data"
        env = os.environ | {"PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1"}
        env |= {"DEAR_SHARED_DATA": str(data)} if Path(data).is_dir() else {}
        command = [
            *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=line"),
            *("--hypothesis-seed=0", "-m", "not gpu and not network", f"--basetemp={self.place}/t"),
            *("-o", f"faulthandler_timeout={self.test_timeout_s}"),
            *("-o", "faulthandler_exit_on_timeout=true"),
            *(f"--deselect={test}" for test in self.broken),
            *tests,
        ]
        done = subprocess.run(
            command,
            cwd=self.root,
            env=env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode in (0, 5):  # 5: no test was selected
            return None
        if "Timeout (" in done.stderr:
            return "timeout", None
        said = re.findall(r"^(?:FAILED|ERROR) (\S+?\.py(?:::.*?)?)(?: - |$)", done.stdout, re.M)
        return "killed", said[0] if said else None


def put_in(fault: dict[str, Any], path: Path) -> bool:
    """Put the fault into a file, at the place nearest to its line where its text stands."""
    source = path.read_text(encoding="utf-8")
    starts, at = [], source.find(fault["before"])
    while at >= 0:
        starts.append(at)
        at = source.find(fault["before"], at + 1)
    if not starts:
        return False
    at = min(starts, key=lambda i: abs(source.count("\n", 0, i) + 1 - fault["line"]))
    changed = source[:at] + fault["after"] + source[at + len(fault["before"]) :]
    compile(changed, str(path), "exec")
    path.write_text(changed, encoding="utf-8")
    return True


def summary(faults: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates over the faults that were run and are not equivalent, before and after mending."""
    counted = [f for f in faults if "outcome" in f and "equivalent" not in f]

    def rate(key: str) -> float | None:
        noticed = sum(f.get(key, f["outcome"]) in ("killed", "timeout") for f in counted)
        return round(noticed / len(counted), 3) if counted else None

    return {
        "run": sum("outcome" in f for f in faults),
        "outcomes": dict(Counter(f["outcome"] for f in faults if "outcome" in f)),
        "equivalent": sum("equivalent" in f for f in faults),
        "noticed_first": rate("outcome"),
        "noticed_after_mending": rate("again"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rooms", nargs="+", default=["losses", "data", "checkpoints", "scoring", "listwise"]
    )
    parser.add_argument("--sample", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-timeout", type=float, default=900, help="seconds, for one test")
    parser.add_argument("--again", action="store_true", help="run mended survivors once more")
    parser.add_argument("--show", action="store_true", help="show the sample and run nothing")
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--output", type=Path, default=results / "mutants.json")
    options = parser.parse_args()
    if options.output.exists():
        report = json.loads(options.output.read_text(encoding="utf-8"))
    else:
        faults = draw(options.rooms, options.sample, options.seed)
        report = {"rooms": options.rooms, "seed": options.seed, "fail_anyway": [], "faults": faults}
    if options.show:
        for fault in report["faults"]:
            print(f"{fault['file']}:{fault['line']} {fault['function']}: {fault['kind']}")
            print(f"- {fault['before'].rstrip()}\n+ {fault['after'].rstrip()}\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="dear-mutants-") as place:
        tree = Tree(Path(place), test_timeout_s=options.test_timeout, broken=report["fail_anyway"])
        while True:
            for fault in report["faults"]:
                if "outcome" not in fault:
                    fault |= tree.run(fault)
                elif options.again and "mended" in fault and fault.get("again") != "killed":
                    fault["again"] = tree.run(fault)["outcome"]
                else:
                    continue
                outcome = fault.get("again", fault["outcome"])
                print(f"{fault['file']}:{fault['line']} {fault['kind']}: {outcome}", flush=True)
                write(options.output, report)
            # a test that fails without a fault has noticed nothing
            by = {fault["by"] for fault in report["faults"] if "by" in fault}
            wrong = tree.failing_anyway(sorted(by))
            tree.broken += wrong
            for fault in report["faults"]:
                if fault.get("by") in wrong:
                    del fault["outcome"], fault["by"]
            if not wrong:
                break
    write(options.output, report)
    print(json.dumps(report["summary"]))
    return 0


def write(path: Path, report: dict[str, Any]) -> None:
    report["summary"] = summary(report["faults"])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
