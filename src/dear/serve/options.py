"""What a server is started with. This module imports nothing heavy: help pages are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dear.checkpoints.registry import BUILT_IN
from dear.errors import ConfigError, nearest
from dear.steps.options import ModelOptions, Option, Runtime

Names = tuple[str, ...]

DIALECT_NAMES = ("cohere", "dear", "infinity", "jina", "tei", "vllm", "voyage", "weaviate")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """What is served, where, to whom, and how much of it. ConfigError for what does not fit."""

    models: Annotated[
        Names,
        Option(
            "Models, tables of rankers (TOML), listwise backends; NAME=SPEC gives one a name.",
            "MODEL",
            argument=True,
            shown=BUILT_IN,
        ),
    ] = ()
    named: Annotated[
        Names, Option("One more of them, under a name.", "NAME=SPEC", flags=("--model",))
    ] = ()
    served_model_name: Annotated[
        str | None, Option("The name of the first model.", "NAME", shown="its own")
    ] = None
    host: Annotated[str, Option("Where to listen; 0.0.0.0 is everywhere.", "ADDRESS")] = "127.0.0.1"
    port: Annotated[int, Option("0 takes any that is free.", "N", least=0, most=65535)] = 8000
    api_key: Annotated[
        Names, Option("A key that requests must bring; several times for several.", "KEY")
    ] = ()
    api_key_file: Annotated[
        Path | None, Option("SHA-256 hashes of keys, one in a line.", "FILE")
    ] = None
    default_dialect: Annotated[
        str,
        Option(f"Of /rerank and /v1/rerank: {', '.join(DIALECT_NAMES)}.", "NAME"),
    ] = "jina"
    max_client_batch_size: Annotated[int, Option("Documents in a request.", "N", least=1)] = 1000
    max_concurrent_requests: Annotated[
        int, Option("Requests of a model at once; more are refused (429).", "N", least=1)
    ] = 512
    max_wait: Annotated[
        float,
        Option("Refuse (429) what would wait longer, at the speed so far.", "SECONDS", least=0),
    ] = 10.0
    max_batch_tokens: Annotated[
        int | None, Option("Padded tokens in a batch.", "N", least=1, shown="for the device")
    ] = None
    payload_limit: Annotated[int, Option("Bytes of a request.", "N", least=1)] = 10_000_000
    deadline: Annotated[
        float | None,
        Option("Return what is ranked after so long, marked as partial.", "SECONDS", least=0),
    ] = None
    min_probability: Annotated[
        float | None,
        Option(
            "Leave out what is less likely relevant; see `dear calibrate`.", "P", least=0, most=1
        ),
    ] = None
    calibration: Annotated[
        Path | None, Option("Where the first model's map is.", "DIR", shown="MODEL")
    ] = None
    chunk_words: Annotated[
        int | None,
        Option("Read documents in passages of so many words; the best one counts.", "N", least=8),
    ] = None
    chunk_overlap: Annotated[
        int, Option("Words repeated of the passage before; up to half of it.", "N", least=0)
    ] = 0
    cors: Annotated[
        Names, Option("An origin whose pages may ask, such as https://example.org.", "ORIGIN")
    ] = ()
    shutdown: Annotated[
        float, Option("Requests at work may take so long to end.", "SECONDS", least=0)
    ] = 30.0
    contract: Annotated[str | None, Option("Of one-logit models that bring none.", "NAME")] = None
    instruction: Annotated[str | None, Option("What models are to look for.", "TEXT")] = None
    revision: Annotated[str | None, Option("Of a hub id.", "REVISION")] = None
    dtype: Annotated[str, Option("auto, float32, bfloat16 or float16.", "TYPE", shown="")] = "auto"
    device: Annotated[str, Option("auto, cpu, cuda, cuda:1 or mps.", "NAME", shown="")] = "auto"
    runtime: Runtime = "auto"

    def __post_init__(self) -> None:
        if self.default_dialect not in DIALECT_NAMES:
            problem = nearest(self.default_dialect, DIALECT_NAMES)
            raise ConfigError(f"no dialect {self.default_dialect!r}{problem}")
        names = list(self.specs())
        if len(names) != len(set(names)):
            raise ConfigError("two models have one name: NAME=SPEC tells them apart")
        if self.chunk_words is None and self.chunk_overlap:
            raise ConfigError("--chunk-overlap is for --chunk-words")
        if self.chunk_words is not None and 2 * self.chunk_overlap > self.chunk_words:
            raise ConfigError(
                f"--chunk-overlap {self.chunk_overlap}: at most half of the {self.chunk_words} "
                "words of --chunk-words"
            )

    def specs(self) -> list[str]:
        """Names of the models, in order."""
        return [name for name, _ in self.pairs()]

    def pairs(self) -> list[tuple[str, str]]:
        """(name, spec) of each model."""
        found = [_named(spec) for spec in (*self.models, *self.named)] or [(BUILT_IN, BUILT_IN)]
        if self.served_model_name is not None:
            found[0] = (self.served_model_name, found[0][1])
        return found

    @property
    def model_options(self) -> ModelOptions:
        return ModelOptions(
            contract=self.contract,
            instruction=self.instruction,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            batch_tokens=self.max_batch_tokens,
        )


def _named(spec: str) -> tuple[str, str]:
    name, equals, rest = spec.partition("=")
    if equals and name and rest and not Path(spec).exists():
        return name, rest
    return spec, spec
