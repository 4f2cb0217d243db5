"""transformers' `from_pretrained`, with what DeAR asks of every checkpoint."""

from __future__ import annotations

from typing import Any

from dear.checkpoints.files import reading, weights_held
from dear.checkpoints.gguf import drop_quantization
from dear.checkpoints.registry import Source
from dear.checkpoints.screening import Held, within
from dear.checkpoints.threads import LOADING
from dear.checkpoints.weights import require_safetensors, require_whole


@LOADING
def read_pretrained(auto: Any, source: Source, **options: Any) -> tuple[Any, dict[str, Any]]:
    """(a complete model of an auto class, what `from_pretrained` says of its loading)."""
    require_safetensors(source)
    with reading(source):
        held = weights_held(source) if source.gguf_file is None else Held.in_gguf(source.file)
        with within(source.path, held):
            model, info = _from_pretrained(
                auto,
                source.path,
                gguf_file=source.gguf_file,
                revision=source.revision,
                output_loading_info=True,
                # looked at below, where an error can name them
                ignore_mismatched_sizes=True,
                **({} if source.gguf_file else {"use_safetensors": True}),
                **options,
            )
    require_whole(source, info)
    # dequantised weights are plain, and an adapter trained on them names what the user named
    if source.gguf_file:
        drop_quantization(model)
    for config in (model.config, model.config.get_text_config()):
        # what a forward pass gives is ours to say, not the folder's
        config.return_dict, config.output_hidden_states = True, False
    model.name_or_path = model.config._name_or_path = source.name
    return model, info


def _from_pretrained(auto: Any, path: str, **options: Any) -> Any:
    """`auto.from_pretrained`, with eager attention for a model that has no other."""
    try:
        return auto.from_pretrained(path, trust_remote_code=False, **options)
    except ValueError as error:
        if "attn_implementation" not in str(error):
            raise
    options["attn_implementation"] = "eager"
    return auto.from_pretrained(path, trust_remote_code=False, **options)
