"""The teachers of a run: trained models, live or with cached outputs, or an average of the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from msd_framework.build.cache_key import cache_key, layout_of
from msd_framework.build.data import Data
from msd_framework.build.dry_run import DryRun
from msd_framework.build.extreme_rows import ExtremeRows
from msd_framework.build.models import Maskers
from msd_framework.build.splits import content
from msd_framework.build.teacher_cache import CachedSplit
from msd_framework.config.cards import read_as, rebuilt, weights_of
from msd_framework.data.base import MultimodalDataset
from msd_framework.data.batches.loader import EvaluationBatches
from msd_framework.data.batches.partners import RULE
from msd_framework.data.batches.reader import DecodedInputs, ExampleReader, NotMade, TeacherOverrides
from msd_framework.engine.checkpoint import load_weights
from msd_framework.maskers.base import Masker
from msd_framework.models.base import MultimodalModel
from msd_framework.randomness import random_numbers_apart, random_state_kept
from msd_framework.structures import Outcomes
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.cached import CachedTeacher, Opened
from msd_framework.teachers.ema import EmaTeacher
from msd_framework.teachers.ensemble import EnsembleTeacher, union, views_of_teachers
from msd_framework.teachers.filling import only_head
from msd_framework.teachers.live import LiveTeacher
from msd_framework.teachers.marginals import MarginalsTeacher
from msd_framework.teachers.masked import keep_channels
from msd_framework.views import FULL, in_turn, recombines, shows


class Weights:
    """A trained teacher with its weights, read at the first call: a run with a full cache may never need them."""

    def __init__(self, read: Callable[[], LiveTeacher]):
        self.read = read
        self.teacher: LiveTeacher | None = None

    def __call__(self) -> LiveTeacher:
        if self.teacher is None:
            self.teacher = self.read()
        return self.teacher

    def let_go(self) -> LiveTeacher | None:
        """The teacher, if its weights were read; here they are forgotten."""
        teacher, self.teacher = self.teacher, None
        return teacher


@dataclass(frozen=True)
class TrainedTeacher:
    """One of the trained models that teach."""

    folder: str  # the run or checkpoint that it comes from
    modalities: tuple[str, ...]
    outcomes: Outcomes  # how its logits are read: as it was trained
    views: Mapping[str, tuple[str, ...]]  # what it is asked about, by the use of the split
    live: Weights  # it, with its weights
    number: int  # which of the teachers it is, from 0 on

    def with_views_of(self, maskers: Maskers, use: str) -> LiveTeacher:
        """It, with its views made as those of a split, by the use of the split."""
        live, masker = self.live(), maskers.of(use).teachers[self.number]
        return live if masker is live.masker else live.with_masker(masker)


@dataclass(frozen=True)
class Teachers:
    """The teachers of a run; all is empty where there is none."""

    trained: Sequence[TrainedTeacher] = ()
    kept: Sequence[Mapping[str, CachedTeacher]] = ()  # of each, for a split by its use; empty where it runs live
    average: EmaTeacher | None = None  # the average of the student, where that teaches
    by_use: Mapping[str, Teacher] = field(default_factory=dict)  # all together, with logits read as the student's

    def of(self, use: str) -> Teacher | None:
        """The teacher of the split of a use; None where there is none."""
        return self.by_use.get(use)

    def open_caches(self, data: Data, uses: Sequence[str]) -> bool:
        """Opens the caches of the splits of some uses, filled if need be, and lets weights go; whether examples are
        left out.
        """
        some_left_out = False
        for teacher, kept in zip(self.trained, self.kept):
            if not kept:
                continue
            needs_head = False
            for use in uses:
                if use in kept and teacher.views[use]:
                    cached = kept[use].opened
                    data.leave_out(use, cached.unanswered, f"the teacher {teacher.folder} could not read it")
                    some_left_out = some_left_out or bool(cached.unanswered)
                    # a store of summaries makes logits of them with the teacher's last layer
                    needs_head = needs_head or cached.classify is not None
            live = teacher.live.let_go()
            if live is not None and needs_head:
                only_head(live.model)
        return some_left_out


def build_teachers(data: Data, maskers: Maskers, model: MultimodalModel | None = None) -> Teachers:
    """The teachers. Weights are read here, unless their outputs are cached; an average is one of the student."""
    config = data.config
    teacher = config.teacher
    if teacher is None or not config.has_teacher:
        return Teachers()
    if teacher.ema is not None:
        assert model is not None
        average = EmaTeacher(model, maskers.teachers[0], teacher.ema)
        evaluated = LiveTeacher(average.average, maskers.of("test").teachers[0])
        return Teachers(average=average, by_use={use: average if use == "train" else evaluated for use in data.splits})
    trained = trained_teachers(data, maskers)
    whole = cache(partial(content, data.facts, data.splits))  # a split that is used in part is opened once more for it
    kept = [_cached(one, data, maskers, whole) if teacher.cache else {} for one in trained]
    by_use: dict[str, Teacher] = {}
    for use in data.splits:
        alone: list[Teacher] = []
        for one, caches in zip(trained, kept):
            asked: Teacher = caches[use] if teacher.cache else one.with_views_of(maskers, use)
            # all answer in logits that are read as the student's are
            is_other = (one.outcomes, data.info.outcomes) == ("softmax", "bernoulli")
            alone.append(MarginalsTeacher(asked) if is_other else asked)
        if len(alone) == 1:
            by_use[use] = alone[0]
        else:
            by_use[use] = EnsembleTeacher(alone, data.facts.combination, data.info.task, data.info.outcomes)
    return Teachers(trained, kept, None, by_use)


def _cached(one: TrainedTeacher, data: Data, maskers: Maskers, whole: Callable[[str], str]) -> dict[str, CachedTeacher]:
    """A teacher's cached outputs for each split; a store is opened at the first question, when the maskers are fitted."""

    def opening(use: str) -> Opened:
        with random_state_kept(data.world.device):
            return cached_split(one, use, data, maskers, whole(use)).open()

    return {use: CachedTeacher(one.modalities, data.info.num_classes, partial(opening, use)) for use in data.splits}


