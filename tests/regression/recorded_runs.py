"""Small runs of everything that computes a number, by name: the words that one types to make each of them.

`$here` is the folder that a run writes to, and `$other` that of the run `other`, which goes before it. Only commands and the keys
of YAML files are named, so that the list outlives any change inside the library.
"""

from __future__ import annotations

RUNS: dict[str, list[list[str]]] = {}
"""The commands of each run, one after another. What a run needs stands before it."""

SAME = {
    "msd_cached_read": "msd_cached",
    "teacher_resumed": "teacher_whole",
    "learned_resumed": "learned_whole",
    "ema_resumed": "ema_whole",
}
"""Runs that must end with the weights and predictions of another one."""

ALIKE = {"msd_cached": "msd"}
"""Runs whose numbers must be those of another one but for rounding: a cache keeps a teacher's answers in float16."""

QUICK = ("msd_cached", "msd_learned", "ema_resumed", "cards_msd_instance", "figure2")
"""The runs that the test suite repeats, with what they need."""

SMALL = ["training.max_epochs=null", "training.max_updates=4", "training.batch_size=8", "training.log_every=1"]
SMALL += ["evaluation.every_updates=2", "env.device=cpu", "env.threads=1", "env.save_dir=$here"]


def world(name: str, layout: str, *splits: str) -> None:
    """A made data set of 64 rows to learn from and 24 in each other split."""
    sizes = [f"sizes.{split}={size}" for split, size in zip(splits, (64, 24, 24), strict=True)]
    RUNS[name] = [["make-world", f"layout={layout}", "folder=$here", "seed=0", *sizes]]


def run(name: str, config: str, *words: str) -> None:
    RUNS[name] = [["run", f"config={config}", *SMALL]]
    like(name, name, *words)


def like(name: str, other: str, *words: str) -> None:
    """The run of another name with more words, of which the last one of a key counts."""
    command, *before = RUNS[other][0]
    of_each_key = {word.partition("=")[0]: word for word in [*before, *words]}
    RUNS[name] = [[command, *of_each_key.values()]]


def project(world: str, teacher: str, configs: str, *students: str) -> None:
    """A teacher and its students, by a folder of YAML files, on a made world."""
    run(teacher, f"{configs}/teacher.yaml", f"data.dataset.root=${world}")
    for student in students:
        name = student if world == "memes" else f"{world}_{student}"
        run(name, f"{configs}/{student}.yaml", f"data.dataset.root=${world}", f"teacher.checkpoint=${teacher}")


def stopped(name: str, other: str, *words: str) -> None:
    """A run as it is, and one that is stopped half-way and gone on with."""
    like(f"{name}_whole", other, "scheduler=constant", *words)
    like(f"{name}_resumed", f"{name}_whole", "training.max_updates=2")
    RUNS[f"{name}_resumed"].append([*RUNS[f"{name}_whole"][0], "checkpoint.resume=true"])


# The quickstart with its controls, three modalities, the other tasks, and the Modality Focusing Hypothesis
world("memes", "hateful_memes", "train", "dev_seen", "test_seen")
world("cards", "talking_cards", "train", "validation", "test")
world("genres", "mm_imdb", "train", "dev", "test")
world("answers", "vqa_v2", "train2014", "val2014", "test2015")
world("relations", "snli_ve", "train", "dev", "test")
WEIGHTED = ("msd_population", "msd_instance", "msd_instance_keep", "msd_learned")
project("memes", "teacher", "projects/quickstart/configs", "kd", "msd", "full_targets", *WEIGHTED)
run("ce", "projects/quickstart/configs/ce.yaml", "data.dataset.root=$memes", "data.processors_from=$teacher")
project("cards", "cards_teacher", "projects/three_modalities/configs", "kd", "msd", "msd_all", "msd_instance", "late_fusion")
project("genres", "genres_teacher", "projects/empirical/configs/several_labels", "msd")
project("answers", "answers_teacher", "projects/empirical/configs/soft_answers", "msd")
project("relations", "relations_teacher", "projects/empirical/configs/three_classes", "msd")
RUNS["figure2"] = [["run", "config=projects/mfh_gauss/configs/figure2.yaml", "seeds=2", "expected=null", "env.save_dir=$here"]]

