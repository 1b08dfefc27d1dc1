"""Methods that a model replaces when it is built, for the whole process."""

from __future__ import annotations


class BertEmbeddings:
    def forward(self) -> str:
        return "as transformers has it"


patch_functions = ["BertEmbeddings.forward"]


def scriptable(self: BertEmbeddings) -> str:
    return "as MMF has it"


def replace_with_jit() -> None:
    BertEmbeddings.forward = scriptable  # type: ignore[method-assign]
