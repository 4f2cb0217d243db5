"""Reasoning sets in shards: joined they are what one process makes, byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from command_line import FOOD, contents, good, read, refused, write_reranker
from tiny_lists import save_language_model

from dear.backends.ledger_file import LedgerFile
from dear.data.formats import read_lists, read_run, write_run
from dear.errors import ConfigError, DataError
from dear.reason import extractive
from dear.steps.options import ModelOptions, ReasonOptions
from dear.steps.reason import reason
from kills import dies_at, in_a_process

PLAIN = ModelOptions(dtype="float32", device="cpu")
SET = ("examples.jsonl", "dear-cot.jsonl", "messages.jsonl", "report.json")


def options(animals: str, output: Path, shard: str | None, **more: Any) -> ReasonOptions:
    plain = {"run": "bm25", "size": "4-6", "examples": 3, "model_options": PLAIN}
    return ReasonOptions(collection=animals, output=output, shard=shard, **(plain | more))


def written(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name in SET}


def rows(folder: Path, name: str) -> list[str]:
    return sorted((folder / name).read_text().splitlines())


def cut(folder: Path, make: Callable[[Path, str], None]) -> Path:
    """`whole` as one process makes it, and three shards in `shards`."""
    make(folder / "whole", "0/1")
    for i in range(3):
        make(folder / "shards" / str(i), f"{i}/3")
    return folder


@pytest.fixture(scope="module")
def parts(animals: str, reranker: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read, never changed."""
    return cut(
        tmp_path_factory.mktemp("extractive"),
        lambda folder, shard: reason(options(animals, folder, shard, teacher=reranker)) and None,
    )


@pytest.fixture
def mine(parts: Path, tmp_path: Path) -> Path:
    """A copy of the shards, to be damaged."""
    return Path(shutil.copytree(parts / "shards", tmp_path / "mine"))


def join(shards: Path, output: Path) -> None:
    reason(ReasonOptions(join=shards, output=output))


def test_shards_together_are_what_one_process_writes(
    parts: Path, animals: str, reranker: str, tmp_path: Path
) -> None:
    out = good("reason", "--join", parts / "shards", "-o", tmp_path / "all")
    assert f"{tmp_path / 'all'}: 24 examples of" in out
    assert written(tmp_path / "all") == written(parts / "whole")
    assert set(written(tmp_path / "all")) == set(SET)
    shards = [parts / "shards" / str(i) for i in range(3)]
    drafts = b"".join((shard / "drafts.jsonl").read_bytes() for shard in shards)
    assert drafts == (parts / "whole" / "drafts.jsonl").read_bytes()
    kept = [read(shard / "report.json")["kept"] for shard in shards]
    assert sum(kept) == 24
    assert min(kept) > 0
    # the lists are those of a job that was not cut, scored in other company
    reason(options(animals, tmp_path / "uncut", None, teacher=reranker))
    ours, theirs = (
        {(e.query.id, e.passages): e for e in read_lists(folder / "examples.jsonl")}
        for folder in (tmp_path / "uncut", parts / "whole")
    )
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        assert one.scores == pytest.approx(theirs[key].scores, abs=1e-5)


def test_queries_are_chosen_of_the_whole_run(animals: str, reranker: str, tmp_path: Path) -> None:
    more = {"teacher": reranker, "queries": 5, "split": "dev", "leak_passages": "none"}
    cut(tmp_path, lambda f, shard: reason(options(animals, f, shard, **more)) and None)
    join(tmp_path / "shards", tmp_path / "all")
    assert written(tmp_path / "all") == written(tmp_path / "whole")
    assert len(list(read_lists(tmp_path / "all" / "examples.jsonl"))) == 15


def test_the_order_of_the_run_does_not_matter(
    parts: Path, animals: str, reranker: str, tmp_path: Path
) -> None:
    run = read_run(Path(animals) / "runs" / "bm25.train.trec")
    write_run(tmp_path / "run.trec", dict(reversed(run.items())), "x")
    reason(
        options(animals, tmp_path / "s", "1/3", teacher=reranker, run=str(tmp_path / "run.trec"))
    )
    there = parts / "shards" / "1"
    for name in (*SET[:3], "drafts.jsonl"):
        assert (tmp_path / "s" / name).read_bytes() == (there / name).read_bytes()


def test_a_shard_without_queries_is_finished(animals: str, reranker: str, tmp_path: Path) -> None:
    more = {"teacher": reranker, "examples": 1}
    cut(tmp_path, lambda f, s: reason(options(animals, f, s.replace("/3", "/16"), **more)) and None)
    for i in range(3, 16):
        reason(options(animals, tmp_path / "shards" / str(i), f"{i}/16", **more))
    there = len(list((tmp_path / "shards").glob("*/examples.jsonl")))
    assert 3 < there < 16
    join(tmp_path / "shards", tmp_path / "all")
    assert written(tmp_path / "all") == written(tmp_path / "whole")


