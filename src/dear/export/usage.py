"""How to use a folder that holds a reranker, program by program, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dear.artifacts import read_json
from dear.checkpoints.contract import PLAIN, ScoringContract
from dear.checkpoints.registry import locate
from dear.checkpoints.sentence_transformers import MODULES
from dear.checkpoints.threads import tokenize
from dear.checkpoints.tokenizer import load_tokenizer
from dear.errors import ConfigError
from dear.export.frame import Frame, whole_length
from dear.export.score_template import SCORE_TEMPLATE
from dear.prompts.pointwise import PAIR_PROMPTS
from dear.scoring.exported import is_exported

TEI = ("bert", "camembert", "deberta-v2", "distilbert", "modernbert", "roberta", "xlm-roberta")
"""`model_type` of the classifiers that Text Embeddings Inference serves. Its GTE and Jina
classifiers are code of their own, of which transformers has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageText:
    """name: what users type for the folder.  config: its config.json.  longest: tokens of a pair.
    words: tokens of the contract's words before query and passage.
    placed: words that the tokenizer itself puts there.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    contract: ScoringContract
    longest: int
    words: tuple[int, int]
    placed: tuple[str, str]

    @classmethod
    def of(cls, folder: Path, name: str) -> UsageText:
        """ConfigError: a folder without a scoring contract."""
        contract = ScoringContract.load(folder)
        if contract is None:
            raise ConfigError(f"{folder}: no scoring contract; `dear export` writes one")
        tokenizer = load_tokenizer(locate(folder))
        words, placed = (0, 0), ("", "")
        if not contract.template:
            frame = Frame.of(tokenizer, contract)
            query, passage = (
                len(tokenize(tokenizer, text.rstrip(), add_special_tokens=False)["input_ids"])
                for text in (frame.query, frame.passage)
            )
            words = (query, passage)
            before, between = (
                tokenizer.decode([token for token, _ in part], skip_special_tokens=True).strip()
                for part in (frame.before, frame.between)
            )
            placed = (before, between)
        return cls(
            name=name,
            folder=folder,
            config=read_json(folder / "config.json"),
            contract=contract,
            longest=whole_length(tokenizer, contract),
            words=words,
            placed=placed,
        )

    def __str__(self) -> str:
        """Markdown, a section for each program."""
        parts = [self._dear()]
        if not is_exported(self.folder):
            parts += [
                self._sentence_transformers() if self._for_library else self._transformers(),
                self._vllm(),
                self._tei(),
            ]
        return "\n\n".join([*parts, *self._told()]) + "\n"

    @property
    def _for_library(self) -> bool:
        return (self.folder / MODULES).is_file()

    @property
    def _hosted(self) -> bool:
        """Whether the name is one of the hub."""
        return "/" in self.name

    @property
    def _reads_pairs(self) -> bool:
        """Whether query and passage, as they are, are what the tokenizer is given."""
        contract = self.contract
        return contract.prompt == PLAIN.prompt and not (
            contract.query_prefix or contract.append_eos or self._by_messages
        )

    @property
    def _by_messages(self) -> bool:
        path = self.folder / "sentence_bert_config.json"
        return path.is_file() and "message" in read_json(path).get("modality_config", {})

    def _dear(self) -> str:
        return (
            "### DeAR\n\n```python\nfrom dear import Reranker\n\n"
            f'ranking = Reranker("{self.name}").rank(query, passages)\n```'
        )

    def _sentence_transformers(self) -> str:
        return (
            "### sentence-transformers (6.2 or later)\n\n```python\n"
            "from sentence_transformers import CrossEncoder\n\n"
            f'model = CrossEncoder("{self.name}", model_kwargs={{"dtype": "auto"}})\n'
            "scores = model.predict([(query, passage) for passage in passages])\n```\n\n"
            "Scores are logits: higher is better, and 0 means nothing in particular."
        )

    def _transformers(self) -> str:
        if (self.folder / SCORE_TEMPLATE).is_file():
            where = f'"{self.name}/{SCORE_TEMPLATE}"'
            first = "import torch\nfrom jinja2 import Template\n"
            if self._hosted:
                where = f'hf_hub_download("{self.name}", "{SCORE_TEMPLATE}")'
                first = first.replace("from", "from huggingface_hub import hf_hub_download\nfrom")
            batch = (
                f"template = Template(open({where}).read())\n"
                "texts = [\n    template.render(messages=[\n"
                '        {"role": "query", "content": query},\n'
                '        {"role": "document", "content": passage},\n    ])\n'
                "    for passage in passages\n]\n"
                "batch = tokenizer(texts, "
            )
        else:
            prompt = PAIR_PROMPTS[self.contract.prompt]
            query = self._written(prompt.query, "query", self.contract.query_prefix)
            passage = self._written(prompt.passage, "passage")
            batch = (
                f"batch = tokenizer(\n    [{query}] * len(passages),\n"
                f"    [{passage} for passage in passages],\n    "
            )
            first = "import torch\n"
        return (
            f"### transformers\n\n```python\n{first}"
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{self.name}")\n'
            "model = AutoModelForSequenceClassification.from_pretrained(\n"
            f'    "{self.name}", dtype="auto"\n).eval()\n{batch}'
            f'truncation=True, max_length={self.longest}, padding=True, return_tensors="pt"\n)\n'
            "with torch.inference_mode():\n    scores = model(**batch).logits[:, 0]\n```\n\n"
            "Scores are logits: higher is better, and 0 means nothing in particular."
        )

    def _written(self, template: str, name: str, prefix: str = "") -> str:
        """`f"query: {query}"`, or the name alone."""
        text = template.replace("{" + name + "}", prefix + "{" + name + "}")
        return name if text == "{" + name + "}" else f"f{text!r}"

    def _vllm(self) -> str:
        head = "### vLLM\n\n"
        template = (self.folder / SCORE_TEMPLATE).is_file()
        if not template and not self._reads_pairs:
            return head + (
                "Not from this folder: vLLM would read the pair without the words of the contract."
            )
        flags = [f"vllm serve {self.name}", "--runner pooling", "--convert classify"]
        first = ""
        if template and self._hosted:
            first = f"hf download {self.name} {SCORE_TEMPLATE} --local-dir .\n"
            flags.append(f"--chat-template {SCORE_TEMPLATE}")
        elif template:
            flags.append(f"--chat-template {self.name}/{SCORE_TEMPLATE}")
        flags += [f"--max-model-len {self.longest}", f"--dtype {self.contract.dtype}"]
        text = f"{head}```sh\n{first}" + " \\\n  ".join(flags) + "\n```\n\n"
        text += "Its `/rerank` and `/score` give logits, as `activation_fn` in config.json says."
        if self.contract.truncation == "separate":
            query, passage = self._limits
            text += (
                f' Send `"max_tokens_per_query": {query}, "max_tokens_per_doc": {passage}` with '
                "each request: that is where the model was trained to be cut."
            )
        return text

    @property
    def _limits(self) -> tuple[int, int]:
        """Tokens of query and passage alone."""
        query, passage = self.contract.max_query_tokens or 0, self.contract.max_passage_tokens or 0
        return query - self.words[0], passage - self.words[1]

    def _tei(self) -> str:
        kind = str(self.config.get("model_type", ""))
        head = "### Text Embeddings Inference\n\n"
        if kind not in TEI:
            return f"{head}Not served: it has no classifier of the type `{kind}`."
        if not self._reads_pairs:
            return (
                f"{head}Not from this folder: it would read the pair without the words of the "
                "contract; `dear export --format sentence-transformers` writes one that it reads."
            )
        return (
            f"{head}```sh\ntext-embeddings-router --model-id {self.name}\n```\n\n"
            'Send `"raw_scores": true` for the logits.'
        )

    def _told(self) -> Iterator[str]:
        """Where other programs read a pair otherwise than DeAR."""
        if is_exported(self.folder):
            return
        lines = [
            "- A text that spells a special token, such as `[SEP]`, is read letter by letter by "
            "DeAR alone; other programs take it for the token."
        ]
        if self.contract.truncation == "separate":
            query, passage = self._limits
            lines.append(
                f"- DeAR cuts a query at {query} tokens and a passage at {passage}. Other programs "
                f"cut the longer text first until both fit {self.longest} tokens: scores of pairs "
                "that are cut differ."
            )
        yield "### Where programs differ\n\n" + "\n".join(lines)
