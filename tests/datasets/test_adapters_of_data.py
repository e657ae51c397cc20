"""Data as people have them, in small real files and in the objects of other libraries."""

from __future__ import annotations

import gzip
import io
import json
import struct

import grain
import jax
import numpy as np
import optax
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

import mu_jax as mu
from mu_jax import datasets
from mu_jax.datasets import by_position

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
Y = np.arange(6) % 2
IDS = ["r3", "r1", "r5", "r0", "r2", "r4"]
USERS = ["b", "a", "a", "b", "c", "c"]
RECORDS = [
    {"x": x, "y": int(y), "id": i, "user": u} for x, y, i, u in zip(X, Y, IDS, USERS, strict=True)
]
COLUMNS = {"inputs": "x", "target": "y", "ids": "id", "subjects": {"user": "user"}}


class Positional:
    """A dataset of torch without torch: read by position, it gives tuples."""

    def __len__(self):
        return 6

    def __getitem__(self, position):
        return X[position], int(Y[position]), IDS[position]


class Loader:
    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        yield X[:4], Y[:4], IDS[:4]
        yield X[4:], Y[4:], IDS[4:]


class TensorFlowData:
    """What `tf.data.Dataset` offers: an iterator over arrays, text as bytes."""

    def __iter__(self):
        raise AssertionError("tensors are not asked for")

    def as_numpy_iterator(self):
        for x, y, i, u in zip(X, Y, IDS, USERS, strict=True):
            yield {"x": x, "y": np.int64(y), "id": i.encode(), "user": u.encode()}


def csv_file(folder):
    text = io.StringIO(newline="")
    text.write("\ufeffid,a,b,c,y,user\r\n")
    for record in RECORDS:
        values = ",".join(map(repr, map(float, record["x"])))
        text.write(f'"{record["id"]}",{values},{record["y"]},{record["user"]}\r\n')
    (folder / "people.csv").write_bytes(text.getvalue().encode())
    return datasets.from_table(folder / "people.csv", **COLUMNS | {"inputs": ["a", "b", "c"]})


def arrow_table():
    return pyarrow.table({"x": X.tolist(), "y": Y, "id": IDS, "user": USERS})


def parquet_file(folder):
    pyarrow.parquet.write_table(arrow_table(), folder / "people.parquet")
    return datasets.from_table(folder / "people.parquet", **COLUMNS)


def saved_by_hugging_face(folder, table=None):
    table = arrow_table() if table is None else table
    half = table.num_rows // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        with pyarrow.ipc.new_stream(folder / f"data-{number}.arrow", table.schema) as writer:
            writer.write_table(part)
    files = [{"filename": f"data-{number}.arrow"} for number in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))


def hugging_face(folder):
    saved_by_hugging_face(folder)
    return datasets.from_hugging_face(folder, **COLUMNS)


def mapped(folder):
    np.save(folder / "x.npy", X)
    inputs = np.load(folder / "x.npy", mmap_mode="r")
    return datasets.from_arrays(inputs, Y, ids=IDS, subjects={"user": USERS})


def torch_loader(folder):
    torch = pytest.importorskip("torch")

    class People(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, position):
            x = torch.tensor(X[position], requires_grad=True)
            return x, torch.tensor(Y[position]), IDS[position]

    loader = torch.utils.data.DataLoader(People(), batch_size=4, shuffle=True)
    return datasets.from_loader(loader, ids=2, subjects={"user": USERS})


MAKES = {
    "records": lambda folder: datasets.from_records(RECORDS, **COLUMNS),
    "tuples": lambda folder: datasets.from_loader(
        Loader(Positional()), ids=2, subjects={"user": USERS}
    ),
    "torch": torch_loader,
    "batches of a loader": lambda folder: datasets.from_iterable(
        Loader(None), batched=True, ids=2, subjects={"user": USERS}
    ),
    "tf.data": lambda folder: datasets.from_iterable(TensorFlowData(), **COLUMNS),
    "a generator": lambda folder: datasets.from_iterable(iter(RECORDS), **COLUMNS),
    "grain": lambda folder: datasets.from_records(grain.MapDataset.source(RECORDS), **COLUMNS),
    "numpy on disk": mapped,
    "CSV": csv_file,
    "Parquet": parquet_file,
    "Hugging Face": hugging_face,
}


