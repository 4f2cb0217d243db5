"""Two stages: every passage is scored, the best are reranked by a model that reads them together.

SmolLM2 was never trained to rank: its attention from the query to the passages orders them.
"""

from dear import Reranker

PASSAGES = [
    "Otters sleep on their backs and hold hands so that they do not drift apart.",
    "The stock market closed higher on Tuesday after three days of losses.",
    "Sea otters eat sea urchins, crabs and clams, and open them with stones.",
    "Pandas spend most of the day eating bamboo.",
    "River otters hunt fish at night.",
]

# the same table may stand in a file: Reranker("cascade.toml")
cascade = Reranker(
    {
        "model": "biencoder:minilm-l6",
        "listwise": "local:smollm2-135m#attention",
        "depth": 3,  # of the first stage's best
        "fuse": 1.0,  # weight of the first stage's score beside the lists' order
    }
)
ranking = cascade.rank("what do otters eat", PASSAGES)
for row in ranking.to_list():
    print(f"{row['score']:.0f}  {row['text']}")
print(ranking.cost)
