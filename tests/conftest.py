"""What several tests look up."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small public data sets; tests that want it are skipped where it is not there."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MSD_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder}; set MSD_SHARED_DATA to the folder that holds nlvr/ and fsdd/")
    return folder
