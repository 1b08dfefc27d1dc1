"""UTD-MHAD in its publisher's layout: a small twin that is made here, and the real recordings from archives of numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from msd_framework.data.sets.utd_mhad import FOLDERS

VARIABLES = {"depth": "d_depth", "inertial": "d_iner", "skeleton": "d_skel"}


def write_recording(root: Path, name: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """One recording, such as a1_s1_t1, a file for each of its modalities."""
    for modality, array in arrays.items():
        file = root / FOLDERS[modality] / f"{name}_{modality}.mat"
        file.parent.mkdir(parents=True, exist_ok=True)
        savemat(file, {VARIABLES[modality]: array}, do_compression=True)


def write_twin(root: Path, actions: Iterable[int] = (1, 2, 27), subjects: Iterable[int] = range(1, 9)) -> Path:
    """Recordings that move faster the later the action, with smaller frames than the real ones."""
    for action in actions:
        for subject in subjects:
            random, length = np.random.default_rng([action, subject]), 10 + subject
            wave = np.sin(np.arange(2 * length) * action / 9)
            arrays: dict[str, np.ndarray[Any, Any]] = {
                "depth": (1000 + 500 * wave[:length] + random.integers(0, 99, (24, 32, length))).astype(np.uint16),
                "inertial": wave[:, None] + random.normal(0, 0.1, (2 * length, 6)),
                "skeleton": wave[:length] + random.normal(0, 0.1, (20, 3, length)),
            }
            write_recording(root, f"a{action}_s{subject}_t1", arrays)
    return root


def write_real(source: Path, root: Path, keep: slice = slice(None), pixels: int = 5) -> None:
    """The real recordings; of depth there are 16 frames of 48 x 64 blocks, each written as so many equal pixels a side."""
    sensors, depth = np.load(source / "utd_mhad_skeleton_inertial.npz"), np.load(source / "utd_mhad_depth16x48x64.npz")["depth"]
    ends = {m: sensors[f"{m}_len"].cumsum() for m in ("skeleton", "inertial")}
    parts = {m: np.split(sensors[m].astype(np.float64), ends[m][:-1]) for m in ends}
    names = ["a{}_s{}_t{}".format(*key) for key in zip(*(sensors[k].tolist() for k in ("action", "subject", "trial")))]
    for i, name in list(enumerate(names))[keep]:
        blocks = depth[i].astype(np.float64)  # [16, 48, 64], 255 to 1 for 500 to 4500 mm, 0 for background
        millimetres = np.where(blocks > 0, 500 + (255 - blocks) / 254 * 4000, 0).round().astype(np.uint16)
        arrays = {
            "depth": millimetres.transpose(1, 2, 0).repeat(pixels, 0).repeat(pixels, 1),  # [240, 320, 16]
            "inertial": parts["inertial"][i],  # [T, 6]
            "skeleton": parts["skeleton"][i].transpose(1, 2, 0),  # [20, 3, T]
        }
        write_recording(root, name, arrays)


if __name__ == "__main__":
    import sys

    write_real(Path(sys.argv[1]), Path(sys.argv[2]), pixels=1)
