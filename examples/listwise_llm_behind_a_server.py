"""Rerank with a chat model behind a server that speaks OpenAI's protocol, within two seconds.

python examples/listwise_llm_behind_a_server.py http://127.0.0.1:8000/v1
"""

import sys
import time

from dear import Reranker

PASSAGES = [
    "Otters sleep on their backs and hold hands so that they do not drift apart.",
    "The stock market closed higher on Tuesday after three days of losses.",
    "Sea otters eat sea urchins, crabs and clams, and open them with stones.",
]

reranker = Reranker({"listwise": sys.argv[1], "prompt": "rankgpt", "guard": True})
ranking = reranker.rank("what do otters eat", PASSAGES, deadline=time.monotonic() + 2.0)
for row in ranking.to_list():
    print(row["text"])
if not ranking.complete:
    print("the time was up before every window was asked")
print(ranking.cost, dict(ranking.mended))
for reasoning in ranking.reasoning:
    print(reasoning.text)