# Models
TEXT = "{type: transformer, hidden_size: 16, num_layers: 1, num_heads: 2, max_positions: 16}"
IMAGE = "{type: patches, hidden_size: 16, num_heads: 2}"
AUDIO = "{type: log_mel, window: 128, hop: 64, num_bands: 32, num_channels: 4, hidden_size: 16}"
ENCODERS = f"encoders: {{text: {TEXT}, image: {IMAGE}}}"
LAYERS = "hidden_size: 16, num_layers: 1, num_heads: 2, intermediate_size: 32"
CROSSED = "image_hidden_size: 16, image_num_layers: 1, image_num_heads: 2, image_intermediate_size: 32"
VILT = "model_type: vilt, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, patch_size: 8"
MODELS = {
    "late_fusion": f"{ENCODERS}, hidden_size: 16",
    "logit_fusion": f"{ENCODERS}, hidden_size: 16",
    "single_stream": f"{ENCODERS}, {LAYERS}",
    "mmbt": f"image_encoder: {IMAGE}, {LAYERS}",
    "concat_bert": f"text_encoder: {TEXT}, image_encoder: {IMAGE}, num_layers: 1, hidden_size: 16",
    "concat_bow": f"image_encoder: {IMAGE}, num_layers: 1, hidden_size: 16",
    "vilbert": f"image_encoder: {IMAGE}, {LAYERS}, {CROSSED}, co_hidden_size: 16, co_num_heads: 2, num_connections: 1",
    "huggingface": f"config: {{{VILT}, max_position_embeddings: 16}}",
}
for name, options in MODELS.items():
    like(f"model_{name}", "msd", f"model={{type: {name}, {options}}}")
ALONE = {"text": f"type: unimodal_text, encoder: {TEXT}", "image": f"type: unimodal_image, encoder: {IMAGE}"}
ALONE["module"] = "type: module, target: torchvision.models.shufflenet_v2_x0_5, options: {num_classes: 2}, inputs: {image: x}"
for name, options in ALONE.items():
    like(f"model_of_{name}", "kd", f"model={{{options}}}", "evaluation.views=[full]")
like("model_of_audio", "cards_kd", f"model={{type: unimodal_audio, encoder: {AUDIO}}}", "evaluation.views=[full]")
BERT = "model_type: bert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32"
WAVES = (
    "conv_dim: [16, 16], conv_kernel: [10, 8], conv_stride: [5, 4], num_conv_pos_embeddings: 4, num_conv_pos_embedding_groups: 2"
)
PUBLIC = {"bert": f"{{text: {{type: bert, config: {{{BERT}}}}}, image: {IMAGE}}}"}
PUBLIC["resnet"] = f"{{text: {TEXT}, image: {{type: resnet}}}}"
for name, encoders in PUBLIC.items():
    like(f"encoder_{name}", "msd", f"model={{type: late_fusion, encoders: {encoders}, hidden_size: 16}}")
WAV2VEC2 = f"config: {{{BERT.replace('bert', 'wav2vec2')}, {WAVES}}}"
like(
    "encoder_huggingface_audio",
    "model_of_audio",
    f"model={{type: unimodal_audio, encoder: {{type: huggingface_audio, {WAV2VEC2}}}}}",
)

# Objectives: supervised and distillation are those of the quickstart
LATE_FUSION = f"model={{type: late_fusion, {MODELS['late_fusion']}}}"
like("objective_agreement", "ce", LATE_FUSION, "objective={type: agreement}")
like("objective_modulated", "msd", LATE_FUSION, "objective.modulation=ogm_ge")
like("objective_scheduled", "msd", "objective.distill_weight={start: 0.9, end: 0.5}")
like("objective_few_labels", "msd", "data.labelled_share=0.5", "data.unlabelled=true")

# Weightings: fixed, instance and population are those of the quickstart
HELD_OUT = "held_out_batch_size: 4"
WEIGHTINGS = {
    "uniform": "{type: uniform}",
    "scheduled": "{type: scheduled, start: {image: 0}, end: {image: 1, text: 2}}",
    "dwa": "{type: dwa, window: 1}",
    "gradnorm": "{type: gradnorm}",
    "rank_filter": "{type: rank_filter}",
    "teacher_loss": "{type: teacher_loss}",
    "uncertainty": "{type: uncertainty}",
    "learned": f"{{type: learned, {HELD_OUT}}}",
    "learned_before": f"{{type: learned, order: before, per: view, full_weight: null, {HELD_OUT}}}",
    "learned_saliency": f"{{type: learned, inputs: [view, saliency, probabilities], {HELD_OUT}}}",
}
for name, weighting in WEIGHTINGS.items():
    like(f"weighting_{name}", "msd", f"objective.weighting={weighting}")
for name in ("keep", "gap", "loss", "shapley"):
    like(f"saliency_{name}", "msd", f"objective.weighting={{type: instance, saliency: {name}, normalise: softmax}}")

