"""What to run for what a run has: the table of docs/does_it_help.md, whose rows `msd advise` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from string import Template

FEW = 1000  # labelled rows; 80 to 400 and 3,000 were measured, and nothing between
NEAR_CHANCE = 0.02  # a score of at most so much above guessing counts as guessing
BY_SALIENCY = ("population", "instance", "teacher_loss")  # weightings


@dataclass(frozen=True)
class Situation:
    """What is known of a run before it is trained; what is None or empty, nothing says."""

    rows: int  # training rows
    labelled: int  # those of them that have a label
    updates: int
    student: tuple[str, ...]  # modalities
    teacher: tuple[str, ...]
    passes: float = 0.0  # over the training rows
    views: tuple[str, ...] = ()  # that are distilled on, by their names
    weighting: str = "uniform"
    teacher_rows: int | None = None  # training rows of the teacher, where they are of the same split
    teacher_lost_modalities: bool | None = None  # whether the teacher learned on rows that lacked a modality
    alone: Mapping[str, float] = field(default_factory=dict)  # its validation scores on one modality, such as `image/auroc`
    chance: Mapping[str, float] = field(default_factory=dict)  # what guessing gets, by the metric's name
    missing: bool = False  # whether a modality may be missing when the student is used

    @property
    def unlabelled(self) -> int:
        return self.rows - self.labelled

    @property
    def shared(self) -> tuple[str, ...]:
        """The modalities that student and teacher take."""
        return tuple(m for m in self.student if m in self.teacher)

    @property
    def has_few(self) -> bool:
        """Whether labelled rows are few, and the teacher had more."""
        has_all = self.teacher_rows is not None and self.teacher_rows <= self.rows
        return self.labelled <= FEW and not has_all

    @property
    def guesses(self) -> bool:
        """Whether the teacher is no better than guessing on a modality alone, by all scores of which that is known."""
        for m in self.shared:
            above = [self.alone[f"{m}/{name}"] - chance for name, chance in self.chance.items() if f"{m}/{name}" in self.alone]
            if above and max(above) <= NEAR_CHANCE:
                return True
        return False


# for the page, and where no run is at hand
USUAL = Situation(400, 400, 600, ("image", "text"), ("image", "text"))


@dataclass(frozen=True)
class Row:
    """A row of the table. Each number of `measured` stands in one of the pages that `sources` names."""

    name: str
    have: str
    applies: Callable[[Situation], bool]
    do: str
    lines: str  # of YAML; $each: a view for each modality, $other: one that takes all but the first from another row
    measured: str
    sources: tuple[str, ...]  # pages, with their sections
    command: str  # that makes the numbers
    why: str
    audit: str = ""  # what an independent audit measured, with code of its own

    def yaml(self, run: Situation = USUAL) -> str:
        """The lines for the modalities of a run."""
        first, *rest = run.shared or run.student
        each, other = ", ".join(run.shared), "+".join([first, *(f"{m}*" for m in rest)])
        full = "full" if len(run.student) > 1 else f"{{teacher: full, student: {run.student[0]}}}"
        return Template(self.lines).substitute(each=each, other=other, crossmodal=", ".join([full, *run.shared]))


ROWS = (
    Row(
        "few_labels",
        f"Few labelled inputs (at most {FEW:,}), fewer than the teacher learned from, and no more unlabelled ones than that",
        lambda run: run.unlabelled <= run.labelled and run.has_few and len(run.shared) > 1,
        "Tune plain KD first; then compare it with each modality alone and recombined rows together",
        "objective: {type: distillation, views: [full, $each, $other]}",
        "Made world, 400 labels, ten fresh worlds, tuned KD, AUROC: MSD - KD is +5.4 (95 % interval 3.9 to 7.0), recombined - KD "
        "+6.1 (4.6 to 7.9), both - KD +7.1 (5.2 to 9.0), labels on each modality - KD -2.1 (-3.7 to -0.9). "
        "Emoji, 80 labels, ten fresh seeds, tuned KD, accuracy: MSD - KD is +1.2 (-0.4 to 3.0), recombined - KD "
        "+1.2 (-0.4 to 2.9), both - KD +0.9 (-0.1 to 2.1), which shows no difference; on "
        "the name alone recombined - KD is +5.5 (2.9 to 8.2), both - KD +4.9 (2.5 to 8.0). "
        "UTD-MHAD, 108 labels, ten fresh seeds, tuned KD, accuracy: MSD - KD is +4.9 (3.2 to 6.7), recombined - KD "
        "+6.9 (4.6 to 9.3), both - KD +4.7 (2.8 to 6.8), labels on each modality - KD +0.1 (-1.3 to 1.6)",
        (
            "projects/quickstart/README.md#what-came-out",
            "projects/emoji/README.md#what-came-out",
            "projects/utd_mhad/README.md#what-came-out",
        ),
        "msd study config=projects/quickstart/configs/evidence.yaml",
        "A student with few inputs gains from the teacher's answers on more inputs that look like data. Hiding a modality makes "
        "such inputs, and recombining two rows does too. Inputs without a label help more, if you can get them.",
        "Ten fresh seeds, weights chosen on validation rows, accuracy of KD / MSD / recombined / both: "
        "Twemoji .589 / .641 / .654 / .657, Columbia video features .414 / .436 / .443 / .444, UTD-MHAD .738 / .762 / .768 / .770",
    ),
    Row(
        "unlabelled",
        "More unlabelled inputs than labelled ones",
        lambda run: run.unlabelled > run.labelled,
        "Plain KD on all of them",
        "data: {unlabelled: true}\nobjective: {type: distillation, views: [full]}",
        "No committed study measures it yet",
        ("docs/teachers.md#examples-without-a-label",),
        "msd run config=projects/quickstart/configs/kd.yaml data.max_train_examples=null data.labelled_share=0.1333",
        "The teacher answers on real inputs in place of made ones, so views add next to nothing.",
        "400 labels and 2,600 more inputs without one: KD reaches 96.5 and MSD 96.6",
    ),
    Row(
        "all_labels",
        f"More than {FEW:,} labelled inputs, or all that the teacher learned from",
        lambda run: run.unlabelled <= run.labelled and not run.has_few,
        "Plain KD, tuned; expect little from MSD",
        "objective: {type: distillation, views: [full]}",
        "Made world, all 3,000 labels, 1,312 updates: MSD - KD is +0.9 AUROC (0.2 to 1.9), better on 8 of 10 seeds, "
        "more than half of it from one seed",
        ("projects/quickstart/README.md#what-these-numbers-do-not-show",),
        "msd run config=projects/quickstart/configs/msd.yaml data.max_train_examples=null training.max_updates=1312",
        "The gain of MSD shrinks as inputs grow. That was with 14 passes over the rows; an independent audit found that "
        "MSD helps where updates are few as well, so compare both if you make far fewer passes.",
        "UTD-MHAD with all rows: MSD - KD is +.001",
    ),
    Row(
        "missing_in_use",
        "A modality may be missing when the student is used (`missing=true`)",
        lambda run: run.missing and len(run.shared) > 1,
        "MSD; compare it with labels on the same views (`task_views`), and measure both with `msd missing`",
        "objective: {type: distillation, views: [full, $each]}\n"
        "# to compare: {type: distillation, views: [full], task_views: [full, $each]}",
        "Made worlds, MSD - KD on one modality alone, accuracy: three classes +4.8 (3.0 to 6.5) on the image and +6.4 "
        "(2.1 to 11.4) on the text; soft answers +5.7 on the image and +4.5 on the question. UTD-MHAD, ten fresh seeds, tuned KD, "
        "on the skeleton alone: MSD - KD is +18.8 (15.2 to 22.5), labels on the same views (`task_views`) - KD +8.4 (6.7 to 10.3)",
        ("projects/utd_mhad/README.md#what-came-out", "projects/empirical/README.md#which-differences-are-real"),
        "msd study config=projects/utd_mhad/configs/evidence.yaml",
        "A student of plain KD has never seen an input that lacks a modality. This holds where MSD gains nothing on whole inputs: "
        "three classes show no difference there.",
    ),
    Row(
        "teacher_kept_all",
        "The teacher never lost a modality while it learned",
        lambda run: run.teacher_lost_modalities is False and len(run.shared) > 1,
        "Train the teacher again with `modality_dropout`; or recombine rows, which hides nothing",
        "# in the teacher's own YAML: objective: {type: supervised, modality_dropout: 0.1}\n"
        "# or in this one:\nobjective: {type: distillation, views: [full, $other]}",
        "UTD-MHAD, three seeds, MSD - KD: +1.2, +2.1 and +0.7 by such a teacher, +5.8, +3.0 and +5.1 by one that lost modalities. "
        "Made world, three pilot seeds: MSD by such a teacher beats KD by 7.8 AUROC",
        (
            "projects/utd_mhad/README.md#three-seeds-more-students-and-the-other-teacher",
            "projects/empirical/README.md#where-does-weighting-by-saliency-help",
        ),
        "msd study config=projects/utd_mhad/configs/study_without.yaml",
        "An input that lacks a modality is unlike all that such a teacher has learned from: the independent audit found "
        "it out of its depth there.",
    ),
    Row(
        "teacher_guesses",
        "On one modality alone the teacher is no better than guessing",
        lambda run: run.guesses and len(run.shared) > 1,
        "Leave that modality's view out, or all of them (plain KD); or let the weights be learned",
        "objective: {type: distillation, views: [full]}\n# or: {type: distillation, views: [full, $each], weighting: learned}",
        "Made data, linear student, accuracy where a view is noise / where it is wrong for three examples in ten: "
        "KD 98.1 / 98.1, uniform weights 90.7 / 94.6, weights by saliency 94.3 / 97.4, learned weights 98.3 / 98.7",
        ("projects/planted_weights/README.md#what-are-weights-worth",),
        "python tools/run.py config=projects/planted_weights/configs/accuracy_noise.yaml",
        "Wrong answers on a view do harm. Weights by saliency limit it, plain KD avoids it, and learned weights find it. "
        "A teacher that guesses need not be wrong, though: the modality may tell nothing of the label.",
    ),
    Row(
        "other_modalities",
        "The student takes other modalities than its teacher, or fewer",
        lambda run: set(run.student) != set(run.teacher),
        "Crossmodal views; look first at what the modalities share (docs/mfh.md) and at layers that are alike (`msd layers`)",
        "objective: {type: distillation, views: [$crossmodal]}",
        "Spoken digits teach written ones, 100 images, five seeds, accuracy against labels alone: -2.6 ± 1.3 by a teacher "
        "of sound, +3.3 ± 2.3 by one of both. With 1,000 images no difference was seen. Five seeds are too few for a conclusion",
        ("projects/av_digits/README.md#results",),
        "python tools/run.py config=projects/av_digits/configs/kd_both.yaml",
        "A stronger teacher of another modality alone need not help: what counts is what both modalities share (gamma). "
        "On UTD-MHAD a teacher of all three modalities helped a student of two; one of depth alone gained nothing (three seeds).",
    ),
    Row(
        "saliency_weights",
        "Weights by saliency, and nothing says that the teacher guesses on a modality",
        lambda run: run.weighting in BY_SALIENCY and not run.guesses,
        "Uniform weights",
        "objective: {weighting: uniform}",
        "Made world, AUROC against uniform weights: `population` +0.2, `instance` -1.4, `teacher_loss` -0.4; none differs from "
        "chance after correction",
        ("projects/quickstart/README.md#what-came-out",),
        "msd study config=projects/quickstart/configs/study.yaml",
        "No world was found where weights by saliency help while the teacher is right on each modality.",
    ),
)


def as_markdown() -> str:
    """The table and a section for each row, as they stand in docs/does_it_help.md."""
    lines = ["| what you have | what to run | what to expect |", "|---|---|---|"]
    for row in ROWS:
        lines.append(f"| [{row.name}](#{row.name}): {row.have} | {row.do} | {row.measured}.{_audited(row)} |")
    for row in ROWS:
        links = " · ".join(f"[{source.partition('#')[0]}](../{source})" for source in row.sources)
        lines += ["", f"### {row.name}", "", row.why, "", "```yaml", row.yaml(), "```", "", f"Numbers: {links}"]
        lines += ["", "```text", row.command, "```"]
    return "\n".join(lines)


def _audited(row: Row) -> str:
    return f" An independent audit measured: {row.audit}." if row.audit else ""
