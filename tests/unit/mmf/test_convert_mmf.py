"""MMF's checkpoints and configurations as ours: the numbers of the published equations, and what is refused."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from omegaconf import OmegaConf
from torch import Tensor, nn

from msd_framework.checks.run import checked, understood
from msd_framework.checks.words import read_words
from msd_framework.cli import main
from msd_framework.commands.convert_mmf import convert_mmf
from msd_framework.config.load import load
from msd_framework.data.processors.text import Tokenizer
from msd_framework.engine.checkpoint import find_checkpoint, load_weights, read
from msd_framework.errors import ConfigError, DataError
from msd_framework.mmf.checkpoints import read_checkpoint
from msd_framework.mmf.configs import convert, read_project
from msd_framework.models.base import MultimodalModel
from msd_framework.registry import MODELS
from msd_framework.run import run
from msd_framework.structures import ModalityInputs
from tests.bert_equations import Weights, random_weights, transform_head
from tests.mmf_stand_in import mmf_stand_in
from tests.unit.models import test_concat, test_mmbt, test_vilbert

WORDS = 20
CLOSE = 1e-5  # float32
PIXELS: dict[str, Any] = {"type": "pixels", "size": 64}
REGIONS: dict[str, Any] = {"type": "region_features", "folder": "nowhere", "boxes": True}


def command(words: list[str]) -> str:
    """What `msd convert-mmf` says."""
    return convert_mmf(**read_words(words, convert_mmf).values)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, learned = tmp_path_factory.mktemp("words"), Tokenizer(max_length=8)
    learned.fit(["what a day it was when you saw them go"])
    learned.save(folder)
    return str(folder / "tokenizer.json")


@pytest.fixture
def project(tmp_path: Path, tokenizer: str) -> Callable[..., str]:
    """A YAML of ours that says what a checkpoint was trained on."""

    def write(image: Mapping[str, Any] = REGIONS, text: Any = None, dataset: str = "snli_ve") -> str:
        data = {
            "dataset": dataset,
            "processors": {"text": text or {"type": "tokenizer", "name": tokenizer}, "image": dict(image)},
            "train": "train",
            "validation": "dev",
        }
        path = tmp_path / "project.yaml"
        path.write_text(yaml.safe_dump({"data": data, "model": "late_fusion"}))
        return str(path)

    return write


def in_float32(weights: Weights) -> Weights:
    return {n: t.float() for n, t in weights.items()}


def rebuilt(folder: Path) -> MultimodalModel:
    """The model of a folder, as a run that is taught by it builds it."""
    saved = read(find_checkpoint(folder), ("model", "objective"))
    model: MultimodalModel = MODELS.build(saved.card["rebuild"], "teacher", saved.card["facts"])
    load_weights(model, saved.model, str(folder))
    return model.eval()


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=CLOSE, rtol=CLOSE)


# ---- VisualBERT, beside that of transformers ----

HUB = {
    "vocab_size": 50,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 24,
    "visual_embedding_dim": 10,
}
MMF_NAMES = {
    "visual_token_type_embeddings": "token_type_embeddings_visual",
    "visual_position_embeddings": "position_embeddings_visual",
    "visual_projection": "projection",
}


def hub_model() -> Any:
    from transformers import VisualBertConfig, VisualBertModel

    torch.manual_seed(0)
    model = VisualBertModel(VisualBertConfig(**HUB)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def classifier(num_classes: int = 3) -> Weights:
    return in_float32(random_weights({"0.dense": (12, 12), "0.LayerNorm": (12,), "1": (num_classes, 12)}, seed=5))


def visual_bert_tensors(num_classes: int = 3) -> Weights:
    """VisualBERT by the names that MMF gives its tensors."""
    tensors = {}
    for name, tensor in hub_model().state_dict().items():
        for theirs, mmfs in MMF_NAMES.items():
            name = name.replace(theirs, mmfs)
        tensors[f"model.bert.{name}"] = tensor
    return tensors | {f"model.classifier.{n}": t for n, t in classifier(num_classes).items()}


def visual_bert_logits(inputs: Mapping[str, ModalityInputs], num_classes: int = 3) -> Tensor:
    text, image = inputs["text"], inputs["image"]
    pooled = hub_model()(
        input_ids=text.values,
        attention_mask=text.mask.long(),
        token_type_ids=text.extras["segments"],
        visual_embeds=image.values,
        visual_attention_mask=image.mask.long(),
        visual_token_type_ids=torch.zeros_like(image.mask.long()),
    ).pooler_output
    return transform_head(classifier(num_classes), pooled)


def inputs() -> dict[str, ModalityInputs]:
    return test_concat.make_inputs(torch.float32)


CONFIG = {
    "model": "visual_bert",
    "model_config": {"visual_bert": {"num_attention_heads": 3, "training_head_type": "${kind}", "losses": ["cross_entropy"]}},
    "kind": "classification",
    "training": {"early_stop": {"criteria": "visual_entailment/accuracy"}},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 2020"])
@pytest.mark.parametrize("config", [CONFIG, OmegaConf.create(CONFIG)], ids=["dict", "OmegaConf"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_visual_bert_says_what_transformers_says(
    tmp_path: Path, project: Callable[..., str], zipped: bool, config: Any, prefix: str
) -> None:
    tensors = visual_bert_tensors() | {"model.cls.predictions.bias": torch.ones(50)}
    held = {
        "model": {prefix + n: t for n, t in tensors.items()},
        "config": config,
        "best_metric_value": np.float64(0.731),
        "num_updates": 22000,
        "optimizer": {"state": {0: {"step": 3}}},
        "git/branch": "main",
    }
    torch.save(held, tmp_path / "best.ckpt", _use_new_zipfile_serialization=zipped)
    told = convert_mmf(str(tmp_path / "teacher"), checkpoint=str(tmp_path / "best.ckpt"), run=project())
    same(rebuilt(tmp_path / "teacher")(inputs()).logits, visual_bert_logits(inputs()))
    assert "visual_bert with " in told
    assert "3 classes: entailment, neutral, contradiction." in told
    assert "best.ckpt reached visual_entailment/accuracy 0.731 after 22000 updates" in told
    assert "unused tensors: 1\n  model.cls.predictions.bias" in told
    state = read(find_checkpoint(tmp_path / "teacher")).state
    assert state["converted_from_mmf"]["score"] == 0.731


def test_the_old_names_of_a_bare_file_are_read_and_the_heads_told(tmp_path: Path, project: Callable[..., str]) -> None:
    old = {n.replace("model.", "bert.", 1): t for n, t in visual_bert_tensors().items()}
    torch.save(old, tmp_path / "model.pth")
    words = [f"checkpoint={tmp_path / 'model.pth'}", f"out={tmp_path / 'teacher'}", f"run={project()}"]
    with pytest.raises(ConfigError, match=r"options.num_attention_heads: must be given: 12 features are no multiple of 64"):
        command(words)
    told = command([*words, "options.num_attention_heads=3"])
    assert "model.pth says no score" in told
    same(rebuilt(tmp_path / "teacher")(inputs()).logits, visual_bert_logits(inputs()))


def test_the_folder_of_a_model_of_the_zoo_is_read_with_its_yaml(tmp_path: Path, project: Callable[..., str]) -> None:
    folder = tmp_path / "visual_bert.finetuned"
    folder.mkdir()
    torch.save(visual_bert_tensors(), folder / "model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    convert_mmf(str(tmp_path / "teacher"), checkpoint=str(folder), run=project())
    same(rebuilt(tmp_path / "teacher")(inputs()).logits, visual_bert_logits(inputs()))


# ---- the other models, beside their equations ----


def test_a_vilbert_says_what_the_published_equations_say(tmp_path: Path, project: Callable[..., str]) -> None:
    weights = test_vilbert.published()
    tensors = {f"model.bert.{n}": t.float() for n, t in weights.items()}
    tensors |= {f"model.classifier.{n}": t.float() for n, t in test_vilbert.classifier().items()}
    own = {"num_attention_heads": 3, "v_num_attention_heads": 2, "bi_num_attention_heads": 4, "fusion_method": "sum"}
    config = {"model_config": {"vilbert": own | {"t_biattention_id": [2, 3], "v_biattention_id": [1, 2]}}}
    torch.save({"model": tensors, "config": config}, tmp_path / "vilbert.pth")
    told = convert_mmf(str(tmp_path / "teacher"), checkpoint=str(tmp_path / "vilbert.pth"), run=project())
    seen = test_vilbert.make_inputs(torch.float32)
    expected = transform_head(in_float32(test_vilbert.classifier()), torch.add(*test_vilbert.reference(in_float32(weights), seen)))
    same(rebuilt(tmp_path / "teacher")(seen).logits, expected)
    assert "model.bert.encoder.c_layer.0.biOutput.q_dense1.bias" in told


def trunk() -> nn.Sequential:
    """A ResNet-18 as MMF saves one, with statistics of batches that are not those of the first moment."""
    torch.manual_seed(2)
    network = torchvision.models.resnet18()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
    return nn.Sequential(*list(network.children())[:-2]).eval()


def photos() -> ModalityInputs:
    return ModalityInputs(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.ones(4, 1, dtype=torch.bool))


def fused(classifiers: Mapping[str, Weights], counters: bool = True) -> Weights:
    """MMF's BERT and ResNet beside each other, and classifiers by their names."""
    tensors = {f"base.text.{n}": t.float() for n, t in test_concat.published_bert().items()}
    tensors |= {f"base.modal.model.{n}": t for n, t in trunk().state_dict().items()}
    for name, weights in classifiers.items():
        tensors |= {f"{name}.layers.{n}": t for n, t in weights.items()}
    return {n: t for n, t in tensors.items() if counters or n.startswith("base.") or not n.endswith("num_batches_tracked")}


