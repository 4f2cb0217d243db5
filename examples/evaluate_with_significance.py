"""Two rankings of the same candidates, compared query by query with a paired test."""

from dear import Reranker, open_collection
from dear.evaluate.compare import compare
from dear.evaluate.metrics import evaluate
from dear.records import every_nth, gather
from dear.retrieve.bm25 import retrieve

# the docstrings of this Python's library: which function does each describe?
collection = open_collection("pydocs")
queries, judgements = collection.queries("test"), collection.judgements("test")
asked = {q: queries[q] for q in every_nth(queries, 40)}

first = retrieve(collection.corpus, asked, top_k=10)
reranker = Reranker("biencoder:minilm-l6")
candidates = [gather(ranking, queries, collection.corpus) for ranking in first.values()]
reranked = {r.query_id: r for r in reranker.rank_candidates(candidates)}

judged = {q: judgements[q] for q in asked}
before, after = (evaluate(run, judged, ["nDCG@10"]) for run in (first, reranked))
found = compare(after, before, "nDCG@10")
print(f"BM25 {before.means['nDCG@10']:.3f}, reranked {after.means['nDCG@10']:.3f}")
low, high = found.interval
print(f"difference {found.difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}")
print(f"p {found.p_randomisation:.4f} (paired randomisation, {len(asked)} queries)")
