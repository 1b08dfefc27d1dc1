"""What models have in common: they compute losses, which need targets, unless they are pretrained."""

from __future__ import annotations

from typing import Any

from torch import nn


class BaseModel(nn.Module):
    is_pretrained = False
    is_pl_enabled = False

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    @classmethod
    def config_path(cls) -> str | None:
        return None

    @classmethod
    def format_state_key(cls, key: str) -> str:
        return key

    def build(self) -> None:
        raise NotImplementedError

    def __call__(self, sample_list: Any) -> Any:
        if not self.is_pl_enabled:
            raise RuntimeError("the inputs would be moved to the first GPU")
        output = super().__call__(sample_list)
        if not self.is_pretrained:
            output["losses"] = {"loss": (output["scores"].mean() - sample_list["targets"]).sum()}
        return output
