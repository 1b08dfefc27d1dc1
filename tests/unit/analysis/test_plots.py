"""Pictures of a study."""

import numpy as np
import pytest
from PIL import Image

from msd_framework.analysis.plots import draw_densities, draw_runs, read_log_odds
from msd_framework.errors import DataError


def test_log_odds_are_read_from_predictions(tmp_path):
    file = tmp_path / "predictions_test.csv"
    header = "id,label,prediction,benign,hateful,image/prediction,image/benign,image/hateful\n"
    rows = "a,1,hateful,0.25,0.75,benign,0.5,0.5\nb,,benign,1.000000,0.000000,benign,0.9,0.1\n"
    file.write_text(header + rows)
    found = read_log_odds(file)
    assert list(found) == ["full", "image"]
    np.testing.assert_allclose(found["image"], [0, -np.log(9)], rtol=1e-12)
    np.testing.assert_allclose(found["full"], [np.log(3), np.log(1e-6 / (1 - 1e-6))], rtol=1e-12)  # 0 is known to 6 digits


def test_densities_of_more_than_two_classes_are_refused(tmp_path):
    file = tmp_path / "predictions_test.csv"
    file.write_text("id,label,prediction,no,maybe,yes\na,1,yes,0.2,0.3,0.5\n")
    with pytest.raises(DataError, match="has 4 columns for 1 views; densities are drawn for two classes"):
        read_log_odds(file)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pyparsing")  # matplotlib 3.8 calls what pyparsing 3.2 renamed
@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
def test_pictures_are_written_in_panels(tmp_path):
    outputs = np.random.default_rng(0).normal(size=(3, 50))
    outputs[2] = 0.5  # of a model that predicts the same for all, which has no density
    views = dict(zip(("full", "image", "text"), outputs))
    draw_densities({"teacher": views, "kd": views, "msd": views}, tmp_path / "densities.png")
    draw_runs({"kd": [79.0, 80.0], "msd": [83.0, 84.0]}, "test/auroc", tmp_path / "runs.png")
    densities, runs = (Image.open(tmp_path / name) for name in ("densities.png", "runs.png"))
    assert densities.size[0] > 2 * densities.size[1]
    for picture in (densities, runs):
        assert np.asarray(picture.convert("L")).min() < 100  # something is drawn
    assert sorted(p.name for p in tmp_path.iterdir()) == ["densities.png", "runs.png"]
