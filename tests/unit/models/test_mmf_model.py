"""Models of MMF in our runs, shown on a stand-in for MMF: what they are given, what they say, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_framework.models.mmf import MmfModel, regions
from msd_framework.structures import DatasetInfo, ModalityInputs, Setting
from tests.mmf_stand_in import mmf_stand_in

KINDS = {"cls_id": 1, "sep_id": 2, "feature_size": 6}


@pytest.fixture(autouse=True)
def an_mmf() -> Iterator[None]:
    with mmf_stand_in():
        yield


def build(name: str = "tiny", num_classes: int = 3, **options: Any) -> MmfModel:
    torch.manual_seed(0)
    return MmfModel(name, num_classes, **(KINDS | options)).eval()


def text() -> ModalityInputs:
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return ModalityInputs(
        torch.tensor([[1, 7, 8, 9, 2], [1, 5, 2, 30, 31]]), mask, {"segments": torch.ones(2, 5, dtype=torch.long)}
    )


def image() -> ModalityInputs:
    mask = torch.tensor([[False, True, True], [True, True, True]])
    torch.manual_seed(1)
    return ModalityInputs(torch.randn(2, 3, 6), mask, {"boxes": torch.rand(2, 3, 4)})


def given(model: MmfModel, inputs: dict[str, ModalityInputs]) -> dict[str, Any]:
    model(inputs)
    return dict(model.model.read)  # type: ignore[arg-type]


def test_a_model_gets_the_fields_that_mmf_fills() -> None:
    said = given(build(dataset_name="hateful_memes"), {"image": image(), "text": text()})
    assert set(said) == {
        "input_ids",
        "input_mask",
        "segment_ids",
        "text",
        "image_feature_0",
        "image_info_0",
        "dataset_name",
        "dataset_type",
    }
    assert said["input_ids"].tolist() == [[1, 7, 8, 9, 2], [1, 5, 2, 0, 0]]
    assert said["input_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert said["segment_ids"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert (said["dataset_name"], said["dataset_type"]) == ("hateful_memes", "val")


def test_regions_that_are_there_stand_in_front_where_mmf_counts_them() -> None:
    given_, fields = image(), regions(image())
    assert fields["image_info_0"]["max_features"].tolist() == [2, 3]
    assert torch.equal(fields["image_feature_0"][0, :2], given_.values[0, 1:])
    boxes = given_.extras["boxes"][0, 1:]
    assert torch.equal(fields["image_info_0"]["bbox"][0, :2, :4], boxes)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    torch.testing.assert_close(fields["image_info_0"]["bbox"][0, :2, 4], area)


def test_a_region_without_a_box_is_the_whole_image() -> None:
    bare = ModalityInputs(image().values, image().mask)
    assert regions(bare)["image_info_0"]["bbox"][1].tolist() == [[0.0, 0.0, 1.0, 1.0, 1.0]] * 3


def test_every_image_has_the_regions_that_a_model_wants() -> None:
    said = given(build(num_regions=5), {"image": image(), "text": text()})
    assert said["image_feature_0"].shape == (2, 5, 6)
    assert said["image_info_0"]["bbox"].shape == (2, 5, 5)
    assert said["image_info_0"]["max_features"].tolist() == [2, 3]
    with pytest.raises(ValueError, match="an image has 3 regions, and num_regions is 2"):
        build(num_regions=2)({"image": image(), "text": text()})


def test_what_is_left_out_is_cls_and_sep_or_a_region_that_does_not_count() -> None:
    said = given(build(), {"image": image()})
    assert said["input_ids"].tolist() == [[1, 2], [1, 2]]
    said = given(build(), {"text": text()})
    assert said["image_info_0"]["max_features"].tolist() == [0, 0]
    assert said["image_feature_0"].shape == (2, 1, 6)


def test_logits_are_the_scores_and_no_loss_is_asked_for() -> None:
    model, inputs = build(), {"image": image(), "text": text()}
    scores = model.model(model.sample_list(model._sample(inputs)))
    assert set(scores) == {"scores"}
    assert torch.equal(model(inputs).logits, scores["scores"])


def test_mmfs_defaults_lie_below_what_a_user_says() -> None:
    config = build(config={"hidden_size": 10}).model.config
    assert (config.training_head_type, config.num_labels, config.hidden_size) == ("classification", 3, 10)  # type: ignore[union-attr]
    assert (config.classifier.params.out_dim, config.classifier.params.in_dim) == (3, 10)  # type: ignore[union-attr]


def test_methods_that_mmf_replaces_are_transformers_own_for_all_other_models() -> None:
    model = build()
    bert = sys.modules["mmf.modules.hf_layers"].BertEmbeddings
    assert bert().forward() == "as transformers has it"
    model({"text": text()})
    assert model.model.ran_with == "as MMF has it"
    assert bert().forward() == "as transformers has it"


def test_weights_of_mmf_load_by_the_names_that_it_gives_them_today(tmp_path: Any) -> None:
    theirs = build().model.state_dict()
    old = {n.replace("words", "bert.words"): t + 1 for n, t in theirs.items()} | {"embeddings.position_ids": torch.arange(3)}
    torch.save({f"module.{n}": t for n, t in old.items()}, tmp_path / "tiny.pth")
    model = build(pretrained=str(tmp_path / "tiny.pth"))
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(tensor, theirs[name] + 1)
    assert model.rebuild_options({"name": "tiny", "pretrained": "x"}) == {"name": "tiny", "pretrained": None}
    torch.save({"words.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"the weights of .*other.pth do not fit: it lacks boxes.bias"):
        build(pretrained=str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "tinny"}, r"MMF has no model 'tinny'; it has broken, tiny, tiny_pixels. Did you mean 'tiny'\?"),
        ({"name": "broken"}, r"MMF cannot build broken with config \{\}: .*OSError: no such weights"),
        ({"config": {"training_head_type": "pretraining"}}, "MMF cannot build tiny with config .*only classification"),
        ({"num_classes": 0}, "num_classes must be above 0, got 0"),
    ],
)
def test_what_mmf_has_not_or_refuses_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_an_output_that_is_no_logits_is_refused() -> None:
    with pytest.raises(ValueError, match="MMF's tiny gives scores, in which 'logits' is no tensor; set output"):
        build(output="logits")({"text": text()})
    with pytest.raises(ValueError, match=r"'scores' of MMF's tiny has the shape \[2, 5\], wanted \[B, 3\]"):
        build(config={"num_labels": 5})({"text": text()})


def test_a_modality_that_nothing_stands_in_for_must_be_there() -> None:
    model = build(inputs={"text": "input_ids", "image": "image_feature_0", "audio": "audio"})
    assert model.modalities == ("audio", "image", "text")
    with pytest.raises(ValueError, match="MMF's tiny needs 'audio', which was left out"):
        model({"image": image(), "text": text()})
    sound = ModalityInputs(torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool))
    said: dict[str, Tensor] = given(model, {"image": image(), "text": text(), "audio": sound})
    assert torch.equal(said["audio"], sound.values)


def test_processors_must_make_what_a_field_carries() -> None:
    info = DatasetInfo({"image": "pixels", "text": "tokens"}, 2, "single_label")
    setting = Setting(info, ("image", "text"), None, {"image": "pixels", "text": "tokens"})
    assert MmfModel.check({"name": "tiny", "inputs": {"text": "input_ids", "image": "image"}}, setting) == []
    assert MmfModel.check({"name": "tiny"}, setting) == [
        "inputs.image: 'image_feature_0' carries features, and the processor of 'image' makes pixels."
    ]


def test_without_mmf_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = "msd_framework.models.mmf.importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: None)
    with pytest.raises(ValueError, match=r"needs MMF, which is not installed: `git clone https://github.com/facebookresearch/mmf`"):
        build()
    info = DatasetInfo({"text": "tokens"}, 2, "single_label")
    (said,) = MmfModel.check({"name": "tiny"}, Setting(info, ("text",), None, {}))
    assert said.startswith("type: the model type mmf needs MMF")


def test_an_mmf_that_cannot_be_imported_is_told(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mmf").mkdir()
    (tmp_path / "mmf" / "__init__.py").write_text("import torchtext_that_is_gone")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mmf", raising=False)
    with pytest.raises(ValueError, match=r"MMF is there, and mmf.common.sample cannot be imported \(.*torchtext_that_is_gone"):
        build()


def test_words_that_say_themselves_where_they_stand_are_refused() -> None:
    moved = replace(text(), extras={"positions": torch.zeros_like(text().values)})
    with pytest.raises(ValueError, match=r"counts positions itself, and got extras\['positions'\]"):
        build()({"text": moved})
