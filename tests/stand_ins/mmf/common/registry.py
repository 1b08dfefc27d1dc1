"""Models by name; an unknown one is None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar


class Registry:
    mapping: ClassVar[dict[str, dict[str, Any]]] = {"model_name_mapping": {}}

    @classmethod
    def register_model(cls, name: str) -> Callable[[type], type]:
        def register(model: type) -> type:
            cls.mapping["model_name_mapping"][name] = model
            return model

        return register

    @classmethod
    def get_model_class(cls, name: str) -> Any:
        return cls.mapping["model_name_mapping"].get(name)


registry = Registry()