def test_a_late_fusion_says_the_mean_of_its_perceptrons(tmp_path: Path, project: Callable[..., str]) -> None:
    heads = {"text_classifier": in_float32(test_concat.published_mlp(12, True))}
    heads["modal_classifier"] = {n: t + 0.1 for n, t in in_float32(test_concat.published_mlp(512, True)).items() if t.ndim}
    heads["modal_classifier"] |= {f"{i}.num_batches_tracked": torch.tensor(7) for i in (1, 5)}
    torch.save({"model": fused(heads)}, tmp_path / "late_fusion.pth")
    words = {"options": {"num_attention_heads": 3}, "run": project(PIXELS)}
    told = convert_mmf(str(tmp_path / "teacher"), checkpoint=str(tmp_path / "late_fusion.pth"), **words)
    assert "unused tensors: none." in told
    text, image = inputs()["text"], photos()
    with torch.no_grad():
        of_text = test_concat.mlp(
            heads["text_classifier"], test_concat.pooled(in_float32(test_concat.published_bert()), text), True
        )
        of_image = test_concat.mlp(heads["modal_classifier"], trunk()(image.values).mean((2, 3)), True)
        model = rebuilt(tmp_path / "teacher")
        same(model({"text": text, "image": image}).logits, (of_text + of_image) / 2)
        same(model({"image": image}).logits, of_image)