def trained_teachers(data: Data, maskers: Maskers) -> list[TrainedTeacher]:
    """The trained models that teach, of which nothing but their cards is read yet."""
    config = data.config
    teacher = config.teacher
    if teacher is None or teacher.ema is not None or not config.has_teacher:
        return []
    uses = [*data.splits] if config.is_evaluated else list(dict.fromkeys(["train", *data.splits]))
    views = {use: _views(data, use) for use in uses}
    trained = []
    for k, folder in enumerate(config.teacher_folders):
        card = data.facts.card(folder)
        live = Weights(partial(_read, folder, data, maskers.teachers[k]))
        own = {use: views[use][k] for use in uses}
        trained.append(TrainedTeacher(folder, tuple(card["modalities"]), read_as(card), own, live, k))
    return trained


def _views(data: Data, use: str) -> list[tuple[str, ...]]:
    """The views that each trained teacher predicts: in training, those of the objective; else those of the evaluation."""
    of_each = [one.modalities for one in data.facts.teachers]
    modalities = union(of_each)
    if use == "train":
        views = data.facts.stand_in_objective.teacher_views
    else:
        views = tuple(v for v in data.config.evaluation.views if v == FULL or shows(v, modalities))
    return [views] if len(of_each) == 1 else views_of_teachers(views, of_each, data.facts.combination)


def cached_split(one: TrainedTeacher, use: str, data: Data, maskers: Maskers, whole: str) -> CachedSplit:
    """A split, and the store of a teacher's outputs for it; maskers must be fitted, `whole` is what `content` gives."""
    config, teacher = data.config, data.config.teacher
    assert teacher is not None
    views = [name for view in one.views[use] for name in in_turn(view, range(config.data.partners or 0))]
    layout = layout_of(teacher, views, data.info.num_classes, lambda: one.live().model.summary_size)
    processors = data.teacher_processors(one.number)
    specs = {m: spec.value for m, spec in data.facts.teacher_processors[one.number].items()}
    # which row an example meets hangs on how many there are, and on what views want of them
    rows = {
        "rule": RULE,
        "rows": len(data.splits[use]),
        "wanted": {name: list(wanted) for name, wanted in data.facts.other_rows.items()},
    }
    partners = rows if any(map(recombines, views)) else None
    masker, (_, spec) = maskers.of(use).teachers[one.number], data.facts.masker_of(use, one.number)
    key = cache_key(config, use, whole, one.folder, processors, specs, masker, spec, layout, partners)
    # what the student decoded is not what the teacher's own processors make of it
    decoded = DecodedInputs() if data.teacher_overrides else data.decoded

    def batches(examples: MultimodalDataset) -> EvaluationBatches:
        own = {m: processors[m].deterministic() for m in one.modalities}
        # other modalities may be dear to read; a row that has one of them alone is a row all the same
        others: TeacherOverrides = {(m, (0,)): NotMade(processor) for m, processor in processors.items() if m not in own}
        skips = config.data.on_error == "skip"
        reader = ExampleReader(examples, own, decoded, skips, others)
        if not any(map(recombines, views)):
            return data.in_order(reader, shared=False)
        # each example comes with all the rows that it meets, so that a batch has fewer examples and as much in it
        partners = data.partners(ExampleReader(data.splits[use], own, decoded, skips))
        size = max(1, config.evaluation.batch_size // (config.data.partners or 1))
        return data.in_order(reader, shared=False, partners=partners, batch_size=size)

    def try_out() -> None:
        trial = dry_run(data, teacher_asked=True)
        if data.teacher_overrides:  # of which nothing was looked at yet
            trial.rows.check_files()
            trial.rows.check_texts()
        trial.teacher(one.with_views_of(maskers, use), one.views[use], one.number)

    return CachedSplit(
        key=key,
        dataset=data.splits[use],
        batches=batches,
        teacher=partial(one.with_views_of, maskers, use),
        try_out=try_out,
        world=data.world,
        folder=Path(teacher.cache_dir),
        may_fill=teacher.cache != "read",
        outcomes=one.outcomes,
        batch_size=config.evaluation.batch_size,
        seed=config.seed,
    )


def dry_run(data: Data, finite: bool = True, teacher_asked: bool = False) -> DryRun:
    """What tries a run on its longest and shortest rows, with inputs of teachers whose answers are cached only if
    asked.
    """
    teacher_overrides = data.teacher_overrides if teacher_asked else data.overrides_in_batches
    return DryRun(data.config, ExtremeRows(data, teacher_overrides), finite)


def _read(folder: str, data: Data, masker: Masker) -> LiveTeacher:
    """A trained teacher with its weights, in eval mode on this process's device."""
    teacher = data.config.teacher
    assert teacher is not None
    path, checkpoint = weights_of(folder, data.config)
    with random_numbers_apart():
        model = rebuilt(checkpoint.card, path)
    load_weights(model, checkpoint.model, str(path))
    if teacher.channels is not None:
        keep_channels(model, **vars(teacher.channels))
    return LiveTeacher(model.to(data.world.device), masker)
