"""Files of listwise examples to token ids: read, shuffled for each epoch, measured, planned."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from dear.checkpoints.contract import ListwiseContract
from dear.data.formats import read_lists
from dear.data.formats.reasoning import list_line
from dear.data.formats.rows import json_rows
from dear.digests import Input
from dear.errors import ConfigError, DataError
from dear.listwise.encoding import ListEncoder
from dear.prompts.permutations import renumber
from dear.records import ListExample

LISTS_FILE = "examples.jsonl"
"""In the folders that `dear reason` writes."""

Rejection: TypeAlias = Literal["too long", "too many passages", "no thought"]
MOST_REJECTED = 0.5


@dataclass(frozen=True, slots=True)
class ListTokens:
    """One example in one order of its candidates.

    prompt, answer: token ids; the answer ends with the end-of-text token.
    first: how many of the answer's tokens stand before the first identifier.
    named: the first token of each passage's identifier, in the prompt's order.
    targets: what the ranking loss reads, in the prompt's order.
    ends: where in the prompt each passage has been read, if the prompt marks that.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    first: int
    named: tuple[int, ...]
    targets: tuple[float, ...]
    ends: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def load_lists(paths: Sequence[str]) -> list[ListExample]:
    """All examples of files or folders, in order. DataError: no file, no example, DeAR-COT rows."""
    found: list[ListExample] = []
    for name in paths:
        path = list_file(name)
        head = next(iter(json_rows(path)), None)
        if head is not None and "instruction" in head.fields:
            raise DataError.at(
                path, 1, "DeAR-COT rows; make them lists with `dear reason --from FILE` first"
            )
        found += read_lists(path)
    if not found:
        raise DataError("there is nothing to train on")
    return found


def list_file(name: str) -> Path:
    """A file of lists, or the one in a folder. DataError: no such file."""
    path = Path(name) / LISTS_FILE if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise DataError.at(path, None, "no such file; lists come from `dear reason`")
    return path