def killed(animals: str, model: str, folder: str, kill: str) -> None:
    import torch

    torch.set_num_threads(1)
    more: dict[str, Any] = {"teacher": model}
    if kill == "while scoring":
        extractive.score_questions = dies_at(3, extractive.score_questions)
    elif kill == "while asking":
        # within a leaf: some of its answers are kept
        more = {"llm": model, "keep_ndcg": 0.0}
        LedgerFile.add = dies_at(5, LedgerFile.add, after=True)  # type: ignore[method-assign]
    reason(options(animals, Path(folder), "0/1", **more))


def test_a_killed_job_ends_as_an_undisturbed_one(
    parts: Path, animals: str, reranker: str, tmp_path: Path
) -> None:
    assert in_a_process(killed, animals, reranker, str(tmp_path / "s"), "while scoring") == -9
    assert len(rows(tmp_path / "s", "drafts.jsonl")) == 6
    # drafts of other company count for nothing
    reason(options(animals, tmp_path / "other", None, teacher=reranker))
    with (tmp_path / "s" / "drafts.jsonl").open("ab") as file:
        file.write((tmp_path / "other" / "drafts.jsonl").read_bytes())
    reason(options(animals, tmp_path / "s", "0/1", teacher=reranker))
    assert written(tmp_path / "s") == written(parts / "whole")


def test_a_language_model_here_in_shards(animals: str, tmp_path: Path) -> None:
    llm = f"local:{save_language_model(tmp_path / 'lm')}#constrained"
    more: dict[str, Any] = {"llm": llm, "keep_ndcg": 0.0}
    cut(tmp_path, lambda f, shard: reason(options(animals, f, shard, **more)) and None)
    join(tmp_path / "shards", tmp_path / "all")
    assert written(tmp_path / "all") == written(tmp_path / "whole")
    assert len(list(read_lists(tmp_path / "all" / "examples.jsonl"))) == 24
    assert in_a_process(killed, animals, llm, str(tmp_path / "s"), "while asking") == -9
    assert len(rows(tmp_path / "s", "answers.jsonl")) == 1 + 5
    reason(options(animals, tmp_path / "s", "0/1", **more))
    assert written(tmp_path / "s") == written(tmp_path / "whole")
    assert (tmp_path / "s" / "answers.jsonl").read_bytes() == (
        tmp_path / "whole" / "answers.jsonl"
    ).read_bytes()


def test_what_a_priced_server_took_is_added_up(animals: str, tmp_path: Path) -> None:
    def sleeps(body: dict[str, Any], _: int) -> str:
        count = body["messages"][-1]["content"].count("\n[")
        return " > ".join(f"[{i + 1}]" for i in range(min(count, 2)))

    with ChatServer(sleeps) as server:
        toml = tmp_path / "server.toml"
        toml.write_text(
            f'base_url = "{server.url}"\nmodel = "m"\nprice_in = 0.1\nprice_out = 0.7\n'
        )
        more = {"llm": f"backend:{toml}", "keep_ndcg": 0.0, "size": "2"}
        cut(tmp_path, lambda f, shard: reason(options(animals, f, shard, **more)) and None)
        assert set(server.answered.values()) == {2}  # once for the whole, once for its shard
    join(tmp_path / "shards", tmp_path / "all")
    assert written(tmp_path / "all") == written(tmp_path / "whole")
    assert read(tmp_path / "all" / "report.json")["generator"]["cost"] > 0


def test_what_is_no_whole_job_is_refused(
    mine: Path, parts: Path, animals: str, reranker: str, tmp_path: Path
) -> None:
    def wrong(match: str, kind: type[Exception] = ConfigError) -> None:
        with pytest.raises(kind, match=match):
            join(mine, tmp_path / "all")
        assert not (tmp_path / "all" / "report.json").exists()

    aside = tmp_path / "aside"
    (mine / "1").rename(aside)
    wrong(r"shard 1 of 3 is missing$")
    shutil.copytree(mine / "0", mine / "1")
    wrong(r"mine/1: shard 0 is in .*mine/0, too$")
    shutil.rmtree(mine / "1")
    (mine / "1").mkdir()
    wrong(r"mine/1: no report.json: no shard, or one that is not finished$")
    for name, more, problem in (
        ("1/3", {"keep_tau": 0.4}, r"settings.keep_tau: 0.3 there, 0.4 now"),
        ("1/3", {"teacher": str(write_reranker(tmp_path / "other", seed=1))}, r"tiny"),
        ("1/4", {}, r"of 3 shards there, of 4 now"),
        ("1/3", {"allow_leaks": True}, r"held out.* now"),
    ):
        shutil.rmtree(mine / "1")
        reason(options(animals, mine / "1", name, **({"teacher": reranker} | more)))
        wrong(rf"mine/1: is of another job than .*mine/0 \(.*{problem}")
    shutil.rmtree(mine / "1")
    reason(options(animals, mine / "1", None, teacher=reranker))
    wrong(r"mine/1: is no shard of a job: it was made without --shard$")
    shutil.rmtree(mine / "1")
    shutil.copytree(aside, mine / "1")
    shutil.copyfile(mine / "0" / "examples.jsonl", mine / "1" / "examples.jsonl")
    wrong(r"examples.jsonl:1: query 'eat-\w+' is of another shard than shard 1 of 3", DataError)
    lines = (aside / "examples.jsonl").read_text().splitlines(keepends=True)
    (mine / "1" / "examples.jsonl").write_text("".join(lines[1:]))
    wrong(r"counts \d+; run the shard's command again", DataError)
    report = read(aside / "report.json")
    for name in ("share", "settings", "generator", "inputs", "dropped", "kept", "versions"):
        for value in ([1], "x", None):
            (mine / "1" / "report.json").write_text(json.dumps(report | {name: value}))
            wrong(r"is damaged; run the shard's|made without --shard", (ConfigError, DataError))  # type: ignore[arg-type]
    shutil.rmtree(mine / "1")
    shutil.copytree(aside, mine / "1")
    join(mine, tmp_path / "all")
    assert written(tmp_path / "all") == written(parts / "whole")