# Maskers: drop is that of the quickstart; each is measured by the views that it trains with
for name in ("attention", "constant", "noise", "other"):
    like(f"masker_{name}", "msd", f"masker={name}", f"evaluation.masker={name}")
MEAN = "masker={type: by_modality, maskers: {image: mean}, otherwise: constant}"
like("masker_mean", "msd", MEAN, f"evaluation.{MEAN}")

# Losses: kl and bernoulli_kl are those of the projects
for name in ("js", "tvd", "reverse_kl", "mse", "dist", "dkd", "multi_level", "non_target_kl"):
    like(f"loss_{name}", "relations_msd", f"objective.distill_loss={name}")
like("loss_standardised", "relations_msd", "objective.distill_loss={type: standardised, loss: kl}")
for name in ("js", "tvd", "reverse_kl", "dist", "multi_level", "non_target_kl"):
    like(f"loss_bernoulli_{name}", "genres_msd", f"objective.distill_loss=bernoulli_{name}")
FEATURES = {
    "hint": "loss: hint, student: fused.*.hidden",
    "attention_transfer": "loss: attention_transfer, student: fused.*.attention",
    "minilm": "loss: {type: minilm, num_heads: 2}, student: fused.last.value",
    "cosine": "loss: cosine, student: fused.pooled, view: text",
    "pkd": "loss: pkd, student: fused.*.cls",
    "crd": "loss: {type: crd, num_negatives: 8, embedding_size: 8}, student: fused.pooled",
    "sp": "loss: sp, student: image.last.mean",
    **{name: f"loss: {name}, student: fused.pooled" for name in ("pkt", "rkd", "affinity")},
}
for name, term in FEATURES.items():
    like(f"feature_{name}", "msd", f"objective.features=[{{{term}}}]")
like("teacher_late_fusion", "teacher", LATE_FUSION)
DUAL = "objective.features=[{loss: modality_affinity, student: fused.projected}]"
like("feature_modality_affinity", "model_late_fusion", "teacher.checkpoint=$teacher_late_fusion", DUAL)

# Teachers: several, those whose answers are on disk, and an average of the student
like("teacher_1", "teacher", "seed=1")
COMBINATIONS = {
    "mean": "mean",
    "weighted": "{type: weighted, weights: [2, 1]}",
    "confidence": "confidence",
    "by_view": "{type: by_view, views: [full, image]}",
}
for name, combine in COMBINATIONS.items():
    both = ["teacher.checkpoint=[$teacher, $teacher_1]", "data.processors_from=$teacher"]
    like(f"teachers_{name}", "msd", *both, f"teacher.combine={combine}")
like("msd_cached", "msd", "teacher.cache=true", "teacher.cache_dir=$here/cache")
like("msd_cached_read", "msd", "teacher.cache=read", "teacher.cache_dir=$msd_cached/cache")
AVERAGE = ["teacher.checkpoint=null", "teacher.ema=0.5", "data.processors_from=$teacher"]

# Stopped and gone on with
stopped("teacher", "teacher")
stopped("learned", "weighting_learned")
stopped("ema", "msd", *AVERAGE)

# Where it starts from, steps, precision, processes
like("init", "model_late_fusion", "teacher.checkpoint=$teacher_late_fusion", "init={}")
like("init_svd", "msd", "init={layers: last, cut: svd, only: [embeddings, encoder, pooler]}")
like("bf16", "msd", "training.precision=bf16")
like("sgd", "msd", "optimizer={type: sgd, lr: 0.1}", "scheduler=warmup_linear", "training.accumulate=2", "data.length_pool=4")
like("two_processes", "msd")
RUNS["two_processes"][0][0] = "torchrun"

# What reads a finished run, and all metrics
METRICS = ["auroc", "average_precision", "cross_entropy"]
METRICS += [f"{name}_{mean}" for name in ("f1", "precision", "recall") for mean in ("macro", "micro", "weighted")]
like("metrics", "relations_msd", f"evaluation.metrics=[{', '.join(METRICS)}]")
like("metrics_of_a_class", "cards_msd", "evaluation.metrics=[f1, precision, recall]")
like("metrics_of_labels", "genres_msd", "evaluation.metrics=[f1_samples, average_precision, auroc]")
like("predict", "msd", "run_type=predict", "checkpoint.load=$msd")
like("doctor", "msd")
RUNS["doctor"][0][0] = "doctor"
like("saliency", "teacher")
SCORES = "scores=[drop, keep, gap, loss, gradient_x_input, attention_rollout, shapley]"
RUNS["saliency"].append(["saliency", *RUNS["teacher"][0][1:], SCORES, "resamples=10"])
