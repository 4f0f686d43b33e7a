import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, DataError


def filled():
    history = gb.History()
    history.append({"epoch": 1, "loss": 2.0})
    history.append({"epoch": 2, "loss": 1.0, "val_loss": 1.5})
    return history


def test_columns():
    history = filled()
    assert history["loss"] == [2.0, 1.0]
    assert history["val_loss"] == [None, 1.5]
    assert [record["epoch"] for record in history] == [1, 2]
    with pytest.raises(ArgumentError, match="did you mean 'loss'"):
        history["los"]
    with pytest.raises(ArgumentError, match="empty"):
        gb.History()["loss"]


def test_save_and_load(tmp_path):
    path = tmp_path / "history.jsonl"
    filled().save(path)
    assert len(path.read_text().splitlines()) == 2
    assert gb.History.load(path).records == filled().records
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{]\n", "line 1: not JSON"), (b"[1]\n", "one JSON object"), (b"\xff\xfe", "cannot be read")],
)
def test_a_file_of_another_kind(tmp_path, content, message):
    path = tmp_path / "history.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        gb.History.load(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        gb.History.load(tmp_path / "none.jsonl")


def test_repr_says_how_it_ended():
    history = filled()
    history.stopped = "patience"
    assert "2 epochs, stopped by patience" in repr(history)


def test_a_loss_that_is_no_number_becomes_null(tmp_path):
    history = filled()
    history.append({"epoch": 3, "loss": float("nan")})
    history.save(tmp_path / "h.jsonl")
    assert gb.History.load(tmp_path / "h.jsonl").records[-1] == {"epoch": 3, "loss": None}


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError):
        filled().save(tmp_path / "none" / "h.jsonl")
