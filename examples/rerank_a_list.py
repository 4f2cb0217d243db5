"""Rerank a list: a query and some texts, best first."""

from dear import Reranker

PASSAGES = [
    "Otters sleep on their backs and hold hands so that they do not drift apart.",
    "The stock market closed higher on Tuesday after three days of losses.",
    "Sea otters eat sea urchins, crabs and clams, and open them with stones.",
    "Pandas spend most of the day eating bamboo.",
]

reranker = Reranker("biencoder:minilm-l6")
ranking = reranker.rank("what do otters eat", PASSAGES, top_k=3)
for row in ranking.to_list():
    print(f"{row['score']:.3f}  [{row['corpus_id']}]  {row['text']}")
