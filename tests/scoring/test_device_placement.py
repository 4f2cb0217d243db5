"""Every tensor of a pass is made on the model's device.

The device here is `meta`, which every PyTorch has: an operation on it with a tensor that was left
on the CPU fails, as it would on a GPU. What would come back to the CPU comes back as zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers as hf
from tiny_models import ENCODERS, bert_tokenizer, llama_tokenizer, make
from torch.overrides import TorchFunctionMode

from dear.checkpoints.contract import DEAR
from dear.checkpoints.heads import float32_head, pool_by_mask
from dear.listwise.decoder import Ask, Decoder
from dear.scoring.encoding import Encoded
from dear.scoring.engines.one_position import _hooked
from dear.scoring.engines.packed import PackedEngine
from dear.scoring.engines.padded import PaddedEngine
from dear.scoring.engines.prefix import PrefixEngine
from dear.scoring.loading import ScoringModel

META = torch.device("meta")
READ = {"cpu", "numpy", "tolist", "item", "__bool__", "__float__", "__int__"}
KINDS = ("llama", "qwen3", "bert", "modernbert")
"""With and without sliding attention."""
DECODERS = [kind for kind in KINDS if kind not in ENCODERS]


class ReadAsZeros(TorchFunctionMode):
    """Whoever looks at the numbers of a meta tensor finds zeros."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        first = args[0] if args else None
        if name in READ and isinstance(first, torch.Tensor) and first.device == META:
            zeros = torch.zeros(first.shape, dtype=first.dtype)
            return zeros if name == "cpu" else function(zeros, *args[1:], **kwargs)
        if name == "nonzero" and first.device == META:
            return torch.zeros(1, first.dim(), dtype=torch.int64, device=META)
        return function(*args, **kwargs)


@pytest.fixture(autouse=True)
def _read_as_zeros() -> Iterator[None]:
    with ReadAsZeros():
        yield


def on_meta(kind: str) -> ScoringModel:
    model = make(kind)
    model.set_attn_implementation("sdpa")
    pool_by_mask(model)
    float32_head(model)
    return ScoringModel(
        model=model.to(META).eval(),
        tokenizer=bert_tokenizer() if kind in ENCODERS else llama_tokenizer(pad_token="</s>"),
        contract=DEAR.with_dtype("float32"),
        name=kind,
        revision="0",
        device=META,
    )


def some() -> list[Encoded]:
    """Of several lengths, all with the same beginning."""
    return [Encoded([*range(5, 17), *range(20, 20 + n)], [0] * (12 + n)) for n in (3, 9, 17, 5)]


def test_a_tensor_that_was_left_behind_would_be_noticed() -> None:
    with pytest.raises(RuntimeError):
        torch.ones(2) + torch.ones(2, device=META)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [True, False])
def test_padded(kind: str, whole: bool) -> None:
    model = on_meta(kind)
    _hooked(model, [])
    model.model.dear_reads_one = True  # zeros cannot say so
    assert PaddedEngine(model, 60, whole=whole).run(some()).shape == (4,)


@pytest.mark.parametrize("kind", KINDS)
def test_packed(kind: str) -> None:
    assert PackedEngine(on_meta(kind), 60).run(some()).shape == (4,)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_shared_prefix(kind: str) -> None:
    engine = PrefixEngine(on_meta(kind), 600, set_tokens=0, pass_tokens=0)
    assert engine.passes(some())
    assert engine.run(some()).shape == (4,)


@pytest.mark.parametrize("kind", DECODERS)
def test_windows_decoded_together(kind: str) -> None:
    model = make(kind, hf.AutoModelForCausalLM).to(META).eval()

    def program() -> Any:
        logits = yield Ask((7, 8), (3, 4, 5))
        assert logits.shape == (3,)
        logits = yield Ask((9,), None, forget=1)
        return logits.shape

    items: list[tuple[list[int], Callable[[], Any]]] = [
        (list(range(5, 9 + n)), program()) for n in range(4)
    ]
    assert Decoder(model, 0, META, 64).run(items) == [(400,)] * 4  # type: ignore[arg-type]
