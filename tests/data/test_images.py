"""Sources of images: arrays in a file, folders of files, and the digits that come with scikit-learn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.core.errors import DataError
from fedsim.core.rows import Corpus
from fedsim.data import PARTITIONERS, SOURCES, split_banks


def load(kind: str, seed: int = 0, **knobs: Any) -> Corpus:
    return SOURCES.create(kind, knobs).load(seed)


def arrays(count: int = 6, **more: np.ndarray) -> dict[str, np.ndarray]:
    """Image i has the value i everywhere and label i % 3."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 5, 3))
    return {"x": images, "y": np.arange(count) % 3, **more}


def write_folder(root: Path, classes: dict[str, int], size: tuple[int, int] = (5, 4)) -> Path:
    """One .png per class and number, of one colour: (10, 20, number)."""
    image = pytest.importorskip("PIL.Image")
    for path, count in classes.items():
        (root / path).mkdir(parents=True)
        for number in range(count):
            image.new("RGB", size, (10, 20, number)).save(root / path / f"{number}.png")
    return root


# ---------------------------------------------------------------------------------------------------------- npz


def test_arrays_become_rows_in_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(bank=np.array(list("aabbcc"))))
    corpus = load("npz", path=str(tmp_path / "a.npz"), labels={0: "cat", 1: "dog", 2: "fox"})
    assert corpus.images is not None
    assert corpus.images.shape == (6, 4, 5, 3)
    assert corpus.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert corpus.answers == ("cat", "dog", "fox") * 2
    assert corpus.label_words == ("cat", "dog", "fox")
    assert set(corpus.columns) == {"y", "bank", "label"}
    assert not corpus.test.any()
    banks = split_banks(corpus, PARTITIONERS.create("by_column", {"column": "bank"}), 0)
    assert {bank.name: bank.train.tolist() for bank in banks} == {"a": [0, 1], "b": [2, 3], "c": [4, 5]}


def test_a_pattern_reads_training_and_test_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "set_train.npz", **arrays(6))
    np.savez(tmp_path / "set_test.npz", **arrays(3))
    corpus = load("npz", path=str(tmp_path / "set_*.npz"), test={"column": "file", "value": "set_test"})
    assert corpus.test.tolist() == [True] * 3 + [False] * 6  # files in the order of their names


def test_rows_that_are_left_out_take_their_images_along(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(60))
    corpus = load("npz", path=str(tmp_path / "a.npz"), max_rows=7, test={"fraction": 0.5})
    assert corpus.images is not None
    assert len(corpus) == 7
    assert (corpus.images[:, 0, 0, 0] % 3 == corpus.labels).all()


def test_grey_and_float_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((4, 3, 2), 0.5), y=np.array([0, 1, 0, 1]))
    corpus = load("npz", path=str(tmp_path / "a.npz"))
    assert corpus.images is not None
    assert (corpus.images.shape, corpus.images.dtype) == ((4, 3, 2, 1), np.float32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.zeros((6, 4), dtype=np.uint8)}, r"array 'x' has shape \(6, 4\); expected \(n, height, width\)"),
        ({"x": np.zeros((6, 4, 4, 3), dtype=np.int64)}, "array 'x' has type int64; expected uint8"),
        ({"x": np.full((6, 2, 2), np.nan)}, r"a\.npz:1: the image holds values that are not finite"),
        ({"y": np.zeros(5)}, "6 images, but 5 labels in 'y'"),
        ({"y": np.zeros(6)}, "column 'y' has 1 different values"),
    ],
)
def test_arrays_that_make_no_images(tmp_path: Path, changed: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays(**changed))
    with pytest.raises(DataError, match=message):
        load("npz", path=str(tmp_path / "a.npz"))


def test_files_that_hold_no_arrays(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, pictures=np.zeros((2, 2, 2)), y=np.zeros(2))
    with pytest.raises(DataError, match=r"no column 'x' for the images.*pictures, y"):
        load("npz", path=str(file))
    file.write_bytes(b"not a zip archive")
    with pytest.raises(DataError, match=r"is not an \.npz file of plain arrays"):
        load("npz", path=str(file))
    np.savez(file, x=np.array([{"a": 1}], dtype=object), y=np.zeros(1))
    with pytest.raises(DataError, match=r"is not an \.npz file of plain arrays"):
        load("npz", path=str(file))


def test_the_shared_subset_of_cifar10(shared_data: Path) -> None:
    path = shared_data / "vision" / "cifar10_*.npz"
    corpus = load("npz", path=str(path), test={"column": "file", "value": "cifar10_test_1000"})
    assert corpus.images is not None
    assert corpus.images.shape == (6000, 32, 32, 3)
    assert np.bincount(corpus.labels[~corpus.test]).tolist() == [500] * 10


# ------------------------------------------------------------------------------------------------- image folder


def test_class_folders_are_labels(tmp_path: Path) -> None:
    write_folder(tmp_path, {"dog": 2, "cat": 3})
    corpus = load("image_folder", path=str(tmp_path))
    assert corpus.images is not None
    assert corpus.images.shape == (5, 4, 5, 3)
    assert corpus.answers == ("cat", "cat", "cat", "dog", "dog")
    assert corpus.images[:, 0, 0].tolist() == [[10, 20, number] for number in (0, 1, 2, 0, 1)]


def test_one_more_level_of_folders_is_a_column(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/cat": 2, "train/dog": 1, "test/cat": 1})
    corpus = load("image_folder", path=str(tmp_path), test={"column": "folder", "value": "test"})
    assert corpus.columns["folder"].tolist() == ["test", "train", "train", "train"]
    assert corpus.test.tolist() == [True, False, False, False]


def test_images_are_brought_to_one_size_and_to_grey(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 1})
    write_folder(tmp_path, {"dog": 1}, size=(9, 9))
    with pytest.raises(DataError, match=r"dog/0\.png:1: images differ in size \(4 x 5 x 3 and 9 x 9 x 3\)"):
        load("image_folder", path=str(tmp_path))
    corpus = load("image_folder", path=str(tmp_path), size=6, channels=1)
    assert corpus.images is not None
    assert corpus.images.shape == (2, 6, 6, 1)


def test_folders_that_hold_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load("image_folder", path=str(tmp_path / "none"))
    with pytest.raises(DataError, match="found 0 images"):
        load("image_folder", path=str(tmp_path))
    write_folder(tmp_path, {"cat": 1, "train/cat": 1})
    with pytest.raises(DataError, match="all alike; found 2 images"):
        load("image_folder", path=str(tmp_path))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "dog" / "0.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"dog/0\.png: cannot be read"):
        load("image_folder", path=str(tmp_path))


def test_pillow_is_asked_for_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"needs Pillow: pip install 'fedsim\[images\]'"):
        load("image_folder", path=str(tmp_path))


# -------------------------------------------------------------------------------------------------------- digits


def test_digits() -> None:
    corpus = load("digits")
    assert corpus.images is not None
    assert corpus.images.shape == (1797, 8, 8, 1)
    assert (float(corpus.images.min()), float(corpus.images.max())) == (0, 1)
    assert corpus.label_words == tuple("0123456789")
    assert 0.15 < corpus.test.mean() < 0.25
    assert (load("digits").test == corpus.test).all()
    assert (load("digits", seed=1).test != corpus.test).any()
    assert len(load("digits", max_rows=50)) == 50
