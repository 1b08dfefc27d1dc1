"""Models of MMF as ours: which of ours computes the same, with which options, and which of our tensors each of theirs is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from msd_framework.engine.checkpoint import part_of, put_under
from msd_framework.errors import ConfigError, DataError, Problem, did_you_mean
from msd_framework.models.pretrained import concat as concat_weights
from msd_framework.models.pretrained import mmbt as mmbt_weights
from msd_framework.models.pretrained import vilbert as vilbert_weights
from msd_framework.models.pretrained import visual_bert as visual_bert_weights
from msd_framework.models.pretrained.published import BERT_NAMES, BERT_SIZES, HEAD, Tensors, WeightMap, count, known
from msd_framework.models.pretrained.weights import Pretrained

# VisualBERT's encoder, some of whose tensors MMF calls other than transformers does
VISUAL_BERT = WeightMap(
    names=(
        {
            "embeddings.token_type_embeddings_visual.": "embeddings.visual_token_type_embeddings.",
            "embeddings.position_embeddings_visual.": "embeddings.visual_position_embeddings.",
            "embeddings.projection.": "embeddings.visual_projection.",
        },
        *visual_bert_weights.WEIGHTS.names,
    ),
    prefixes=("model.bert.", "bert.bert.", "bert."),
    only=("embeddings.", "encoder.", "pooler."),
    shapes={**mmbt_weights.WEIGHTS.shapes, "feature_size": ("embeddings.visual_projection.weight", 1)},
    counts={"num_layers": "encoder.layers."},
)
# a text encoder, whose sizes are called as in its configuration
TEXT = WeightMap(
    names=(BERT_NAMES,),
    prefixes=("base.text.",),
    shapes={BERT_SIZES[size]: at for size, at in mmbt_weights.WEIGHTS.shapes.items() if size in BERT_SIZES},
    counts={"num_hidden_layers": "encoder.layers."},
)
# the encoders of a model with one for each modality by its name
LATE_FUSION = replace(
    concat_weights.WEIGHTS,
    names=(*concat_weights.WEIGHTS.names, {"text_encoder.": "encoders.text.", "image_encoder.": "encoders.image."}),
    only=("encoders.",),
    mark="encoders.text.",
    image_encoder="encoders.image.",
)

HEAD_SIZE = 64  # features of an attention's head in every BERT
MMBT = {"image_segment": 1, "text_segment": 0, "head": "transform"}
VILBERT_HEADS = {
    "num_heads": ("num_attention_heads", "hidden_size", 64),
    "image_num_heads": ("v_num_attention_heads", "image_hidden_size", 128),
    "co_num_heads": ("bi_num_attention_heads", "co_hidden_size", 128),
}
# what we call each size that a ViLBERT has besides those of its text, and what MMF does
VILBERT_SIZES = {
    "feature_size": "v_feature_size",
    "image_hidden_size": "v_hidden_size",
    "image_num_layers": "v_num_hidden_layers",
    "image_num_heads": "v_num_attention_heads",
    "image_intermediate_size": "v_intermediate_size",
    "co_hidden_size": "bi_hidden_size",
    "co_num_heads": "bi_num_attention_heads",
}
# rows and columns of so many features of an image
GRIDS = {1: [1, 1], 2: [2, 1], 3: [3, 1], 4: [2, 2], 5: [5, 1], 6: [3, 2], 7: [7, 1], 8: [4, 2], 9: [3, 3]}
# ResNets by whether a block has three convolutions, and by the blocks of the third stage
DEPTHS = {(False, 2): "resnet18", (False, 6): "resnet34", (True, 6): "resnet50", (True, 23): "resnet101", (True, 36): "resnet152"}


@dataclass(frozen=True)
class Family:
    """One of MMF's models that is one of ours."""

    mark: str  # a part of the names of its tensors that no other model's have
    only: Mapping[str, Any]  # what its configuration must say where it says anything, and what ours computes
    # our model's part of a YAML: by the tensors and the configuration of a trained one, and to begin as its configuration says
    trained: Callable[[Tensors, Mapping[str, Any]], dict[str, Any]]
    begun: Callable[[Mapping[str, Any]], dict[str, Any]]
    ours: Callable[[Tensors, Tensors], dict[str, Tensor]]  # its tensors by our names
    # how the names of the tensors of its last layers begin, by ours
    classifiers: Callable[[Tensors], tuple[str, ...]] = lambda tensors: ("head.3.",)


