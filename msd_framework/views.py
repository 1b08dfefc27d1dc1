"""Names of views, such as `image`, `~text` or `image+text*`: which modalities they show and of which row, and the name of a set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msd_framework.errors import did_you_mean

FULL = "full"
"""The view that shows every modality."""

OTHER, MIXED = "*", "^"
"""After a modality's name: it is that of another row, as in `image+text*`; or a mixture of both rows', as in `image^+text`."""

TURN = "@"
"""After the name of a view that shows another row: the turn of that row, in a teacher cache."""


@dataclass(frozen=True)
class View:
    """What the teacher sees of an example and what the student does; where these differ, the distillation is crossmodal."""

    teacher: str  # full, text (only text), image+text, ~text (all but text), image+text* (text of another row)
    student: str

    @classmethod
    def parse(cls, spec: str | Mapping[str, str]) -> View:
        """A view from its name in a YAML: ``image``, or ``{teacher: audio, student: image}``."""
        if not isinstance(spec, str) and set(spec) != {"teacher", "student"}:
            raise ValueError(f"a view is a name or {{teacher: name, student: name}}, got {dict(spec)}.")
        view = cls(spec, spec) if isinstance(spec, str) else cls(spec["teacher"], spec["student"])
        if view.recombines and TURN in view.name:
            raise ValueError(f"view {view.name!r} has a {TURN}, which names in a teacher cache have. Leave it out.")
        return view

    @property
    def name(self) -> str:
        return self.student if self.teacher == self.student else f"{self.teacher}>{self.student}"

    @property
    def recombines(self) -> bool:
        """Whether it shows something of another row."""
        return recombines(self.teacher) or recombines(self.student)

    def rows_shown(self, to_teacher: Sequence[str], to_student: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
        """What it shows to each side of the modalities that it takes, each with its row: answers to different rows say nothing."""
        theirs, ours = rows_shown(self.teacher, to_teacher), rows_shown(self.student, to_student)
        if all(row.startswith(OTHER) for row in (*theirs.values(), *ours.values())):
            raise ValueError(f"view {self.name!r} shows other rows alone. Leave the {OTHER} of one modality out.")
        differ = [m for m in theirs if m in ours and theirs[m] != ours[m]]
        if differ:
            text = f"shows the teacher another row's {differ[0]} than the student. Mark it alike on both sides, or on none."
            raise ValueError(f"view {self.name!r} {text}")
        if set(theirs.values()).isdisjoint(ours.values()):
            text = "shows the teacher other rows than the student. Let both see something of one row."
            raise ValueError(f"view {self.name!r} {text}")
        return theirs, ours


def recombines(view: str) -> bool:
    """Whether a view shows something of another row, as `image+text*` and `image^+text` do."""
    return OTHER in view or MIXED in view


def named_in(view: str) -> dict[str, str]:
    """The modalities that a view's name names (those that it shows, or, after a ~, those that it hides), each with its row.

    >>> named_in("~text"), named_in("audio**+image+text*"), named_in("image^+text*@3")
    ({'text': ''}, {'audio': '**', 'image': '', 'text': '*'}, {'image': '^@3', 'text': '*@3'})
    """
    names, at, turn = view.removeprefix("~"), "", ""
    if recombines(view):
        names, at, turn = names.partition(TURN)
    named = {}
    for part in names.split("+"):
        modality = part.rstrip(OTHER + MIXED)
        row = part[len(modality) :]
        named[modality] = f"{row}{at}{turn}" if row else ""
    return named


def rows_shown(view: str, modalities: Sequence[str]) -> dict[str, str]:
    """The modalities that a view shows, sorted, each with its row: "" is the example, "*" another row, "**" a second one.

    "^" is a mixture of the example and another row.

    >>> rows_shown("image+text*", ["audio", "image", "text"])
    {'image': '', 'text': '*'}
    """
    known = sorted(modalities)
    if view == FULL:
        return dict.fromkeys(known, "")
    named, hides = named_in(view), view.startswith("~")
    if len(named) <= view.count("+"):
        raise ValueError(f"view {view!r} names a modality twice. Name each once: a view shows one row of it.")
    for name in named:
        if name not in known and name == FULL:
            text = f"shows every modality of the example, so it stands alone. Name modalities in its place: {', '.join(known)}."
            raise ValueError(f"view {view!r}: {FULL} {text}")
        if name not in known:
            hint = did_you_mean(name, [*modalities, FULL])
            raise ValueError(f"view {view!r} names {name!r}, which is not one of the modalities {', '.join(known)}.{hint}")
    if hides and recombines(view):
        raise ValueError(f"view {view!r} hides another row's modality. Name what it shows, such as {known[0]}+{known[-1]}*.")
    for name, row in named.items():
        kind = row.partition(TURN)[0]
        if kind not in ("", MIXED) and set(kind) != {OTHER}:
            raise ValueError(f"view {view!r}: after {name} stands {kind!r}, wanted {OTHER}, {OTHER}{OTHER} and so on, or {MIXED}.")
    shown = {m: "" if hides else named[m] for m in known if (m in named) != hides}
    if not shown:
        raise ValueError(f"view {view!r} hides every modality of {', '.join(known)}.")
    return shown


def visible_modalities(view: str, modalities: Sequence[str]) -> tuple[str, ...]:
    """The modalities that a view shows, sorted.

    >>> visible_modalities("~text", ["audio", "image", "text"])
    ('audio', 'image')
    """
    return tuple(rows_shown(view, modalities))


def in_turn(view: str, turns: Iterable[int]) -> list[str]:
    """The names of a view for each turn of the other row that it shows; its own name where it shows none.

    >>> in_turn("image+text*", range(2)), in_turn("image", range(2))
    (['image+text*@0', 'image+text*@1'], ['image'])
    """
    return [f"{view}{TURN}{turn}" for turn in turns] if recombines(view) else [view]


def refuse_other_rows(view: str) -> None:
    """Raises a ValueError if a view shows something of another row, for a row that is made so has no label."""
    if recombines(view):
        raise ValueError(f"view {view!r} shows another row's modality, and such a row has no label to be measured by.")


def other_rows(views: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The other rows that views show, by name, and the modalities that are wanted of each.

    >>> other_rows(["full", "image+text*", "audio*+image**"])
    {'*': ('audio', 'text'), '**': ('image',)}
    """
    wanted: dict[str, set[str]] = {}
    for view in views:
        for modality, row in named_in(view).items():
            if row:
                wanted.setdefault(row, set()).add(modality)
    return {row: tuple(sorted(wanted[row])) for row in sorted(wanted)}


