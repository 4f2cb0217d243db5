"""Bi-encoders and SPLADE models as modules of token ids alone, to be written as graphs.

Embeddings of words, two thirds of a small model's weights, may be kept in 8 or 4 bits: a row is
looked up and scaled, so nothing but its own rounding is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import nn

from dear.scoring.biencoder import BiEncoder
from dear.scoring.splade import Splade

FAR = -30_000.0
"""Added to the attention logits of what is not seen."""

BLOCK = 16
"""Numbers of a row of 4 bits that share a scale."""

Bits: TypeAlias = Literal[4, 8]


class ByteTable(nn.Module):
    """Rows in 8 bits, each with its scale: codes int8 (V, H), scale float32 (V, 1)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        self.register_buffer("codes", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids int64 (…) → float32 (…, H)."""
        codes, scale = cast(torch.Tensor, self.codes), cast(torch.Tensor, self.scale)
        return codes[ids].float() * scale[ids]


class NibbleTable(nn.Module):
    """Rows in 4 bits: codes uint8 (V, H / 2), the first half of a row in the lower bits; scale
    float16 (V, H / BLOCK)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        rows, size = weight.shape
        blocks = weight.reshape(rows, size // BLOCK, BLOCK)
        scale = _best_scale(blocks)
        codes = (_codes(blocks, scale) + 8).to(torch.uint8).reshape(rows, size)
        self.register_buffer("codes", codes[:, : size // 2] + 16 * codes[:, size // 2 :])
        self.register_buffer("scale", scale)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids int64 (…) → float32 (…, H)."""
        codes, scale = cast(torch.Tensor, self.codes), cast(torch.Tensor, self.scale)
        row = codes[ids].to(torch.int32)
        # no bit operations: not every runtime has them for bytes
        high = row // 16
        both = torch.cat([row - 16 * high, high], -1).float() - 8
        shape = (*ids.shape, scale.shape[1], BLOCK)
        return (both.reshape(shape) * scale[ids].float()[..., None]).reshape(*ids.shape, -1)


def _best_scale(blocks: torch.Tensor) -> torch.Tensor:
    """float16 (V, blocks): with the least squared error of each block (V, blocks, BLOCK).

    The number farthest from 0 becomes -8, so that all sixteen codes are used, or a little beyond,
    where that serves the others.
    """
    farthest = blocks.gather(2, blocks.abs().argmax(2, keepdim=True))[..., 0]
    best, least = torch.zeros_like(farthest, dtype=torch.float16), torch.full_like(farthest, 1e9)
    for part in (1.0, 0.95, 0.9, 0.85, 0.8, 0.75):
        scale = (-farthest * part / 8).to(torch.float16)
        error = (_codes(blocks, scale) * scale.float()[..., None] - blocks).square().sum(2)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _codes(blocks: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float32 whole numbers from -8 to 7, of the shape of the blocks."""
    safe = torch.where(scale == 0, 1, scale.float())[..., None]
    return (blocks / safe).round().clamp(-8, 7)


TABLES: dict[Bits, type[ByteTable] | type[NibbleTable]] = {8: ByteTable, 4: NibbleTable}


def table_of(embedding: nn.Module, bits: Bits | None) -> nn.Module:
    """The rows of an embedding in so many bits; the embedding itself where None."""
    weight = cast(torch.Tensor, embedding.weight)
    return embedding if bits is None else TABLES[bits](weight.detach().float())


@contextmanager
def replaced_embedding(model: Any, table: nn.Module) -> Iterator[None]:
    """Inside, the model looks its words up in `table`."""
    before = model.get_input_embeddings()
    model.set_input_embeddings(table)
    try:
        yield
    finally:
        model.set_input_embeddings(before)


class EmbeddingModule(nn.Module):
    """(input_ids, attention_mask), padded on the right, to (B, D) embeddings of a BiEncoder."""

    def __init__(self, encoder: BiEncoder) -> None:
        super().__init__()
        self.model, self.stack = encoder.model, encoder.stack
        self.cosine = encoder.similarity == "cosine"

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        bias = torch.where(attention_mask[:, None, None, :] > 0, 0.0, FAR)
        hidden = self.model(input_ids=input_ids, attention_mask=bias).last_hidden_state
        vectors = cast(torch.Tensor, self.stack(hidden, attention_mask, None))
        return nn.functional.normalize(vectors, dim=-1) if self.cosine else vectors


class TermsModule(nn.Module):
    """(input_ids, attention_mask, terms), padded on the right, to (B, K): the weights of K terms.

    table: what gives the vocabulary's rows by number, for the products with the hidden states.
    """

    def __init__(self, splade: Splade, table: nn.Module) -> None:
        super().__init__()
        self.model, self.table = splade.model, table
        decoder = splade.model.get_output_embeddings()
        bias = decoder.bias
        self.bias = torch.zeros(splade.vocabulary) if bias is None else bias.detach().float()
        self.largest = splade.pooling == "max"

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, terms: torch.Tensor
    ) -> torch.Tensor:
        bias = torch.where(attention_mask[:, None, None, :] > 0, 0.0, FAR)
        hidden = self.model(input_ids=input_ids, attention_mask=bias).logits  # before the decoder
        logits = hidden @ self.table(terms).T + self.bias[terms]
        weights = torch.log1p(torch.relu(logits)) * attention_mask[..., None]
        return weights.amax(1) if self.largest else weights.sum(1)


class _NoDecoder(nn.Identity):
    bias = None  # transformers reads it from whatever is put there


@contextmanager
def without_decoder(model: Any) -> Iterator[None]:
    """Inside, a masked language model's "logits" are the states that its decoder reads."""
    before = model.get_output_embeddings()
    model.set_output_embeddings(_NoDecoder())
    try:
        yield
    finally:
        model.set_output_embeddings(before)