def family_of(tensors: Tensors, config: Mapping[str, Any], name: str | None = None) -> str:
    """The name of the model that weights are of: the name given, that of its configuration, or what its tensors are called."""
    configured = list(config.get("model_config") or ())
    written = config.get("model") or (configured[0] if len(configured) == 1 else "")
    by_tensors = [known for known, family in FAMILIES.items() if any(family.mark in tensor for tensor in tensors)]
    chosen = str(name or written or next(iter(by_tensors), ""))
    if chosen not in FAMILIES:
        model = f"is MMF's {chosen!r}" if chosen else "cannot be told by the tensors' names"
        hint = did_you_mean(chosen, FAMILIES)
        raise ConfigError(Problem("model", f"{model}, which none of ours is; wanted {', '.join(FAMILIES)}, or keep=true.{hint}"))
    if tensors and chosen not in by_tensors:
        hint = f" They look like {by_tensors[0]}." if by_tensors else ""
        text = f"the tensors are not of a {chosen}: none has {FAMILIES[chosen].mark!r} in its name.{hint}"
        raise ConfigError(Problem("model", text))
    return chosen


def options_of_model(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model's own part of a configuration of MMF's."""
    return (config.get("model_config") or {}).get(name) or {}


def other_options(name: str, own: Mapping[str, Any]) -> dict[str, str]:
    """Options with which MMF's model computes something else than ours, by their keys, and what ours computes."""
    other = {}
    for key, wanted in FAMILIES[name].only.items():
        if own.get(key, wanted) != wanted:
            other[f"model_config.{name}.{key}"] = f"{own[key]!r}, and ours computes with {wanted!r} only"
    return other


def left_sizes(name: str, own: Mapping[str, Any]) -> dict[str, str]:
    """Sizes of a model that begins with the weights of a BERT, which has its own, by their keys."""
    bert = _bert_name(own)
    if name != "visual_bert" or bert is None:
        return {}
    usual = visual_bert_weights.VisualBertSizes().config() if "bert-base" in bert else {}
    why = f"model.pretrained is {bert}, which has sizes of its own; without bert_model_name, this one is taken"
    left = {}
    for key in visual_bert_weights.THEIR_SIZES.values():
        if key in own and key != "visual_embedding_dim" and own[key] != usual.get(key):
            left[f"model_config.{name}.{key}"] = f"{own[key]!r}: {why}"
    return left


def _perceptron(tensors: Tensors, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The options of one of MMF's perceptrons, by its tensors, which do not tell its dropout."""
    own = part_of(tensors, f"{name}.layers.")
    if not own:
        raise DataError(f"there is no {name}.layers among the tensors, so the classifier is missing.")
    normed = any(n.endswith("running_mean") for n in own)
    linear = sum(n.endswith(".weight") and t.ndim == 2 for n, t in own.items())
    sizes = {"hidden_size": own["0.weight"].shape[0]} if linear > 1 else {}
    return {"num_layers": linear - 1, "batch_norm": normed, "dropout": _begun_perceptron(config.get(name))["dropout"], **sizes}


def _last(tensors: Tensors, prefix: str) -> str:
    """How the names of a perceptron's last layer begin."""
    numbers = [int(name.split(".")[1]) for name in part_of(tensors, prefix)]
    return f"{prefix}layers.{max(numbers)}."


def _heads(config: Mapping[str, Any], key: str, width: int, usual: int) -> int:
    """How many heads an attention has; no tensor tells."""
    if key in config:
        return int(config[key])
    if width % usual:
        why = f"{width} features are no multiple of {usual}, and no file tells"
        raise ConfigError(Problem(f"options.{key}", f"must be given: {why}."))
    return width // usual


def _dropouts(config: Mapping[str, Any]) -> dict[str, float]:
    names = {"dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob"}
    return {ours: float(config[theirs]) for ours, theirs in names.items() if theirs in config}


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a text encoder, which MMF writes one level down where a model has one."""
    return (config.get("text_encoder") or {}).get("params") or config


def _image(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return (config.get("modal_encoder") or {}).get("params") or {}


def _num_features(config: Mapping[str, Any]) -> int:
    """How many features an image becomes."""
    params, at = _image(config), "modal_encoder.params"
    number = params.get("num_output_features", 1)
    if number not in GRIDS:
        raise ConfigError(Problem(f"{at}.num_output_features", f"is {number}, wanted one of {', '.join(map(str, GRIDS))}."))
    if params.get("pool_type", "avg") != "avg":
        raise ConfigError(Problem(f"{at}.pool_type", f"is {params['pool_type']!r}, and ours computes with 'avg' only."))
    return int(number)


def _bert(tensors: Tensors, config: Mapping[str, Any]) -> dict[str, Any]:
    sizes = TEXT.sizes(tensors, "its file")
    heads = _heads(_text(config), "num_attention_heads", sizes.get("hidden_size", 0), HEAD_SIZE)
    return {"type": "bert", "config": {"model_type": "bert", **sizes, "num_attention_heads": heads}}


def _resnet(tensors: Tensors, prefix: str) -> dict[str, Any]:
    """The ResNet that stands under a prefix; its sixth part is the third stage."""
    own = list(part_of(tensors, prefix))
    before = f"{prefix.removesuffix('model.')}lc."
    if not own or any(name.startswith(before) for name in tensors):
        text = "its images are a detector's features with a layer of MMF's own before them, which ours has not"
        raise DataError(f"{text}; keep=true keeps it.")
    depth = DEPTHS.get((any(".conv3." in n for n in own), count(own, "6.")))
    if depth is None:
        raise DataError(f"its image encoder is none of {', '.join(DEPTHS.values())}; keep=true keeps MMF's own model.")
    return {"type": "resnet", "name": depth}


def _begun_resnet(config: Mapping[str, Any]) -> dict[str, Any]:
    weights = "DEFAULT" if _image(config).get("pretrained", True) else None
    name = (config.get("modal_encoder") or {}).get("type", "resnet152")
    return {"type": "resnet", "name": _image(config).get("name", name), "weights": weights}


def _bert_name(config: Mapping[str, Any]) -> str | None:
    name = _text(config).get("bert_model_name", "bert-base-uncased")
    return None if name is None else str(name)


def _trained_visual_bert(tensors: Tensors, config: Mapping[str, Any]) -> dict[str, Any]:
    sizes = VISUAL_BERT.sizes(tensors, "its file")
    heads = _heads(config, "num_attention_heads", sizes.get("hidden_size", 0), HEAD_SIZE)
    return {"type": "visual_bert", **sizes, "num_heads": heads, **_dropouts(config), "visual_token_type": 0, "head": "transform"}


def _begun_visual_bert(config: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {ours: config[theirs] for ours, theirs in visual_bert_weights.THEIR_SIZES.items() if theirs in config}
    if bert := _bert_name(config):  # which has sizes of its own, but for that of the regions
        regions = {"feature_size": sizes["feature_size"]} if sizes.get("feature_size", 2048) != 2048 else {}
        sizes = {"pretrained": bert, **regions}
    return {"type": "visual_bert", **sizes, **_dropouts(config), "visual_token_type": 0, "head": "transform"}


def _trained_vilbert(tensors: Tensors, config: Mapping[str, Any]) -> dict[str, Any]:
    sizes = vilbert_weights.WEIGHTS.sizes(tensors, "its file")
    heads = {ours: _heads(config, key, sizes[of], usual) for ours, (key, of, usual) in VILBERT_HEADS.items()}
    _refuse_connections(config, sizes)
    return {"type": "vilbert", **sizes, **heads, **_dropouts(config), "fusion": config.get("fusion_method", "mul")}


def _begun_vilbert(config: Mapping[str, Any]) -> dict[str, Any]:
    usual = asdict(vilbert_weights.VilbertSizes())
    sizes = {ours: config[key] for ours, key in VILBERT_SIZES.items() if config.get(key, usual[ours]) != usual[ours]}
    fusion = config.get("fusion_method", "mul")
    return {"type": "vilbert", "pretrained": _bert_name(config), **sizes, **_dropouts(config), "fusion": fusion}


def _refuse_connections(config: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    n = sizes["num_connections"]
    for key, layers in (("t_biattention_id", sizes["num_layers"]), ("v_biattention_id", sizes["image_num_layers"])):
        wanted = list(range(layers - n, layers))
        if list(config.get(key, wanted)) != wanted:
            text = f"is {list(config[key])}, and ours connects the last {n} layers, {wanted}; keep=true keeps MMF's own model."
            raise ConfigError(Problem(f"model_config.vilbert.{key}", text))


def _trained_mmbt(tensors: Tensors, config: Mapping[str, Any]) -> dict[str, Any]:
    sizes = mmbt_weights.WEIGHTS.sizes(tensors, "its file")
    heads = _heads(_text(config), "num_attention_heads", sizes["hidden_size"], HEAD_SIZE)
    prefix = next((p for p in mmbt_weights.PREFIXES if any(n.startswith(p) for n in tensors)), "")
    encoder = _resnet(tensors, f"{prefix}modal_encoder.encoder.model.") | {"grid_size": GRIDS[_num_features(config)]}
    return {"type": "mmbt", **sizes, "num_heads": heads, "image_encoder": encoder, **MMBT}


def _begun_mmbt(config: Mapping[str, Any]) -> dict[str, Any]:
    encoder = _begun_resnet(config) | {"grid_size": GRIDS[_num_features(config)]}
    return {"type": "mmbt", "pretrained": _bert_name(config), "image_encoder": encoder, **MMBT}


def _trained_concat_bert(tensors: Tensors, config: Mapping[str, Any]) -> dict[str, Any]:
    text, image = _bert(tensors, config), _resnet(tensors, "base.modal.model.")
    perceptron = _perceptron(tensors, config, "classifier")
    width = 512 if image["name"] in ("resnet18", "resnet34") else 2048
    regions = (tensors["classifier.layers.0.weight"].shape[1] - text["config"]["hidden_size"]) // width
    grid = {"grid_size": GRIDS.get(regions, [regions, 1])}
    return {"type": "concat_bert", "text_encoder": text, "image_encoder": image | grid, "num_regions": regions, **perceptron}


def _begun_concat_bert(config: Mapping[str, Any]) -> dict[str, Any]:
    regions = _num_features(config)
    return {
        "type": "concat_bert",
        "text_encoder": {"type": "bert", "name": _bert_name(config)},
        "image_encoder": _begun_resnet(config) | {"grid_size": GRIDS[regions]},
        "num_regions": regions,
        **_begun_perceptron(config.get("classifier")),
    }


def _ours(weights: WeightMap) -> Callable[[Tensors, Tensors], dict[str, Tensor]]:
    """The tensors of a model with MMF's classifier by our names."""

    def ours(tensors: Tensors, initial: Tensors) -> dict[str, Tensor]:
        head = put_under("head.", HEAD.ours(tensors))
        return weights.complete(Pretrained("its file", {}, tensors), initial) | head

    return ours


def _ours_concat_bert(tensors: Tensors, initial: Tensors) -> dict[str, Tensor]:
    body = concat_weights.WEIGHTS.complete(Pretrained("its file", {}, tensors), initial)
    return known(body | put_under("classifier.", concat_weights.HEAD.ours(tensors)), initial)


def _begun_perceptron(classifier: Any) -> dict[str, Any]:
    classifier = classifier or {}
    params = classifier.get("params") or {}
    kind, activation = classifier.get("type", "mlp"), params.get("hidden_act", "relu")
    if kind != "mlp":
        raise ConfigError(Problem("classifier.type", f"is {kind!r}, and ours computes with 'mlp' only."))
    if activation != "relu":
        raise ConfigError(Problem("classifier.params.hidden_act", f"is {activation!r}, and ours computes with 'relu' only."))
    return {
        "num_layers": params.get("num_layers", 0),
        "hidden_size": params.get("hidden_dim", 768),
        "dropout": params.get("dropout", 0.5),
        "batch_norm": params.get("batch_norm", True),
    }


def _trained_late_fusion(tensors: Tensors, config: Mapping[str, Any]) -> dict[str, Any]:
    text = _perceptron(tensors, config, "text_classifier")
    image = _perceptron(tensors, config, "modal_classifier")
    if text != image:
        both = f"{text} for the text and {image} for the image"
        raise DataError(f"its perceptrons differ, {both}, and ours have one shape; keep=true keeps it.")
    if _num_features(config) != 1:
        raise DataError("its image is several features side by side, and ours takes their mean; keep=true keeps MMF's own model.")
    encoders = {"image": _resnet(tensors, "base.modal.model."), "text": _bert(tensors, config)}
    return {"type": "logit_fusion", "encoders": encoders, **text}


def _begun_late_fusion(config: Mapping[str, Any]) -> dict[str, Any]:
    encoders = {"image": _begun_resnet(config), "text": {"type": "bert", "name": _bert_name(config)}}
    text, image = _begun_perceptron(config.get("text_classifier")), _begun_perceptron(config.get("modal_classifier"))
    if text != image:
        raise ConfigError(Problem("modal_classifier", f"makes {image}, and the text's {text}; those of ours have one shape."))
    return {"type": "logit_fusion", "encoders": encoders, **text}


def _ours_late_fusion(tensors: Tensors, initial: Tensors) -> dict[str, Tensor]:
    ours = LATE_FUSION.complete(Pretrained("its file", {}, tensors), initial)
    for modality, theirs in (("image", "modal_classifier."), ("text", "text_classifier.")):
        names = {_last(tensors, theirs): f"classifiers.{modality}.", f"{theirs}layers.": f"projections.{modality}."}
        ours |= WeightMap(names=(names,), only=tuple(names.values())).ours(tensors)
    return known(ours, initial)


_NO_HEAD = {"training_head_type": "classification"}
_SINGLE_STREAM = {"bypass_transformer": False, "embedding_strategy": "plain", "hidden_act": "gelu", "pooler_strategy": "default"}
_TWO_STREAMS = {
    "hidden_act": "gelu",
    "v_hidden_act": "gelu",
    "with_coattention": True,
    "dynamic_attention": False,
    "task_specific_tokens": False,
    "in_batch_pairs": False,
    "bi_attention_type": 1,
    "text_only": False,
}

# MMF's models that are ours, by MMF's names; a mark is looked for in this order
FAMILIES: Mapping[str, Family] = {
    "vilbert": Family("v_embeddings.", _NO_HEAD | _TWO_STREAMS, _trained_vilbert, _begun_vilbert, _ours(vilbert_weights.WEIGHTS)),
    "visual_bert": Family(
        "position_embeddings_visual", _NO_HEAD | _SINGLE_STREAM, _trained_visual_bert, _begun_visual_bert, _ours(VISUAL_BERT)
    ),
    "mmbt": Family(
        ".mmbt.",
        _NO_HEAD | {"direct_features_input": False, "use_modal_start_token": True, "use_modal_end_token": True},
        _trained_mmbt,
        _begun_mmbt,
        _ours(mmbt_weights.WEIGHTS),
    ),
    "late_fusion": Family(
        "modal_classifier.",
        {"direct_features_input": False},
        _trained_late_fusion,
        _begun_late_fusion,
        _ours_late_fusion,
        lambda t: ("classifiers.image.", "classifiers.text."),
    ),
    "concat_bert": Family(
        "base.modal.",
        {"direct_features_input": False},
        _trained_concat_bert,
        _begun_concat_bert,
        _ours_concat_bert,
        lambda t: (_last(t, "classifier.").replace("layers.", ""),),
    ),
}
