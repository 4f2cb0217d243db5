"""The only place where a query and a passage become text.

Pointwise models read two texts (`PAIR_PROMPTS`, tokenised as a pair). Language models that were
trained to rank by an answer read one, in a template of their own (`ANSWER_PROMPTS`), and so do
those that were never trained to rank (`ZERO_SHOT_PROMPTS`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class PairPrompt:
    """`{query}` and `{passage}` are replaced; everything else is literal."""

    query: str
    passage: str

    def render(self, query: str, passage: str) -> tuple[str, str]:
        # replace, not format: texts and templates may hold any braces
        return self.query.replace("{query}", query), self.passage.replace("{passage}", passage)


PAIR_PROMPTS: dict[str, PairPrompt] = {
    # RankLLaMA (Ma et al. 2023) and every pointwise DeAR model
    "dear": PairPrompt(query="query: {query}", passage="document: {passage}"),
    # cross-encoders trained on bare pairs, such as ms-marco-MiniLM
    "plain": PairPrompt(query="{query}", passage="{passage}"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerPrompt:
    """How a published language model was taught to be asked about one pair.

    template:   segments that are tokenised one by one, as their authors' code does.
    yes, no:    vocabulary entries whose logits make the score; see ScoringContract.
    documented: where the authors say so.
    """

    template: tuple[str, ...]
    yes: str
    no: str = ""
    instruction: str = ""
    instruction_format: str = "{instruction}"
    documented: str


ANSWER_PROMPTS: dict[str, AnswerPrompt] = {
    "qwen3-reranker": AnswerPrompt(
        template=(
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the "
            'Query and the Instruct provided. Note that the answer can only be "yes" or "no".'
            "<|im_end|>\n<|im_start|>user\n",
            "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {passage}",
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        instruction="Given a web search query, retrieve relevant passages that answer the query",
        yes="yes",
        no="no",
        documented="model card of Qwen/Qwen3-Reranker-0.6B",
    ),
    "mxbai-rerank-v2": AnswerPrompt(
        template=(
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
            "assistant.<|im_end|>\n<|im_start|>user\n",
            "{instruction}query: {query}",
            "\n",
            "document: {passage}",
            "\n",
            "You are a search relevance expert who evaluates how well documents match search "
            "queries. For each query-document pair, carefully analyze the semantic relationship "
            "between them, then provide your binary relevance judgment (0 for not relevant, 1 for "
            "relevant).\nRelevance:",
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
        instruction_format="instruction: {instruction}\n",
        yes="1",
        no="0",
        documented="the package mxbai-rerank 0.1.6, mxbai_rerank_v2.py",
    ),
    "bge-reranker-gemma": AnswerPrompt(
        template=(
            "<bos>",
            "A: {query}",
            "\n",
            "B: {passage}",
            "\n",
            "{instruction}",
        ),
        instruction=(
            "Given a query A and a passage B, determine whether the passage contains an answer to "
            "the query by providing a prediction of either 'Yes' or 'No'."
        ),
        yes="Yes",
        documented="the package FlagEmbedding 1.4.2, FlagLLMReranker; model card",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroShotPrompt:
    """How a language model is asked without training.

    read:         "likelihood" scores the tokens of `target`; "yes-no" compares two answers.
    prompt:       what the model reads; query and passage are cut to their limits.
    target:       "likelihood" only: the text whose tokens are scored.
    yes, no:      "yes-no" only: answers whose first token is read.
    seq2seq:      an encoder-decoder reads the prompt and the answer is its first output token.
    instruction:  what {instruction} in the prompt stands for.
    """

    read: Literal["likelihood", "yes-no"]
    prompt: str
    target: str = ""
    yes: str = ""
    no: str = ""
    seq2seq: bool = False
    instruction: str = ""

    def render(self, query: str, passage: str) -> tuple[str, str]:
        """(prompt, target) with instruction, query and passage in place."""

        def fill(template: str) -> str:
            # one pass, so that a query that holds "{passage}" is left as it is
            parts = template.replace("{instruction}", self.instruction).split("{passage}")
            return passage.join(part.replace("{query}", query) for part in parts)

        return fill(self.prompt), fill(self.target)


_QWEN3 = ANSWER_PROMPTS["qwen3-reranker"]

ZERO_SHOT_PROMPTS: dict[str, ZeroShotPrompt] = {
    # UPR, Sachan et al. 2022, section 2.2
    "upr": ZeroShotPrompt(
        read="likelihood",
        prompt="Passage: {passage}. Please write a question based on this passage.\nQuestion:",
        target=" {query}",
    ),
    # code given, docstring scored: the same idea for a collection of programs
    "upr-code": ZeroShotPrompt(
        read="likelihood",
        prompt="```python\n{passage}\n```\nThe docstring of this function:",
        target=" {query}",
    ),
    # the model card of Qwen3-Reranker
    "qwen3": ZeroShotPrompt(
        read="yes-no",
        prompt="".join(_QWEN3.template),
        instruction=_QWEN3.instruction,
        yes=_QWEN3.yes,
        no=_QWEN3.no,
    ),
    # monoT5, Nogueira et al. 2020
    "monot5": ZeroShotPrompt(
        read="yes-no",
        prompt="Query: {query} Document: {passage} Relevant:",
        yes="true",
        no="false",
        seq2seq=True,
    ),
    # any causal language model
    "yes-no": ZeroShotPrompt(
        read="yes-no",
        prompt=(
            "Passage: {passage}\nQuery: {query}\nDoes the passage answer the query? "
            "Answer yes or no.\nAnswer:"
        ),
        yes=" yes",
        no=" no",
    ),
}
