"""What several tests look up."""

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# The tests ask no hub for files: what they need, they make. It is read when transformers is first imported.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import HealthCheck, settings

# No test fails for being slow, and every run looks at the same examples; `--hypothesis-profile=random` looks at others.
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("random"), derandomize=True)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small public data sets; tests that want it are skipped where it is not there."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MSD_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder}; set MSD_SHARED_DATA to the folder that holds nlvr/ and fsdd/")
    return folder


@pytest.fixture(scope="module")
def own_names() -> Iterator[None]:
    """Components of a user's own that tests of a module register are forgotten after it."""
    from msd_framework.registry import REGISTRIES

    with pytest.MonkeyPatch.context() as patch:
        for registry in REGISTRIES.values():
            registry.names()
            patch.setattr(registry, "_classes", dict(registry._classes))
        yield


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[None]:
    """The workers of a study begin with torch imported; those of the study that is killed, and of test_workers.py, do not."""
    from msd_framework.analysis.study import workers
    from msd_framework.testing import start_method

    class Forked(workers._Worker):
        def spawn(self) -> None:
            with pytest.MonkeyPatch.context() as patch:
                context = multiprocessing.get_context(start_method())
                patch.setattr(workers.multiprocessing, "get_context", lambda _: context)
                super().spawn()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_Worker", Forked)
        yield


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of Hateful Memes, with a dozen examples a split."""
    from PIL import Image

    root = tmp_path_factory.mktemp("tiny") / "world"
    (root / "img").mkdir(parents=True)
    for s, split in enumerate(("train", "dev_seen", "test_seen")):
        rows = [{"id": f"{s}{i:03}", "img": f"img/{s}{i:03}.png", "label": i % 2, "text": f"what a {i % 5} day"} for i in range(12)]
        for i, row in enumerate(rows):
            Image.new("RGB", (8, 8), (20 * i, 120 * (i % 2), 90)).save(root / row["img"])
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="session")
def tiny_config(tiny_world: Path) -> Path:
    """The configuration of a run on `tiny_world` that takes a second; it needs an `env.save_dir`."""
    path = tiny_world.parent / "tiny.yaml"
    path.write_text(TINY_RUN.replace("WORLD", str(tiny_world)))
    return path


@pytest.fixture(scope="session")
def tiny_teacher(tiny_config: Path) -> Path:
    """The folder of a finished run on `tiny_world`."""
    from msd_framework.run import run

    folder = tiny_config.parent / "teacher"
    run(tiny_config, [f"env.save_dir={folder}"])
    return folder


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How many images were made of each size."""
    from msd_framework.data.processors.images import Pixels

    made: Counter[int] = Counter()
    load = Pixels.load

    def counting(self: Pixels, value: object) -> object:
        made[self.size[0]] += 1
        return load(self, value)

    monkeypatch.setattr(Pixels, "load", counting)
    return made


TINY_RUN = """\
data:
  dataset: {type: hateful_memes, root: WORLD}
  processors:
    text: {type: tokenizer, max_length: 8}
    image: {type: pixels, size: 8}
  train: train
  validation: dev_seen
  test: test_seen
model:
  type: late_fusion
  encoders:
    text: {type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}
    image: {type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}
  hidden_size: 8
training: {max_updates: 2, batch_size: 4}
env: {device: cpu}
"""