def test_a_concat_bert_says_what_its_equations_say(tmp_path: Path, project: Callable[..., str]) -> None:
    weights = in_float32(test_concat.published_mlp(12 + 2 * 512, False))
    torch.save(fused({"classifier": weights}), tmp_path / "concat_bert.pth")
    words = {"options": {"num_attention_heads": 3}, "run": project(PIXELS)}
    convert_mmf(str(tmp_path / "teacher"), checkpoint=str(tmp_path / "concat_bert.pth"), **words)
    text, image = inputs()["text"], photos()
    with torch.no_grad():
        grid = nn.AdaptiveAvgPool2d((2, 1))(trunk()(image.values)).flatten(2).transpose(1, 2).flatten(1)
        read_text = test_concat.pooled(in_float32(test_concat.published_bert()), text)
        expected = test_concat.mlp(weights, torch.cat([read_text, grid], 1), False)
        same(rebuilt(tmp_path / "teacher")({"text": text, "image": image}).logits, expected)


def test_an_mmbt_says_what_its_equations_say(tmp_path: Path, project: Callable[..., str], monkeypatch: Any) -> None:
    monkeypatch.setattr(test_mmbt, "CLS", 2)
    monkeypatch.setattr(test_mmbt, "SEP", 3)
    published = in_float32(test_mmbt.published(512))
    at = "model.bert.mmbt.modal_encoder.encoder.model."
    tensors = test_mmbt.mmf_names(published) | {f"{at}{n}": t for n, t in trunk().state_dict().items()}
    tensors |= {f"model.classifier.{n}": t for n, t in classifier().items()}
    own = {
        "text_encoder": {"params": {"num_attention_heads": 3}},
        "modal_encoder": {"type": "resnet152", "params": {"num_output_features": 3, "pool_type": "avg"}},
    }
    torch.save({"model": tensors, "config": {"model_config": {"mmbt": own}}}, tmp_path / "mmbt.pth")
    convert_mmf(str(tmp_path / "teacher"), checkpoint=str(tmp_path / "mmbt.pth"), run=project(PIXELS))
    text, image = test_mmbt.make_inputs()["text"], photos()
    text = replace(
        text, extras={n: e for n, e in text.extras.items() if n != "segments"} | {"segments": torch.zeros_like(text.values)}
    )
    with torch.no_grad():
        grid = nn.AdaptiveAvgPool2d((3, 1))(trunk()(image.values)).flatten(2).transpose(1, 2)
        regions = ModalityInputs(grid, torch.ones(4, 3, dtype=torch.bool))
        pooled = test_mmbt.reference(published, {"text": text, "image": regions}, image_segment=1, text_segment=0)
        same(rebuilt(tmp_path / "teacher")({"text": text, "image": image}).logits, transform_head(classifier(), pooled))


# ---- what becomes of it ----


def test_a_converted_checkpoint_teaches_and_is_evaluated(
    tmp_path: Path, project: Callable[..., str], tiny_world: Path, tokenizer: str
) -> None:
    (tmp_path / "features").mkdir()
    for photo in (tiny_world / "img").glob("*.png"):
        np.save(tmp_path / "features" / f"{photo.stem}.npy", np.full((2, 10), len(photo.stem), dtype=np.float32))
    regions = {"type": "region_features", "folder": str(tmp_path / "features")}
    text = {"type": "tokenizer", "name": tokenizer, "max_length": 24}  # as many positions as the checkpoint has
    torch.save({"model": visual_bert_tensors(2), "config": CONFIG}, tmp_path / "model.pth")
    convert_mmf(str(tmp_path / "teacher"), checkpoint=str(tmp_path / "model.pth"), run=project(regions, text, "hateful_memes"))
    student = {
        "data": {
            "dataset": {"type": "hateful_memes", "root": str(tiny_world)},
            "processors": {"text": text, "image": regions},
            "train": "train",
            "validation": "dev_seen",
            "test": "test_seen",
        },
        "model": {"type": "concat_bow", "hidden_size": 8, "feature_size": 10},
        "teacher": {"checkpoint": str(tmp_path / "teacher")},
        "objective": {"type": "distillation", "views": ["full", "image", "text"]},
        "training": {"max_updates": 2, "batch_size": 4},
        "env": {"device": "cpu", "save_dir": str(tmp_path / "student")},
    }
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(student))
    assert "test/accuracy" in run(tmp_path / "student.yaml", [])["metrics"]
    teacher = ["run_type=test", f"env.save_dir={tmp_path / 'teacher'}", f"data.dataset.root={tiny_world}", "env.device=cpu"]
    splits = ["data.validation=dev_seen", "data.test=test_seen"]
    assert "test/accuracy" in run(tmp_path / "teacher" / "config.yaml", [*teacher, *splits])["metrics"]


