"""Names of views, such as `image` or `~text`: which modalities they show, and what a set of modalities is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msd_framework.errors import did_you_mean

FULL = "full"
"""The view that shows every modality."""


@dataclass(frozen=True)
class View:
    """What the teacher sees of an example and what the student does; where these differ, the distillation is crossmodal."""

    teacher: str  # full, text (only text), image+text, ~text (all but text)
    student: str

    @classmethod
    def parse(cls, spec: str | Mapping[str, str]) -> View:
        """A view from its name in a YAML: ``image``, or ``{teacher: audio, student: image}``."""
        if isinstance(spec, str):
            return cls(spec, spec)
        if set(spec) != {"teacher", "student"}:
            raise ValueError(f"a view is a name or {{teacher: name, student: name}}, got {dict(spec)}.")
        return cls(spec["teacher"], spec["student"])

    @property
    def name(self) -> str:
        return self.student if self.teacher == self.student else f"{self.teacher}>{self.student}"


def named_in(view: str) -> list[str]:
    """The modalities that the name of a view names: those that it shows, or, after a ~, those that it hides."""
    return view.removeprefix("~").split("+")


def visible_modalities(view: str, modalities: Sequence[str]) -> tuple[str, ...]:
    """The modalities that a view shows, sorted.

    >>> visible_modalities("~text", ["audio", "image", "text"])
    ('audio', 'image')
    """
    known = sorted(modalities)
    if view == FULL:
        return tuple(known)
    named = named_in(view)
    for name in named:
        if name not in known:
            hint = did_you_mean(name, [*modalities, FULL])
            raise ValueError(f"view {view!r} names {name!r}, which is not one of the modalities {', '.join(known)}.{hint}")
    visible = tuple(m for m in known if (m in named) != view.startswith("~"))
    if not visible:
        raise ValueError(f"view {view!r} hides every modality of {', '.join(known)}.")
    return visible


def shows(view: str, modalities: Sequence[str]) -> bool:
    """Whether a view shows something of these modalities, and names no other one."""
    try:
        return bool(visible_modalities(view, modalities))
    except ValueError:
        return False


def view_name(shown: Sequence[str], modalities: Sequence[str]) -> str:
    """The name of the view that shows some of the modalities, one or more in the order of `modalities`: each view has one name.

    >>> modalities = ["audio", "image", "text"]
    >>> [view_name(shown, modalities) for shown in (["image"], ["audio", "text"], modalities)]
    ['image', '~image', 'full']
    """
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
