"""Local copies of the electricity data; the tests write a file of the published layout."""

import csv
import datetime
import pickle

import numpy as np
import pytest

from mu_jax import datasets

START = datetime.datetime(2011, 1, 1, 0, 15)
FIRST_DAY = 1300  # so that the file stays small; the days before are missing
HOURS = (1347 - FIRST_DAY) * 24


def load_of(client, hour):
    """Mean load of a client in an hour, counted from the first day of the file."""
    return 10 * client + 3 * np.sin(hour / 4) + hour % 7


def write(path, *, shuffled=False, columns=("MT_002", "MT_001", "MT_003")):
    """Quarter hours around an hourly mean; MT_001 ends early, MT_003 starts late and has a gap."""
    lines = [(START, [1.0, 1.0, 1.0])]
    for hour in range(FIRST_DAY * 24, FIRST_DAY * 24 + HOURS):
        for quarter in range(4):
            time = START.replace(minute=0) + datetime.timedelta(hours=hour, minutes=15 * quarter)
            loads = {
                "MT_001": load_of(1, hour) if hour < 1330 * 24 else 0,
                "MT_002": load_of(2, hour),
                "MT_003": load_of(3, hour) if hour >= 1341 * 24 else 0,
            }
            if hour == FIRST_DAY * 24 + 30:
                loads["MT_002"] = 0
            lines.append((time, [loads[c] + (quarter - 1.5) * (loads[c] > 0) for c in columns]))
    # Days count from the first line; nobody has a load before the days that are read.
    lines[0] = (START, [0.0] * 3)
    if shuffled:
        np.random.default_rng(0).shuffle(lines)
    with path.open("w") as file:
        file.write(";".join(f'"{name}"' for name in ("", *columns)) + "\n")
        for time, loads in lines:
            numbers = (f"{load:.9g}".replace(".", ",") for load in loads)
            file.write(f'"{time:%Y-%m-%d %H:%M:%S}";' + ";".join(numbers) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("electricity")
    (root / "electricity").mkdir()
    write(root / "electricity" / "LD2011_2014.txt")
    return root


@pytest.fixture(scope="module")
def train(folder):
    return datasets.source("electricity", data_dir=folder)


def test_windows_of_the_splits(folder, train):
    found = datasets.info("electricity", data_dir=folder)
    assert (found.task, found.input_shape, found.num_codes) == ("regression", (192, 5), 3)
    # MT_003 has no train days, so no scale and no windows.
    hours = {"train": 15 * 24, "valid": 31 * 24, "test": 14 * 24}
    early = {"train": 15 * 24, "valid": 22 * 24, "test": 0}
    assert found.split_sizes == {s: hours[s] - 191 + max(early[s] - 191, 0) for s in hours}
    for split, days in (("train", (1300, 1315)), ("valid", (1308, 1339)), ("test", (1332, 1346))):
        view = datasets.source("electricity", split, data_dir=folder)
        assert view.attributes["start"].min() == days[0] * 24
        assert view.attributes["start"].max() == days[1] * 24 - 192
        assert set(view.attributes["client"].tolist()) <= {1, 2}
        ids = 100_000 * view.attributes["client"] + view.attributes["start"]
        np.testing.assert_array_equal(view.index, ids)
        assert len(set(ids.tolist())) == len(view)


def raw_columns(client, hours):
    load = load_of(client, hours)
    load[(hours == FIRST_DAY * 24 + 30) & (client == 2)] = 0
    date = [START.replace(minute=0) + datetime.timedelta(hours=int(hour)) for hour in hours]
    calendar = [[d.hour for d in date], [d.weekday() for d in date], hours]
    return np.stack([load, *calendar], axis=1).astype(np.float64)


@pytest.mark.parametrize("client", [1, 2])
def test_a_window_is_the_series_standardized_by_the_train_days(train, client):
    scaling = raw_columns(client, np.arange(1300 * 24, 1315 * 24))
    mean, scale = scaling.mean(0), scaling.std(0)
    position = int(np.flatnonzero(train.attributes["client"] == client)[5])
    start = train.attributes["start"][position]
    window, target, number = train[position]
    assert window.shape == (192, 5) and window.dtype == target.dtype == np.float32
    expected = (raw_columns(client, start + np.arange(192)) - mean) / scale
    np.testing.assert_allclose(target, expected[168:, 0], atol=2e-3)
    expected[168:, 0] = 0  # the forecast is not an input
    np.testing.assert_allclose(window[:, :4], expected, atol=2e-3)
    assert (window[:, 4] == client - 1).all() and number == 100_000 * client + start
    load_scaling = train.attributes["mean"][position], train.attributes["scale"][position]
    np.testing.assert_allclose(load_scaling, (mean[0], scale[0]), rtol=1e-4)


def test_targets_are_those_of_the_windows_forecast(train):
    later = {int(number): place for place, number in enumerate(train.index)}
    number = 100_000 * 2 + 1300 * 24
    target, beyond = train.targets[later[number]], train[later[number + 24]][0]
    np.testing.assert_array_equal(target, beyond[168 - 24 : 168, 0])


def test_the_beginning_is_a_sample_of_clients_and_hours(folder, train):
    part = datasets.load("electricity", data_dir=folder, limit=20)
    np.testing.assert_array_equal(part.index, train.index[:20])
    assert set((part.index // 100_000).tolist()) == {1, 2}
    assert part.inputs.shape == (20, 192, 5) and part.targets.shape == (20, 24)
    copy = pickle.loads(pickle.dumps(train))
    np.testing.assert_array_equal(copy[7][0], train[7][0])


def test_ids_do_not_depend_on_the_order_of_lines_and_columns(train, tmp_path):
    write(tmp_path / "LD2011_2014.txt", shuffled=True, columns=("MT_003", "MT_001", "MT_002"))
    other = datasets.source("electricity", data_dir=tmp_path)
    np.testing.assert_array_equal(other.index, train.index)
    np.testing.assert_array_equal(other.targets, train.targets)
    np.testing.assert_array_equal(other[3][0], train[3][0])


def test_overlapping_windows_are_those_that_hold_a_forgotten_forecast(train):
    forget_ids = train.index[[3, 40, 41]]
    hours = {
        (int(number) // 100_000, int(number) % 100_000 + 168 + step)
        for number in forget_ids
        for step in range(24)
    }
    expected = [
        int(number)
        for number in np.setdiff1d(train.index, forget_ids)
        if hours & {(number // 100_000, number % 100_000 + step) for step in range(192)}
    ]
    found = datasets.overlapping_windows(train, forget_ids)
    assert found.tolist() == expected and 0 < len(expected) < len(train) - 3


def content(header, *lines):
    return "\n".join([header, *lines]) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header of a timestamp and clients"),
        (content('"";"total"', "x"), "clients such as MT_001, .*, found 'total'"),
        (content('"";"MT_001"'), "expected lines after the header"),
        (content('"";"MT_001"', '"2011-01-01 00:15:00";high'), "decimal comma in every line"),
        (content('"";"MT_001"', '"2011-01-01 00:15:00"'), "decimal comma in every line"),
        (content('"";"MT_001"', "noon;1,5"), "expected a timestamp and numbers"),
        (content('"";"MT_001"', '"2011-01-01 00:15:00";1,5'), "192 hours of load .* found none"),
    ],
)
def test_files_of_another_layout_are_refused(tmp_path, text, message):
    (tmp_path / "LD2011_2014.txt").write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        datasets.load("electricity", data_dir=tmp_path)
    assert str(raised.value).startswith("expected ") and not str(raised.value).endswith(".")
    assert len(list(csv.reader([str(raised.value)]))) == 1  # one line


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected LD2011_2014\.txt in .*, found none of"):
        datasets.info("electricity", data_dir=tmp_path)
