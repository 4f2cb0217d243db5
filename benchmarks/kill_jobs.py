"""The work that `kill.py` kills: what it reads, and what it must leave."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dear.data.collections import Collection
    from dear.records import ListExample, Ranking

QUERIES, DEV_QUERIES, CANDIDATES, SHARD_PAIRS, LIST_SIZE = 60, 20, 20, 64, 4
TRAINING_FILE = "dear_training.json"
LIBRARIES = ("dear.label", "dear.train.pointwise", "transformers.models.bert.modeling_bert")

TRAIN = """
name = "kill"

[model]
base = "minilm-l6"
layers = [0, 2, 4]
dropout = 0.1

[[data]]
collection = "{root}/collection"
run = "bm25"
labels = ["{root}/bm25-labels"]

[contract]
max_query_tokens = 16
max_passage_tokens = 48

[groups]
size = 6

[loss]
main = ["ce"]
alpha = 0.5

[dev]
collection = "{root}/collection"
run = "bm25"
queries = {dev}
top_k = 10

[train]
epochs = 2
groups_per_step = 5
eval_steps = 8
save_steps = 4
log_steps = 4
"""

LISTWISE = """
name = "kill-listwise"
kind = "listwise"

[model]
base = "smollm2-135m"
layers = [0, 1]

[model.lora]
rank = 4
dropout = 0.1
merge = true

[[data]]
lists = ["{root}/lists.jsonl"]

[listwise]
max_words = 20
max_window = 4
max_tokens = 512

[train]
epochs = 2
groups_per_step = 5
save_steps = 4
log_steps = 4
"""


def prepare(root: Path, threads: int) -> None:
    """The part of pydocs that the jobs read: BM25's runs, soft labels and lists; recipes."""
    from dear.data.collections import Collection, open_collection
    from dear.data.formats import write_beir, write_lists
    from dear.label import FirstStage, label_with
    from dear.retrieve.bm25 import options_for, retrieve

    set_threads(threads)
    pydocs = open_collection("pydocs")
    runs: dict[str, dict[str, Ranking]] = {}
    judgements: dict[str, dict[str, dict[str, int]]] = {}
    for split, count in (("train", QUERIES), ("dev", DEV_QUERIES)):
        queries = dict(list(pydocs.queries(split).items())[:count])
        judgements[split] = {q: pydocs.judgements(split)[q] for q in queries}
        runs[split] = retrieve(
            pydocs.corpus, queries, top_k=CANDIDATES, options=options_for("pydocs")
        )
    wanted = {p for run in runs.values() for r in run.values() for p in r.passage_ids}
    wanted |= {p for split in judgements.values() for row in split.values() for p in row}
    folder = root / "collection"
    write_beir(
        folder,
        corpus=[passage for p, passage in pydocs.corpus.items() if p in wanted],
        queries=[pydocs.queries()[q] for split in judgements.values() for q in split],
        judgements=judgements,
        runs={split: {"bm25": run} for split, run in runs.items()},
    )
    collection = Collection.from_folder(folder)
    teacher = FirstStage([runs["train"]])
    label_with(
        collection, [runs["train"]], teacher, root / "bm25-labels", judged=judgements["train"]
    )
    for name, text in (("train", TRAIN), ("listwise", LISTWISE)):
        (root / f"{name}.toml").write_text(text.format(root=root, dev=DEV_QUERIES))
    write_lists(root / "lists.jsonl", _lists(collection, runs["train"]))


def _lists(collection: Collection, run: dict[str, Ranking]) -> Iterator[ListExample]:
    """BM25's best few of every query, the best one last, to be put into BM25's order."""
    from dear.records import ListExample

    queries, corpus = collection.queries(), collection.corpus
    for query, ranking in run.items():
        passages = tuple(corpus[p] for p in reversed(ranking.passage_ids[:LIST_SIZE]))
        if len(passages) == LIST_SIZE:
            order = tuple(range(LIST_SIZE - 1, -1, -1))
            yield ListExample(query=queries[query], passages=passages, order=order)


def train_job(root: Path, folder: Path, threads: int) -> None:
    from dear.recipes import load_recipe
    from dear.train.pointwise import train

    set_threads(threads)
    train(load_recipe(str(root / "train.toml")), folder)


def listwise_job(root: Path, folder: Path, threads: int) -> None:
    from dear.recipes import load_recipe
    from dear.train.listwise import train_lists

    set_threads(threads)
    train_lists(load_recipe(str(root / "listwise.toml")), folder)


def label_job(root: Path, folder: Path, threads: int) -> None:
    from dear.data.collections import Collection
    from dear.label import label_with
    from dear.scoring.opening import open_model

    set_threads(threads)
    collection = Collection.from_folder(root / "collection")
    label_with(
        collection,
        [collection.run("bm25", "train")],
        open_model(root / "train-whole"),
        folder,
        judged=collection.judgements("train"),
        shard_pairs=SHARD_PAIRS,
    )


def set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def bits_of(folder: Path) -> str:
    """A digest of all weights, or of all labels in their order."""
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    for path in weights:
        digest.update(path.read_bytes())
    for path in sorted(folder.glob("shard-*.parquet")):
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        digest.update(repr(table["query_id"].to_pylist()).encode())
        digest.update(repr(table["passage_id"].to_pylist()).encode())
        digest.update(table["score"].to_numpy().tobytes())
    if weights:
        from dear.artifacts import read_json

        metrics = read_json(folder / TRAINING_FILE)["metrics"]
        digest.update(repr([metrics["loss_curve"], metrics["dev_curve"]]).encode())
    return digest.hexdigest()
