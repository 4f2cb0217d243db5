"""The scoring contract: everything between a pair of texts and its logit that is not a weight.

A checkpoint carries its contract (`scoring_contract.json`), and every label file carries the
contract of the teacher that wrote it. Two scores may be compared only if their contracts agree.
A listwise model's (`dear_listwise.json`) says how it was trained to be asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dear.artifacts import read_json, write_json
from dear.checkpoints.screening import require_plain
from dear.errors import ConfigError, ContractMismatch, DataError, excerpt, nearest, shortened
from dear.prompts.listwise import LISTWISE_PROMPTS, ListwisePrompt
from dear.prompts.pointwise import ANSWER_PROMPTS, PAIR_PROMPTS

CONTRACT_FILE = "scoring_contract.json"

Truncation = Literal["pair", "separate"]
Pooling = Literal["mask", "model"]
Side = Literal["right", "left"]
DType = Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"]

TEMPLATE = "template"
"""The prompt of a contract that brings its text itself, in `template`."""

_CHOICES = {"truncation": Truncation, "pooling": Pooling, "padding_side": Side, "dtype": DType}
_LIMITS = {
    "pair": ("max_tokens",),
    "separate": ("max_query_tokens", "max_passage_tokens"),
}


_OPTIONAL = ("query_prefix", "template", "instruction", "instruction_format", "yes", "no")
"""Fields that came later: left out where they say nothing, so that old fingerprints hold."""

NOT_COMPARED = ("name", "activation")
"""Fields that change no score."""


def fingerprint_of(values: Mapping[str, Any]) -> str:
    """16 hexadecimal digits over all that changes a score: equal for what may be compared."""
    counted = {key: value for key, value in values.items() if key not in NOT_COMPARED}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringContract:
    """How one pair becomes one logit.

    prompt:              a key of PAIR_PROMPTS; "template": the text is in `template`.
    truncation:          "pair" cuts the longer text first until the whole sequence, special
                         tokens included, fits `max_tokens`, as `tokenizer(a, b,
                         truncation=True)` does. "separate" cuts each text to its own limit, so
                         that neither eats the other.
    max_tokens:          "pair" only: tokens of the whole sequence.
    max_query_tokens:    "separate" only: tokens of the query's text, template included.
    max_passage_tokens:  "separate" only: the same for the passage.
    add_special_tokens:  the tokenizer's own ([CLS], <s>, …).
    append_eos:          an end-of-sequence token after the passage (never cut), for the pooled
                         position of decoders to stand on.
    pooling:             "mask": the last token that the attention mask shows (decoders);
                         "model": as the encoder's own head pools. Never "by pad id".
    padding_side:        where a batch is filled up (decoders; encoders are filled up on the
                         right). Scores do not depend on it.
    dtype:               of the weights while scoring; the head is float32 in any case. "auto" in
                         a checkpoint means that the machine decides; a loaded model's contract
                         holds what was decided. "int8": weights and activations, as `dear
                         export` writes them.
    query_prefix:        put before every query (a default prompt of sentence-transformers).
    template:            "template" only: what a language model reads, in segments that are
                         tokenised one by one, with {query}, {passage} and {instruction} in place.
                         Its control tokens are the only ones: texts are spelled. `max_tokens`
                         counts the template, too, and the end of the passage is cut first.
    instruction:         what {instruction} stands for; "" leaves it out, its format with it.
    instruction_format:  how an instruction is put, with {instruction} in place.
    yes, no:             vocabulary entries of a language model: the logit is that of `yes` as the
                         next token, less that of `no` where there is one.
    activation:          a module of torch.nn that `Reranker.predict` applies, as CrossEncoder
                         does; None: Sigmoid. It changes no score and is not compared.
    """

    name: str = "custom"
    prompt: str = "dear"
    truncation: Truncation = "pair"
    max_tokens: int | None = None
    max_query_tokens: int | None = None
    max_passage_tokens: int | None = None
    add_special_tokens: bool = True
    append_eos: bool = False
    pooling: Pooling = "mask"
    padding_side: Side = "right"
    dtype: DType = "auto"
    query_prefix: str = ""
    template: tuple[str, ...] = ()
    instruction: str = ""
    instruction_format: str = "{instruction}"
    yes: str = ""
    no: str = ""
    activation: str | None = None

    def __post_init__(self) -> None:
        if self.prompt not in (*PAIR_PROMPTS, TEMPLATE):
            raise ConfigError(
                f"contract: no prompt {self.prompt!r}{nearest(str(self.prompt), PAIR_PROMPTS)}"
            )
        self._check_template()
        for field, choices in _CHOICES.items():
            if (value := getattr(self, field)) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ConfigError(f"contract: {field} must be one of {known}, not {value!r}")
        for field in ("add_special_tokens", "append_eos"):
            if not isinstance(value := getattr(self, field), bool):
                raise ConfigError(f"contract: {field} must be true or false, not {value!r}")
        needed = _LIMITS[self.truncation]
        for field in ("max_tokens", "max_query_tokens", "max_passage_tokens"):
            value = getattr(self, field)
            # a bool is an int to Python
            if field in needed and (type(value) is not int or value < 1):
                raise ConfigError(
                    f"contract: truncation {self.truncation!r} needs {field} >= 1, not {value!r}"
                )
            if field not in needed and value is not None:
                raise ConfigError(f"contract: {field} means nothing under {self.truncation!r}")

    def _check_template(self) -> None:
        if not isinstance(self.template, tuple) or not all(
            isinstance(segment, str) for segment in self.template
        ):
            raise ConfigError("contract: template must be a list of texts")
        for field in ("query_prefix", "instruction", "instruction_format", "yes", "no"):
            if not isinstance(value := getattr(self, field), str):
                raise ConfigError(f"contract: {field} must be a text, not {value!r}")
        whole = "".join(self.template)
        if self.prompt == TEMPLATE:
            missing = [name for name in ("{query}", "{passage}") if whole.count(name) != 1]
            if missing:
                raise ConfigError(f"contract: the template needs {missing[0]} once")
            if self.truncation != "pair" or self.append_eos:
                raise ConfigError('contract: a template needs truncation "pair", no append_eos')
        elif self.template:
            raise ConfigError(f"contract: template means nothing under {self.prompt!r}")
        if self.instruction and "{instruction}" not in whole:
            raise ConfigError(f"contract: {self.name} takes no instruction")
        if self.no and not self.yes:
            raise ConfigError("contract: no means nothing without yes")

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over every field but the name and the activation."""
        return fingerprint_of(self.to_dict())

    @property
    def longest(self) -> int:
        """An upper bound on a sequence's tokens (special tokens: at most 8)."""
        if self.max_tokens is not None:
            return self.max_tokens
        return (self.max_query_tokens or 0) + (self.max_passage_tokens or 0) + 8

    def to_dict(self) -> dict[str, Any]:
        """For JSON. What came later and says nothing is left out."""
        out: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _OPTIONAL and value == field.default:
                continue
            if field.name == "activation" and value is None:
                continue
            out[field.name] = list(value) if isinstance(value, tuple) else value
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScoringContract:
        """ConfigError names an unknown key and the nearest known one."""
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                raise ConfigError(f"contract: unknown key {key!r}{nearest(key, known)}")
        template = values.get("template", ())
        if isinstance(template, list):
            template = tuple(template)
        return cls(**dict(values) | {"template": template})

    def differences(self, other: ScoringContract, *, ignore: tuple[str, ...] = ()) -> list[str]:
        """`field: mine, not theirs` for every field that differs and changes scores."""
        names = [f.name for f in fields(self) if f.name not in (*NOT_COMPARED, *ignore)]
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return [f"{name}: {mine!r}, not {their!r}" for name, mine, their in pairs if mine != their]

    def require(self, other: ScoringContract, *, what: str, ignore: tuple[str, ...] = ()) -> None:
        """ContractMismatch that names the difference unless `other` agrees with this one."""
        found = self.differences(other, ignore=ignore)
        if found:
            raise ContractMismatch(f"{what}: the scoring contracts differ: {'; '.join(found)}")

    def with_dtype(self, dtype: DType) -> ScoringContract:
        return replace(self, dtype=dtype)

    def save(self, folder: Path) -> None:
        write_json(folder / CONTRACT_FILE, self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> ScoringContract | None:
        """The contract stored in a checkpoint's folder; None where there is none.

        DataError for a file that is no JSON object, ConfigError for one that is no contract.
        """
        path = folder / CONTRACT_FILE
        return _read(path) if path.is_file() else None


CARD = ScoringContract(name="card", truncation="pair", max_tokens=512)
"""tokenizer(f"query: {query}", f"document: {document}", truncation=True, max_length=512), as the
DeAR model cards show it: the contract of a checkpoint that brings none."""

DEAR = ScoringContract(
    name="dear", truncation="separate", max_query_tokens=32, max_passage_tokens=196
)
"""What this project trains: 32 query tokens and 196 passage tokens, each by its own limit."""

RANKLLAMA = ScoringContract(
    name="rankllama", truncation="separate", max_query_tokens=32, max_passage_tokens=161
)
"""How Tevatron's first RankLLaMA code trained and scored the published passage models: 32 query
tokens, 164 passage tokens less the 3 that it set aside, no end-of-sequence token."""

PLAIN = ScoringContract(name="plain", prompt="plain", truncation="pair", max_tokens=512)
"""tokenizer(query, passage, truncation=True): the bare pair that public cross-encoders were trained
on. Asked for by name, its length is that of the model."""


def _language_model(name: str, max_tokens: int) -> ScoringContract:
    prompt = ANSWER_PROMPTS[name]
    return ScoringContract(
        name=name,
        prompt=TEMPLATE,
        template=prompt.template,
        instruction=prompt.instruction,
        instruction_format=prompt.instruction_format,
        yes=prompt.yes,
        no=prompt.no,
        truncation="pair",
        max_tokens=max_tokens,
        add_special_tokens=False,
    )


CONTRACTS: dict[str, ScoringContract] = {
    "card": CARD,
    "dear": DEAR,
    "rankllama": RANKLLAMA,
    "plain": PLAIN,
    "qwen3-reranker": _language_model("qwen3-reranker", 8192),
    "mxbai-rerank-v2": _language_model("mxbai-rerank-v2", 8192),
    "bge-reranker-gemma": _language_model("bge-reranker-gemma", 1024),
}


def read_contract(name: str | Path) -> ScoringContract:
    """A contract by its name, or out of a JSON file or a checkpoint's folder.

    ConfigError for a name that is none, and for a file that holds no contract.
    """
    if str(name) in CONTRACTS:
        return CONTRACTS[str(name)]
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / CONTRACT_FILE
    if not path.is_file():
        raise ConfigError(
            f"no contract {str(name)!r}: no such file, and no known name"
            + nearest(str(name), CONTRACTS)
        )
    return _read(path)


def _read(path: Path) -> ScoringContract:
    require_plain(path)
    values = read_json(path)
    try:
        return ScoringContract.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {shortened(str(error))}") from None


LISTWISE_FILE = "dear_listwise.json"


@dataclass(frozen=True, kw_only=True)
class ListwiseContract:
    """The prompt and the limits that a listwise model learnt.

    prompt:     one of LISTWISE_PROMPTS.
    max_words:  words that are kept of a passage.
    max_window: the most passages that it saw in one prompt.
    max_tokens: prompt and answer together; examples beyond were left out, prompts beyond are
                refused.
    thought:    whether its answers begin with one.
    learnt:     "text" for answers that are generated, "first" for the identifiers' logits at the
                first position (FIRST, Gangi Reddy et al. 2024), "both"; "attention" where only
                the heads are weighted.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    prompt: str = "list"
    max_words: Annotated[int, Field(ge=1)] = 100
    max_window: Annotated[int, Field(ge=2)] = 20
    max_tokens: Annotated[int, Field(ge=16)] = 4096
    thought: bool = False
    learnt: Literal["text", "first", "both", "attention"] = "both"

    def __post_init__(self) -> None:
        if self.prompt not in LISTWISE_PROMPTS:
            raise ConfigError(
                f"unknown prompt {self.prompt!r}{nearest(self.prompt, LISTWISE_PROMPTS)}"
            )

    @property
    def template(self) -> ListwisePrompt:
        return replace(LISTWISE_PROMPTS[self.prompt], max_words=self.max_words)

    def save(self, folder: Path) -> None:
        write_json(folder / LISTWISE_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> ListwiseContract:
        """DataError: the file is missing, or is none."""
        path = folder / LISTWISE_FILE
        try:
            return TypeAdapter(cls).validate_python(read_json(path))
        except (ValidationError, ConfigError) as error:
            raise DataError.at(path, None, excerpt(str(error))) from None
