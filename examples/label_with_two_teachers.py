"""Soft labels of two teachers, kept on disk and read as one.

Run it twice: the second time nothing is scored again. `dear train` takes the folder as `labels`.
"""

from pathlib import Path

from dear import open_collection
from dear.data.labels import read_labels
from dear.label import FirstStage, label_with_all
from dear.records import every_nth
from dear.retrieve.bm25 import retrieve
from dear.scoring.opening import open_model

collection = open_collection("pydocs")
queries = collection.queries("train")
run = retrieve(collection.corpus, {q: queries[q] for q in every_nth(queries, 20)}, top_k=10)

teachers = {"minilm": open_model("biencoder:minilm-l6"), "bm25": FirstStage([run])}
folder = Path("runs/example-labels")
for done in label_with_all(collection, [run], teachers, folder, weights=[1.0, 0.3]):
    print(f"{done.folder}: {done.scored} pairs scored, {done.kept} were there")

labels = read_labels(folder)  # z-normalised for each query, and added up by their weights
query, ranking = next(iter(run.items()))
print(queries[query].text)
for passage in ranking.passage_ids[:3]:
    print(f"  {labels.scores[query][passage]:+.2f}  {collection.corpus[passage].text[:70]!r}")
