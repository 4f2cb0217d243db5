"""Collections, runs and label stores in object storage: a real client, a server of this machine."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import contents, dear, good, refused
from numpy.typing import NDArray

import dear.data.label_mirror as mirror_module
from dear.data.collections import open_collection
from dear.data.label_mirror import LabelMirror
from dear.data.labels import Stamp, open_store
from dear.data.shards import Shard, Share
from dear.digests import Input, Inputs
from dear.errors import ConfigError, ContractMismatch, DataError
from dear.label import label_with
from dear.steps.label import label
from dear.steps.options import LabelOptions, ModelOptions
from object_storage import ObjectStorage, label_there
from tiny_training import collection

pytestmark = pytest.mark.server

URL = "s3://bucket/jobs"
STAMP = Stamp(collection="c", teacher="t", revision="r", fingerprint="f")
ONE = np.ones(1, dtype=np.float32)


def job(animals: str, model: str, output: Path, shard: str = "0/1", **more: Any) -> int:
    """How many pairs were scored."""
    done = label(
        LabelOptions(
            collection=animals, runs=("bm25",), models=(model,), output=output, split="test",
            shard=shard, model_options=ModelOptions(dtype="float32", device="cpu"), **more,
        )
    )  # fmt: skip
    return done[0].scored


def files(place: dict[str, bytes] | Path) -> dict[str, Any]:
    """Files of a store but for the mark; of the manifest all but what jobs took."""
    found = dict(contents(place) if isinstance(place, Path) else place)
    found.pop("writer.json", None)
    manifest = json.loads(found.pop("manifest.json"))
    manifest.pop("jobs", None)
    return found | {"manifest.json": manifest}


class Teacher:
    """Scores by the length of both texts. fails: for passages with this text.  calls: before it
    is interrupted."""

    name, revision, fingerprint, parameters = "fake", "r", "f", 0

    def __init__(self, fails: str | None = None, calls: int = 999) -> None:
        self.contract = {"kind": "fake"}
        self.fails, self.calls = fails, calls

    def score(self, pairs: Sequence[tuple[str, str]], progress: Any = None) -> NDArray[np.float32]:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        found = [np.nan if p == self.fails else len(q) + len(p) / 100 for q, p in pairs]
        return np.array(found, dtype=np.float32)


def test_a_collection_and_a_run_are_read_and_what_changed_is_read_again(
    s3: ObjectStorage, animals: str, tmp_path: Path
) -> None:
    here = shutil.copytree(animals, tmp_path / "animals")
    s3.put(here, f"{URL}/animals")
    s3.put(here / "runs", URL)
    s3.system.pipe_file(f"{URL}/animals/notes.txt", b"no part of a collection")
    words = ("label", "--model", "first-stage", "--split", "test", "--output")
    run = f"{URL}/bm25.test.trec"
    good(*words, tmp_path / "local", here, "--run", "bm25")
    good(*words, tmp_path / "named", f"{URL}/animals", "--run", "bm25")
    before = s3.requests["GET"]
    good(*words, tmp_path / "file", f"{URL}/animals", "--run", run)
    # nothing is copied twice
    assert s3.requests["GET"] == before + 1
    assert files(tmp_path / "named") == files(tmp_path / "file") == files(tmp_path / "local")
    s3.system.rm_file(f"{URL}/animals/runs/bm25.train.trec")
    (here / "runs" / "bm25.train.trec").unlink()
    (here / "runs" / "bm25.dev.trec").write_text("live-owl Q0 owl-eat 1 2.0 x\n")
    s3.put(here / "runs", f"{URL}/animals/runs")
    open_collection(f"{URL}/animals")
    copies = tmp_path / "cache" / "remote"
    assert contents(next(copies.glob("*/bucket/jobs/animals"))) == contents(here)
    # an error names the place that people know
    s3.system.pipe_file(run, b"sleep-owl Q0 owl-eat\n")
    told = dear(*words, tmp_path / "x", f"{URL}/animals", "--run", run)
    assert f"\ndear: error: {run}:1: " in told.err


@pytest.mark.parametrize("what", ["append", "push"])
def test_a_job_goes_on_elsewhere_with_the_same_bytes(
    what: str, s3: ObjectStorage, animals: str, tmp_path: Path
) -> None:
    label_there(animals, tmp_path / "one")
    program = "import sys, object_storage; object_storage.killed(*sys.argv[1:])"
    died = subprocess.run(
        [sys.executable, "-c", program, what, animals, tmp_path / "first", URL],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False, timeout=60,
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL
    # what had its bytes and could not copy them is one behind
    here, there = contents(tmp_path / "first"), s3.contents(URL)
    shards = [name for name in there if name.startswith("shard-")]
    assert len(shards) == 2
    assert len([name for name in here if name.startswith("shard-")]) == 2 + (what == "push")
    assert 0 < label_there(animals, tmp_path / "second", URL) < 192
    one = files(tmp_path / "one")
    assert files(tmp_path / "second") == files(s3.contents(URL)) == one
    assert label_there(animals, tmp_path / "first", URL) == 0
    assert files(tmp_path / "first") == files(s3.contents(URL)) == one
    assert len(json.loads(s3.contents(URL)["manifest.json"])["jobs"]) == 1


def test_a_job_that_is_not_cut_goes_on_elsewhere(s3: ObjectStorage, tmp_path: Path) -> None:
    tiny = collection()
    work: Any = (tiny, [tiny.run("bm25", "train")])
    label_with(*work, Teacher(), tmp_path / "one", shard_pairs=40)
    for calls, name in ((2, "first"), (1, "second"), (999, "third")):
        teacher, mirror = Teacher(calls=calls), LabelMirror(URL)
        try:
            label_with(*work, teacher, tmp_path / name, shard_pairs=40, mirror=mirror)
        except KeyboardInterrupt:
            assert calls < 999
    assert files(tmp_path / "third") == files(s3.contents(URL)) == files(tmp_path / "one")


def test_whoever_starts_last_writes(s3: ObjectStorage, tmp_path: Path) -> None:
    with open_store(tmp_path / "1", STAMP, mirror=LabelMirror(URL)) as first:
        first.append([("q", "a")], ONE)
        with open_store(tmp_path / "2", STAMP, mirror=LabelMirror(URL)) as second:
            assert ("q", "a") in second
            with pytest.raises(ContractMismatch, match=r"another process has gone on with this"):
                first.append([("q", "b")], ONE)
            second.append([("q", "c")], ONE)
    assert files(tmp_path / "2") == files(s3.contents(URL))
    with (
        pytest.raises(ContractMismatch, match=r"hold different shard-000001"),
        open_store(tmp_path / "1", STAMP, mirror=LabelMirror(URL)),
    ):
        pass
    # one that is written between the look and the copy
    with open_store(tmp_path / "2", STAMP, mirror=LabelMirror(URL)) as second:

        def another(method: str, path: str) -> None:
            if method == "PUT" and path.endswith("shard-000002.parquet"):
                s3.before = lambda method, path: None
                s3.system.pipe_file(f"{URL}/shard-000002.parquet", b"another")

        s3.before = another
        with pytest.raises(ContractMismatch, match=r"holds another shard-000002\.parquet, of a"):
            second.append([("q", "d")], ONE)
    assert s3.contents(URL)["shard-000002.parquet"] == b"another"


def test_a_server_that_is_away_for_a_moment_ends_nothing(
    s3: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "PAUSES_S", (0.0, 0.0, None))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3.forget()
    times = 2

    def fails(method: str, path: str) -> bool:
        nonlocal times
        busy = method == "PUT" and "shard" in path and times > 0
        times -= busy
        return busy

    s3.before = fails
    with open_store(tmp_path / "1", STAMP, mirror=LabelMirror(URL)) as store:
        store.append([("q", "a")], ONE)
        assert files(tmp_path / "1") == files(s3.contents(URL))
        times = 3
        with pytest.raises(DataError, match=r"shard-000001.*: .*; what is done is in .*goes on"):
            store.append([("q", "b")], ONE)
    with open_store(tmp_path / "1", STAMP, mirror=LabelMirror(URL)) as store:
        assert len(store) == 2
    assert files(tmp_path / "1") == files(s3.contents(URL))


@pytest.mark.parametrize("shard", [None, "0/1"])
def test_failed_pairs_are_mirrored_and_so_is_that_they_are_mended(
    shard: str | None, s3: ObjectStorage, tmp_path: Path
) -> None:
    tiny = collection()
    share = shard and Share.plan(Shard.parse(shard), 100, Inputs({"run": Input("1")}))
    run = dict(itertools.islice(tiny.run("bm25", "train").items(), 6))
    bad = tiny.corpus[next(iter(run.values())).passage_ids[0]].full_text

    def work(name: str, url: str | None, fails: str | None = None) -> Path:
        how: dict[str, Any] = {"share": share or None, "shard_pairs": 40}
        mirror = None if url is None else LabelMirror(url)
        label_with(tiny, [run], Teacher(fails), tmp_path / name, mirror=mirror, **how)
        return tmp_path / name

    def fails(name: str, url: str | None) -> None:
        with pytest.raises(DataError, match=r"pairs? could not be scored"):
            work(name, url, bad)

    fails("first", URL)
    assert files(s3.contents(URL)) == files(tmp_path / "first")
    listed = dear("labels", "verify", URL)
    assert listed.status == 2
    assert f"{URL}/failed.jsonl: query " in listed.out
    fails("first", URL)
    # another machine mends it; the first one, which still has its failures, learns of it
    mended = work("second", URL)
    assert files(s3.contents(URL)) == files(mended)
    good("labels", "verify", URL)
    assert files(work("first", URL)) == files(s3.contents(URL)) == files(mended)
    # mended here, and there later; failed here, and there not
    fails("third", f"{URL}/third")
    whole = files(work("third", None))
    assert files(work("third", f"{URL}/third")) == files(s3.contents(f"{URL}/third")) == whole
    fails("fourth", None)
    assert files(work("fourth", f"{URL}/third")) == files(s3.contents(f"{URL}/third"))
    if shard is not None:
        sound = work("sound", None)
        assert whole == files(mended) == files(tmp_path / "fourth") == files(sound)


def test_shards_are_checked_and_merged_by_url(
    s3: ObjectStorage, animals: str, reranker: str, tmp_path: Path
) -> None:
    s3.put(Path(animals), f"{URL}/animals")
    job(animals, reranker, tmp_path / "one")
    shards = [f"{URL}/shards/{i}" for i in range(2)]
    for i, url in enumerate(shards):
        job(f"{URL}/animals", reranker, tmp_path / str(i), f"{i}/2", mirror=url)
    checked = ("--collection", f"{URL}/animals", "--run", "bm25", "--split", "test")
    good("labels", "verify", *shards, *checked)
    assert f"{URL}/shards" in good("labels", "info", *shards)
    good("labels", "merge", *shards, "--output", tmp_path / "all")
    assert files(tmp_path / "all") == files(tmp_path / "one")
    name = next(name for name in s3.contents(shards[0]) if name.startswith("shard-"))
    s3.system.rm_file(f"{shards[0]}/{name}")
    told = dear("labels", "verify", *shards)
    assert told.status == 2
    assert told.out.startswith(f"{shards[0]}: ")
    problem = refused("labels", "merge", *shards, "--output", tmp_path / "some")
    assert problem.startswith(f"{shards[0]}: ")
    assert "takes a folder of this machine" in refused("labels", "compact", shards[0])


def test_several_teachers_are_mirrored(
    s3: ObjectStorage, animals: str, reranker: str, tmp_path: Path
) -> None:
    def work(name: str, *models: str, url: str = URL) -> Any:
        options = LabelOptions(
            collection=animals, runs=("bm25",), models=models, output=tmp_path / name, split="test",
            mirror=url,
        )  # fmt: skip
        return [one.scored for one in label(options)]

    assert sum(work("1", "first-stage", reranker)) == 384
    assert set(s3.contents(URL)) - {f"{n}/writer.json" for n in ("first-stage", "tiny")} == set(
        contents(tmp_path / "1")
    )
    assert sum(work("2", "first-stage", reranker)) == 0
    assert contents(tmp_path / "2") == contents(tmp_path / "1")
    with pytest.raises(ConfigError, match=r"s3://bucket/jobs holds several teachers' labels"):
        work("3", reranker)


def test_what_cannot_be_is_said_in_one_line(
    s3: ObjectStorage, animals: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--run", "bm25", "--model", "first-stage", "--output")
    mirrored = ("label", animals, *words, tmp_path / "l", "--mirror")
    store, at_a_url = ("labels", "info", f"{URL}/no"), "s3://BUCKET/FOLDER is needed"
    assert refused(*mirrored, "s3://no-bucket/l") == (
        "s3://no-bucket/l/ensemble.json: The specified bucket does not exist"
    )
    assert refused("labels", "info", "s3://no-bucket/l").startswith("s3://no-bucket/l: The spec")
    assert refused(*store) == f"{URL}/no: nothing to be read is there"
    assert refused("label", f"{URL}/no", *words, tmp_path / "l").endswith("to be read is there")
    assert refused(*mirrored, "gs://bucket/l") == f"gs://bucket/l: {at_a_url}"
    assert refused(*mirrored, "labels") == f"labels: {at_a_url}"
    assert refused("label", "gs://bucket/c", *words, tmp_path / "l").endswith(at_a_url)
    assert "leave --mirror out" in refused(*mirrored, URL, "--dry-run")
    assert refused("label", animals, *words, "s3://bucket/l").startswith("s3:/bucket/l: a path of")
    assert contents(tmp_path / "l") == {}
    good(*mirrored, URL)
    other = (*words, tmp_path / "m", "--split", "dev", "--mirror", URL)
    assert f"error: {URL} holds other labels (revision: " in dear("label", animals, *other).err
    assert contents(tmp_path / "m") == {}
    s3.forget()
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        assert refused(*store) == f"{URL}/no: Unable to locate credentials"
    s3.forget()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert refused(*store).startswith(f"{URL}/no: Could not connect to the endpoint URL: ")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "s3fs", None)
        assert refused(*store) == "s3fs is not installed: pip install 'dear-rerank[s3]'"
