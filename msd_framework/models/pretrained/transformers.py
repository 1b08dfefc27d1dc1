"""A model of transformers: from a folder, a hub name or a configuration, and what kind it is without building it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from msd_framework.models.pretrained.weights import WEIGHT_FILES, find_file, has_wrappers, read_tensors
from msd_framework.ranges import too_large
from msd_framework.reading import read_json

PARTS = ("", "text_config", "vision_config", "image_config")  # where the sizes of a configuration stand; "" is at the top
# sizes that an image's part may have as well, where they are about something else
OF_WORDS = frozenset({"vocab_size", "pad_token_id"})
# parts of names of weights that may be missing: a pooler learns with the classifier, positions are counted
NEWLY_DRAWN = ("pooler", "position_ids")
# how the names of architectures end that write texts; those of masked language models end in ForMaskedLM or ForPreTraining
GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSeq2SeqLM")


def model_type(name: str | None, config: Mapping[str, Any] | None) -> str:
    """The architecture's name in transformers, such as `vilt`, from a folder's or hub name's config.json or a configuration."""
    if (name is None) == (config is None):
        raise ValueError(f"give either name or config, got name {name!r} and config {config!r}")
    if config is None:
        config = read_json(find_file(str(name), "config.json"))
    if "model_type" not in config:
        raise ValueError(f"{name or 'config'} must say its model_type, such as vilt; it has {', '.join(config) or 'nothing'}")
    return str(config["model_type"])


def refuse_generative(config: Mapping[str, Any], name: str) -> None:
    """Refuses a model that writes texts, of which a classifier would be what nobody has trained."""
    written = [kind for kind in config.get("architectures") or () if str(kind).endswith(GENERATIVE)]
    if written or config.get("is_encoder_decoder"):
        what = ", ".join(written) or "it is an encoder with a decoder"
        instead = "take one that classifies or encodes, such as bert, vilt or clip"
        raise ValueError(f"{name} is a model that writes texts ({what}), and generative models are not supported yet; {instead}")


def forward_arguments(kind: str) -> list[str]:
    from transformers import AutoConfig

    try:
        cls = _class_of(type(AutoConfig.for_model(kind)))
    except (ValueError, KeyError) as error:
        raise ValueError(f"transformers knows no model of model_type {kind!r}") from error
    return list(inspect.signature(cls.forward).parameters)


def load_published(name: str, encoder_only: bool = False, **options: Any) -> Any:
    """A model with its published weights, in float32, from a folder or hub name; `encoder_only` allows for a decoder beside it."""
    from transformers import AutoConfig, AutoModel

    config = read_json(find_file(name, "config.json"))
    _refuse_sizes(name, config)
    if not encoder_only:
        refuse_generative(config, name)
    try:
        state = _wrapped_state(name)
        if state is None:
            model, info = AutoModel.from_pretrained(name, output_loading_info=True, trust_remote_code=False, **options)
        else:
            built = AutoConfig.from_pretrained(name, trust_remote_code=False)
            given = {"config": built, "state_dict": state, "output_loading_info": True}
            model, info = _class_of(type(built)).from_pretrained(None, **given, **options)
    except Exception as error:  # a damaged folder can make it raise anything
        raise ValueError(f"transformers finds no weights of {name!r}: {reason_of(error)}") from error
    missing = sorted(key for key in info["missing_keys"] if not any(word in key for word in NEWLY_DRAWN))
    if missing:
        few = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ValueError(f"the weights of {name} lack {few}")
    return model.float()


def _class_of(config: type[Any]) -> Any:
    from transformers import MODEL_MAPPING

    model = MODEL_MAPPING[config]
    return model[0] if isinstance(model, (list, tuple)) else model


def _wrapped_state(name: str) -> dict[str, Tensor] | None:
    # with their own names where torch has changed these, since transformers takes none of those changes off
    for weights in WEIGHT_FILES:
        file = Path(name).expanduser() / weights
        if file.is_file():
            return read_tensors(file) if has_wrappers(file) else None
    return None


def start_at_random(config: Mapping[str, Any], sizes: Mapping[str, Any], encoder_only: bool = False) -> Any:
    """A model of a configuration with random weights; the configuration goes before `sizes`, what is known of the data."""
    from transformers import AutoConfig, AutoModel

    _refuse_sizes("config", config)
    text = f"transformers makes no model of config, whose model_type is {config['model_type']!r}"
    try:
        built = AutoConfig.for_model(**config)
        for part in PARTS:
            of_part, written = (getattr(built, part, None), config.get(part) or {}) if part else (built, config)
            for key, value in sizes.items():
                of_words = part not in PARTS[:2] and key in OF_WORDS
                is_size = value is not None and not of_words and of_part is not None and hasattr(of_part, key)
                if is_size and key not in written:
                    setattr(of_part, key, value)
    except Exception as error:  # sizes that nobody expects can make it raise anything
        raise ValueError(f"{text}: {reason_of(error)}") from error
    if not encoder_only:
        refuse_generative(built.to_dict(), "config")
    try:
        return AutoModel.from_config(built, attn_implementation="eager", trust_remote_code=False)
    except Exception as error:  # likewise
        raise ValueError(f"{text}: {reason_of(error)}") from error


def written_config(model: Any) -> dict[str, Any]:
    """The configuration that `start_at_random` makes a model of these sizes of."""
    left_out = "_name_or_path", "architectures", "transformers_version"
    config = {key: value for key, value in model.config.to_dict().items() if key not in left_out}
    return {**json.loads(json.dumps(config, default=str)), "model_type": model.config.model_type}


def reason_of(error: Exception) -> str:
    """Why transformers does not load something, on one line; code that a folder brings is never run, whatever its advice."""
    if "trust_remote_code" in str(error):
        return "it needs code of its own (auto_map), which is never run; write a model of your own around it"
    return str(error).strip().split("\n")[0] or type(error).__name__


def _refuse_sizes(name: str, config: Mapping[str, Any]) -> None:
    for key, value in too_large(config):
        raise ValueError(f"{name}: {key} is {value}, which is more than any model has")