def shows(view: str, modalities: Sequence[str]) -> bool:
    """Whether a view shows something of these modalities, and names no other one."""
    try:
        return bool(visible_modalities(view, modalities))
    except ValueError:
        return False


def view_name(shown: Sequence[str] | Mapping[str, str], modalities: Sequence[str]) -> str:
    """The name of the view that shows some of the modalities, one or more in the order of `modalities`: each view has one name.

    >>> modalities = ["audio", "image", "text"]
    >>> [view_name(shown, modalities) for shown in (["image"], ["audio", "text"], modalities, {"image": "", "text": "*"})]
    ['image', '~image', 'full', 'image+text*']
    """
    if isinstance(shown, Mapping) and any(shown.values()):
        return "+".join(f"{m}{row}" for m, row in shown.items())
    hidden = [m for m in modalities if m not in shown]
    if not hidden:
        return FULL
    return f"~{hidden[0]}" if len(hidden) == 1 < len(shown) else "+".join(shown)


def without(modality: str, modalities: Sequence[str]) -> str:
    """The name of the view that hides one modality; where one other is left, that one's name, so that no view has two names."""
    others = [m for m in modalities if m != modality]
    if not others:
        raise ValueError(f"no view is without {modality!r}, which is the only modality; this saliency needs two or more.")
    return view_name(others, modalities)
