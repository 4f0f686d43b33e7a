import sys

import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, DataError
from gpubackprop.training.history import curves


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


def test_a_picture_says_which_rows_each_curve_is_of(tmp_path):
    pytest.importorskip("matplotlib")
    history = filled()
    history.records[1] |= {"accuracy": 0.5, "val_accuracy": 0.4, "val_roc_auc": 0.7, "val_mae_0": 3.0}
    losses, metrics = history.plot(tmp_path / "curves.png").axes
    assert [line.get_label() for line in losses.lines] == [
        "training rows, in the steps, any dropout on",
        "validation rows, after the epoch",
    ]
    assert [line.get_label() for line in metrics.lines] == [
        "accuracy: training rows, after the epoch",
        "accuracy: validation rows, after the epoch",
        "roc_auc: validation rows, after the epoch",
    ]
    assert metrics.get_ylabel() == "accuracy and roc_auc"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert history.plot()._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ArgumentError, match="no epoch was finished"):
        gb.History().plot()


def test_several_histories_in_one_picture():
    pytest.importorskip("matplotlib")
    (losses,) = curves({"a": filled(), "$b_": filled()}, "$").axes
    assert sorted(line.get_label() for line in losses.lines)[-2:] == [
        "validation rows, after the epoch, \\$b_",
        "validation rows, after the epoch, a",
    ]
    assert losses.get_yscale() == "linear", "a loss is missing"


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_data_frame(library):
    module = pytest.importorskip(library)
    frame = filled().to_frame(library)
    assert isinstance(frame, module.DataFrame)
    assert list(frame.columns) == ["epoch", "loss", "val_loss"]
    assert list(frame["loss"]) == [2.0, 1.0]
    assert type(filled().to_frame()).__name__ == "DataFrame"
    assert len(gb.History().to_frame(library)) == 0


def test_a_data_frame_without_a_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(gb.GpuBackpropError, match=r"gpubackprop\[pandas\]"):
        filled().to_frame()
    with pytest.raises(ArgumentError, match="library must be"):
        filled().to_frame("arrow")


def test_html_escapes_everything():
    history = filled()
    history.stopped = "<script>"
    history.records[1]["<b>"] = 3.0
    page = history._repr_html_()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert page.count("<tr>") == 3
