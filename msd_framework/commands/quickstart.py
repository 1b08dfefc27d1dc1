"""[env.save_dir=PATH seeds=3 ...]: a teacher and three students on the made world, in minutes."""

from __future__ import annotations

from collections.abc import Sequence

from msd_framework.commands import study


def main(words: Sequence[str]) -> int:
    return study.main(["config=projects/quickstart/configs/quickstart.yaml", *words])