def test_classes_are_put_into_the_data_sets_order_by_name(tmp_path: Path, project: Callable[..., str], capsys: Any) -> None:
    torch.save({"model": visual_bert_tensors(4), "config": CONFIG}, tmp_path / "model.pth")
    (tmp_path / "classes.txt").write_text("Contradiction\nentailment\nneutral\n")  # MMF puts <unk> before them
    words = [f"checkpoint={tmp_path / 'model.pth'}", f"run={project()}", f"out={tmp_path / 'teacher'}"]
    assert main(["convert-mmf", *words]) == 2
    assert "has 4 classes and the data set 3; give the file that names MMF's" in capsys.readouterr().err
    assert main(["convert-mmf", *words, f"classes={tmp_path / 'classes.txt'}"]) == 0
    same(rebuilt(tmp_path / "teacher")(inputs()).logits, visual_bert_logits(inputs(), 4)[:, [2, 3, 1]])


def test_mmfs_own_model_is_kept_if_asked_for(tmp_path: Path, project: Callable[..., str]) -> None:
    with mmf_stand_in():
        torch.manual_seed(0)
        spec = {"type": "mmf", "name": "tiny", "config": {"num_labels": 3}}
        facts = {"num_classes": 3, "feature_size": 6}
        model: Any = MODELS.build(spec, "model", facts)
        config = {"model": "tiny", "model_config": {"tiny": {"num_labels": 3}}}
        torch.save({"model": model.model.state_dict(), "config": config}, tmp_path / "tiny.pth")
        convert_mmf(str(tmp_path / "teacher"), checkpoint=str(tmp_path / "tiny.pth"), run=project(), keep=True)
        text = ModalityInputs(torch.tensor([[2, 7, 3]]), torch.ones(1, 3, dtype=torch.bool))
        image = ModalityInputs(torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool))
        seen = {"image": image, "text": text}
        assert torch.equal(rebuilt(tmp_path / "teacher")(seen).logits, model.eval()(seen).logits)


# ---- files that are refused ----