@pytest.mark.parametrize("make", MAKES)
def test_every_make_of_data_gives_the_same_rows(make, tmp_path):
    rows = MAKES[make](tmp_path)
    assert len(rows) == 6 and rows.ids.names(rows.index).tolist() == IDS
    inputs, targets, index = rows.read()
    np.testing.assert_array_equal(inputs, X)
    np.testing.assert_array_equal(targets, Y)
    np.testing.assert_array_equal(rows.targets, Y)
    assert inputs.dtype == np.float32 and targets.dtype == np.int32
    whole = mu.batches(inputs, targets, batch_size=4, index=index)
    for data in (whole, mu.stream(rows, batch_size=4)):
        forget, retain = mu.split(data, "user:a", ids=rows.ids)
        assert rows.ids.names(forget.index).tolist() == ["r1", "r5"]
        (batch,) = forget
        np.testing.assert_array_equal(batch.inputs[:2], X[1:3])
        assert sum(float(batch.weight.sum()) for batch in retain) == 4


def test_structured_inputs_and_several_heads_stream_and_unlearn():
    rows = datasets.from_records(
        RECORDS,
        inputs={"left": "x", "right": ["y"]},
        target={"sum": lambda r: np.float32(r["x"].sum()), "class": "y"},
        ids="id",
    )

    def predict(params, state, inputs):
        return {name: inputs["left"] @ params[name] for name in ("sum", "class")}

    def loss(outputs, targets):
        return sum(mu.losses.squared_error(outputs[name], targets[name]) for name in targets)

    model = mu.from_function(predict, loss)
    variables = mu.Variables({"sum": np.ones(3, np.float32), "class": np.zeros(3, np.float32)})
    unlearn, key = mu.iau(model, optax.sgd(0.1)), jax.random.key(0)
    streamed, _ = unlearn(
        key, variables, *mu.split(mu.stream(rows, batch_size=2), ["r1"], ids=rows.ids)
    )
    inputs, targets, index = rows.read()
    whole = mu.batches(inputs, targets, batch_size=6, index=index)
    together, _ = unlearn(key, variables, *mu.split(whole, ["r1"], ids=rows.ids))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), streamed, together)
    assert np.abs(together.params["class"]).max() > 1e-3


def test_text_targets_are_classes_in_alphabetical_order():
    names = ["dog", "cat", "dog", "ant", "cat", "ant"]
    records = [record | {"y": name} for record, name in zip(RECORDS, names, strict=True)]
    rows = datasets.from_records(records, **COLUMNS)
    assert rows.classes == ("ant", "cat", "dog") and rows.targets.tolist() == [2, 1, 2, 0, 1, 0]
    assert next(iter(mu.stream(rows, batch_size=6))).targets.tolist() == [2, 1, 2, 0, 1, 0]


def test_ids_by_position_and_by_a_function():
    rows = datasets.from_records(Positional(), ids=by_position)
    assert rows.index.tolist() == [0, 1, 2, 3, 4, 5]
    rows = datasets.from_records(
        RECORDS, **COLUMNS | {"ids": lambda k, record: f"{k}-{record['y']}"}
    )
    assert rows.ids.names(rows.index).tolist()[:2] == ["0-0", "1-1"]
    rows = datasets.from_records(RECORDS, **COLUMNS | {"ids": np.arange(6) + 2**40})
    assert rows.ids.ids[0] == str(2**40) and rows.index.tolist() == [0, 1, 2, 3, 4, 5]


def test_rows_keep_the_numbers_of_a_table_that_was_kept():
    kept = datasets.from_records(RECORDS, **COLUMNS).ids
    left = datasets.from_records(RECORDS[1:], **COLUMNS)
    again = left.numbered_by(kept)
    assert again.index.tolist() == kept.numbers(IDS[1:]).tolist() != left.index.tolist()
    with pytest.raises(ValueError, match=r"found 1 unknown \(r3\)"):
        datasets.from_records(RECORDS, **COLUMNS).numbered_by(left.ids)


def idx(array, kind):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return head + array.tobytes()


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files(tmp_path, zipped):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for name, data in (("images", idx(pixels, 8)), ("labels", idx(np.array([7, 1], np.uint8), 8))):
        (tmp_path / name).write_bytes(gzip.compress(data) if zipped else data)
    rows = datasets.from_idx(tmp_path / "images", tmp_path / "labels", ids=by_position)
    inputs, targets, _ = rows.read()
    np.testing.assert_allclose(inputs, pixels[..., None] / 255, rtol=1e-6)
    assert targets.tolist() == [7, 1] and targets.dtype == np.int32
    (tmp_path / "torn").write_bytes(idx(pixels, 8)[:20])
    for other in ("torn", "none"):
        (tmp_path / "none").write_bytes(b"\0\0")
        with pytest.raises(ValueError, match=r"expected an IDX file at .*: copy it again"):
            datasets.from_idx(tmp_path / other, tmp_path / "labels", ids=by_position)


def picture(value):
    file = io.BytesIO()
    Image.new("RGB", (4, 5), value).save(file, "png")
    return file.getvalue()


