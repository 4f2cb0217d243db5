"""Bytes by part on each device, for training and for scoring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

from dear.plan.cards import GIB, Card
from dear.plan.shapes import Shape, meta_model
from dear.plan.simulating import bare_recipe, scoring_pass, training_pass
from dear.plan.work import Setup
from dear.recipes import ModelRecipe

NF4_BYTES = 0.5 + 4 / 64
"""Of a weight in 4 bits: half a byte, and a float32 for each block of 64."""
INT8_BYTES = 1.0
CONTEXT, COLLECTIVES = round(0.6 * GIB), round(0.4 * GIB)
"""What a driver and its libraries keep of a card, and NCCL where there are several. Assumed."""
FRAGMENTS = 0.05
"""Of what comes and goes, lost between the allocator's blocks. Assumed."""
HEAP_HOLES = 0.25
"""Of what comes and goes on a CPU, lost in the holes of glibc's heap (measured: 0.3 where the
tensors themselves take what is planned, benchmarks/results/plan.json)."""
LIVE_WEIGHTS = 10**9
"""Weights that ZeRO-3 keeps gathered at once: DeepSpeed's stage3_max_live_parameters."""
BUCKET = 5 * 10**8
"""Elements of ZeRO-2's reduce bucket: DeepSpeed's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes by part on one device at the highest moment.

    gathered: sharded weights that are whole for a moment, and buckets of gradients.
    working: computed and thrown away; whatever else is not kept.
    overhead: driver, collectives and fragments.  host: what was moved to the host's memory.
    overlapping: of the parts, what is never there at the same time as the rest: gradients come as
        activations go.
    """

    weights: int = 0
    gradients: int = 0
    optimiser: int = 0
    activations: int = 0
    logits: int = 0
    kv_cache: int = 0
    gathered: int = 0
    working: int = 0
    overhead: int = 0
    overlapping: int = 0
    host: int = 0

    PARTS: ClassVar[tuple[str, ...]] = (
        "weights",
        "gradients",
        "optimiser",
        "activations",
        "logits",
        "kv_cache",
        "gathered",
        "working",
        "overhead",
    )

    @property
    def total(self) -> int:
        return sum(self.parts().values()) - self.overlapping

    def parts(self) -> dict[str, int]:
        return {part: size for part in self.PARTS if (size := getattr(self, part))}

    def fits(self, card: Card) -> bool:
        return self.total <= card.memory

    def to_dict(self) -> dict[str, int]:
        """Bytes, for a JSON file."""
        return {
            **self.parts(),
            "overlapping": self.overlapping,
            "total": self.total,
            "host": self.host,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """Bytes and counts of a model's weights, as the recipe keeps them."""

    shape: Shape
    frozen: int
    trainable: int
    state: int
    float32: bool


def weigh(setup: Setup) -> Weighed:
    """frozen, trainable: bytes of the weights.  state: of AdamW's two moments."""
    mixed = setup.recipe.train.autocast and not setup.on_cpu
    # DeepSpeed keeps what is trained in float32, and computes in bfloat16
    float32 = setup.devices > 1 and setup.strategy in ("zero2", "zero3") and mixed
    return _weighed(setup.recipe.kind, setup.recipe.model, setup.quantise, float32)


@cache
def _weighed(kind: str, model: ModelRecipe, quantise: str, float32: bool) -> Weighed:
    built: Any = meta_model(bare_recipe(kind, model))
    shape = Shape.of(built)
    frozen = trainable = 0
    for weight in built.parameters():
        size = weight.numel() * weight.element_size()
        if weight.requires_grad:
            trainable += weight.numel() * 4 if float32 else size
        else:
            frozen += size
    if quantise != "none":
        wide = 4 if model.dtype == "float32" else 2
        narrow = NF4_BYTES if quantise == "nf4" else INT8_BYTES
        frozen -= round(shape.linear * (wide - narrow))
        # peft makes embedding and norms float32
        frozen += (shape.parameters - shape.trainable - shape.linear) * (4 - wide)
    return Weighed(
        shape=shape,
        frozen=frozen,
        trainable=trainable,
        state=2 * trainable,
        float32=model.dtype == "float32",
    )


def training_memory(setup: Setup, *, answer: int = 0, tokens: int | None = None) -> Memory:
    """At the recipe's longest sequences, or at `tokens` of each."""
    weighed = weigh(setup)
    shape = weighed.shape
    step = training_pass(setup, shape, tokens=tokens or setup.longest, answer=answer)
    memory = _states(setup, weighed)
    working = step.working
    if setup.quantise != "none":
        working += 2 * shape.largest_linear  # dequantised for one product
    memory = replace(memory, activations=step.activations, logits=step.logits, working=working)
    if setup.passes == 1 and setup.devices == 1:
        kept = step.activations + step.logits
        memory = replace(memory, overlapping=min(memory.gradients, kept))
    return _with_overhead(setup, memory)


def _states(setup: Setup, weighed: Weighed) -> Memory:
    """Weights, gradients, optimiser, and what is gathered for a moment."""
    many, strategy, n = setup.devices > 1, setup.strategy, setup.devices
    frozen, trained, state = weighed.frozen, weighed.trainable, weighed.state
    if not many or strategy == "ddp":
        # DistributedDataParallel sends gradients in buckets that hold them all once more
        buckets = trained if many else 0
        memory = Memory(weights=frozen + trained, gradients=trained, optimiser=state)
        return replace(memory, gathered=buckets)
    shape = weighed.shape
    layer = 2 * shape.linear // shape.layers
    if strategy == "fsdp2":
        memory = Memory(
            weights=-(-(frozen + trained) // n),
            gradients=-(-trained // n),
            optimiser=-(-state // n),
            # two layers, the one that computes and the next; embedding and head stay whole
            gathered=2 * layer + _layer_gradient(weighed) + _root(shape),
        )
    else:
        memory = _deepspeed(setup, weighed)
    return _offloaded(setup, memory)


def _deepspeed(setup: Setup, weighed: Weighed) -> Memory:
    """bfloat16 weights and gradients; float32 weights and moments in the optimiser's shards."""
    n, shape = setup.devices, weighed.shape
    trained = weighed.trainable // 4
    weights = weighed.frozen // (2 if weighed.float32 else 1) + 2 * trained
    zero2 = setup.strategy == "zero2"
    return Memory(
        weights=weights if zero2 else -(-weights // n),
        gradients=-(-2 * trained // n),
        optimiser=-(-12 * trained // n),
        gathered=2 * min(BUCKET, trained) * 2 if zero2 else 2 * min(LIVE_WEIGHTS, shape.parameters),
    )


def _layer_gradient(weighed: Weighed) -> int:
    """A layer's gradients before they are spread: as computed, and in float32 to be summed."""
    shape = weighed.shape
    share = min(1.0, shape.trainable / shape.parameters)
    return round(6 * share * shape.linear / shape.layers)


def _root(shape: Shape) -> int:
    """Embedding and language head in bfloat16, and their gradients where they are trained."""
    whole = shape.parameters - shape.linear
    return whole * (2 if shape.trainable < shape.parameters // 2 else 8)


def _offloaded(setup: Setup, memory: Memory) -> Memory:
    if not setup.cpu_offload:
        return memory
    if setup.strategy == "zero2":
        host = memory.optimiser
        return replace(memory, optimiser=0, host=host)
    host = memory.weights + memory.gradients + memory.optimiser
    return replace(memory, weights=0, gradients=0, optimiser=0, host=host)


def _with_overhead(setup: Setup, memory: Memory) -> Memory:
    if setup.on_cpu:
        uneven = memory.activations + memory.logits + memory.working + memory.gradients
        return replace(memory, overhead=round(HEAP_HOLES * uneven))
    comes_and_goes = memory.activations + memory.logits + memory.kv_cache
    comes_and_goes += memory.gathered + memory.working
    fixed = CONTEXT + (COLLECTIVES if setup.devices > 1 else 0)
    return replace(memory, overhead=fixed + round(FRAGMENTS * comes_and_goes))


def scoring_memory(
    setup: Setup, *, dtype: str, batch_tokens: int, tokens: int, lists: int = 0, answer: int = 0
) -> Memory:
    """Of one device that scores alone, an adapter folded in.

    dtype: "float32", "bfloat16", "int8" or "int4".  tokens: of each sequence.
    lists: that are generated at once, each with `answer` tokens to come; their keys and values
        are kept.
    """
    alone = replace(setup, devices=1, quantise="none", strategy="ddp")
    loaded = replace(
        setup.recipe.model, lora=None, dtype="float32" if dtype == "float32" else "bfloat16"
    )
    alone = replace(alone, recipe=replace(setup.recipe, model=loaded))
    shape = _weighed(setup.recipe.kind, loaded, "none", False).shape
    wide = 4 if dtype == "float32" else 2
    narrow = {"int8": INT8_BYTES, "int4": NF4_BYTES}.get(dtype, wide)
    weights = round((shape.parameters - shape.linear) * wide + shape.linear * narrow)
    sequences = lists or max(1, batch_tokens // tokens)
    working = scoring_pass(alone, shape, sequences=sequences, tokens=tokens)
    if dtype in ("int8", "int4"):
        working += wide * shape.largest_linear
    cache = 0
    if lists:
        a_token = 2 * shape.layers * shape.kv_heads * shape.head_size * wide
        cache = lists * (tokens + answer) * a_token
    memory = Memory(weights=weights, working=working, kv_cache=cache)
    return _with_overhead(alone, memory)
