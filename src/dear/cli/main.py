"""The `dear` command: its commands, and what becomes of their errors.

This module and those of the commands import nothing but typer; everything else is imported by
the command that runs, so that `dear --help` answers at once.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
import typer.core

from dear import __version__
from dear.artifacts import EXPANSION, LINE_MIB, is_full
from dear.cli.output import quiet, visible_streams
from dear.cli.progress import lines
from dear.data.remote import as_url
from dear.digests import watch
from dear.errors import DearError, nearest

COMMANDS: dict[str, tuple[str, str]] = {
    "distill": ("dear.cli.distill:distill", "The whole way: from a collection to a student."),
    "retrieve": (
        "dear.cli.retrieve:retrieve",
        "Find candidates by BM25, dense, SPLADE or hybrid, for all queries or for one.",
    ),
    "split": (
        "dear.cli.split:split",
        "Split documents into passages that a model reads whole: a collection to another.",
    ),
    "queries": (
        "dear.cli.queries:queries",
        "Make queries from documents, to train on: by rule, or by a language model.",
    ),
    "plan": (
        "dear.cli.plan:plan",
        "Say what a training needs on given cards: memory, time, cost, and what would make it fit.",
    ),
    "train": (
        "dear.cli.train:train",
        "Train a teacher or a student: a recipe to a checkpoint. Goes on where it was stopped.",
    ),
    "label": (
        "dear.cli.label:label",
        "Write a teacher's soft labels: a run to a folder. Goes on where it was stopped.",
    ),
    "labels": (
        "dear.cli.labels:labels",
        "Look into label stores, check them, join those of shards, take out dead rows.",
    ),
    "reason": (
        "dear.cli.reason:reason",
        "Write the reasoning set: lists with thought and order. Goes on where it was stopped.",
    ),
    "rank": (
        "dear.cli.rank:rank",
        "Rerank a run with a model, with a listwise backend, or with one behind the other.",
    ),
    "evaluate": (
        "dear.cli.evaluate:evaluate",
        "Measure runs against judgements, and compare them.",
    ),
    "report": (
        "dear.cli.report:report",
        "Write one file that shows what runs are worth: tables, plots, queries to browse.",
    ),
    "compare": (
        "dear.cli.compare:compare",
        "Show two runs side by side for one query, or for a few.",
    ),
    "check": (
        "dear.cli.check:check",
        "Check how a ranker stands orders, attacks, typos, cuts and strange passages.",
    ),
    "rerank": ("dear.cli.rerank:rerank", "Rank a file's passages for one query."),
    "serve": (
        "dear.cli.serve:serve",
        "Serve models over HTTP, in the dialects that clients already speak.",
    ),
    "export": (
        "dear.cli.export:export",
        "Write a model in a form that other programs run, with a certificate of its scores.",
    ),
    "push": (
        "dear.cli.push:push",
        "Publish a model on the hub, with a card that says what it is and what it is worth.",
    ),
    "calibrate": (
        "dear.cli.calibrate:calibrate",
        "Fit a map from scores to probabilities of relevance on judged queries.",
    ),
    "bench": (
        "dear.cli.bench:bench",
        "Measure scoring in turns: our engines, exports and installed peers, on the same pairs.",
    ),
    "collections": (
        "dear.cli.collections:collections",
        "List the collections known by name, or show one of them.",
    ),
    "models": (
        "dear.cli.models:models",
        "List the models known by name and where they are, or show what an export is worth.",
    ),
}
"""Name of a command → (module:function, what it does), in the order of the help page."""

IN_ENVIRONMENT = {"serve": "DEAR"}
"""Commands whose options may stand in the environment → the beginning of the variables' names."""

GLOBAL_FLAGS = ("--debug", "--quiet")
"""Understood before the command's name and behind it."""

GOES_ON = ("label", "train", "distill", "reason")
"""Commands that continue where they were stopped."""

NOTICES = "dear.notices"
"""The logger of lines about models that were opened and what steps do."""

LONGEST_LINE = 2000
"""Characters of an error or a warning on standard error."""