class Runs:
    """What runs a command when it is unpickled by a reader that trusts it."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["config", "model"])
def test_a_pickle_that_runs_something_is_refused_and_not_run(tmp_path: Path, zipped: bool, where: str) -> None:
    held: dict[str, Any] = {"model": visual_bert_tensors(), "config": {}} | {where: Runs(f"touch {tmp_path / 'was_run'}")}
    torch.save(held, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"model.pth: wants to load \w+.system, which is refused, for it could run any code"):
        read_checkpoint(tmp_path / "model.pth")
    assert not (tmp_path / "was_run").exists()


def test_files_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": visual_bert_tensors()}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"model.pth: is damaged or no checkpoint \(.*\); wanted a .pth or .ckpt of MMF"):
        read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(DataError, match=r"model.pth: holds a list; wanted a .pth"):
        read_checkpoint(path)
    torch.save({"model": {"weights": [1.0]}}, path)
    with pytest.raises(DataError, match=r"model.pth: holds no model: weights where its tensors should be"):
        read_checkpoint(path)
    with pytest.raises(DataError, match=r"there is no file .*gone.pth"):
        read_checkpoint(tmp_path / "gone.pth")
    with pytest.raises(DataError, match=r"model.tar.gz: is an archive; unpack it"):
        read_checkpoint(tmp_path / "model.tar.gz")
    (tmp_path / "other.ckpt").write_bytes(b"")
    with pytest.raises(DataError, match=r"has 2 files of weights \(model.pth, other.ckpt\), wanted one; name the file"):
        read_checkpoint(tmp_path)


def vilbert_names(tensors: Weights) -> Weights:
    return {n: t for n, t in tensors.items() if "classifier" in n} | {"model.bert.v_embeddings.LayerNorm.weight": torch.ones(3)}


@pytest.mark.parametrize(
    ("change", "config", "words", "message"),
    [
        (lambda t: {n: x for n, x in t.items() if "pooler.dense.bias" not in n}, {}, [], r"do not fit: it lacks pooler.bias"),
        (
            lambda t: {n: x for n, x in t.items() if "classifier" not in n},
            {},
            [],
            "there is no classifier in it, so it cannot teach",
        ),
        (lambda t: t | {"model.bert.encoder.layer.0.extra": torch.ones(1)}, {}, [], "it has besides encoder.layers.0.extra"),
        (lambda t: {"a": torch.ones(2)}, {"model": None, "model_config": {}}, [], "model: cannot be told by the tensors' names"),
        (lambda t: t, {"model": "pythia"}, [], "model: is MMF's 'pythia', which none of ours is; wanted vilbert, visual_bert"),
        (lambda t: t, {}, ["model=vilbert"], r"none has 'v_embeddings.' in its name. They look like visual_bert"),
        (vilbert_names, {"model": "vilbert"}, [], "lacks tensors that tell its sizes"),
        (
            lambda t: t,
            {"model_config": {"visual_bert": {"num_attention_heads": 3, "pooler_strategy": "vqa"}}},
            [],
            r"model_config.visual_bert.pooler_strategy: is 'vqa', and ours computes with 'default' only; keep=true",
        ),
        (lambda t: t, {}, ["classes=gone.txt"], "classes: gone.txt cannot be read"),
        (lambda t: t, {}, ["out=."], "out: . is there already; name another place"),
        (
            lambda t: t,
            {},
            ["run=null"],
            "dataset: wanted one of hateful_memes, mmimdb, visual_entailment, vqa2, and the YAML has none",
        ),
        (lambda t: t, {}, ["config=x.yaml"], "give either checkpoint, to make a teacher, or config, to make a YAML"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(
    tmp_path: Path, project: Callable[..., str], change: Any, config: Any, words: list[str], message: str
) -> None:
    torch.save({"model": change(visual_bert_tensors()), "config": CONFIG | config}, tmp_path / "model.pth")
    given = {"out": tmp_path / "teacher", "run": project()} | dict(w.split("=") for w in words)
    with pytest.raises((ConfigError, DataError), match=message):
        command([f"checkpoint={tmp_path / 'model.pth'}", *(f"{k}={v}" for k, v in given.items())])
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "tokenizer"}, "data.processors.text: must be the one that the checkpoint was trained with"),
        (
            {"image": REGIONS | {"feature_size": 7}},
            "data.processors.image: makes 7 features a region, and the checkpoint .* for 10",
        ),
        ({"dataset": "mm_imdb"}, "classes: must be given: the file that numbers MMF's 3 classes"),
    ],
)
def test_a_project_must_be_the_checkpoints(
    tmp_path: Path, project: Callable[..., str], arguments: dict[str, Any], message: str
) -> None:
    torch.save({"model": visual_bert_tensors(), "config": CONFIG}, tmp_path / "model.pth")
    with pytest.raises(ConfigError, match=message):
        convert_mmf(str(tmp_path / "teacher"), checkpoint=str(tmp_path / "model.pth"), run=project(**arguments))


def test_lists_of_classes_that_do_not_fit_are_refused(tmp_path: Path, project: Callable[..., str]) -> None:
    torch.save({"model": visual_bert_tensors(), "config": CONFIG}, tmp_path / "model.pth")
    for text, message in (("a\nb\n", "names 3 classes and|lacks entailment"), ("a\n", "names 2 classes and the checkpoint has 3")):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(ConfigError, match=message):
            convert_mmf(
                str(tmp_path / "teacher"),
                checkpoint=str(tmp_path / "model.pth"),
                run=project(),
                classes=str(tmp_path / "classes.txt"),
            )


def visual_bert_of(own: dict[str, Any]) -> dict[str, Any]:
    return {"model": visual_bert_tensors(), "config": {"model_config": {"visual_bert": own}}}


def vilbert_of(own: dict[str, Any]) -> dict[str, Any]:
    heads = {"num_attention_heads": 3, "v_num_attention_heads": 2, "bi_num_attention_heads": 4}
    tensors = {f"model.bert.{n}": t.float() for n, t in test_vilbert.published().items()}
    tensors |= {f"model.classifier.{n}": t.float() for n, t in test_vilbert.classifier().items()}
    return {"model": tensors, "config": {"model_config": {"vilbert": heads | own}}}


def late_fusion_of(own: dict[str, Any], **others: Tensor) -> dict[str, Any]:
    heads = {f"{m}_classifier": in_float32(random_weights({"0": (3, w)})) for m, w in (("text", 12), ("modal", 512))}
    return {"model": fused(heads) | others, "config": {"model_config": {"late_fusion": {"num_attention_heads": 3} | own}}}


def without(held: dict[str, Any], part: str) -> dict[str, Any]:
    return held | {"model": {n: t for n, t in held["model"].items() if part not in n}}


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (lambda: vilbert_of({"t_biattention_id": [0, 1]}), r"t_biattention_id: is \[0, 1\], and ours connects the last 2 layers"),
        (lambda: vilbert_of({"dynamic_attention": True}), "vilbert.dynamic_attention: is True, and ours computes with False only"),
        (lambda: without(late_fusion_of({}), "base.modal"), "its images are a detector's features with a layer of MMF's own"),
        (lambda: late_fusion_of({}, **{"base.modal.lc.weight": torch.ones(2, 2)}), "its images are a detector's features"),
        (lambda: without(late_fusion_of({}), "model.6.1"), "its image encoder is none of resnet18, resnet34, resnet50"),
        (lambda: without(late_fusion_of({}), "text_classifier"), "there is no text_classifier.layers among the tensors"),
        (lambda: late_fusion_of({"direct_features_input": True}), "direct_features_input: is True, and ours computes with False"),
        (
            lambda: late_fusion_of({}, **{"text_classifier.layers.4.weight": torch.ones(3, 3)}),
            "its perceptrons differ, .* for the text and",
        ),
        (
            lambda: late_fusion_of({"modal_encoder": {"params": {"num_output_features": 3}}}),
            "its image is several features side by side, and ours takes their mean",
        ),
        (
            lambda: without(visual_bert_of({"num_attention_heads": 3}), "embeddings.word"),
            "lacks tensors that tell its sizes|do not fit: it lacks embeddings.word.weight",
        ),
    ],
)
def test_models_that_ours_are_not_are_refused(tmp_path: Path, project: Callable[..., str], held: Any, message: str) -> None:
    torch.save(held(), tmp_path / "model.pth")
    with pytest.raises((ConfigError, DataError), match=message):
        convert_mmf(str(tmp_path / "teacher"), checkpoint=str(tmp_path / "model.pth"), run=project())


def test_what_a_checkpoint_does_not_tell_must_be_given(tmp_path: Path, project: Callable[..., str]) -> None:
    torch.save(visual_bert_tensors(), tmp_path / "model.pth")
    (tmp_path / "elsewhere").mkdir()
    words = {"checkpoint": str(tmp_path / "model.pth"), "out": str(tmp_path / "teacher")}
    with pytest.raises(ConfigError, match=r"run: must be given: a YAML of ours with the data that .*model.pth was trained on"):
        convert_mmf(**words)
    with pytest.raises(ConfigError, match="model: must be given: what MMF calls the model"):
        convert_mmf(**words, run=project(), keep=True)
    with mmf_stand_in(), pytest.raises(DataError, match=r"the weights of .*model.pth do not fit: it lacks boxes.bias"):
        convert_mmf(**words, run=project(), keep=True, model="tiny", options={"num_labels": 3})


def test_a_perceptron_has_no_fewer_than_no_layers() -> None:
    encoders = {"image": {"type": "features", "feature_size": 4, "hidden_size": 8}}
    with pytest.raises(ValueError, match="num_layers must be 0 or more, got -1"):
        MODELS.build({"type": "logit_fusion", "encoders": encoders, "num_layers": -1}, "model", {"num_classes": 2})
    bare = MODELS.build({"type": "logit_fusion", "encoders": encoders, "num_layers": 0}, "model", {"num_classes": 2})
    assert bare.classifiers["image"].in_features == 8


PAGE = Path(__file__).parents[3] / "docs" / "mmf.md"


def test_the_page_on_mmf_shows_words_and_options_that_there_are() -> None:
    text = PAGE.read_text()
    commands = re.findall(r"^msd convert-mmf (.*)$", text, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        read_words(command.split(), convert_mmf)
    teacher, model = (yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert set(teacher) == {"teacher"}
    assert MODELS.check(model["model"], "model", {"num_classes": 2}, ()) == []


# ---- configurations ----

BERT_TOKENS = {
    "type": "bert_tokenizer",
    "params": {
        "tokenizer_config": {"type": "bert-base-uncased", "params": {"do_lower_case": True}},
        "mask_probability": 0,
        "max_seq_length": 128,
    },
}


def mmf_project(dataset: str, model: str, own: dict[str, Any], metrics: list[str], **settings: Any) -> dict[str, Any]:
    """What a project of MMF's says."""
    return {
        "model_config": {model: {"training_head_type": "classification", **own}},
        "dataset_config": {dataset: {"return_features_info": True, "processors": {"text_processor": BERT_TOKENS}, **settings}},
        "optimizer": {"type": "adam_w", "params": {"lr": 5e-5, "eps": 1e-8}},
        "scheduler": {
            "type": "warmup_linear",
            "params": {"num_warmup_steps": 2000, "num_training_steps": "${training.max_updates}"},
        },
        "evaluation": {"metrics": metrics},
        "training": {"batch_size": 64, "lr_scheduler": True, "max_updates": 22000, "find_unused_parameters": True},
    }


