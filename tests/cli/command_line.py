"""`dear` in this process or in one of its own, and a small collection to run it on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from dear.cli.main import main
from dear.data.formats import write_beir
from dear.records import Passage, Query, Ranking

FOOD = {
    "otter": "fish",
    "panda": "bamboo",
    "koala": "eucalyptus leaves",
    "owl": "mice",
    "whale": "krill",
    "bee": "nectar",
    "cow": "grass",
    "lion": "zebras",
}
FACTS = {
    "eat": "The {animal} eats {food} and little else.",
    "live": "A {animal} was seen where {food} is found, far from any town.",
    "sleep": "Every {animal} sleeps after the meal, as {food} is heavy food.",
}
CORPUS = {
    f"{animal}-{fact}": Passage(id=f"{animal}-{fact}", text=text.format(animal=animal, food=food))
    for animal, food in FOOD.items()
    for fact, text in FACTS.items()
}
QUERIES = {
    f"{fact}-{animal}": Query(id=f"{fact}-{animal}", text=f"how does the {animal} {fact}")
    for fact in FACTS
    for animal in FOOD
}
SPLITS = {"train": "eat", "dev": "live", "test": "sleep"}
JUDGEMENTS = {
    split: {f"{fact}-{animal}": {f"{animal}-{fact}": 1} for animal in FOOD}
    for split, fact in SPLITS.items()
}


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status, standard output and standard error."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of an error. Fails where there is more, or anything on standard output;
        what is said of how a model is read does not count."""
        assert self.out == "", self.out
        said = re.compile(r"\(contract |-pooled embeddings")
        lines = [line for line in self.err.splitlines() if not said.search(line)]
        assert len(lines) == 1, self.err
        return lines[0]


def dear(*words: object, stdin: str | None = None) -> Done:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.stdin
    if stdin is not None:
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(word) for word in words])
    finally:
        sys.stdin = before
    return Done(status, out.getvalue(), err.getvalue())


def good(*words: object, **options: Any) -> str:
    """Run a command that must succeed; its standard output."""
    done = dear(*words, **options)
    assert done.status == 0, done.err
    return done.out


def refused(*words: object, **options: Any) -> str:
    """Run a command that must be refused in one line; that line, without its head."""
    done = dear(*words, **options)
    assert done.status == 2, (done.status, done.err)
    assert done.line.startswith("dear: error: ")
    return done.line.removeprefix("dear: error: ")


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    code = "import sys; from dear.cli.main import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def minds_interrupts() -> None:
    """For `preexec_fn`: what a shell starts in the background ignores Ctrl-C, and so do its own."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def first_stage(split: str) -> dict[str, Ranking]:
    """Every passage for every query, the relevant one third."""
    run = {}
    for place, (query, grades) in enumerate(JUDGEMENTS[split].items()):
        (relevant,) = grades
        others = [p for p in CORPUS if p != relevant]
        others = others[place:] + others[:place]
        ids = [*others[:2], relevant, *others[2:]]
        run[query] = Ranking(query_id=query, passage_ids=tuple(ids), scores=tuple(range(24, 0, -1)))
    return run


def write_animals(folder: Path) -> Path:
    """The collection, with a run `bm25` for each split."""
    write_beir(
        folder,
        corpus=CORPUS.values(),
        queries=QUERIES.values(),
        judgements=JUDGEMENTS,
        runs={split: {"bm25": first_stage(split)} for split in SPLITS},
    )
    return folder


def write_reranker(folder: Path, seed: int = 0, layers: int = 1) -> Path:
    """A random one-logit encoder that knows the words of the collection."""
    torch.manual_seed(seed)
    texts = [*(p.text for p in CORPUS.values()), *(q.text for q in QUERIES.values())]
    words = sorted({word.strip(".,").lower() for text in texts for word in text.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, "query", "document", ":", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=520,
        num_labels=1,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    return folder


RECIPE = """
name = "tiny"
model = {{ base = "{base}" }}
data = [{{ collection = "{collection}", labels = ["{labels}"], label_scale = 2.0 }}]
contract = {{ max_query_tokens = 12, max_passage_tokens = 24 }}
groups = {{ size = 6 }}
loss = {{ main = ["ce"], alpha = 0.5 }}
dev = {{ collection = "{collection}", top_k = 10 }}
train = {{ max_steps = 2, groups_per_step = 4, autocast = false }}
"""


def write_recipe(path: Path, **places: Path) -> Path:
    """Two steps from a base, on a collection's train split with labels."""
    path.write_text(RECIPE.format(**places), encoding="utf-8")
    return path


def contents(folder: Path) -> Mapping[str, bytes]:
    """Every file below a folder: a command that fails must leave them as they were."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def read(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))
