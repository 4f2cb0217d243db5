"""How a listwise model was taught to be asked; saved beside its adapter."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dear.artifacts import read_json, write_json
from dear.errors import ConfigError, DataError, excerpt, nearest
from dear.prompts.listwise import LISTWISE_PROMPTS, ListwisePrompt

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