def folder_of(tmp_path: Path, values: dict[str, Any]) -> str:
    (tmp_path / "configs").mkdir(exist_ok=True)
    (tmp_path / "configs" / "with_features.yaml").write_text(
        "dataset_config: {hateful_memes: {use_features: true, use_images: false}}"
    )
    (tmp_path / "project.yaml").write_text(yaml.safe_dump(values))
    return str(tmp_path / "project.yaml")


def test_a_project_of_hateful_memes_becomes_ours_key_by_key(tmp_path: Path) -> None:
    own = {"num_labels": 2, "losses": ["cross_entropy"], "freeze_base": True}
    values = mmf_project("hateful_memes", "visual_bert", own, ["accuracy", "hateful_f1", "roc_auc"])
    values |= {"includes": ["configs/with_features.yaml", "configs/gone.yaml"]}
    values["training"] |= {
        "early_stop": {"enabled": True, "patience": 4000, "criteria": "hateful_memes/roc_auc", "minimize": False}
    }
    source = folder_of(tmp_path, values)
    said, lost = read_project(source, str(tmp_path))
    found = convert(said, root="/mmf")
    assert found.values == {
        "model": {"type": "visual_bert", "pretrained": "bert-base-uncased", "visual_token_type": 0, "head": "transform"},
        "data": {
            "dataset": {"type": "hateful_memes", "root": "/mmf/datasets/hateful_memes"},
            "processors": {
                "text": {"type": "tokenizer", "name": "bert-base-uncased", "max_length": 128},
                "image": {
                    "type": "region_features",
                    "folder": "lmdb:/mmf/datasets/hateful_memes/defaults/features/detectron.lmdb",
                    "max_regions": 100,
                },
            },
            "train": "train",
            "validation": "dev_unseen",
            "test": "test_unseen",
        },
        "evaluation": {"metrics": ["auroc", "accuracy"], "every_updates": 1000},
        "callbacks": [{"type": "early_stopping", "patience": 4}],
        "training": {"batch_size": 64, "max_updates": 22000, "clip_norm": None},
        "optimizer": {"type": "adamw", "lr": 5e-5, "eps": 1e-8},
        "scheduler": {"type": "warmup_linear", "warmup": 2000},
    }
    assert found.left == {
        "evaluation.metrics: hateful_f1": "is no metric of ours for single_label; `msd components metrics` lists them",
        "training.find_unused_parameters": "True: not needed: the objective is wrapped, not the student",
        "model_config.visual_bert.freeze_base": "True: has no counterpart here",
    }
    assert lost == {"includes: configs/gone.yaml": "is not here; give mmf=FOLDER, the folder `mmf` of MMF's source"}
    usual = {"model_config": {"visual_bert": {"freeze_base": True}}}
    assert "model_config.visual_bert.freeze_base" not in convert(said, usual=usual).left


