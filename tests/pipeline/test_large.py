"""Tables that would not fit into the memory: looked at by a sample, and trained on as a stream."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, DataError
from gpubackprop.pipeline import large, runs
from gpubackprop.pipeline.runs import resume_run, train_run
from tests.cli.commands import run as command

pytest.importorskip("pyarrow")

ROWS = 3000


def write(path: Path, rows: int = ROWS, extra: str = "") -> Path:
    """A table with numbers, gaps, levels and text labels; the label is the sign of a - b, or of a + b in one city."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, rows))
    city = rng.choice(["Oslo", "Rome", "Lima"], rows)
    y = np.where(np.where(city == "Rome", a + b, a - b) > 0, "yes", "no")
    lines = [f"{a[i]:.4f},{'' if i % 50 == 7 else format(b[i], '.4f')},{city[i]},{y[i]}" for i in range(rows)]
    path.write_text("a,b,city,y\n" + "\n".join(lines) + "\n" + extra)
    return path


@pytest.fixture(autouse=True)
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SAMPLED", 800)
    # Several parts a file.
    monkeypatch.setattr("gpubackprop.data.text_tables.BLOCK", 16 << 10)


def test_it_trains_on_all_rows_but_those_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, said, seen = write(tmp_path / "big.csv"), [], []
    original = runs.open_stream

    def watched(*arguments: Any, **options: Any) -> gb.Stream:
        stream = original(*arguments, **options)
        seen.append((stream, np.concatenate([x for piece in stream.pieces for x, _ in piece.chunks()])))
        return stream

    monkeypatch.setattr(runs, "open_stream", watched)
    run = train_run(
        path, target="y", memory=1000, out=tmp_path / "run", epochs=30, say=said.append, layers=[32], test=0.25
    )
    text = "\n".join(said)
    assert "3,000 rows: looked at by a sample of 800, trained on as a stream" in text
    assert "training on 2,800 rows, as a stream" in text
    assert run.report is not None
    assert run.judged_on.startswith("200 of 800 rows")
    assert run.scores["accuracy"] > 0.9
    assert not (run.path / "rows").exists(), "the encoded rows are there while it trains alone"
    ((stream, x),) = seen
    assert len(stream) == 2800
    # Every row of the file is either encoded or held out, and none is both.
    whole = run.model.prepare(run.model.read(str(path)))
    keys = {row.tobytes() for row in whole}
    assert {row.tobytes() for row in x} <= keys
    test = run.model.rows_to_judge()
    held = {row.tobytes() for row in run.model.prepare(test.x)}
    assert len(held) == 200
    assert not held & {row.tobytes() for row in x}
    assert run.model.score(str(path))["accuracy"] > 0.9
    loaded = gb.load_run(run.path)
    assert loaded.scores(test.x, test.y) == run.model.scores(test.x, test.y)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_kinds_of_files(tmp_path: Path, suffix: str) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    path = write(tmp_path / "t.csv")
    table = pyarrow.csv.read_csv(path)
    if suffix == ".parquet":
        path = tmp_path / "t.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=700)
    elif suffix == ".csv.gz":
        import gzip

        packed = tmp_path / "t.csv.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    run = train_run(path, target="y", memory=1000, out=tmp_path / "run", epochs=20, layers=[32])
    assert run.scores["accuracy"] > 0.88
    assert "sampled" in run.model.data


def test_a_regression(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, ROWS))
    path = tmp_path / "t.csv"
    path.write_text(
        "a,b,price\n" + "".join(f"{p:.4f},{q:.4f},{100 + 20 * p - 5 * q:.3f}\n" for p, q in zip(a, b, strict=True))
    )
    run = train_run(path, target="price", memory=1000, out=tmp_path / "run", epochs=30, layers=[16])
    assert run.scores["r2"] > 0.9