def test_a_query_twice_is_kept_once(animals: str, reranker: str, tmp_path: Path) -> None:
    """Two ids with one text, in two shards, about the same passages."""
    twins = Path(shutil.copytree(animals, tmp_path / "twins"))
    lines = (twins / "queries.jsonl").read_text().splitlines()
    run = read_run(twins / "runs" / "bm25.train.trec")
    more, ranked = [], {}
    for line in lines:
        query = json.loads(line)
        if (one := run.get(query["_id"])) is not None:
            query["_id"] += "-again"
            more.append(json.dumps(query))
            ranked[query["_id"]] = one.__class__(
                query_id=query["_id"], passage_ids=one.passage_ids, scores=one.scores
            )
    (twins / "queries.jsonl").write_text("".join(f"{line}\n" for line in (*lines, *more)))
    write_run(tmp_path / "run.trec", run | ranked, "x")
    given = {"teacher": reranker, "run": str(tmp_path / "run.trec"), "size": "24"}
    given |= {"leak_passages": "none"}
    cut(tmp_path, lambda f, shard: reason(options(str(twins), f, shard, **given)) and None)
    join(tmp_path / "shards", tmp_path / "all")
    assert written(tmp_path / "all") == written(tmp_path / "whole")
    report = read(tmp_path / "all" / "report.json")
    assert (report["kept"], report["dropped"]) == (len(FOOD), {"duplicate": 5 * len(FOOD)})


def test_a_folder_has_one_set(mine: Path, animals: str, reranker: str, tmp_path: Path) -> None:
    before = contents(mine / "1")
    for shard in ("0/3", "1/4", "0/1", None):
        with pytest.raises(ConfigError, match=r"1 holds shard 1 of 3; choose another folder$"):
            reason(options(animals, mine / "1", shard, teacher=reranker))
    with pytest.raises(ConfigError, match=r"1 holds shard 1 of 3; choose another folder$"):
        join(mine, mine / "1")
    assert contents(mine / "1") == before
    # another selection of the same shard costs nothing
    out = good(
        *("reason", animals, "--run", "bm25", "--teacher", reranker, "--dtype", "float32"),
        *("--device", "cpu", "--size", "4-6", "--examples", 3, "--shard", "1/3", "-o", mine / "1"),
        *("--keep-tau", 0.9),
    )
    assert "were there" in out
    reason(options(animals, tmp_path / "plain", None, teacher=reranker))
    with pytest.raises(ConfigError, match=r"plain holds a whole set; choose another folder$"):
        reason(options(animals, tmp_path / "plain", "0/3", teacher=reranker))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("C", "--run", "bm25", "--teacher", "M", "--shard", "3/3"), "--shard 3/3: expected I/N"),
        (("C", "--run", "bm25", "--teacher", "M", "--shard", "0/99"), "into 64 shards at most"),
        (("--from", "x", "--shard", "0/2"), "no --shard beside it"),
        (("--from", "x", "--teacher", "M", "--on", "ray"), "no --on ray beside it"),
        (("C", "--join", "x"), "--join reads shards that are finished: no COLLECTION beside it"),
        (("--join", "x", "--teacher", "M"), "no --teacher beside it"),
        (("--join", "x", "--from", "y"), "no --from beside it"),
        (("--join", "nothing"), "--join nothing: no such folder"),
        (("--join", "E"), "holds no folders of shards"),
        (("C", "--run", "bm25", "--teacher", "M", "--workers", 2), "--workers is for --on ray"),
        (
            ("C", "--run", "bm25", "--llm", "openai:gpt-4o", "--on", "ray"),
            "--on ray is for --llm local:MODEL: openai:gpt-4o answers elsewhere already",
        ),
    ],
)
def test_refusals_are_one_line(
    animals: str, reranker: str, tmp_path: Path, words: tuple[str, ...], line: str
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"C": animals, "M": reranker, "E": tmp_path / "empty"}
    given = [places.get(word, word) for word in words]
    assert line in refused("reason", *given, "-o", tmp_path / "set")
    assert not (tmp_path / "set" / "report.json").exists()
