"""Mistakes with what is hidden: maskers, what stands in for a modality, and modality dropout."""

from __future__ import annotations

from tests.integration.mistakes import Mistake, student


def seen_by(spec: str) -> list[str]:
    """Words of a run that looks at the views that a masker makes."""
    return ["evaluation.views=[full, image, text]", f"masker={spec}"]


MISTAKES = [
    Mistake("nothing to stand in", seen_by("{type: constant, length: 0}"), r"masker: length must be above 0, got 0\."),
    Mistake("fewer than nothing", seen_by("{type: constant, length: -3}"), r"masker: length must be above 0, got -3\."),
    Mistake("half a position", seen_by("{type: constant, length: 1.5}"), r"masker\.length: wanted int.*got 1\.5 \(float\)"),
    Mistake("length as text", seen_by("{type: constant, length: long}"), r"masker\.length: wanted int.*got 'long'"),
    Mistake(
        "length misspelt", seen_by("{type: constant, lenght: 3}"), r"masker\.lenght: constant has no .*Did you mean 'length'\?"
    ),
    Mistake("no noise", seen_by("{type: noise, length: 0}"), r"masker: length must be above 0, got 0\."),
    Mistake(
        "noise of one value", seen_by("{type: noise, standard_deviation: 0}"), r"masker: standard_deviation must be above 0, got 0"
    ),
    Mistake(
        "noise of any value", seen_by("{type: noise, standard_deviation: .inf}"), r"standard_deviation must be above 0, got inf"
    ),
    Mistake(
        "words of another tokenizer", seen_by("{type: noise, vocab_size: 9}"), r"masker\.vocab_size: a run takes .*Leave it out"
    ),
    Mistake(
        "a mean of no length",
        seen_by("{type: by_modality, maskers: {image: {type: mean, length: 0}, text: drop}}"),
        r"masker\.maskers\.image: length must be above 0, got 0\.",
    ),
    Mistake("a length of what is left out", seen_by("{type: drop, length: 3}"), r"masker\.length: drop has no such option"),
    Mistake("a length of what is masked", seen_by("{type: attention, length: 3}"), r"masker\.length: attention has no such option"),
    Mistake("a length of another example", seen_by("{type: other, length: 2}"), r"masker\.length: other has no such option"),
    Mistake("itself as another example", seen_by("{type: other, shift: 0}"), r"masker: shift must be at least 1, got 0\."),
    Mistake("a token below 0", seen_by("{type: constant, token: -1}"), r"masker: token must be 0 or more, got -1\."),
    Mistake("a token as a word", seen_by("{type: constant, token: '[MASK]'}"), r"masker\.token: wanted int.*got '\[MASK\]'"),
    Mistake("a token that is not there", seen_by("{type: constant, token: 99999}"), r"token must be one of the \d+ that there are"),
    Mistake("a mean of words", seen_by("mean"), r"masker: MeanMasker cannot hide 'text', whose values are tokens"),
    Mistake(
        "modality of a masker", seen_by("{type: by_modality, maskers: {imge: drop}, otherwise: drop}"), r"Did you mean 'image'\?"
    ),
    Mistake(
        "a modality without a masker", seen_by("{type: by_modality, maskers: {image: drop}}"), r"masker\.maskers: 'text' has none"
    ),
    Mistake("a masker of one modality", seen_by("{type: by_modality, maskers: {image: drp}, otherwise: drop}"), r"'drp'.*'drop'\?"),
    Mistake(
        "maskers in a list",
        seen_by("{type: by_modality, maskers: [drop, drop]}"),
        r"masker\.maskers: wanted .*got \['drop', 'drop'\]",
    ),
    Mistake("several maskers", seen_by("[drop, noise]"), r"masker: wanted .*got \['drop', 'noise'\]"),
    Mistake("a number as a masker", seen_by("3"), r"masker: wanted .*got 3"),
    Mistake(
        "a teacher's masker", student("teacher.masker=drp"), r"teacher\.masker: no masker is named 'drp'\. Did you mean 'drop'\?"
    ),
    Mistake(
        "a teacher's masker of no length",
        student("teacher.masker={type: constant, length: 0}"),
        r"teacher\.masker: length must be above 0, got 0\.",
    ),
    Mistake(
        "an evaluation's masker",
        ["evaluation.masker=drp"],
        r"evaluation\.masker: no masker is named 'drp'\. Did you mean 'drop'\?",
    ),
    Mistake(
        "an evaluation's masker of no length",
        ["evaluation.views=[full, image]", "evaluation.masker={type: constant, length: 0}"],
        r"evaluation\.masker: length must be above 0, got 0\.",
    ),
    Mistake(
        "a mean of words in an evaluation",
        ["evaluation.views=[full, image]", "evaluation.masker=mean"],
        r"evaluation\.masker: MeanMasker cannot hide 'text', whose values are tokens",
    ),
    Mistake(
        "a part left of what is measured as hidden",
        ["evaluation.views=[full, image]", "evaluation.masker=partial"],
        r"evaluation\.masker: PartialMasker shows a part of what a view hides,.* measured with it: image\. Set",
    ),
    Mistake(
        "a part left of one modality",
        ["evaluation.views=[full, image]", "evaluation.masker={type: by_modality, maskers: {text: partial}, otherwise: drop}"],
        r"evaluation\.masker: ModalityMasker shows a part of what a view hides",
    ),
    Mistake(
        "more dropped than there is", ["objective.modality_dropout=0.6"], r"modality_dropout must lie between 0 and 1/2, got 0\.6"
    ),
    Mistake(
        "less dropped than nothing", ["objective.modality_dropout=-0.1"], r"modality_dropout must lie between 0 and 1/2, got -0\.1"
    ),
    Mistake("dropped as text", ["objective.modality_dropout=often"], r"objective\.modality_dropout: wanted float.*got 'often'"),
    Mistake("dropped as a choice", ["objective.modality_dropout=true"], r"objective\.modality_dropout: wanted float, got True"),
    Mistake(
        "more positions than the model has",
        ["evaluation.views=[full, image]", "evaluation.masker={type: constant, length: 5000}"],
        r"a text has 5002 positions and this .* takes \d+",
    ),
]