def test_text_stays_text_and_one_decimal_mark_holds_for_all_parts(tmp_path: Path) -> None:
    """Labels that look like numbers in one part, levels with zeros in front, and a mark that only some parts show."""
    rng = np.random.default_rng(2)
    a = rng.normal(size=ROWS)
    price = 1000 * (3 + a)
    lines = []
    for i in range(ROWS):
        # Whole thousands in the first half, such as 1.234 for 1234, which alone could be a small number.
        text = f"{round(price[i]):,}".replace(",", ".") if i < ROWS // 2 else f"{price[i]:.1f}".replace(".", ",")
        lines.append(f"{a[i]:.4f};{i % 7:03};{text};{'01' if a[i] > 0 else '02' if i < 2000 else 'rest'}")
    path = tmp_path / "t.csv"
    path.write_text("a;code;price;kind\n" + "\n".join(lines) + "\n")
    run = train_run(path, target="kind", task="classification", memory=1000, out=tmp_path / "kind", epochs=3)
    assert run.model.classes == ["01", "02", "rest"]
    assert set(run.model.predict(str(path))) <= {"01", "02", "rest"}
    coded = gb.ColumnChoices(categorical=("code",))
    run = train_run(path, target="price", memory=1000, out=tmp_path / "price", epochs=40, layers=[16], columns=coded)
    assert run.model.format() is not None
    assert run.scores["r2"] > 0.9
    assert 2500 < float(np.mean(run.model.predict(str(path)))) < 3500
    code = next(c for c in run.model.inputs.columns if c.name == "code")  # type: ignore[union-attr]
    assert code.settings["levels"][0].startswith("00")


def test_levels_are_the_same_in_the_sample_and_in_the_stream(tmp_path: Path) -> None:
    """A rare level that most parts do not have makes text of what is no text there."""
    rng = np.random.default_rng(6)
    flag = np.where(rng.random(ROWS) < 0.5, "True", "False").astype(object)
    flag[-300::3] = "Unknown"
    noise = rng.normal(size=ROWS)
    path = tmp_path / "t.csv"
    path.write_text(
        "flag,noise,y\n"
        + "".join(f"{f},{v:.5f},{'yes' if f == 'True' else 'no'}\n" for f, v in zip(flag, noise, strict=True))
    )
    run = train_run(path, target="y", memory=1000, out=tmp_path / "run", epochs=20, layers=[8])
    (column,) = (c for c in run.model.inputs.columns if c.name == "flag")  # type: ignore[union-attr]
    assert {*column.settings["levels"]} <= {"True", "False", "Unknown"}
    assert run.scores["accuracy"] > 0.95


def test_the_mark_of_the_targets_holds_for_the_inputs_of_the_sample_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    a = rng.integers(1000, 9999, ROWS)
    path = tmp_path / "t.csv"
    # 1.234 is a number with a point to Arrow, and a thousand beside a target of 1,5.
    path.write_text(
        "a;y\n" + "".join(f"{v:,}".replace(",", ".") + f";{v / 100:.2f}".replace(".", ",") + "\n" for v in a)
    )
    run = train_run(path, target="y", memory=1000, out=tmp_path / "run", epochs=60, layers="none")
    assert run.model.format().decimal == ","  # type: ignore[union-attr]
    (column,) = run.model.inputs.columns  # type: ignore[union-attr]
    assert column.settings["median"] > 1000
    assert run.scores["r2"] > 0.9
    assert run.model.score(str(path))["r2"] > 0.9
    assert "held out" in gb.load_run(run.path).rows_to_judge().what


