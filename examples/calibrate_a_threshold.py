"""Scores as probabilities, fitted on judged queries, and the threshold that they make possible."""

from dear import Reranker, open_collection
from dear.evaluate.calibration import calibrate
from dear.evaluate.reliability import judged_scores
from dear.records import every_nth, gather
from dear.retrieve.bm25 import retrieve

collection = open_collection("pydocs")
queries, judgements = collection.queries("dev"), collection.judgements("dev")
asked = {q: queries[q] for q in every_nth(queries, 40)}
first = retrieve(collection.corpus, asked, top_k=10)

reranker = Reranker("biencoder:minilm-l6")
candidates = [gather(ranking, queries, collection.corpus) for ranking in first.values()]
run = {r.query_id: r for r in reranker.rank_candidates(candidates)}
# each docstring belongs to one function: what nobody judged is not relevant
pairs = judged_scores(run, {q: judgements[q] for q in asked}, unjudged="irrelevant")
found = calibrate(pairs, "platt", revision=reranker.model.revision, contract={})
print(f"expected calibration error {found.before.ece:.3f} before, {found.after.ece:.3f} after")

query = next(iter(asked))
likely = found.probability(run[query].scores)
print(queries[query].text)
for passage, p in zip(run[query].passages, likely, strict=True):
    if p >= 0.2:
        print(f"  {p:.2f}  {passage.text[:70]!r}")