def test_image_folders(tmp_path):
    for name in ("dog/a.png", "cat/b.png", "cat/deep/a.PNG", "cat/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture((255, 0, 51)))
    rows = datasets.from_image_folder(tmp_path, side=2, subjects={"kind": "class"})
    assert rows.ids.ids.tolist() == ["cat/b.png", "cat/deep/a.PNG", "dog/a.png"]
    inputs, targets, _ = rows.read()
    assert inputs.shape == (3, 2, 2, 3) and targets.tolist() == [0, 0, 1]
    np.testing.assert_allclose(inputs[0, 0, 0], [1, 0, 0.2], rtol=1e-6)
    assert len(rows.ids.owned("kind", ["cat"])) == 2
    with pytest.raises(FileNotFoundError, match="expected images in folders of classes"):
        datasets.from_image_folder(tmp_path / "dog", side=2)


def test_images_inside_a_hugging_face_dataset(tmp_path):
    images = [{"bytes": picture((k, 0, 0)), "path": None} for k in range(4)]
    (tmp_path / "train").mkdir()
    table = pyarrow.table({"image": images, "label": [0, 1, 0, 1]})
    saved_by_hugging_face(tmp_path / "train", table)
    rows = datasets.from_hugging_face(
        tmp_path, split="train", inputs="image", target="label", ids=by_position
    )
    assert rows[3][0].shape == (5, 4, 3) and rows[3][0][0, 0].tolist() == [3, 0, 0]
    with pytest.raises(FileNotFoundError, match="found the splits train: give split="):
        datasets.from_hugging_face(tmp_path, inputs="image", target="label", ids=by_position)


def broken(folder, columns):
    (folder / "broken.csv").write_text("id,a,y\nr1,1,0\nr2,,1\n")
    return datasets.from_table(folder / "broken.csv", **columns)


TABLE = {"inputs": ["a"], "target": "y", "ids": "id"}
REFUSED = {
    "no loader": (lambda f: datasets.from_loader([1], ids=0), "to mu.datasets.from_records"),
    "no positions": (
        lambda f: datasets.from_loader(Loader(iter([])), ids=0),
        r"read it once by mu.datasets.from_iterable\(loader, batched=True",
    ),
    "no records": (lambda f: datasets.from_records(iter([]), ids=0), "mu.datasets.from_iterable"),
    "nothing": (lambda f: datasets.from_iterable(iter([]), ids=0), "at least one record"),
    "no batches": (
        lambda f: datasets.from_iterable([(1, 2)], batched=True, ids=by_position),
        "leave out batched=True",
    ),
    "no ids": (lambda f: datasets.from_records(RECORDS, **COLUMNS | {"ids": None}), "by_position"),
    "a set of ids": (
        lambda f: datasets.from_records(RECORDS, **COLUMNS | {"ids": set(IDS)}),
        "ids in an order, found a set",
    ),
    "too few ids": (
        lambda f: datasets.from_records(RECORDS, **COLUMNS | {"ids": IDS[1:]}),
        "expected ids for each of 6 rows, found 5",
    ),
    "a subject as id": (
        lambda f: datasets.from_records(RECORDS, **COLUMNS | {"ids": "user"}),
        r"used more than once \(a, b, c\): give each row an id of its own",
    ),
    "no such column": (
        lambda f: datasets.from_records(RECORDS, **COLUMNS | {"ids": "name"}),
        "expected a column 'name' for the ids, found the columns x, y, id, user",
    ),
    "no such input": (
        lambda f: datasets.from_records(RECORDS, **COLUMNS | {"inputs": "z"}).read(),
        "expected a column 'z' for the inputs",
    ),
    "no such place": (
        lambda f: datasets.from_records(Positional(), ids=3),
        "expected a column 3 for the ids, found a tuple of 3",
    ),
    "shapes": (
        lambda f: datasets.from_records([(np.ones(2), 0), (np.ones(3), 0)], ids=by_position).read(),
        r"every input as numbers of one shape, found \(2,\) and \(3,\)",
    ),
    "missing": (lambda f: broken(f, TABLE).read(), "a value in every row of the column 'a'"),
    "no column of a table": (
        lambda f: broken(f, TABLE | {"ids": "key"}),
        "expected a column 'key' for the ids in .*broken.csv, found id, a, y",
    ),
    "lengths": (
        lambda f: datasets.from_arrays(X, Y[1:], ids=IDS),
        r"one common leading axis, found leading sizes \[5, 6\]",
    ),
    "a loader as arrays": (
        lambda f: mu.batches(Loader([]), Y, batch_size=2),
        "found Loader: read it by mu.datasets.from_loader",
    ),
    "a loader as stream": (
        lambda f: mu.stream(Loader([]), batch_size=2),
        "found Loader: read it by mu.datasets.from_loader",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case, tmp_path):
    call, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call(tmp_path)
    text = str(caught.value)
    assert text.startswith("expected") and "\n" not in text