def test_rows_of_the_sample_are_not_told_their_own_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    who, y = rng.integers(0, ROWS // 5, ROWS), rng.normal(size=ROWS)
    path, seen = tmp_path / "t.csv", []
    path.write_text("who,y\n" + "".join(f"w{w},{v:.6f}\n" for w, v in zip(who, y, strict=True)))
    original = runs.open_stream

    def watched(*arguments: Any, **options: Any) -> gb.Stream:
        stream = original(*arguments, **options)
        chunks = [chunk for piece in stream.pieces for chunk in piece.chunks()]
        seen.append([np.concatenate(arrays) for arrays in zip(*chunks, strict=True)])
        return stream

    monkeypatch.setattr(runs, "open_stream", watched)
    monkeypatch.setattr(runs, "SAMPLED", ROWS)
    train_run(path, target="y", memory=1000, out=tmp_path / "run", epochs=1, layers="none")
    ((x, targets),) = seen
    assert len(x) > ROWS // 2
    # Levels of five rows say nothing; told their own targets, rows would be 0.4 correlated with them.
    assert abs(np.corrcoef(x[:, 0], targets[:, 0])[0, 1]) < 0.1


def test_rows_count_by_their_weights(tmp_path: Path) -> None:
    """Rows that count nothing say the opposite, in some parts of the file all of them."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, ROWS))
    counts = (np.arange(ROWS) % 2 == 0) & (np.arange(ROWS) > 700)
    says_so = (a - b > 0) == counts
    lines = [f"{a[i]:.4f},{b[i]:.4f},{2 * counts[i]:.1f},{'yes' if says_so[i] else 'no'}" for i in range(ROWS)]
    path = tmp_path / "t.csv"
    path.write_text("a,b,count,y\n" + "\n".join(lines) + "\n")
    run = train_run(path, target="y", weight="count", memory=1000, out=tmp_path / "run", epochs=20, layers=[16])
    said = np.array(run.model.predict({"a": a, "b": b}))
    assert ((said == "yes") == (a - b > 0)).mean() > 0.9
    again = resume_run(tmp_path / "run", more_epochs=1)
    assert len(again.history) == 21


def _weighted(path: Path, counts: np.ndarray, missing: int = -1) -> Path:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, len(counts)))
    said = np.where(a - b > 0, "yes", "no")
    said[missing:] = "" if missing >= 0 else said[missing:]
    lines = [f"{a[i]:.4f},{b[i]:.4f},{counts[i]:g},{said[i]}" for i in range(len(counts))]
    path.write_text("a,b,count,y\n" + "\n".join(lines) + "\n")
    return path


def test_the_unit_of_the_weights_does_not_matter(tmp_path: Path) -> None:
    counts = np.random.default_rng(5).integers(1, 4, ROWS).astype(float)
    losses = []
    for i, (factor, memory) in enumerate(((1, None), (1000, None), (1, 1000), (1000, 1000))):
        path = _weighted(tmp_path / f"{i}.csv", factor * counts)
        options: dict[str, Any] = {
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "layers": [8],
            "epochs": 3,
            "batch_size": 64,
        }
        run = train_run(path, target="y", weight="count", memory=memory, out=tmp_path / f"run{i}", **options)
        losses.append(run.history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    # The blocks of a stream, and so the order of its rows, depend on the length of the text.
    np.testing.assert_allclose(losses[2:], [losses[0], losses[0]], rtol=0.2)


def test_classes_that_count_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the streamed rows are those that rows in memory get, with a column of weights and without."""
    counts = np.random.default_rng(5).integers(1, 4, ROWS).astype(float)
    path, seen = _weighted(tmp_path / "t.csv", counts), []
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], *(r for i, r in enumerate(rows[1:]) if r.endswith("no") or i % 4 == 0)]) + "\n")
    original = runs.open_stream

    def watched(*arguments: Any, **options: Any) -> gb.Stream:
        seen.append(original(*arguments, **options))
        chunks = [chunk for piece in seen[-1].pieces for chunk in piece.chunks()]
        found.append([np.concatenate(arrays) for arrays in zip(*chunks, strict=True)])
        return seen[-1]

    monkeypatch.setattr(runs, "open_stream", watched)
    found: list[Any] = []
    for weight in (None, "count"):
        options: dict[str, Any] = {"target": "y", "weight": weight, "class_weight": "balanced", "epochs": 1}
        run = train_run(path, memory=1000, out=tmp_path / str(weight), **options)
        _, y, weights = found.pop()
        labels = y.reshape(len(y)).astype(int)
        assert weights.mean() == pytest.approx(1)
        if weight is None:
            sums = np.bincount(labels, weights)
            assert sums[0] == pytest.approx(sums[1])
        else:
            # Of one class, a row that counts three has three times the weight of one that counts one.
            assert len(np.unique(np.round(weights[labels == 0] / weights[labels == 0].min(), 6))) == 3
        assert run.report is not None


