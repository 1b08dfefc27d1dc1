"""Packaging of msd_framework: metadata, what it needs, and the console script."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "msd_framework/__init__.py").read_text(), re.MULTILINE).group(1)


def shared_files(folder: str) -> list[tuple[str, list[str]]]:
    """The YAMLs of a folder beside the library and the code that they name, to be found by `msd` where there is no checkout."""
    files = sorted(f for kind in ("*.yaml", "*.py") for f in HERE.joinpath(folder).rglob(kind))
    parents = sorted({f.parent for f in files})
    return [
        (f"share/msd_framework/{p.relative_to(HERE)}", [str(f.relative_to(HERE)) for f in files if f.parent == p]) for p in parents
    ]


setup(
    name="msd_framework",
    version=VERSION,
    description="Modality-specific knowledge distillation: any multimodal model teaches any other, one modality at a time",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["msd_framework", "msd_framework.*"]),
    package_data={"msd_framework": ["py.typed"]},
    data_files=shared_files("configs") + shared_files("projects"),
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "transformers>=4.41",
        "tokenizers>=0.19",
        "omegaconf>=2.3",
        "safetensors>=0.4.3",
        "torchmetrics>=1.3",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
        "pillow>=10",
        "numpy>=1.26",
        "rich>=13.7",
        "filelock>=3.25",
        "scipy>=1.15",
    ],
    extras_require={
        "tensorboard": ["tensorboard>=2.14"],
        "lmdb": ["lmdb>=1.4"],
        "hdf5": ["h5py>=3.10"],
        "timm": ["timm>=1.0.12"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "pytest-timeout>=2.3",
            "hypothesis>=6.100",
            "tensorboard>=2.14",
            "lmdb>=1.4",
            "h5py>=3.10",
            "timm>=1.0.12",
            "accelerate>=1.1",
            "lightning>=2.6",
        ],
        "bench": ["torchdistill>=1.1.5"],
        "dev": ["ruff>=0.12", "mypy>=1.15", "import-linter>=2.17"],
    },
    entry_points={"console_scripts": ["msd=msd_framework.cli:main"]},
)
