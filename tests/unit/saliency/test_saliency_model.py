"""Saliency that looks at the teacher: its gradients against finite differences, its attention against transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msd_framework.maskers.attention import AttentionMasker
from msd_framework.models.visual_bert import VisualBert
from msd_framework.registry import OBJECTIVES, SALIENCIES
from msd_framework.saliency.model import AttentionRollout, GradientXInput, log_odds, trace_tokens
from msd_framework.structures import Batch, DatasetInfo, ModelOutput, Setting, Task
from msd_framework.testing import made_batch
from tests.runs import tiny_model

BATCH = made_batch(6)


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_watched_is_what_the_model_says(packed: bool) -> None:
    model = tiny_model(0).eval()
    model.packed = packed
    torch.testing.assert_close(trace_tokens(model, BATCH.inputs).logits, model(BATCH.inputs).logits, rtol=1e-9, atol=1e-9)


def test_tokens_belong_to_the_modality_whose_content_they_hold() -> None:
    of = trace_tokens(tiny_model(0).eval(), BATCH.inputs).content
    text, image = BATCH.inputs["text"], BATCH.inputs["image"]
    assert not (of["image"] & of["text"]).any()
    assert torch.equal(of["text"].sum(1), (text.mask & ~text.special).sum(1))
    assert torch.equal(of["image"].sum(1), image.mask.sum(1))


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_gradient_x_input_is_the_slope_of_the_answer_along_each_token(task: Task) -> None:
    model = tiny_model(0).requires_grad_(False).eval()
    found = GradientXInput(task).read(model, BATCH.inputs)
    seen = trace_tokens(model, BATCH.inputs)
    tokens, (_, mask) = seen.tokens.detach(), model.embed(model.parts([BATCH.inputs])[0])

    def odds(values: torch.Tensor) -> torch.Tensor:
        z = model.classify(torch.tanh(model.pooler(model.encoder(values, mask)[:, 0])))
        p = z.softmax(-1).amax(-1)
        return z.abs().sum(-1) if task == "multi_label" else (p / (1 - p)).log()

    slopes = []
    for i in range(tokens.shape[1]):
        step = torch.zeros_like(tokens)
        step[:, i] = 1e-5 * tokens[:, i]
        slopes.append((odds(tokens + step) - odds(tokens - step)) / 2e-5)
    slope = torch.stack(slopes, 1).abs()  # [B, L]
    for modality in ("image", "text"):
        wanted = (slope * seen.content[modality]).sum(1)
        torch.testing.assert_close(found[modality], wanted, rtol=1e-5, atol=1e-7)  # a central difference in float64


def test_log_odds_are_those_of_the_largest_probability() -> None:
    z = torch.randn(5, 4, dtype=torch.float64)
    p = z.softmax(-1).amax(-1)
    torch.testing.assert_close(log_odds(z, "softmax"), (p / (1 - p)).log())


def test_attention_weights_are_those_of_transformers(tmp_path) -> None:
    from transformers import VisualBertModel

    model = tiny_model(0).eval()
    model.save_transformers(tmp_path)
    theirs = VisualBertModel.from_pretrained(tmp_path, attn_implementation="eager").double().eval()
    text, image = BATCH.inputs["text"], BATCH.inputs["image"]
    attentions = theirs(
        input_ids=text.values,
        attention_mask=text.mask.long(),
        visual_embeds=image.values,
        visual_attention_mask=image.mask.long(),
        visual_token_type_ids=torch.ones_like(image.mask, dtype=torch.long),
        output_attentions=True,
    ).attentions
    ours = trace_tokens(model, BATCH.inputs).attention
    assert len(ours) == len(attentions) == 1
    seen = torch.cat([text.mask, image.mask], 1)
    for mine, their in zip(ours, attentions):
        rows = seen[:, None, :, None].expand_as(mine)
        torch.testing.assert_close(mine[rows], their[rows], rtol=1e-6, atol=1e-7)  # weights saved in float32


def test_rollout_is_the_product_of_the_layers_attention_with_its_residual() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "feature_size": 6, "cls_id": 2, "sep_id": 3, "num_heads": 2, "intermediate_size": 16}
    model = VisualBert(num_classes=3, hidden_size=8, num_layers=3, initializer_range=0.5, **sizes).double().eval()  # type: ignore[arg-type]
    tokens = trace_tokens(model, BATCH.inputs)
    found = AttentionRollout().read(model, BATCH.inputs)
    layers = [w.numpy() for w in tokens.attention]
    assert len(layers) == 3
    for b in range(len(BATCH)):
        flow = np.eye(tokens.tokens.shape[1])
        for layer in layers:
            flow = (0.5 * np.eye(len(flow)) + 0.5 * layer[b].mean(0)) @ flow
        for modality, own in tokens.content.items():
            assert float(found[modality][b]) == pytest.approx(flow[0][own[b].numpy()].sum(), abs=1e-12)
        assert flow[0].sum() == pytest.approx(1)


@pytest.mark.parametrize("name", ["gradient_x_input", "attention_rollout"])
def test_what_is_hidden_has_no_score(name: str) -> None:
    saliency, inputs = SALIENCIES.build(name), AttentionMasker().view(BATCH, "text").inputs
    looked = saliency.look(tiny_model(0).eval(), inputs)
    scores = saliency({"full": ModelOutput(torch.zeros(6, 3), looked)}, BATCH.targets, ("image", "text"))
    assert scores[:, 0].abs().max() == 0
    assert (scores[:, 1] > 0).all()


@pytest.mark.parametrize("name", ["gradient_x_input", "attention_rollout"])
@pytest.mark.parametrize("weighting", ["instance", "population"])
def test_weights_of_training_refuse_it_with_a_sentence(name: str, weighting: str) -> None:
    options = {"views": ["full", "image", "text"], "weighting": {"type": weighting, "saliency": name}}
    info = DatasetInfo({"image": "features", "text": "tokens"}, 3, "single_label")
    setting = Setting(info, ("image", "text"), ("image", "text"), info.modalities)
    (problem,) = OBJECTIVES.get("distillation").check(options, setting)
    assert problem.startswith(f"weighting.saliency: {name} looks at the teacher's model and not at its answers")


def test_a_batch_is_not_changed_by_looking() -> None:
    before = Batch(BATCH.inputs, BATCH.targets, BATCH.ids)
    model = tiny_model(0).requires_grad_(False).eval()
    GradientXInput().look(model, BATCH.inputs)
    assert torch.equal(before.inputs["image"].values, BATCH.inputs["image"].values)
    assert not BATCH.inputs["image"].values.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())