PROJECTS = {
    "hateful_memes-late_fusion": mmf_project(
        "hateful_memes",
        "late_fusion",
        {f"{m}_classifier": {"type": "mlp", "params": {"num_layers": 2}} for m in ("text", "modal")},
        ["roc_auc"],
    ),
    "mmimdb-vilbert": mmf_project("mmimdb", "vilbert", {"num_labels": 24}, ["multilabel_macro_f1"], use_features=True),
    "mmimdb-mmbt": mmf_project("mmimdb", "mmbt", {"num_labels": 24}, ["multilabel_micro_f1", "accuracy"]),
    "visual_entailment-visual_bert": mmf_project("visual_entailment", "visual_bert", {"num_labels": 3}, ["accuracy"]),
    "vqa2-visual_bert": mmf_project("vqa2", "visual_bert", {"num_labels": 3129, "pooler_strategy": "vqa"}, ["vqa_accuracy"]),
    "vqa2-concat_bert": mmf_project("vqa2", "concat_bert", {}, ["vqa_accuracy"]),
}


def test_a_key_with_a_line_end_stays_in_its_comment(tmp_path: Path) -> None:
    values = mmf_project("hateful_memes", "visual_bert", {"a\nuser_dir: evil": 1}, ["roc_auc"])
    convert_mmf(str(tmp_path / "ours.yaml"), config=folder_of(tmp_path, values))
    assert "user_dir" not in yaml.safe_load((tmp_path / "ours.yaml").read_text())


SIZES = {"num_hidden_layers": 6, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "vocab_size": 30000}


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("bert", ["bert-base-uncased", "mine/bert", None])
def test_a_size_is_taken_or_listed_with_what_becomes_of_it(key: str, bert: str | None) -> None:
    own = {"num_labels": 2, key: SIZES[key], "bert_model_name": bert}
    found = convert(mmf_project("hateful_memes", "visual_bert", own, ["roc_auc"]))
    if bert is None:
        assert SIZES[key] in found.values["model"].values()
    else:
        assert found.left[f"model_config.visual_bert.{key}"].startswith(
            f"{SIZES[key]!r}: model.pretrained is {bert}, which has sizes"
        )


def test_a_size_that_the_named_bert_has_needs_no_word() -> None:
    own = {"num_labels": 2, "hidden_size": 768, "num_hidden_layers": 12, "bert_model_name": "bert-base-uncased"}
    assert not [key for key in convert(mmf_project("hateful_memes", "visual_bert", own, [])).left if "model_config" in key]


