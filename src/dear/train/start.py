"""A model ready for training: weights, cut and wrapped as the recipe says; Trainer's options."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import (
    TensorBoardCallback,
    get_reporting_integration_callbacks,
)

from dear.checkpoints.contract import DType, ListwiseContract
from dear.checkpoints.files import model_json
from dear.checkpoints.hardware import has_bfloat16, pick_device
from dear.checkpoints.heads import HEAD_PARTS, HEADS
from dear.checkpoints.registry import Source, locate
from dear.errors import ConfigError, MissingExtra
from dear.losses import Objective, Term
from dear.recipes import GradientRecipe, LoraRecipe, LossRecipe, ModelRecipe, TrainRecipe
from dear.scoring.loading import load_reader, load_weights, mend_padding, pick_layers
from dear.train.checkpoints import STEPS
from dear.train.processes import local_device, rank, world_size


def objective_of(recipe: LossRecipe) -> Objective:
    """The objective that a recipe names."""
    if recipe.terms:
        return Objective(tuple(Term(t.name, t.weight, t.options) for t in recipe.terms))
    return Objective.dear(recipe.main, recipe.alpha, recipe.temperature)


DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")
"""Keys of a configuration."""


def set_dropout(model: Any, rate: float) -> None:
    """One rate for every dropout of a model, in its modules and in its configuration."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = rate
    for key in DROPOUTS:
        if hasattr(model.config, key):
            setattr(model.config, key, rate)


def add_lora(model: Any, recipe: LoraRecipe, task: str, trained: Sequence[str] = ()) -> Any:
    """The model with a new adapter, from torch's current seed.

    task: as peft names it.  trained: modules that are trained whole and saved with the adapter.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtra.of("peft", "train") from None
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    unknown = sorted(set(recipe.targets) - names)
    if unknown:
        raise ConfigError(f"lora.targets: the model has no {', '.join(unknown)}")
    last = None
    if recipe.last_layers:
        layers = range(model.config.get_text_config().num_hidden_layers)
        if recipe.last_layers > len(layers):
            raise ConfigError(
                f"lora.last_layers: {recipe.last_layers}; the model has {len(layers)} layers"
            )
        last = list(layers[-recipe.last_layers :])
    config = LoraConfig(
        task_type=task,
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # a factor; fractions are fine
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets),
        modules_to_save=list(trained) or None,
        layers_to_transform=last,
    )
    return get_peft_model(model, config)


QUANTISED: dict[str, DType] = {"nf4": "int4", "int8": "int8"}
"""`model.quantise` → what the base is loaded as."""


def start_model(recipe: ModelRecipe) -> tuple[Any, Any]:
    """(model, tokenizer): base weights with a one-logit head, cut and wrapped.

    A new head and a new adapter come from torch's current seed.
    """
    if recipe.layers and recipe.lora is not None and not recipe.lora.merge:
        raise ConfigError(
            "model.layers with an adapter that is not merged: the base would be loaded with all "
            "its layers; set model.lora.merge=true"
        )
    require_adapter(recipe)
    model, tokenizer, fresh = load_weights(
        locate(recipe.base),
        dtype=QUANTISED.get(recipe.quantise, recipe.dtype),
        device=local_device() if recipe.quantise in QUANTISED else None,
    )
    if model.config.num_labels != 1:
        raise ConfigError(f"{recipe.base}: {model.config.num_labels} outputs; a reranker has one")
    if recipe.layers:
        pick_layers(model, recipe.layers)
    if recipe.dropout is not None:
        set_dropout(model, recipe.dropout)
    if recipe.lora is not None:
        # whatever of the classifier the base does not bring, an encoder's pooler for instance
        new = {part for key in fresh for part in key.split(".") if part in HEAD_PARTS}
        heads = {name for name in HEADS if hasattr(model, name)}
        if recipe.quantise in QUANTISED:
            model = ready_for_adapter(model)
        model = add_lora(model, recipe.lora, "SEQ_CLS", sorted(new | heads))
    return model, tokenizer


def require_adapter(recipe: ModelRecipe) -> None:
    """ConfigError: weights of few bits cannot be trained, nor an adapter be folded into them."""
    if recipe.quantise in QUANTISED and (recipe.lora is None or recipe.lora.merge):
        raise ConfigError(
            f'model.quantise = "{recipe.quantise}" trains an adapter on a base that stays as it '
            "is: add [model.lora], with merge=false"
        )


def ready_for_adapter(model: Any) -> Any:
    """A base of few bits, frozen, with its norms in float32."""
    try:
        from peft import prepare_model_for_kbit_training
    except ImportError:
        raise MissingExtra.of("peft", "train") from None
    prepare: Any = prepare_model_for_kbit_training
    return prepare(model, use_gradient_checkpointing=False)


def training_arguments(recipe: GradientRecipe, folder: Path) -> TrainingArguments:
    """The Trainer's arguments; ConfigError for what it does not know."""
    t = recipe.train
    if t.groups_per_step % t.accumulate:
        raise ConfigError(
            f"train.groups_per_step {t.groups_per_step} is no multiple of accumulate {t.accumulate}"
        )
    device = pick_device("auto")
    autocast = t.autocast and has_bfloat16(device)
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    # named so since transformers 5.20
    checkpointing = next(
        name for name in ("activation_checkpointing", "gradient_checkpointing") if name in known
    )
    options: dict[str, Any] = {checkpointing: t.gradient_checkpointing}
    if t.activation_offload:
        options |= _offload(t, checkpointing)
    if world_size() > 1:
        # nothing of these models lies idle in a pass, and no buffer changes
        options |= {"ddp_find_unused_parameters": False, "ddp_broadcast_buffers": False}
    try:
        args = TrainingArguments(
            output_dir=str(folder / STEPS),
            num_train_epochs=t.epochs,
            max_steps=t.max_steps or -1,
            learning_rate=t.learning_rate,
            per_device_train_batch_size=t.groups_per_step // t.accumulate,
            gradient_accumulation_steps=t.accumulate,
            warmup_steps=t.warmup,
            lr_scheduler_type=t.scheduler,
            weight_decay=t.weight_decay,
            max_grad_norm=t.max_grad_norm,
            bf16=autocast and recipe.model.dtype == "float32",
            use_cpu=device.type == "cpu",
            seed=t.seed,
            data_seed=t.seed,
            eval_strategy="no",
            save_strategy="no",
            logging_strategy="no",
            report_to="none" if t.report_to == "tensorboard" else t.report_to,
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=device.type == "cuda",
            **options,
        )
        if t.report_to not in ("none", "tensorboard"):
            # raises where the integration is unknown or not installed
            get_reporting_integration_callbacks(t.report_to)  # type: ignore[no-untyped-call]
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"train: {str(error).splitlines()[0]}") from None
    # several visible GPUs would be used through DataParallel, which cuts groups apart
    args._n_gpu = min(args.n_gpu, 1)
    return args