def lists_fingerprint(examples: Sequence[ListExample]) -> str:
    """16 hexadecimal digits over all that training reads, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(list_line(example).encode() + b"\n")
    return digest.hexdigest()[:16]


def exact_inputs(
    examples: Sequence[ListExample], held_out: Sequence[ListExample]
) -> dict[str, Input]:
    """All that training reads of the data; see dear.train.inputs."""
    return {"examples": Input(lists_fingerprint([*examples, *held_out]))}


def reordered(example: ListExample, places: Sequence[int]) -> ListExample:
    """The same example with passage i at places[i]; order, thought and scores say the same."""
    old = sorted(range(len(places)), key=places.__getitem__)
    return replace(
        example,
        passages=tuple(example.passages[i] for i in old),
        order=tuple(places[i] for i in example.order),
        thought=renumber(example.thought, places),
        scores=None if example.scores is None else tuple(example.scores[i] for i in old),
    )


def shuffled(example: ListExample, *, seed: int, epoch: int, number: int) -> ListExample:
    """Its candidates in an order that follows from (seed, epoch, number of the example) alone."""
    places = list(range(len(example.passages)))
    random.Random(f"{seed}/{epoch}/{number}").shuffle(places)
    return reordered(example, places)


class ListTokenizer:
    """Examples to tokens, as the contract says.

    reads: the targets that the ranking loss reads: "judgements" makes the best passage relevant,
        "order" counts the passages behind each one, "scores" takes the example's.
    """

    def __init__(
        self,
        encoder: ListEncoder,
        contract: ListwiseContract,
        reads: Literal["judgements", "order", "scores"] = "order",
    ) -> None:
        self.encoder = encoder
        self.contract = contract
        self.template = contract.template
        self.reads = reads

    def __call__(self, example: ListExample) -> ListTokens | Rejection:
        """Its tokens, or why it is none. ConfigError: two identifiers begin with one token, so
        that no single position could tell them apart."""
        if len(example.passages) > self.contract.max_window:
            return "too many passages"
        if self.contract.thought and not example.thought:
            return "no thought"
        window = self.template.render(example.query, example.passages)
        chain = self.encoder.chain(window.identifiers)
        named = tuple(ids[0] for ids in chain.identifiers)
        if self.contract.learnt != "text" and len(set(named)) < len(named):
            raise ConfigError(
                f"prompt {self.contract.prompt!r}: two of {len(named)} identifiers begin with the "
                "same token; choose a prompt with letters, or listwise.loss.first=0"
            )
        thought = example.thought if self.contract.thought else ""
        answer = self.encoder.answer(window.identifiers, example.order, thought=thought)
        before = len(answer) - len(chain.permutation(example.order)) + len(chain.open)
        if self.contract.learnt == "first":
            answer = answer[: before + 1]  # nothing behind it is read
        prompt = self.encoder.prompt(window)
        tokens = ListTokens(
            tuple(prompt),
            tuple(answer),
            before,
            named,
            self._targets(example),
            self.encoder.ends(window, prompt),
        )
        return "too long" if len(tokens) > self.contract.max_tokens else tokens

    def _targets(self, example: ListExample) -> tuple[float, ...]:
        if self.reads == "scores":
            return example.scores or ()
        count = len(example.order)
        ranks = {passage: rank for rank, passage in enumerate(example.order)}
        if self.reads == "judgements":
            return tuple(float(ranks[i] == 0) for i in range(count))
        return tuple(float(count - 1 - ranks[i]) for i in range(count))


def tokenise(
    examples: Sequence[ListExample], tokenizer: ListTokenizer, *, epochs: int, seed: int | None
) -> tuple[list[list[ListTokens]], Counter[Rejection]]:
    """(the kept examples' tokens, epoch by epoch; how many examples were rejected for what).

    seed: of the candidates' orders; None keeps them.
    An example that is too long in one of its orders is rejected in all of them, for every epoch
    to have the same. ConfigError: more than half of the examples are rejected.
    """
    kept: list[list[ListTokens]] = [[] for _ in range(epochs)]
    rejected: Counter[Rejection] = Counter()
    for number, example in enumerate(examples):
        made: list[ListTokens] = []
        for epoch in range(epochs):
            shown = (
                example
                if seed is None
                else shuffled(example, seed=seed, epoch=epoch, number=number)
            )
            tokens = tokenizer(shown)
            if isinstance(tokens, str):
                rejected[tokens] += 1
                break
            made.append(tokens)
        else:
            for row, tokens in zip(kept, made, strict=True):
                row.append(tokens)
    if rejected.total() > MOST_REJECTED * len(examples):
        raise ConfigError(
            f"{rejected.total()} of {len(examples)} examples are rejected ({told(rejected)}); "
            "raise listwise.max_tokens or max_window, or lower max_words"
        )
    return kept, rejected


def told(rejected: Counter[Rejection]) -> str:
    """ "3 too long, 1 no thought"."""
    return ", ".join(f"{number} {reason}" for reason, number in rejected.most_common())


def plan(
    epochs: Sequence[Sequence[ListTokens]],
    *,
    per_step: int,
    passes: int,
    seed: int,
    steps: int,
    short_first: bool = False,
) -> Iterator[ListTokens]:
    """What the steps read, one example after the other: `steps` times `per_step` of them.

    Each epoch is shuffled, and then sorted by the number of passages where `short_first`. The
    examples of one step are sorted by length, so that each of its `passes` holds like ones.
    """
    order: list[ListTokens] = []
    for number, epoch in enumerate(epochs):
        places = list(range(len(epoch)))
        random.Random(f"{seed}/{number}/plan").shuffle(places)
        if short_first:
            places.sort(key=lambda i: len(epoch[i].named))
        order += [epoch[i] for i in places]
    for start in range(0, min(len(order), steps * per_step), per_step):
        step = order[start : start + per_step]
        yield from sorted(step, key=len) if passes > 1 else step


def row_of(tokens: ListTokens) -> dict[str, Any]:
    """A row of the Trainer's dataset."""
    return {
        "input_ids": [*tokens.prompt, *tokens.answer],
        "answer": len(tokens.answer),
        "first": tokens.first,
        "named": list(tokens.named),
        "targets": list(tokens.targets),
        "ends": list(tokens.ends),
    }