BAD_INPUT, INTERNAL, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command as an interrupt does; the exit status is 128 and their number."""

CLEANING_S = 5.0
"""So long a second one of them waits while files are put in order."""

_AGAIN_S = 0.05


class _Commands(Mapping[str, Any]):
    """COMMANDS as typer's: each is imported when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        module, _, function = COMMANDS[name][0].partition(":")
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(name)(getattr(importlib.import_module(module), function))
        command = typer.main.get_command(alone)
        command.context_settings.update(app.info.context_settings or {})
        if name in IN_ENVIRONMENT:
            command.context_settings["auto_envvar_prefix"] = IN_ENVIRONMENT[name]
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(typer.core.TyperGroup):
    """The help page imports no command."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.commands: Any = _Commands()

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in COMMANDS.items()])


app = typer.Typer(
    name="dear",
    cls=_Group,
    help="Turn a big, slow reranker into a small, fast one.",
    epilog="--quiet and --debug may also stand behind the command.",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"dear {__version__}")
        raise typer.Exit


@app.callback()
def _shared_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress, no warnings, no summary.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the log, and the traceback of an error.")
    ] = False,
    line_mib: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1_000_000,
            show_default=False,
            help=f"Longest line, or file that is read whole, in MiB.  [default: {LINE_MIB}]",
        ),
    ] = None,
    expansion: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1_000_000,
            show_default=False,
            help=f"Times its size that a .gz file may unpack to.  [default: {EXPANSION}]",
        ),
    ] = None,
    skip_undecodable: Annotated[
        bool,
        typer.Option(
            "--skip-undecodable",
            help="Leave out files of a folder of documents that are not UTF-8 and do not say what.",
        ),
    ] = False,
) -> None:
    """The flags are read by `main` before the command is parsed, and stand here for the help page;
    the limits hold for processes that the command starts, too."""
    values = {
        "DEAR_LINE_MIB": line_mib,
        "DEAR_EXPANSION": expansion,
        "DEAR_SKIP_UNDECODABLE": int(skip_undecodable) or None,
    }
    os.environ.update({name: str(value) for name, value in values.items() if value is not None})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status.

    0: done. 2: bad input, in one line on standard error. 1: a fault of ours, in one line.
    130: interrupted. 143, 129: ended by SIGTERM, SIGHUP. 141: whoever read the output has gone.
    """
    _open_closed_streams()
    flags, words = _without_flags(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in flags
    with ended_by_signals() as received, _surroundings(debug=debug, hush="--quiet" in flags):
        try:
            status = _invoke(words or ["--help"])
            sys.stdout.flush()
        except BrokenPipeError:
            _drop_output()
            return PIPE_CLOSED
        except BaseException as error:
            # a library may have made an error of its own of what the signal raised
            return _report(_cause(received) or error, words, debug=debug)
        ended = [number for number in received if number in ENDING]
        if ended:  # it came where Python or a library dropped it
            return _report(Ended(ended[0]), words, debug=debug)
    return status


def _open_closed_streams() -> None:
    """A standard stream that whoever started us has closed leads nowhere: else the next file that
    is opened would get its number, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _cause(received: Sequence[int]) -> KeyboardInterrupt | None:
    """What the first of these signals raised."""
    if not received:
        return None
    return KeyboardInterrupt() if received[0] == signal.SIGINT else Ended(received[0])


class Ended(KeyboardInterrupt):
    """A signal of ENDING has come."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[list[int]]:
    """Ended is raised where a signal of ENDING comes, and KeyboardInterrupt at Ctrl-C, so that
    whatever is open is put in order; the list holds those that came: a library may make an error of
    its own of what is raised in it.

    What Python drops, because it came while an object was freed, is sent again. A signal that is
    ignored (nohup) stays so. Processes that a launcher started end by the signal itself: they
    have nothing to say, and those that are left need not wait.
    """
    raised = float("-inf")
    received: list[int] = []

    def end(number: int, _frame: object) -> None:
        nonlocal raised
        received.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if time.monotonic() > raised + CLEANING_S:
            raised = time.monotonic()
            raise Ended(number)

    def dropped(unraisable: sys.UnraisableHookArgs) -> None:
        nonlocal raised
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            hook(unraisable)
            return
        raised = float("-inf")
        number = getattr(unraisable.exc_value, "number", signal.SIGINT)
        threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number)).start()

    hook, before = sys.unraisablehook, {}
    if threading.current_thread() is threading.main_thread() and "DEAR_LAUNCHED" not in os.environ:
        before = {n: signal.getsignal(n) for n in ENDING if signal.getsignal(n) == signal.SIG_DFL}
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            before[signal.SIGINT] = signal.default_int_handler
        sys.unraisablehook = dropped
    for number in before:
        signal.signal(number, end)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


def _without_flags(words: Sequence[str]) -> tuple[set[str], list[str]]:
    """GLOBAL_FLAGS that are given, and the other words; what follows `--` is left alone."""
    end = list(words).index("--") if "--" in words else len(words)
    flags = {word for word in words[:end] if word in GLOBAL_FLAGS}
    return flags, [*(word for word in words[:end] if word not in GLOBAL_FLAGS), *words[end:]]