def _offload(recipe: TrainRecipe, checkpointing: str) -> dict[str, Any]:
    if not recipe.gradient_checkpointing:
        raise ConfigError("train.activation_offload needs train.gradient_checkpointing=true")
    if checkpointing != "activation_checkpointing":
        raise ConfigError("train.activation_offload needs transformers 5.20 or newer")
    return {"activation_checkpointing_kwargs": {"offload": True}}


def reporters(recipe: TrainRecipe, folder: Path, step: int) -> list[TrainerCallback]:
    """TensorBoard beside the checkpoint, where it outlives the steps.

    step: where a training that was killed goes on; what was reported after it is struck out.
    """
    if recipe.report_to != "tensorboard" or rank():
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensorboard's own imports
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra.of("tensorboard", "train") from None
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
    return [TensorBoardCallback(writer)]  # type: ignore[no-untyped-call]


def start_list_model(recipe: ModelRecipe, *, on_cpu: bool = False) -> tuple[Any, Any]:
    """(causal model, tokenizer): the base's weights with its language head, cut and wrapped.

    A pointwise checkpoint of full weights is as good a base where its embeddings are tied; of a
    pointwise adapter's folder, the adapter's own base is taken. A new adapter comes from torch's
    current seed. DataError: the checkpoint has no language head.
    on_cpu: leave the weights there, for a model that no GPU holds alone.
    """
    if recipe.layers and recipe.lora is not None and not recipe.lora.merge:
        raise ConfigError(
            "model.layers with an adapter that is not merged: the base would be loaded with all "
            "its layers; set model.lora.merge=true"
        )
    require_adapter(recipe)
    reader = load_reader(
        _backbone(locate(recipe.base)),
        AutoModelForCausalLM,
        dtype=QUANTISED.get(recipe.quantise, recipe.dtype),
        device="cpu" if on_cpu else str(local_device()),
    )
    model, tokenizer = reader.model, reader.tokenizer
    # eager attention, faster for pairs, keeps some (tokens, tokens) tables of every head
    model.set_attn_implementation("sdpa")
    mend_padding(model, tokenizer)
    if recipe.layers:
        pick_layers(model, recipe.layers)
    if recipe.dropout is not None:
        set_dropout(model, recipe.dropout)
    if recipe.lora is not None:
        if recipe.quantise in QUANTISED:
            model = ready_for_adapter(model)
        model = add_lora(model, recipe.lora, "CAUSAL_LM")
    return model, tokenizer


def require_positions(model: Any, contract: ListwiseContract, name: str) -> None:
    """ConfigError: the contract allows more tokens than the model has positions."""
    text = model.config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and contract.max_tokens > positions:
        raise ConfigError(
            f"{name}: listwise.max_tokens is {contract.max_tokens}, the model has {positions} "
            "positions"
        )


def _backbone(source: Source) -> str:
    adapter = {} if source.gguf_file else model_json(source, "adapter_config.json")
    return str(adapter.get("base_model_name_or_path") or source.name)