def test_weights_that_are_0_in_a_part_or_in_the_sample(tmp_path: Path) -> None:
    # In the last block rows count that have no target; in the sample of 800 hardly any row counts, or none.
    counts = np.ones(ROWS)
    counts[1500:-5] = 0
    path = _weighted(tmp_path / "part.csv", counts, missing=ROWS - 5)
    train_run(path, target="y", weight="count", memory=1000, out=tmp_path / "part", epochs=1)
    counts[:] = 0
    counts[7] = 1
    path = _weighted(tmp_path / "rare.csv", counts)
    run = train_run(path, target="y", weight="count", memory=1000, out=tmp_path / "rare", epochs=1, seed=1)
    assert np.isfinite(run.history["loss"]).all()
    none = _weighted(tmp_path / "none.csv", np.zeros(ROWS))
    with pytest.raises(DataError, match="column count: no row counts"):
        train_run(none, target="y", weight="count", memory=1000, out=tmp_path / "none", epochs=1)
    with pytest.raises(ArgumentError, match="no row of the training part counts"):
        train_run(none, target="y", weight="count", out=tmp_path / "whole", epochs=1)


def test_by_the_command_and_once_more_from_its_settings(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv")
    command(
        "train", path, "--target", "y", "--memory", "1000", "--epochs", "2", "--layers", "8", "--out", tmp_path / "run"
    )
    assert "sampled" in gb.load_run(tmp_path / "run").data
    command("train", "--config", tmp_path / "run" / "settings.json", "--out", tmp_path / "again")
    first, again = (gb.load_run(tmp_path / name).network.get_weights() for name in ("run", "again"))
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    assert "held out" in command("evaluate", tmp_path / "run")


def _grouped(path: Path, seed: int = 0, members: int = 3) -> Path:
    """Rows of persons, of whom each has some; the numbers of persons are written in two ways, and some persons are not known."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, ROWS))
    person = rng.integers(0, ROWS // members, ROWS)
    who = [f"{p}.0" if i % 2 else str(p) for i, p in enumerate(person)]
    lines = [
        f"{a[i]:.6f},{b[i]:.6f},{'' if person[i] < 20 else who[i]},{'yes' if a[i] - b[i] > 0 else 'no'}"
        for i in range(ROWS)
    ]
    path.write_text("a,b,who,y\n" + "\n".join(lines) + "\n")
    return path


def _persons(path: Path) -> dict[bytes, str]:
    """Whose a row is, by its number a."""
    lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return {np.float32(a).tobytes(): who.removesuffix(".0") for a, _, who, _ in lines}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("members", [3, 100])
def test_no_group_is_in_two_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, members: int) -> None:
    path, said, seen = _grouped(tmp_path / "t.csv", members=members), [], []
    person, source = _persons(path), path
    if suffix == ".parquet":
        import pyarrow.csv
        import pyarrow.parquet

        source = tmp_path / "t.parquet"
        pyarrow.parquet.write_table(pyarrow.csv.read_csv(path), source, row_group_size=700)
    original = runs.open_stream

    def watched(*arguments: Any, **options: Any) -> gb.Stream:
        stream = original(*arguments, **options)
        seen.append({who(row) for piece in stream.pieces for x, _ in piece.chunks() for row in x})
        sizes.append(len(stream))
        return stream

    def who(row: np.ndarray) -> str:
        return person[np.float32(row[0]).tobytes()]

    monkeypatch.setattr(runs, "open_stream", watched)
    sizes: list[int] = []
    options: dict[str, Any] = {
        "target": "y", "group": "who", "memory": 1000, "epochs": 1, "layers": [8], "validation": 0.2, "test": 0.25,
        "standardize": False,
    }  # fmt: skip
    tests = []
    for name, seed in (("run", 0), ("again", 0), ("other", 1)):
        run = train_run(source, out=tmp_path / name, seed=seed, say=said.append, **options)
        sample = run.model.load_sample(run.model.data["source"])
        parts = runs.divide(sample.data, test=0.25, validation=0.2, seed=seed)
        assert parts.validation is not None
        test, validation = ({who(row) for row in run.model.prepare(p.x)} for p in (parts.test, parts.validation))
        trained = seen.pop()
        assert not test & validation
        assert not (test | validation) & trained
        assert test | validation | trained == set(person.values()), "rows of all other persons are trained on"
        size = sizes.pop()
        assert any(f"training on {size:,} rows, as a stream ({ROWS - size:,} are of groups" in line for line in said)
        assert "in whole groups" in parts.test.what
        # Of many small groups only those that were looked at are held out.
        assert size > ROWS // 2
        tests.append(test)
        assert run.model.rows_to_judge().what == parts.test.what
        said.clear()
    assert tests[0] == tests[1] != tests[2]
    weights = [gb.load_run(tmp_path / name).network.get_weights() for name in ("run", "again")]
    for name, array in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], array, err_msg=name)
    assert resume_run(tmp_path / "run", more_epochs=1).judged_on == parts.test.what
    assert seen.pop() == set(person.values()) - tests[0] - _validated(tmp_path / "run", who)


def _validated(run: Path, who: Any) -> set[str]:
    model = gb.load_run(run)
    data = model.load_sample(model.data["source"]).data
    validation = runs.divide(data, test=0.25, validation=0.2, seed=0).validation
    assert validation is not None
    return {who(row) for row in model.prepare(validation.x)}


class _Halt(gb.Callback):
    def on_epoch_end(self, trainer: gb.Trainer, record: dict[str, Any]) -> None:
        if record["epoch"] == 3:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv")
    options: dict[str, Any] = {"target": "y", "memory": 1000, "epochs": 6, "layers": [16], "seed": 2}
    whole = train_run(path, out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train_run(path, out=tmp_path / "run", callbacks=[_Halt()], **options)
    assert (tmp_path / "run" / "rows").exists()
    resumed = resume_run(tmp_path / "run")
    for name, array in whole.model.network.get_weights().items():
        np.testing.assert_array_equal(resumed.model.network.get_weights()[name], array, err_msg=name)
    assert not (tmp_path / "run" / "rows").exists()
    # Further, after the encoded rows are gone: they are made again.
    longer = resume_run(tmp_path / "run", more_epochs=1)
    assert len(longer.history) == 7
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["settings"]["epochs"] == 7


def test_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv")
    for options, word in (({"class_weight": "heavy"}, "class_weight must be"),):
        with pytest.raises(ArgumentError, match=word):
            train_run(path, target="y", memory=1000, out=tmp_path / "run", **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has no column 'z'"):
        train_run(path, target="z", memory=1000, out=tmp_path / "run")
    # A class that the sample has not, in one row of many.
    rare = write(tmp_path / "rare.csv", extra="0.1,0.2,Oslo,maybe\n")
    with pytest.raises(DataError, match="knows no class 'maybe'"):
        train_run(rare, target="y", memory=1000, out=tmp_path / "run2", epochs=1, seed=1)


def test_what_fits_is_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 300)
    run = train_run(path, target="y", memory=10 << 20, out=tmp_path / "run", epochs=1)
    assert run.model.data["sampled"] is None
    assert not large.is_large("-", 1)
    assert not large.is_large("digits", 1)
    assert large.is_large(str(path), 1000)


_LIMITED = """
import resource, sys
from pathlib import Path
import gpubackprop as gb
from gpubackprop.pipeline import runs
from gpubackprop.pipeline.runs import train_run
runs.SAMPLED = 5000
# Everything that is loaded when it is first used.
with open(sys.argv[1]) as file:
    Path("small.csv").write_text("".join(next(file) for _ in range(100)))
train_run("small.csv", target="y", memory=1, out="small", epochs=1, layers=[8], device="cpu")
now = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (now + int(sys.argv[2]), -1))
run = train_run(sys.argv[1], target="y", memory=20 << 20, out="run", epochs=1, layers=[8], device="cpu")
print(run.scores["accuracy"])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA is Linux's")
def test_in_less_memory_than_the_file_takes(tmp_path: Path) -> None:
    """A file of 40 MB, 80 MB of memory beyond what a small run takes; read whole the same run runs out."""
    assert resource.RLIMIT_DATA
    rng = np.random.default_rng(0)
    path, rows = tmp_path / "t.csv", 25_000
    x = rng.normal(size=(rows, 200)).round(4)
    with path.open("w") as file:
        file.write(",".join(f"c{i}" for i in range(200)) + ",y\n")
        np.savetxt(file, np.column_stack([x, (x[:, 0] > 0) + 0]), fmt="%.4f", delimiter=",")
    assert path.stat().st_size > 30 << 20
    for memory, works in (("20 << 20", True), ("1 << 40", False)):
        script = _LIMITED.replace("memory=20 << 20", f"memory={memory}")
        done = subprocess.run(
            [sys.executable, "-c", script, str(path), str(80 << 20)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path), "ARROW_DEFAULT_MEMORY_POOL": "system"},
        )  # fmt: skip
        assert (done.returncode == 0) == works, done.stderr[-2000:]