def _invoke(words: Sequence[str]) -> int:
    # not Command.main, which hides interrupts and closed pipes from us
    command: Any = typer.main.get_command(app)
    try:
        with command.make_context("dear", list(words)) as context:
            command.invoke(context)
    except typer.Exit as leaving:
        return leaving.exit_code
    return 0


@contextlib.contextmanager
def _surroundings(*, debug: bool, hush: bool) -> Iterator[None]:
    """Where warnings, logs and other libraries' messages go while a command runs."""
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a passage may hold what the terminal's encoding does not
        sys.stdout.reconfigure(errors="replace")
    logger = logging.getLogger("dear")
    handler = _ToStandardError()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.ERROR if hush else logging.WARNING)
    logger.propagate = False
    token, watched = quiet.set(hush), watch.set(lines)
    # what is as it should be, too: under which contract a model scores, and why
    notices = logging.getLogger(NOTICES)
    told = notices.level
    notices.setLevel(logging.ERROR if hush else logging.INFO)
    try:
        with warnings.catch_warnings():
            if not debug and not sys.warnoptions:
                # other libraries' deprecations are no news to who ranks passages
                warnings.simplefilter("ignore")
            with visible_streams():
                yield
    finally:
        quiet.reset(token)
        watch.reset(watched)
        notices.setLevel(told)
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


class _ToStandardError(logging.Handler):
    """`dear: warning: …` on whatever standard error is now: a progress bar replaces it."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = _one_line(record.getMessage())
        label = f"{record.levelname.lower()}: "
        if record.name == NOTICES:
            if line in self._told:  # a model that is opened again
                return
            self._told.add(line)
            label = label if record.levelno > logging.INFO else ""
        print(f"dear: {label}{line}", file=sys.stderr)


def _report(error: BaseException, words: Sequence[str], *, debug: bool) -> int:
    """One line about `error`; the exit status."""
    if isinstance(error, SystemExit):
        raise error
    if debug:
        traceback.print_exception(error)
    line, status = _explain(error, words)
    with contextlib.suppress(OSError):
        print(f"dear: {_one_line(line)}", file=sys.stderr)
    if isinstance(error, OSError):
        _drop_output()
    return status


def _explain(error: BaseException, words: Sequence[str]) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        again = "goes on from here" if _goes_on(words) else "begins anew"
        number = error.number if isinstance(error, Ended) else None
        what = "interrupted" if number is None else f"ended by {signal.Signals(number).name}"
        return f"{what}; the same command {again}", INTERRUPTED if number is None else 128 + number
    if isinstance(error, DearError):
        return f"error: {as_url(str(error))}{_room(error, words)}", BAD_INPUT
    if hasattr(error, "format_message"):  # a usage error; its class differs between typers
        return f"error: {_usage(error)}", BAD_INPUT
    if _is_out_of_memory(error):
        return "error: out of memory; lower --batch-tokens, or take a smaller model", BAD_INPUT
    if isinstance(error, OSError):
        place = error.filename or "standard output"
        return f"error: {place}: {error.strerror}{_room(error, words)}", BAD_INPUT
    name = type(error).__name__
    return f"internal error: {name}: {error} (--debug shows where)", INTERNAL


def _goes_on(words: Sequence[str]) -> bool:
    """Whether the command, started again, continues where it was stopped."""
    kept = (
        not {"--listwise", "--llm"}.isdisjoint(words) and "--no-ledger" not in words
    )  # in the ledger
    command = next((word for word in words if not word.startswith("-")), "")
    by_leaf = command == "rank" and any(word.startswith(("--shard", "--on")) for word in words)
    return kept or by_leaf or command in GOES_ON


def _room(error: BaseException, words: Sequence[str]) -> str:
    """What to do about a full disk, where the error does not say it itself."""
    if not is_full(error) or "goes on" in str(error):
        return ""
    return "; make room, and the same command goes on from here" if _goes_on(words) else ""


def _usage(error: Any) -> str:
    message = str(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    if message.startswith("No such command"):
        word = message.split("'")[1]
        message = f"no command {word!r}{nearest(word, COMMANDS)}"
    return f"{message[:1].lower()}{message[1:]}; see: {context.command_path} --help"


def _is_out_of_memory(error: BaseException) -> bool:
    # by name: torch may not even be loaded
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _one_line(text: str) -> str:
    """`text` in one line of at most LONGEST_LINE characters: an error may name what it is given."""
    start = text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - 1]}…"
    return " ".join(line.strip() for line in start.splitlines() if line.strip())


def _drop_output() -> None:
    """What is still to be flushed at exit goes nowhere, instead of failing once more."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
