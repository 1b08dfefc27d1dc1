"""Many rows are checked together: they are refused where one of them alone would be, with the sentence of the first one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.data.files import DataFolder
from msd_framework.data.rows.row import NotAnExample, Row, RowBatch
from msd_framework.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """A folder with a link that leads out of it."""
    root: Path = tmp_path_factory.mktemp("rows")
    (root / "img").mkdir()
    (root / "img/out.png").symlink_to("/etc/passwd")
    return DataFolder(root)


def batch(row: Row) -> RowBatch:
    return RowBatch([row.record], row.file, [row.number])


Together = Callable[[RowBatch, DataFolder], object]
Alone = Callable[[Row, DataFolder], object]
CHECKS: dict[str, tuple[Together, Alone]] = {
    "text": (lambda rows, _: rows.texts("x"), lambda row, _: row.text("x")),
    "optional text": (lambda rows, _: rows.texts("x", optional=True), lambda row, _: "x" not in row.record or row.text("x")),
    "id": (lambda rows, _: rows.ids("x"), lambda row, _: row.identifier("x")),
    "integer": (lambda rows, _: rows.integers("x"), lambda row, _: batch(row).integers("x")),
    "number": (lambda rows, _: rows.labels("x", (0, 1)), lambda row, _: batch(row).labels("x", (0, 1))),
    "word": (lambda rows, _: rows.labels("x", ("a", "é")), lambda row, _: batch(row).labels("x", ("a", "é"))),
    "path": (lambda rows, folder: rows.paths(folder, rows.texts("x")), lambda row, folder: row.path(folder, row.text("x"))),
}
ABSENT = object()
values = st.sampled_from([0, 1, -1, 2**63, 1.0, True, None, [], ABSENT])
values |= st.sampled_from(["a", "", "é", "img/1.png", "../x", "\ud800", "img/out.png", "a\0b"])


def sentence(check: Callable[[], object]) -> str:
    try:
        check()
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", CHECKS)
@given(found=st.lists(values, max_size=4))
def test_rows_together_are_refused_as_the_first_that_is_wrong(folder: DataFolder, name: str, found: list[object]) -> None:
    together, alone = CHECKS[name]
    rows = RowBatch([{} if value is ABSENT else {"x": value} for value in found], "f", range(1, len(found) + 1))
    sentences = [sentence(lambda row=row: alone(row, folder)) for row in rows]
    texts = [text for text in sentences if text]
    if name == "path":  # all of them are texts before one is looked for
        texts.sort(key=lambda text: "does not lie" in text or "is not a file name" in text)
    assert sentence(lambda: together(rows, folder)) == (texts[0] if texts else "")


def test_a_check_of_one_row_after_the_other_is_given_one() -> None:
    assert RowBatch([{"x": 1}], "f", [7]).one() == Row({"x": 1}, "f", 7)
    with pytest.raises(NotAnExample):
        RowBatch([{}, {}], "f", [1, 2]).one()
