"""Labels and rankings in shards: together they are what one process makes, bit for bit."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import contents, dear, good, read, refused, write_reranker

import dear.data.labels as store_module
from dear import locks
from dear.data.formats import read_run, write_run
from dear.data.labels import LabelStore, read_labels
from dear.errors import ConfigError, ContractMismatch, DataError
from dear.rank.leaves import RankedLeaf, RankedLeaves
from dear.steps.label import estimate, label
from dear.steps.labels import label_stores
from dear.steps.options import LabelOptions, LabelStoresOptions, ModelOptions, RankOptions
from dear.steps.rank import rank
from kills import dies_at, in_a_process

PLAIN = ModelOptions(dtype="float32", device="cpu")


def options(animals: str, model: str, output: Path, shard: str | None, **more: Any) -> LabelOptions:
    plain = {"runs": ("bm25",), "split": "test", "judged": "test", "model_options": PLAIN}
    return LabelOptions(
        collection=animals, models=(model,), output=output, shard=shard, **(plain | more)
    )


def files(folder: Path) -> dict[str, Any]:
    """Every file of a store; of the manifest all but what jobs took."""
    found: dict[str, Any] = {
        name: data for name, data in contents(folder).items() if name != "manifest.json"
    }
    manifest = read(folder / "manifest.json")
    manifest.pop("jobs", None)
    return found | {"manifest.json": manifest}


def stores(action: str, *folders: Path, **more: Any) -> Any:
    return label_stores(LabelStoresOptions(action=action, stores=folders, **more))


@pytest.fixture(scope="module")
def parts(animals: str, reranker: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job as one process does it, and in three shards. Read, never changed."""
    folder = tmp_path_factory.mktemp("shards")
    label(options(animals, reranker, folder / "whole", "0/1"))
    for i in range(3):
        label(options(animals, reranker, folder / str(i), f"{i}/3"))
    return folder


@pytest.fixture
def mine(parts: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(parts, tmp_path / "mine"))


def three(folder: Path) -> list[Path]:
    return [folder / str(i) for i in range(3)]


def test_shards_together_are_what_one_process_writes(parts: Path, tmp_path: Path) -> None:
    done = stores("merge", *reversed(three(parts)), output=tmp_path / "all")
    assert done.merged.of == 1
    assert files(tmp_path / "all") == files(parts / "whole")
    assert len({name for name in files(parts / "whole") if name.endswith(".parquet")}) > 3
    # each shard has some of it, and in whatever order they are joined
    assert all(list(part.glob("*.parquet")) for part in three(parts))


def test_the_labels_are_those_of_an_uncut_job(
    parts: Path, animals: str, reranker: str, tmp_path: Path
) -> None:
    label(options(animals, reranker, tmp_path / "uncut", None))
    uncut, cut = read_labels(tmp_path / "uncut"), read_labels(parts / "whole")
    assert len(uncut) == len(cut)
    for query_id, row in uncut.scores.items():
        assert cut.scores[query_id] == pytest.approx(row, abs=1e-5)


def test_the_order_of_files_does_not_matter(
    parts: Path, animals: str, reranker: str, tmp_path: Path
) -> None:
    run = read_run(Path(animals) / "runs" / "bm25.test.trec")
    ids = list(run)
    random.Random(0).shuffle(ids)
    write_run(tmp_path / "run.trec", {q: run[q] for q in ids}, "x")
    more = {"runs": (str(tmp_path / "run.trec"),)}
    label(options(animals, reranker, tmp_path / "l", "1/3", **more))
    there = {name: data for name, data in files(parts / "1").items() if name.endswith(".parquet")}
    assert {name: data for name, data in files(tmp_path / "l").items() if name in there} == there


def job(animals: str, model: str, folder: Path, kill: str, call: int) -> None:
    """A shard's process, which dies where `kill` says."""
    import torch

    torch.set_num_threads(1)
    if kill == "after a file":
        LabelStore.append = dies_at(call, LabelStore.append, after=True)  # type: ignore[method-assign]
    elif kill == "within a file":
        pq.write_table = dies_at(call, pq.write_table, after=True)
    elif kill == "at the manifest":
        store_module.write_json = dies_at(call, store_module.write_json)
    elif kill == "before the end":
        LabelStore.finish = dies_at(call, LabelStore.finish)  # type: ignore[method-assign]
    label(options(animals, model, folder, "1/3"))