def leaves(values: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(values, dict):
        for key, inner in values.items():
            yield from leaves(inner, (*at, key))
    else:
        yield at


def changed_text(old: Any) -> Any:
    if isinstance(old, list):
        return [2 * one for one in old] if isinstance(old[0], float) else [*old, "other"]
    return "other"


MORE = {
    "training": {
        "tensorboard": True, "seed": 3, "fp16": False, "num_workers": 4, "log_interval": 50, "clip_gradients": True,
        "max_grad_l2_norm": 0.25, "checkpoint_interval": 1000, "evaluation_interval": 1000, "update_frequency": 1, "device": "cuda",
        "early_stop": {"enabled": True, "criteria": "hateful_memes/roc_auc", "minimize": False, "patience": 4000},
    },
    "optimizer": {"params": {"weight_decay": 0.01, "betas": [0.9, 0.98]}},
    "checkpoint": {"max_to_keep": 2, "resume": False},
    "env": {"save_dir": "./save"},
    "distributed": {"init_method": None},
}  # fmt: skip


@pytest.mark.parametrize("name", PROJECTS)
def test_no_option_is_dropped_in_silence(name: str) -> None:
    values = OmegaConf.to_container(OmegaConf.merge(PROJECTS[name], MORE), resolve=True)
    before = convert(values)
    silent = []
    for path in leaves(values):
        changed = copy.deepcopy(values)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        old = inner[path[-1]]
        inner[path[-1]] = not old if isinstance(old, bool) else old * 2 + 1 if isinstance(old, (int, float)) else changed_text(old)
        try:
            after = convert(changed)
        except (ConfigError, ValueError, TypeError):
            continue
        if (after.values, after.left) == (before.values, before.left):
            silent.append(".".join(path))
    # what our reader of features does by itself
    assert [key for key in silent if not key.endswith(("return_features_info", "use_images"))] == []


@pytest.mark.parametrize("name", PROJECTS)
def test_every_project_passes_our_own_check_of_options(tmp_path: Path, name: str, capsys: Any) -> None:
    source = folder_of(tmp_path, PROJECTS[name])
    assert main(["convert-mmf", f"config={source}", f"out={tmp_path / 'ours.yaml'}"]) == 0
    told, page = capsys.readouterr().out, (tmp_path / "ours.yaml").read_text()
    for line in told.splitlines()[2:]:
        assert line.strip() in page
    _, problems = understood(load(tmp_path / "ours.yaml").values)
    assert problems == []


def test_a_converted_project_is_right_where_its_data_is(tmp_path: Path, tiny_world: Path, tokenizer: str) -> None:
    source = folder_of(tmp_path, PROJECTS["hateful_memes-late_fusion"])
    convert_mmf(str(tmp_path / "ours.yaml"), config=source)
    here = [f"data.dataset.root={tiny_world}", "data.validation=dev_seen", "data.test=test_seen"]
    config = checked(
        load(tmp_path / "ours.yaml", [*here, f"data.processors.text.name={tokenizer}", f"env.save_dir={tmp_path / 'r'}"])
    )
    assert config.model["num_layers"] == 2  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (
            {"dataset_config": {"coco": {}}},
            [],
            "dataset: wanted one of hateful_memes, mmimdb, .*, and the YAML has coco; say which",
        ),
        ({"model_config": {"pythia": {}}}, [], "model: is MMF's 'pythia', which none of ours is"),
        ({"includes": "a.yaml"}, [], "includes must be a list of files, got 'a.yaml'"),
        ({"includes": ["project.yaml"]}, [], "project.yaml: includes itself"),
        ({}, ["mmf=nowhere"], "mmf: nowhere holds no `configs/`"),
        (
            {"model_config": {"mmbt": {"modal_encoder": {"params": {"num_output_features": 10}}}}},
            [],
            "num_output_features: is 10, wanted",
        ),
        ({"model_config": {"mmbt": {"modal_encoder": {"params": {"pool_type": "max"}}}}}, [], "pool_type: is 'max', and ours"),
        (
            {"model_config": {"late_fusion": {"modal_classifier": {"params": {"num_layers": 1}}}}},
            [],
            "modal_classifier: makes .* and the text's",
        ),
        ({"model_config": {"concat_bert": {"classifier": {"type": "logit"}}}}, [], "classifier.type: is 'logit', and ours"),
    ],
)
def test_projects_that_are_none_of_ours_are_refused(tmp_path: Path, change: Any, words: list[str], message: str) -> None:
    source = folder_of(tmp_path, PROJECTS["mmimdb-mmbt"] | change)
    with pytest.raises(ConfigError, match=message):
        command([f"config={source}", f"out={tmp_path / 'ours.yaml'}", *words])
    with pytest.raises(ConfigError, match=r"config: there is no file gone.yaml"):
        command(["config=gone.yaml", f"out={tmp_path / 'ours.yaml'}"])


def test_a_checkpoint_brings_its_own_project(tmp_path: Path, tokenizer: str) -> None:
    config = mmf_project("visual_entailment", "visual_bert", {"num_attention_heads": 3}, ["accuracy"])
    text = config["dataset_config"]["visual_entailment"]["processors"]["text_processor"]
    text = {**text, "params": {**text["params"], "tokenizer_config": {"type": tokenizer}}}
    config["dataset_config"]["visual_entailment"]["processors"] = {"text_processor": text}
    torch.save({"model": visual_bert_tensors(), "config": config}, tmp_path / "model.pth")
    told = convert_mmf(str(tmp_path / "teacher"), checkpoint=str(tmp_path / "model.pth"), root=str(tmp_path))
    same(rebuilt(tmp_path / "teacher")(inputs()).logits, visual_bert_logits(inputs()))
    assert "not carried over: none." in told
    written = yaml.safe_load((tmp_path / "teacher" / "config.yaml").read_text())
    assert written["data"]["dataset"]["root"] == f"{tmp_path}/datasets/visual_entailment"
