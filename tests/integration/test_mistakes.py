"""What users get wrong: each mistake is one sentence that names its key and says what to change, and exit code 2."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from msd_framework.cli import main
from msd_framework.engine.runner import Runner
from msd_framework.models.late_fusion import LateFusion
from msd_framework.registry import MODELS
from tests.integration.mistakes import DISTILLATION, Mistake, copied, edit_card, module, msd, student, truncate

SECTIONS = [
    Mistake("option of the run", ["sed=3"], r"command line: sed: no such option\. Did you mean 'seed'\?"),
    Mistake("option of a section", ["training.batch_sze=4"], r"training\.batch_sze: no such option\. Did you mean 'batch_size'\?"),
    Mistake(
        "option of another section",
        ["env.batch_size=4"],
        r"env\.batch_size: no such option\. Did you mean 'training\.batch_size'\?",
    ),
    Mistake("section", ["trainig.max_updates=4"], r"trainig: no such option\. Did you mean 'training'\?"),
    Mistake("a value in place of a section", ["training=3"], r"training: wanted a mapping of options \(max_updates, .*got 3"),
    Mistake(
        "a list in place of a section", ["evaluation=[accuracy]"], r"evaluation: wanted a mapping of options .*got \['accuracy'\]"
    ),
    Mistake("text for a number", ["training.batch_size=four"], r"training\.batch_size: wanted int, got 'four' \(str\)\."),
    Mistake("a fraction for a count", ["training.batch_size=4.5"], r"training\.batch_size: wanted int, got 4\.5 \(float\)\."),
    Mistake("a truth for a number", ["seed=true"], r"seed: wanted int, got True \(bool\)\."),
    Mistake(
        "a quoted truth", ['checkpoint.resume="true"'], r"checkpoint\.resume: wanted bool, got 'true' .*Write it without quotes\."
    ),
    Mistake("pool below 0", ["data.length_pool=-1"], r"data\.length_pool: must be 0 or more, got -1\."),
    Mistake("null where none may be", ["data.workers=null"], r"data\.workers: wanted int, got None"),
    Mistake("choice", ["training.precision=bf61"], r"training\.precision: wanted .*got 'bf61'\. Did you mean 'bf16'\?"),
    Mistake("run type", ["run_type=tset"], r"run_type: wanted 'train' \| .*Did you mean 'test'\?"),
    Mistake("a value to be given", ["data.train=???"], r"data\.train: must be given: The split that is trained on\."),
    Mistake("one view for a list of views", ["evaluation.views=image"], r"evaluation\.views: wanted list\[str\], got 'image'"),
    Mistake("one metric for a list of metrics", ["evaluation.metrics=auroc"], r"evaluation\.metrics: wanted list.*got 'auroc'"),
]

COMPONENTS = [
    Mistake(
        "model", ["model=late_fusoin"], r"model: no model is named 'late_fusoin'\. Did you mean 'late_fusion'\? Known: .*user_dir"
    ),
    Mistake("capital letters", ["model=VisualBERT"], r"model: no model is named 'VisualBERT'\. Did you mean 'visual_bert'\?"),
    Mistake("masker", ["masker=drp"], r"masker: no masker is named 'drp'\. Did you mean 'drop'\?"),
    Mistake("metric", ["evaluation.metrics=[auroc, acuracy]"], r"evaluation\.metrics\[1\]: no metric .*Did you mean 'accuracy'\?"),
    Mistake(
        "option of a component",
        ["optimizer.lrr=0.1"],
        r"optimizer\.lrr: adamw has no such option\. Did you mean 'lr'\? It takes: lr, ",
    ),
    Mistake(
        "option of an encoder",
        ["model.encoders.text.hiden_size=4"],
        r"model\.encoders\.text\.hiden_size: transformer has .*'hidden_size'",
    ),
    Mistake(
        "option of a nested loss",
        student("objective.distill_loss={type: kl, temprature: 2}"),
        r"objective\.distill_loss\.temprature: kl has no such option\. Did you mean 'temperature'\?",
    ),
    Mistake(
        "nested component",
        student("objective.weighting={type: instance, saliency: dropp}"),
        r"objective\.weighting\.saliency: no saliency is named 'dropp'\. Did you mean 'drop'\?",
    ),
    Mistake("type of a component's option", ["optimizer.lr=fast"], r"optimizer\.lr: wanted float \| None, got 'fast'"),
    Mistake("value that a constructor refuses", ["optimizer.lr=-1"], r"optimizer: lr must be above 0, got -1"),
    Mistake(
        "option that is missing",
        ["model={type: unimodal_text}"],
        r"model\.encoder: unimodal_text needs this option: makes a summary",
    ),
    Mistake(
        "component without a name",
        ["model.encoders.text={hidden_size: 4}", "model.type=late_fusion", "data.processors.text=[1]"],
        r"data\.processors\.text: wanted a processor: its name, or \{type: name",
    ),
    Mistake("option that the run gives", ["data.dataset.split=train"], r"data\.dataset\.split: hateful_memes has no such option"),
    Mistake(
        "dotted name",
        ["masker=my_package.MyMasker"],
        r"masker: masker 'my_package\.MyMasker' cannot be imported: .*No module named",
    ),
    Mistake(
        "dotted name of something else", ["masker=json.JSONDecoder"], r"masker: json\.JSONDecoder is no masker: it does not extend"
    ),
    Mistake(
        "distill weight", student("objective.distill_weight=1.5"), r"objective: distill_weight must lie between 0 and 1, got 1\.5"
    ),
    Mistake(
        "temperature",
        student("objective.distill_loss={type: kl, temperature: 0}"),
        r"objective\.distill_loss: temperature .*above 0",
    ),
    Mistake("callback", ["callbacks=[{type: early_stopping, patience: 0}]"], r"callbacks\[0\]: patience must be 1 or more, got 0"),
]

NUMBERS = [
    Mistake("neither length", ["training.max_updates=null"], r"training: wanted either max_updates or max_epochs, got neither\."),
    Mistake("both lengths", ["training.max_epochs=2"], r"training: wanted either max_updates or max_epochs, got both\."),
    Mistake(
        "batch that cannot be split", ["training.accumulate=3"], r"training\.batch_size: must be a multiple of .*1 x 3, got 4\."
    ),
    Mistake("negative batch", ["training.batch_size=-4"], r"training\.batch_size: must be above 0, got -4\."),
    Mistake("negative seed", ["seed=-1"], r"seed: must be 0 or more, got -1\."),
    Mistake(
        "no validation for a monitor",
        ["data.validation=null", "evaluation.monitor=accuracy"],
        r"evaluation\.monitor: needs a validation",
    ),
    Mistake("no training split", ["data.train=null"], r"data\.train: must name a split of the data set for run_type=train\."),
    Mistake("monitor", ["evaluation.monitor=acc"], r"evaluation\.monitor: 'acc' is none of the metrics accuracy"),
    Mistake("metric twice", ["evaluation.metrics=[auroc, auroc]"], r"evaluation\.metrics: a metric is listed twice"),
    Mistake("no metric", ["evaluation.metrics=[]"], r"evaluation\.metrics: wanted at least one metric"),
    Mistake(
        "expected metric", ["expected.test/acuracy=0.9"], r"expected\.test/acuracy: no such metric .*Did you mean 'test/accuracy'\?"
    ),
]

FILES = [
    Mistake(
        "folder of the data set",
        ["data.dataset.root=<here>/none"],
        r"data\.dataset\.root: .*none/train\.jsonl is missing: download .*http",
    ),
    Mistake("file of a split", ["data.test=test_unseen"], r"data\.test: .*test_unseen\.jsonl is missing: download"),
    Mistake(
        "split", ["data.validation=dev_sen"], r"data\.validation: hateful_memes has no split 'dev_sen'\. Did you mean 'dev_seen'\?"
    ),
    Mistake(
        "base",
        ["config=<here>/x.yaml"],
        r"x\.yaml:1: base: there is no file .*y\.yaml",
        lambda h, w, t: (h / "x.yaml").write_text("base: y.yaml"),
    ),
    Mistake(
        "config",
        ["config=<here>/tine.yaml"],
        r"config: there is no file .*tine\.yaml\. Did you mean 'tiny\.yaml'\?",
        lambda h, w, t: (h / "tiny.yaml").write_text(""),
    ),
    Mistake(
        "folder that is a file",
        ["env.save_dir=<here>/f"],
        r"env\.save_dir: .*f is a file, wanted a folder",
        lambda h, w, t: (h / "f").touch(),
    ),
    Mistake(
        "folder in a file", ["env.save_dir=<here>/f/g"], r"env\.save_dir: .*g cannot be made", lambda h, w, t: (h / "f").touch()
    ),
    Mistake("folder of a run", ["env.save_dir=<teacher>"], r"env\.save_dir: .* already holds a run\. Set checkpoint\.resume=true"),
    Mistake(
        "empty split",
        ["data.dataset.root=<here>"],
        r"train\.jsonl: holds no example",
        lambda h, w, t: [(h / f"{s}.jsonl").touch() for s in ("train", "dev_seen", "test_seen")],
    ),
    Mistake(
        "broken line",
        ["data.dataset.root=<here>"],
        r"train\.jsonl:1: has no 'text', only .*'txt'\. Did you mean 'txt'\?",
        lambda h, w, t: [
            (h / f"{s}.jsonl").write_text('{"id": 1, "img": "1.png", "label": 0, "txt": ""}')
            for s in ("train", "dev_seen", "test_seen")
        ],
    ),
    Mistake("processors of no run", ["data.processors_from=<here>/none"], r"data\.processors_from: there is no folder .*none"),
    Mistake("user_dir", ["user_dir=<here>/none"], r"user_dir: there is no folder .*none\."),
    Mistake("imports", ["imports=[no_such_module]"], r"imports\[0\]: there is no module 'no_such_module'\."),
    Mistake(
        "file of the user's that raises",
        ["user_dir=<here>/mine"],
        r"user_dir: .*parts.*mine/parts\.py:2: ZeroDivisionError",
        module("x = 0\nprint(1 / x)\n"),
    ),
    Mistake(
        "file of the user's that is no Python",
        ["user_dir=<here>/mine"],
        r"user_dir: .*parts\.py:1: SyntaxError",
        module("def f(:\n"),
    ),
    Mistake(
        "name that is taken",
        ["user_dir=<here>/mine"],
        r"user_dir: masker 'drop' is registered twice: by msd_framework\.maskers\.drop\.\w+ and by .*parts\.Mine",
        module("from msd_framework.registry import MASKERS\nMASKERS.names()\n\n@MASKERS.register('drop')\nclass Mine: pass\n"),
    ),
]

RUNNING = [
    Mistake(
        "broken image in a worker",
        ["data.dataset.root=<here>/w", "data.workers=1"],
        r"train\.jsonl:3: .*0002\.png: is not an image",
        lambda h, w, t: (shutil.copytree(w, h / "w"), (h / "w" / "img" / "0002.png").write_text("no image")),
        while_training=True,
    ),
    Mistake(
        "text that is too long for the model",
        ["model.encoders.text.max_positions=3"],
        r"data\.processors\.text\.max_length: lets texts of 8 tokens through, and the positions of model are 3\.",
    ),
    Mistake(
        "heads that do not divide the size",
        ["model.encoders.text.num_heads=3"],
        r"model\.encoders\.text: num_heads must divide hidden_size",
    ),
    Mistake(
        "token that the vocabulary lacks",
        ["masker={type: constant, token: 99999}", "evaluation.views=[full, image]"],
        r"masker: token must be one of the \d+ that there are, counted from 0, got 99999",
    ),
    Mistake(
        "text that is too long for a published architecture",
        [
            "model={type: unimodal_text, encoder: {type: bert, config: {model_type: bert, hidden_size: 8, num_hidden_layers: 1, "
            "num_attention_heads: 2, intermediate_size: 8, max_position_embeddings: 3}}}"
        ],
        r"data\.processors\.text\.max_length: lets texts of 8 tokens through, and the positions of model are 3\.",
    ),
    Mistake(
        "batch of one for a batch norm",
        ["model={type: unimodal_image, encoder: resnet}", "training.batch_size=1"],
        r"Expected more than 1 value per channel .*; raise training\.batch_size",
    ),
    Mistake(
        "file of a callback",
        ["callbacks=[{type: json_lines, path: /proc/x}]"],
        r"/proc/x: .*\. Name another file or folder\.",
    ),
    Mistake("name that is too long", ["env.save_dir=<here>/" + "a" * 300], r"File name too long\. Name a shorter one\."),
    Mistake("size of an image", ["data.processors.image.size=0"], r"data\.processors\.image: size is 0, wanted a positive number"),
]

CHECKPOINTS = [
    Mistake(
        "teacher's folder",
        student("teacher.checkpoint=<here>/none"),
        r"teacher\.checkpoint: there is no folder .*none; wanted the folder of a finished",
    ),
    Mistake(
        "teacher without checkpoint", student("teacher.checkpoint=<here>"), r"teacher\.checkpoint: .* holds no checkpoint; wanted"
    ),
    Mistake("no teacher", DISTILLATION[:1], r"teacher: must be given: the objective distillation learns from one\."),
    Mistake("teacher for nothing", DISTILLATION[1:], r"teacher: the objective supervised has no use for one\. Leave it out, or"),
    Mistake("model for a teacher", student("teacher.model=visual_bert"), r"teacher\.model: no such option\."),
    Mistake("empty teacher", [DISTILLATION[0], "teacher={}"], r"teacher\.checkpoint: must be given: The folder of a finished run"),
    Mistake(
        "teacher of other classes",
        student("teacher.checkpoint=<here>/copy"),
        r"teacher\.checkpoint: the teacher tells 3 classes apart .*has 2",
        lambda h, w, t: edit_card(t, h, lambda card: card["facts"].update(num_classes=3)),
    ),
    Mistake(
        "teacher of classes of other names",
        student("teacher.checkpoint=<here>/copy"),
        r"teacher\.checkpoint: the teacher's classes are no, yes and",
        lambda h, w, t: edit_card(t, h, lambda card: card["facts"].update(class_names=["no", "yes"])),
    ),
    Mistake(
        "teacher of other modalities",
        student("teacher.checkpoint=<here>/copy"),
        r"teacher\.checkpoint: the teacher takes 'audio', which hateful_memes does not have; it has image, text",
        lambda h, w, t: edit_card(
            t,
            h,
            lambda card: (
                card.update(modalities=["audio", "image", "text"]) or card["processors"].update(audio=card["processors"]["text"])
            ),
        ),
    ),
    Mistake(
        "teacher of unknown model",
        student("teacher.checkpoint=<here>/copy"),
        r"teacher\.checkpoint: .*no model is named 'mine'",
        lambda h, w, t: edit_card(t, h, lambda card: card.update(model={"type": "mine"})),
    ),
    Mistake(
        "teacher of another version",
        student("teacher.checkpoint=<here>/copy"),
        r"teacher\.checkpoint: .*card\.json does not describe a model",
        lambda h, w, t: edit_card(t, h, lambda card: card.pop("facts")),
    ),
    Mistake(
        "teacher's card",
        student("teacher.checkpoint=<here>/copy"),
        r"teacher\.checkpoint: .*card\.json: is damaged",
        lambda h, w, t: truncate(copied(t, h) / "card.json"),
    ),
    Mistake(
        "teacher of other tensors",
        student("teacher.processors.text={type: tokenizer, max_length: 7}"),
        r"teacher\.processors\.text: the teacher was trained on other tensors: max_length is 7 here and 8 there",
    ),
    Mistake(
        "processor of a teacher that takes no such thing",
        student("teacher.processors.imag={type: pixels, size: 8}"),
        r"teacher\.processors\.imag: no teacher takes 'imag'\. Did you mean 'image'\? They take image, text\.",
    ),
    Mistake(
        "random transforms of a teacher's own",
        student("teacher.processors.image={type: pixels, size: 8, augment: crop_flip}"),
        r"teacher\.processors\.image: has random transforms, and what a teacher sees by itself is made without",
    ),
    Mistake(
        "processors of an average",
        student("teacher={checkpoint: null, ema: 0.9, processors: {image: {type: pixels, size: 8}}}"),
        r"teacher\.processors: are those of a trained teacher, and the average sees what the student does",
    ),
    Mistake(
        "teacher's weights",
        student("teacher.checkpoint=<here>/copy"),
        r"model\.safetensors: is damaged: its content is not what was written",
        lambda h, w, t: truncate(copied(t, h) / "model.safetensors"),
    ),
    Mistake(
        "checkpoint that lacks a file",
        ["run_type=test", "checkpoint.load=<here>/copy"],
        r"objective\.safetensors: is missing",
        lambda h, w, t: (copied(t, h) / "objective.safetensors").unlink(),
    ),
    Mistake(
        "checkpoint that is damaged",
        ["run_type=test", "checkpoint.load=<here>/copy"],
        r"model\.safetensors: is damaged",
        lambda h, w, t: truncate(copied(t, h) / "model.safetensors"),
    ),
    Mistake(
        "checkpoint of another model",
        ["run_type=test", "checkpoint.load=<teacher>", "model.hidden_size=16"],
        r"model: the checkpoint .* holds another model: hidden_size is 16 here and 8 there\.",
    ),
    Mistake("nothing to test", ["run_type=test"], r"env\.save_dir: there is no folder .*; wanted the folder of a finished run"),
    Mistake(
        "tokenizer that is not there",
        ["data.processors.text.name=./nowhere/tokenizer.json"],
        r"data\.processors\.text: there is no tokenizer at \./nowhere/tokenizer\.json; wanted a folder or a tokenizer\.json",
    ),
    Mistake(
        "folder of features that is not there",
        ["data.processors.image={type: region_features, folder: nowhere, feature_size: 8}", "model.encoders.image=features"],
        r"data\.processors\.image: there is no folder nowhere; wanted one with a `<image>\.npy` for each image",
    ),
    Mistake(
        "resumption of another model",
        ["checkpoint.resume=true", "env.save_dir=<here>/copy", "model.fusion=sum"],
        r"model: fusion is 'sum' here and 'concat' there, in the run that is gone on with\. Name another env\.save_dir",
        lambda h, w, t: copied(t, h),
    ),
    Mistake(
        "checkpoint for a training run", ["checkpoint.load=<teacher>"], r"checkpoint\.load: is for run_type val, test and predict"
    ),
]

PAIRS = [
    Mistake(
        "view",
        student("objective.views=[full, imge]"),
        r"objective\.views\[1\]: view 'imge' names 'imge', .*Did you mean 'image'\?",
    ),
    Mistake(
        "view that hides everything",
        student("objective.views=[~image+text]"),
        r"objective\.views\[0\]: view '~image\+text' hides every modality",
    ),
    Mistake(
        "view of nothing", student("objective.views=[{teacher: image}]"), r"objective\.views\[0\]: a view is a name or \{teacher"
    ),
    Mistake("view twice", student("objective.views=[full, image, image]"), r"objective\.views: a view is listed twice"),
    Mistake("no view", student("objective.views=[]"), r"objective\.views: wanted at least one view"),
    Mistake(
        "view of the evaluation", ["evaluation.views=[full, txt]"], r"evaluation\.views\[1\]: view 'txt' .*Did you mean 'text'\?"
    ),
    Mistake(
        "crossmodal view of what the student lacks",
        student("model={type: unimodal_text, encoder: transformer}", "objective.views=[{teacher: text, student: image}]"),
        r"objective\.views\[0\]: view 'image' names 'image', which is not one of the modalities text\.",
    ),
    Mistake(
        "weight of a view that is not there",
        student("objective.weighting={type: fixed, weights: {txt: 0.5}}"),
        r"objective\.weighting\.weights: 'txt' is not one of the views full, image, text\. Did you mean 'text'\?",
    ),
    Mistake(
        "ratio of scores that can be negative",
        student("objective.weighting={type: instance, saliency: gap}"),
        r"objective\.weighting: the scores of GapSaliency can be negative.*take normalise: softmax",
    ),
    Mistake(
        "saliency of a single modality",
        [
            DISTILLATION[0],
            "objective.views=[full]",
            "objective.weighting={type: instance, saliency: drop}",
            "evaluation.views=[full]",
            "teacher.checkpoint=<here>/copy",
        ],
        r"objective\.weighting: no view is without 'text', which is the only modality",
        lambda h, w, t: edit_card(t, h, lambda card: card.update(modalities=["text"])),
    ),
    Mistake("masker of other values", ["masker=mean"], r"masker: MeanMasker cannot hide 'text', whose values are tokens"),
    Mistake(
        "masker for the wrong modality",
        ["masker={type: by_modality, maskers: {txt: drop}, otherwise: drop}"],
        r"masker\.maskers: 'txt' is not .*'text'",
    ),
    Mistake(
        "loss of another task",
        student("objective.distill_loss=bernoulli_kl"),
        r"objective\.distill_loss: bernoulli_kl is for .*the data set's are single_label",
    ),
    Mistake(
        "task loss of another task",
        ["objective.task_loss=binary_cross_entropy"],
        r"objective\.task_loss: binary_cross_entropy is for multi_label",
    ),
    Mistake(
        "metric of another task",
        ["evaluation.metrics=[f1_samples]"],
        r"evaluation\.metrics\[0\]: f1_samples is for multi_label targets",
    ),
    Mistake(
        "processor of no modality",
        ["data.processors.txt=tokenizer"],
        r"data\.processors\.txt: hateful_memes has no such modality\. Did you mean 'text'\?",
    ),
    Mistake(
        "modality without processor",
        ["config=<here>/x.yaml"],
        r"x\.yaml:3: data\.processors: nothing says how 'image' becomes tensors",
        lambda h, w, t: (h / "x.yaml").write_text(
            (w.parent / "tiny.yaml").read_text().replace("    image: {type: pixels, size: 8}\n", "")
        ),
    ),
    Mistake(
        "modality that the data lack",
        ["model.encoders={audio: transformer}"],
        r"model: late_fusion takes 'audio', which hateful_memes does not have",
    ),
    Mistake(
        "modality dropout", ["objective.modality_dropout=0.7"], r"objective: modality_dropout must lie between 0 and 1/2, got 0\.7"
    ),
]

VISUAL_BERT = "model={type: visual_bert, hidden_size: 8, num_layers: 1, num_heads: 2, intermediate_size: 16, "
UNREAD = [
    Mistake("heads", ["model.encoders.text.num_heads=5"], r"model\.encoders\.text: num_heads must divide hidden_size, got 5"),
    Mistake("dropout", ["model.dropout=2"], r"model: dropout probability has to be between 0 and 1, but got 2"),
    Mistake(
        "patches", ["model.encoders.image.patch_size=7"], r"model\.encoders\.image: patch_size must divide image_size, got 7 for 8"
    ),
    Mistake("fusion", ["model.fusion=concta"], r"model\.fusion: wanted 'concat' \| .*Did you mean 'concat'\?"),
    Mistake("padding", ["model.encoders.text.pad_id=-1"], r"model\.encoders\.text: pad_id must be in 0\.\.\d+, got -1"),
    Mistake(
        "padding of VisualBERT",
        [VISUAL_BERT + "pad_id: -1, image_encoder: {type: patches, patch_size: 4, hidden_size: 8}}"],
        r"model: pad_id must be in 0\.\.\d+, got -1",
    ),
    Mistake("negative size", ["model.hidden_size=-4"], r"model: hidden_size must be above 0, got -4"),
    Mistake("no size", ["model.hidden_size=0"], r"model: hidden_size must be above 0, got 0"),
    Mistake(
        "negative layers", ["model.encoders.text.num_layers=-1"], r"model\.encoders\.text: num_layers must be 0 or more, got -1"
    ),
    Mistake(
        "negative size of VisualBERT",
        ["model={type: visual_bert, num_layers: -1, image_encoder: {type: patches, patch_size: 4}}"],
        r"model: num_layers must be above 0, got -1",
    ),
    Mistake(
        "pixels for VisualBERT",
        ["model={type: visual_bert, image_encoder: null}"],
        r"model\.image_encoder: must be given, since the values of 'image' are pixels",
    ),
    Mistake(
        "encoder of other values for VisualBERT",
        ["model={type: visual_bert, image_encoder: transformer}"],
        r"model\.image_encoder: transformer takes tokens, and the values of 'image' are pixels\. Take one of patches, resnet, timm",
    ),
    Mistake(
        "encoder of texts for an image",
        ["model={type: unimodal_image, encoder: transformer}"],
        r"model\.encoder: transformer takes tokens, and the values of 'image' are pixels",
    ),
    Mistake(
        "encoder of images for a text",
        ["model={type: late_fusion, encoders: {text: patches, image: patches}}"],
        r"model\.encoders\.text: patches takes pixels, and the values of 'text' are tokens\. Take one of bert, transformer\.",
    ),
    Mistake(
        "folder of published weights",
        ["model={type: visual_bert, pretrained: /nowhere, image_encoder: {type: patches, patch_size: 4}}"],
        r"model\.pretrained: there is no file or folder /nowhere\.",
    ),
    Mistake(
        "file of published weights",
        ["model={type: unimodal_image, encoder: {type: resnet, weights: /nowhere/x.pth}}"],
        r"model\.encoder\.weights: there is no file or folder /nowhere/x\.pth\.",
    ),
    Mistake(
        "folder of a text encoder",
        ["model={type: unimodal_text, encoder: {type: bert, name: ./none}}"],
        r"model\.encoder\.name: there is no file or folder \./none\.",
    ),
    Mistake(
        "configuration of another kind of model",
        ["model={type: unimodal_text, encoder: {type: bert, config: {model_type: vit}}}"],
        r"model\.encoder: config is a model of type vit, which does not take texts",
    ),
    Mistake(
        "train and validation", ["data.validation=train"], r"data\.validation: is 'train', as is data\.train: what it chooses must"
    ),
    Mistake(
        "validation and test", ["data.test=dev_seen"], r"data\.test: is 'dev_seen', as is data\.validation: what is reported must"
    ),
    Mistake("folder without a name", ["env.save_dir="], r"env\.save_dir: must name a folder"),
    Mistake("seed", ["seed=99999999999999999999999"], r"seed: must be at most 2\*\*63 - 1, got 9"),
    Mistake("momentum", ["optimizer={type: sgd, momentum: -1}"], r"optimizer: momentum must be 0 or more, got -1"),
    Mistake("rate", ["optimizer.lr=.nan"], r"optimizer: lr must be above 0, got nan"),
    Mistake("token", ["masker={type: constant, token: -1}"], r"masker: token must be 0 or more, got -1"),
    Mistake("tokens", ["masker={type: noise, vocab_size: 99999}"], r"masker\.vocab_size: a run takes the tokenizer's"),
    Mistake(
        "view by another name",
        student("objective.views=[full, image, ~text]"),
        r"objective\.views\[2\]: '~text' shows the same as 'image'\.",
    ),
    Mistake(
        "whole view by another name",
        student("objective.views=[full, image+text]"),
        r"\[1\]: 'image\+text' shows the same as 'full'",
    ),
    Mistake(
        "expected metric of a student",
        student("expected={test/acuracy: 0.9, test/kl: 0.1}"),
        r"expected\.test/acuracy: no such metric is reported\. Did you mean 'test/accuracy'\?",
    ),
    Mistake(
        "stopping by a validation that is not made",
        ["callbacks=[early_stopping]", "data.validation=null"],
        r"callbacks\[0\]: stops by what a validation finds\. Name a split",
    ),
]
"""Mistakes that are found without reading data or weights."""

WORDS = [
    Mistake("word without value", ["training.max_updates"], r"command line: 'training\.max_updates' is not of the form key=value"),
    Mistake("item of a list", ["objective.views[1]=image"], r"command line: .*A list is given as a whole, such as"),
    Mistake("value that is no YAML", ["training={max_updates: 3"], r"command line: training: the value .* is not valid YAML"),
    Mistake("interpolation", ["name=${env.nme}"], r"command line: name: the interpolation cannot be filled in: .*nme"),
    Mistake("two configs", ["config=a.yaml", "config=b.yaml"], r"config: wanted config=FILE once"),
    Mistake("option with dashes", ["--seed=3"], r"command line: '--seed=3' is not of the form key=value"),
]

MISTAKES = [*SECTIONS, *COMPONENTS, *NUMBERS, *FILES, *RUNNING, *CHECKPOINTS, *PAIRS, *UNREAD, *WORDS]

for path in sorted(Path(__file__).parent.glob("mistakes_*.py")):
    MISTAKES += importlib.import_module(f"tests.integration.{path.stem}").MISTAKES


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    mistake, own_names, monkeypatch, tmp_path, tiny_config, tiny_world, tiny_teacher, capsys
):
    mistake.prepare(tmp_path, tiny_world, tiny_teacher)
    made, step = [], Runner.step
    monkeypatch.setattr(Runner, "step", lambda *arguments: (output := step(*arguments), made.append(output))[0])
    assert msd(mistake.words, tmp_path, tiny_config, tiny_world, tiny_teacher) == 2
    assert not made or mistake.while_training, "told after the first update"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert re.search(mistake.said, lines[0]), lines[0]
    assert "Traceback" not in lines[0]


YAMLS = {
    "duplicate key": ("seed: 1\nname: a\nseed: 2\n", r":3: is not valid YAML: found duplicate key"),
    "tab": ("data:\n\ttrain: a\n", r":2: is not valid YAML: .*Indent with spaces, not tabs\."),
    "open bracket": ("seed: [1\nname: a\n", r":2: is not valid YAML"),
    "a list": ("- a\n- b\n", r"wanted a mapping of options, .*got \['a', 'b'\]"),
    "a word": ("hello\n", r"wanted a mapping of options, .*got .*hello"),
    "not UTF-8": ("name: caf\xe9\n", r"is not UTF-8 .*save the file as UTF-8\."),
    "base of itself": ("base: mine.yaml\n", r"includes itself, through mine\.yaml -> mine\.yaml"),
    "base that is no path": ("base: 3\n", r":1: base: wanted the path of a YAML file, got 3\."),
    "alias inside its anchor": ("data: &a\n  x: *a\n", r"recursive|without end"),
    "object": ("seed: !!python/object:os.system {}\n", r":1: is not valid YAML"),
}


@pytest.mark.parametrize(("text", "said"), YAMLS.values(), ids=YAMLS)
def test_a_file_that_cannot_be_read_is_one_sentence_with_its_place(text, said, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode("latin-1"))
    assert main(["run", f"config={path}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(str(path))
    assert re.search(said, lines[0]), lines[0]


def test_an_empty_file_says_what_must_be_given(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("# nothing yet\n")
    assert main(["run", f"config={tmp_path / 'mine.yaml'}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["data", "model"]


def test_a_mistake_in_a_file_is_told_with_its_line_also_through_a_base(tmp_path, tiny_config, capsys):
    (tmp_path / "base.yaml").write_text(tiny_config.read_text().replace("max_updates", "max_updats"))
    (tmp_path / "mine.yaml").write_text("base: base.yaml\noptimizer:\n  lr: fast\n")
    assert main(["run", f"config={tmp_path / 'mine.yaml'}", f"env.save_dir={tmp_path / 'run'}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'base.yaml'}:15: training.max_updats: no such option.")
    assert lines[1].startswith(f"{tmp_path / 'mine.yaml'}:3: optimizer.lr: wanted float | None, got 'fast'")
    assert len(lines) == 2


def test_all_mistakes_are_told_at_once(tmp_path, tiny_config, tiny_world, tiny_teacher, capsys):
    words = student(
        "sed=3",
        "training.batch_size=-1",
        "optimizer.lr=fast",
        "objective.distill_loss={type: kl, temprature: 2}",
        "data.test=test_unsen",
        "evaluation.metrics=[acuracy]",
    )
    assert msd(words, tmp_path, tiny_config, tiny_world, tiny_teacher) == 2
    keys = {line.split(": ")[1] for line in capsys.readouterr().err.splitlines()}
    assert {
        "sed",
        "training.batch_size",
        "optimizer.lr",
        "objective.distill_loss.temprature",
        "evaluation.metrics[0]",
        "data.test",
    } == keys


def test_what_does_not_go_together_is_told_beside_what_is_wrong_by_itself(tmp_path, tiny_config, tiny_world, tiny_teacher, capsys):
    words = student(
        "training.batch_size=-1",
        "data.test=test_unsen",
        "objective.views=[full, imge]",
        "objective.distill_loss={type: kl, temprature: 2}",
        "evaluation.monitor=f1",
    )
    assert msd(words, tmp_path, tiny_config, tiny_world, tiny_teacher) == 2
    keys = [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()]
    wanted = ["objective.distill_loss.temprature", "training.batch_size", "data.test", "evaluation.monitor", "objective.views[1]"]
    assert keys == wanted


def test_a_mistake_has_no_false_companions(tmp_path, tiny_config, tiny_world, tiny_teacher, capsys):
    words = [
        "objective={type: distilation, views: [full]}",
        "teacher.checkpoint=<teacher>",
    ]  # else: a supervised run has no use for one
    assert msd(words, tmp_path, tiny_config, tiny_world, tiny_teacher) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


class NeedsBoth(LateFusion):
    takes_subsets = False


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["evaluation.views=[full, image]"], "leaves modalities out, and the model needs all of them. Take masker=attention"),
        (student("teacher.masker=attention"), "leaves modalities out, and the model needs all of them. Take masker=attention"),
        # where none is named, it is measured by what it trains with
        (["evaluation.views=[full, image]", "masker=partial"], "PartialMasker shows a part of what a view hides"),
    ],
    ids=["evaluation", "views", "partial"],
)
def test_a_model_that_needs_all_modalities_cannot_be_shown_a_part(
    words, wanted, monkeypatch, tmp_path, tiny_config, tiny_world, tiny_teacher, capsys
):
    MODELS.names()
    monkeypatch.setitem(MODELS._classes, "needs_both", NeedsBoth)
    encoders = "{text: transformer, image: patches}"
    words = [*words, f"model={{type: needs_both, encoders: {encoders}}}"]
    assert msd(words, tmp_path, tiny_config, tiny_world, tiny_teacher) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"masker: {wanted}" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(tmp_path, tiny_config, tiny_world, tiny_teacher, capsys):
    assert msd(["env.device=cuda"], tmp_path, tiny_config, tiny_world, tiny_teacher) == 2
    assert "env.device: this machine has no GPU" in capsys.readouterr().err


def test_a_folder_that_may_not_be_written_to_is_told(monkeypatch, tmp_path, tiny_config, tiny_world, tiny_teacher, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert msd([], tmp_path, tiny_config, tiny_world, tiny_teacher) == 2
    assert "env.save_dir: " in (said := capsys.readouterr().err)
    assert "cannot be made or written to" in said


@pytest.mark.parametrize("mistake", UNREAD, ids=lambda m: m.name)
def test_a_check_finds_what_takes_neither_data_nor_weights_to_find(
    mistake, tmp_path, tiny_config, tiny_world, tiny_teacher, capsys
):
    assert msd([*mistake.words, "run_type=check"], tmp_path, tiny_config, tiny_world, tiny_teacher) == 2
    assert re.search(mistake.said, capsys.readouterr().err)


@pytest.mark.parametrize("run_type", ["val", "test"])
def test_any_split_can_be_evaluated(run_type, tmp_path, tiny_config, tiny_world, tiny_teacher):
    words = [f"run_type={run_type}", "checkpoint.load=<teacher>", "data.validation=train", "data.test=train"]
    assert msd(words, tmp_path, tiny_config, tiny_world, tiny_teacher) == 0


def test_a_text_encoder_whose_sizes_are_in_files_is_right_as_far_as_can_be_told(tmp_path, tiny_config, tiny_world, tiny_teacher):
    words = ["run_type=check", "model.encoders.text={type: bert, name: owner/model}"]
    assert msd(words, tmp_path, tiny_config, tiny_world, tiny_teacher) == 0


def test_a_right_configuration_is_called_right(tmp_path, tiny_config, tiny_world, tiny_teacher, capsys):
    assert msd(student("run_type=check"), tmp_path, tiny_config, tiny_world, tiny_teacher) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_check_in_a_process_of_its_own_prints_no_traceback_and_imports_nothing_heavy(tmp_path, tiny_config):
    script = (
        "import sys; from msd_framework.cli import main; "
        f"code = main(['run', 'config={tiny_config}', 'run_type=check', 'optimizer.lr=fast', 'env.save_dir={tmp_path / 'run'}']); "
        "heavy = {'transformers', 'torchvision', 'sklearn', 'tokenizers', 'matplotlib', 'torchmetrics', 'mmf'} & set(sys.modules); "
        "print(sorted(heavy)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert done.stderr == "command line: optimizer.lr: wanted float | None, got 'fast' (str).\n"
