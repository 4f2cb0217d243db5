"""What a graph is written from: a model that is open as a module of token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dear.checkpoints.contract import DType, ScoringContract
from dear.checkpoints.layers import count_parameters
from dear.checkpoints.plain_tokenizer import save_tokenizer
from dear.checkpoints.threads import exclusive
from dear.checkpoints.wrappers import bare_model
from dear.export.encoders import (
    Bits,
    EmbeddingModule,
    TermsModule,
    replaced_embedding,
    table_of,
    without_decoder,
)
from dear.export.graph import PairModule, has_types, numbered
from dear.scoring.batching import padded
from dear.scoring.biencoder import BiEncoder
from dear.scoring.encoding import Encoded
from dear.scoring.loading import ScoringModel
from dear.scoring.splade import Splade

Exportable: TypeAlias = ScoringModel | BiEncoder | Splade

LONGEST_PROBE = 1024


@dataclass(frozen=True, kw_only=True)
class GraphSource:
    """module: (input_ids, attention_mask[, token_type_ids][, terms]) to a row a sequence.
    example, probe, more: what it is written from, and compared with the graph on.
    longest: tokens of a sequence at most.  encoder: contract of a model that reads texts apart.
    """

    model: Exportable
    module: nn.Module
    example: Mapping[str, torch.Tensor]
    probe: Sequence[Encoded]
    more: Mapping[str, NDArray[np.int64]]
    longest: int
    encoder: Mapping[str, Any] | None = None

    def alone(self, one: Encoded) -> NDArray[np.float32]:
        """The module's row of one sequence."""
        ids, mask, types = (torch.from_numpy(array) for array in padded([one], pad_id=0))
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        inputs = {key: given.get(key) for key in self.example}
        inputs |= {key: torch.from_numpy(array) for key, array in self.more.items()}
        with torch.no_grad():
            return self.module(**inputs)[0].numpy()  # type: ignore[no-any-return]

    def about(self, dtype: DType) -> dict[str, Any]:
        """For the export's file."""
        model = self.model
        parts: dict[str, Any] = {
            "source": model.name,
            "source_revision": model.revision,
            "parameters": model.parameters,
        }
        if isinstance(model, ScoringModel):
            return parts | {
                "architecture": f"ONNX {model.architecture}",
                "working_parameters": model.working_parameters,
            }
        words = model.model.get_input_embeddings()
        return parts | {
            "architecture": f"ONNX {type(model.model).__name__}",
            "working_parameters": model.parameters - count_parameters(words),
            "kind": model.kind,
            "encoder": {**(self.encoder or {}), "dtype": dtype},
        }

    def write_beside(self, folder: Path, dtype: DType) -> None:
        """Tokenizer, configuration and contract."""
        save_tokenizer(self.model.tokenizer, folder)
        bare_model(self.model.model).config.save_pretrained(str(folder))
        contract = self.model.contract
        if isinstance(contract, ScoringContract):
            replace(contract, dtype=dtype).save(folder)


@contextmanager
def graph_source(model: Exportable, word_bits: Bits | None) -> Iterator[GraphSource]:
    """Inside, the model is its own module's alone. word_bits: see `export_onnx`."""
    body = bare_model(model.model)
    words = body.get_input_embeddings()
    table = table_of(words, word_bits)
    with ExitStack() as stack:
        stack.enter_context(exclusive(model.model))
        if isinstance(model, Splade):
            source = _of_splade(model, table, word_bits)
            stack.enter_context(without_decoder(body))
        elif isinstance(model, BiEncoder):
            dimensions = len(model.embed(["a"])[0])
            encoder = {**model.contract, "dimensions": dimensions}
            source = _of_texts(model, EmbeddingModule(model), encoder)
        else:
            source = _of_pairs(model)
        if word_bits is not None:
            stack.enter_context(replaced_embedding(body, table))
        yield source


def _of_pairs(model: ScoringModel) -> GraphSource:
    longest = min(model.contract.longest, LONGEST_PROBE)
    names = ["input_ids", "attention_mask"]
    if not model.is_decoder and has_types(model.model.config):
        names.append("token_type_ids")
    rows = model.model.get_input_embeddings().num_embeddings
    probe = [numbered(rows, min(n, longest)) for n in (1, 2, 5, 31, 64, longest // 2, longest)]
    return GraphSource(
        model=model,
        module=PairModule(model),
        example=_example(rows, names),
        probe=probe,
        more={},
        longest=model.contract.longest,
    )


def _of_texts(
    model: BiEncoder | Splade,
    module: nn.Module,
    encoder: Mapping[str, Any],
    **more: NDArray[np.int64],
) -> GraphSource:
    longest = min(model.max_tokens, LONGEST_PROBE)
    rows = model.model.get_input_embeddings().num_embeddings
    example = _example(rows, ["input_ids", "attention_mask"])
    return GraphSource(
        model=model,
        module=module,
        example=example | {key: torch.from_numpy(array) for key, array in more.items()},
        probe=[numbered(rows, min(n, longest)) for n in (1, 2, 5, 31, 64, longest)],
        more=more,
        longest=model.max_tokens,
        encoder=encoder,
    )


def _of_splade(model: Splade, table: nn.Module, word_bits: Bits | None) -> GraphSource:
    words, decoder = model.model.get_input_embeddings(), model.model.get_output_embeddings()
    if decoder.weight is not words.weight:
        rows = decoder.weight.detach()
        count, size = rows.shape
        table = table_of(nn.Embedding(count, size, _weight=rows), word_bits)
    terms = np.arange(0, model.vocabulary, 97, dtype=np.int64)
    encoder = {**model.contract, "vocabulary": model.vocabulary}
    return _of_texts(model, TermsModule(model, table), encoder, terms=terms)


def _example(rows: int, names: Sequence[str]) -> dict[str, torch.Tensor]:
    arrays = padded([numbered(rows, n) for n in (17, 9, 13)], pad_id=0)
    known = ("input_ids", "attention_mask", "token_type_ids")
    tensors = dict(zip(known, map(torch.from_numpy, arrays), strict=True))
    return {name: tensors[name] for name in names}