def test_killed_at_any_moment_a_shard_is_the_same(
    parts: Path, animals: str, reranker: str, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    kills = ("at the manifest", "within a file", "after a file", "before the end")
    for kill in kills:
        assert in_a_process(job, animals, reranker, folder, kill, 1) == -9
    half = stores("info", folder).stores[0]
    assert not half.finished
    with pytest.raises(ConfigError, match=r"shard 1 of 3 is not finished.*--partial"):
        stores("merge", *[folder if i == 1 else parts / str(i) for i in range(3)],
               output=tmp_path / "all")  # fmt: skip
    assert in_a_process(job, animals, reranker, folder, "never", 0) == 0
    assert files(folder) == files(parts / "1")


def test_missing_and_overlapping_shards_are_refused(parts: Path, tmp_path: Path) -> None:
    zero, one, two = three(parts)
    with pytest.raises(ConfigError, match="shard 1 is missing"):
        stores("merge", zero, two, output=tmp_path / "all")
    with pytest.raises(ConfigError, match=r"shard 0 is in .*0, too"):
        stores("merge", zero, zero, one, two, output=tmp_path / "all")
    assert not (tmp_path / "all").exists()
    some = stores("merge", zero, two, output=tmp_path / "some", partial=True).merged
    assert (some.shards, some.missing) == ((0, 2), [1])
    stores("merge", tmp_path / "some", one, output=tmp_path / "all")
    assert files(tmp_path / "all") == files(parts / "whole")
    with pytest.raises(DataError, match="holds labels; choose another folder"):
        stores("merge", *three(parts), output=tmp_path / "all")


def test_other_jobs_are_refused(parts: Path, animals: str, reranker: str, tmp_path: Path) -> None:
    zero, one, two = three(parts)
    other = str(write_reranker(tmp_path / "other", seed=1))
    label(options(animals, other, tmp_path / "model", "1/3"))
    label(options(animals, reranker, tmp_path / "run", "1/3", judged=None))
    label(options(animals, reranker, tmp_path / "four", "1/4"))
    label(options(animals, reranker, tmp_path / "uncut", None))
    for name, why in (
        ("model", "teacher"), ("run", "judgements"), ("four", "3 shards there, of 4 now"),
        ("uncut", "labelled without --shard"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=why):
            stores("merge", zero, tmp_path / name, two, output=tmp_path / "all", partial=True)
    assert not (tmp_path / "all").exists()
    # nor does one folder take two shards, two jobs, or what is not cut
    for shard, more in (("2/3", {}), ("1/3", {"judged": None}), (None, {})):
        with pytest.raises(ContractMismatch, match="holds"):
            label(options(animals, reranker, one, shard, **more))
    with pytest.raises(ContractMismatch, match="labels that were not cut"):
        label(options(animals, reranker, tmp_path / "uncut", "0/3"))


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(data)


def swapped(path: Path) -> None:
    """Another file's rows, whole by themselves."""
    other = next(p for p in sorted(path.parent.glob("*.parquet")) if p != path)
    shutil.copy(other, path)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped byte": (flipped, "damaged|not those that were written"),
    "a truncated file": (lambda p: p.write_bytes(p.read_bytes()[:-7]), "damaged"),
    "a file that is gone": (Path.unlink, "pairs have a label"),
    "a duplicate": (
        lambda p: shutil.copy(p, p.with_name("shard-000099.parquet")),
        "belongs to another file",
    ),
    "another file's rows": (swapped, "belongs to another file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_not_merged(damage: str, mine: Path, tmp_path: Path) -> None:
    assert stores("verify", *three(mine)).problems == ()
    spoil, expected = DAMAGES[damage]
    spoil(sorted((mine / "1").glob("*.parquet"))[0])
    problems = stores("verify", *three(mine)).problems
    assert any(re.search(expected, problem) for problem in problems), problems
    with pytest.raises(DataError):
        stores("merge", *three(mine), output=tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_no_flipped_byte_of_a_finished_shard_is_missed(mine: Path) -> None:
    path = sorted((mine / "1").glob("*.parquet"))[0]
    data = path.read_bytes()
    for at in range(0, len(data), 97):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert stores("verify", mine / "1", partial=True).problems, at


def test_every_pair_of_a_run_has_one_label(
    parts: Path, animals: str, reranker: str, tmp_path: Path
) -> None:
    run = {"collection": animals, "runs": ("bm25",), "split": "test"}
    whole = {**run, "judged": "test"}
    assert stores("verify", *three(parts), **whole).problems == ()
    assert stores("verify", parts / "whole", **whole).problems == ()
    (lacking,) = stores("verify", *three(parts)[:2], partial=True, **whole).problems
    assert "have no label, such as query" in lacking
    label(options(animals, reranker, tmp_path / "more", None, split="dev", judged="dev"))
    (extra,) = stores("verify", tmp_path / "more", collection=animals, runs=("bm25",),
                      split="train").problems[-1:]  # fmt: skip
    assert "labels are of pairs that the runs do not have" in extra
    problems = stores("verify", parts / "0", parts / "0", partial=True, **run).problems
    assert any("have two labels" in problem for problem in problems)


def test_a_merged_store_goes_on_with_other_pairs(
    parts: Path, animals: str, reranker: str, tmp_path: Path
) -> None:
    stores("merge", *three(parts), output=tmp_path / "all")
    before = len(read_labels(tmp_path / "all"))
    label(options(animals, reranker, tmp_path / "all", None))
    assert files(tmp_path / "all") == files(parts / "whole")  # nothing was left to do
    label(options(animals, reranker, tmp_path / "all", None, split="dev", judged=None))
    assert len(read_labels(tmp_path / "all")) > before
    assert stores("verify", tmp_path / "all").problems == ()
    assert stores("info", tmp_path / "all").stores[0].share is None


def test_dead_rows_are_taken_out(mine: Path, animals: str, reranker: str, tmp_path: Path) -> None:
    collection = Path(shutil.copytree(animals, tmp_path / "c"))
    label(options(str(collection), reranker, tmp_path / "l", None))
    corpus = collection / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("zebras", "gazelles"))
    label(options(str(collection), reranker, tmp_path / "l", None))
    labels = read_labels(tmp_path / "l").scores
    (before,) = stores("info", tmp_path / "l").stores
    assert before.dead > 0
    done = stores("compact", tmp_path / "l")
    assert done.dead == before.dead
    assert done.saved > 0
    (after,) = stores("info", tmp_path / "l").stores
    assert (after.dead, after.rows) == (0, before.rows - before.dead)
    assert read_labels(tmp_path / "l").scores == labels
    assert stores("verify", tmp_path / "l").problems == ()
    # a shard has none, and stays as it is
    as_it_was = files(mine / "1")
    assert stores("compact", mine / "1").dead == 0
    assert files(mine / "1") == as_it_was
    label(options(str(collection), reranker, tmp_path / "l", None))


def test_runs_of_shards_are_put_behind_each_other(
    animals: str, reranker: str, tmp_path: Path
) -> None:
    def ranked(shard: str | None, name: str) -> Path:
        output = tmp_path / f"{name}.trec"
        rank(
            RankOptions(
                collection=animals,
                run="bm25",
                output=output,
                model=reranker,
                shard=shard,
                model_options=PLAIN,
            )
        )
        return output

    whole, uncut = ranked("0/1", "whole"), ranked(None, "uncut")
    parts = [ranked(f"{i}/3", str(i)) for i in range(3)]
    assert b"".join(part.read_bytes() for part in parts) == whole.read_bytes()
    cut = read_run(whole)
    for query_id, ranking in read_run(uncut).items():
        assert cut[query_id].passage_ids == ranking.passage_ids
    notes = [json.loads(part.with_name(f"{part.name}.json").read_text()) for part in parts]
    assert [note["share"]["shards"] for note in notes] == [[0], [1], [2]]
    assert len({json.dumps(note["share"]["inputs"]) for note in notes}) == 1
    with pytest.raises(DataError, match="has no query of the run; take fewer shards"):
        [ranked(f"{i}/64", "many") for i in range(64)]


def rank_a_shard(animals: str, model: str, output: Path, dies: int = 0, **more: Any) -> None:
    """dies: the leaf after which the process is killed."""
    if dies:
        RankedLeaves.write = dies_at(dies, RankedLeaves.write, after=True)  # type: ignore[method-assign]
    plain = {"shard": "0/1", "model_options": PLAIN, "fuse": "0.1"}
    rank(RankOptions(collection=animals, run="bm25", output=output, model=model, **(plain | more)))


def interrupted(*_given: Any) -> None:
    raise KeyboardInterrupt


def test_nothing_is_kept_beside_a_pipe(animals: str, reranker: str, tmp_path: Path) -> None:
    rank_a_shard(animals, reranker, tmp_path / "run")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        rank_a_shard(animals, reranker, pipe)
        assert reader.communicate()[0] == (tmp_path / "run").read_bytes()
    assert not (tmp_path / "pipe.leaves").exists()


def test_a_killed_shard_of_a_run_ranks_no_leaf_twice(
    animals: str, reranker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank_a_shard(animals, reranker, tmp_path / "whole")
    output, kept = tmp_path / "run", tmp_path / "run.leaves"
    # what was stopped before its first leaf binds nobody
    with monkeypatch.context() as early:
        early.setattr(RankedLeaves, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rank_a_shard(animals, reranker, output, fuse="0.3")
    assert (kept / "job.json").exists()
    for dies in (2, 1):
        assert in_a_process(rank_a_shard, animals, reranker, output, dies) == -9
        assert not output.exists()
    before = sorted(kept.glob("leaf-*.json"))
    assert len(before) == 3
    words = ("rank", animals, "--run", "bm25", "--model", reranker, "--shard", "0/1")
    assert "was another one (job.fuse: 0.1 there, 0.0 now); remove it" in refused(
        *words, "--dtype", "float32", "-o", output
    )
    with (kept / ".lock").open("w") as lock:
        assert locks.lock(lock.fileno())
        with pytest.raises(DataError, match="another process is writing rankings here"):
            rank_a_shard(animals, reranker, output)
    sound = before[0].read_bytes()
    before[0].write_bytes(sound.replace(b"scores", b"scares"))
    with pytest.raises(DataError, match="remove it, and its leaf is ranked again"):
        rank_a_shard(animals, reranker, output)
    before[0].write_bytes(sound)
    written: list[int] = []
    write = RankedLeaves.write

    def counted(self: RankedLeaves, leaf: int, done: RankedLeaf) -> None:
        written.append(leaf)
        write(self, leaf, done)

    monkeypatch.setattr(RankedLeaves, "write", counted)
    rank_a_shard(animals, reranker, output)
    assert output.read_bytes() == (tmp_path / "whole").read_bytes()
    assert not kept.exists()
    mine, whole = (read(tmp_path / f"{name}.json") for name in ("run", "whole"))
    assert len(written) == len(set(read_run(output))) - len(before)
    for name in ("share", "inputs", "queries", "pairs"):
        assert mine[name] == whole[name]
    assert mine["cost"]["pointwise"]["tokens"] == whole["cost"]["pointwise"]["tokens"]


def test_what_a_job_takes_is_told_before_it_begins(
    parts: Path, animals: str, reranker: str, tmp_path: Path
) -> None:
    asked = {"dry_run": True, "pairs_per_second": 2.0, "price_per_hour": 3.0}
    found = estimate(options(animals, reranker, tmp_path / "l", None, **asked))
    pairs = len(read_labels(parts / "whole"))
    assert (found.pairs, found.kept, found.measured) == (pairs, 0, False)
    assert found.seconds == pairs / 2
    assert found.cost == pytest.approx(pairs / 2 / 3600 * 3)
    assert 10 < found.tokens_per_pair < 40
    assert found.tokens == round(pairs * found.tokens_per_pair)
    assert not (tmp_path / "l").exists()
    shards = [estimate(options(animals, reranker, tmp_path / "l", f"{i}/3", **asked))
              for i in range(3)]  # fmt: skip
    assert sum(shard.pairs for shard in shards) == pairs
    measured = estimate(options(animals, reranker, tmp_path / "l", None, dry_run=True))
    assert measured.measured
    assert measured.pairs_per_second > 0
    assert measured.cost is None
    with pytest.raises(ConfigError, match="nothing is left to label"):
        estimate(options(animals, reranker, parts / "whole", None, **asked))
    with pytest.raises(ConfigError, match="first-stage scores nothing"):
        estimate(options(animals, "first-stage", tmp_path / "l", None, **asked))


def test_the_loop_of_the_documents(animals: str, reranker: str, tmp_path: Path) -> None:
    """docs/scale.md: N processes at once, then one store."""
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    loop = page.partition("<!-- loop -->")[2].partition("```bash\n")[2].partition("```")[0]
    assert "for i in" in loop
    program, script = tmp_path / "bin" / "dear", loop
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dear "$@"\n')
    program.chmod(0o755)
    for words, path in (("msmarco-dl19", animals), ("biencoder:minilm-l6", reranker)):
        assert words in script
        script = script.replace(words, str(path))
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nothing is wrong" in done.stdout
    assert len(read_labels(tmp_path / "labels")) == 8 * 24


def test_the_commands_say_what_there_is(mine: Path, animals: str, reranker: str) -> None:
    said = good("labels", "info", *three(mine))
    assert "shard 1 of 3" in said
    assert said.count("finished") == 3
    assert "0 dead rows taken out" in good("labels", "compact", mine / "whole")
    assert "shard 1 is missing" in good("labels", "info", mine / "0", mine / "2")
    assert "2 problems in 1 store" in refused_after_a_table("labels", "verify", mine / "0")
    assert "no action 'merg'; did you mean 'merge'" in refused("labels", "merg", mine / "0")
    assert "merge writes to an --output" in refused("labels", "merge", mine / "0")
    told = good(
        *("label", animals, "--run", "bm25", "--split", "test", "--model", reranker, "--dry-run"),
        *("-o", mine / "new", "--shard", "0/3", "--pairs-per-second", 10, "--price-per-hour", 2),
    )
    assert "shard 0 of 3: " in told
    assert "at 10/s (as given)" in told
    assert "at 2.00 an hour" in told
    words = ("label", animals, "--run", "bm25", "--model", reranker, "-o", mine / "new")
    assert "are for --dry-run" in refused(*words, "--price-per-hour", 2)
    assert "expected I/N" in refused(*words, "--shard", "3/3")


def refused_after_a_table(*words: object) -> str:
    done = dear(*words)
    assert done.status == 2
    return done.err
