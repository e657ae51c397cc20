"""Local copies of the UCI electricity load diagrams as windows for forecasting."""

from __future__ import annotations

import csv
import dataclasses
import functools
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mu_jax._extras import extra
from mu_jax.datasets.examples import Source
from mu_jax.datasets.local_copy import LocalCopy, check_label, find_folder, make_copy

_FILE = "LD2011_2014.txt"
_ENCODER, _DECODER = 168, 24  # hours
_WINDOW = _ENCODER + _DECODER
# Days since the first timestamp, from and up to but not including; seven days of valid and test are
# the past of their first forecast.
_DAYS = {"train": (1096, 1315), "valid": (1308, 1339), "test": (1332, 1346)}
_IDS_PER_CLIENT = 100_000


def electricity(root: Path, label: str = "label") -> LocalCopy:
    """UCI electricity: a day's forecast, float32 [24], from a week and the calendar, [192, 5].

    Columns of the inputs: load (0 in the last 24 hours, the forecast), hour of the day, day of the
    week, hours since the start, code of the client. The first four are standardized by each
    client's means and deviations over the train days, as are the targets. The attributes `mean` and
    `scale` hold the mean and deviation of the load, to go back, `client` the number of the client
    and `start` the first hour of the window.

    Quarter hours become hourly means; 0 is missing; each client lasts from its first to its last
    load, with 0 in gaps. A window starts at every hour; `train` holds days 1096 to 1314, `valid`
    1308 to 1338, `test` 1332 to 1345; clients with fewer than 192 hours in the train days are left
    out. The id is 100,000 times the number of the client plus the first hour. Windows are permuted
    once by NumPy's legacy generator with seed 0, so the first n (`limit=450_000` in the published
    experiments) are a random sample.

    Windows overlap: the windows that `overlapping_windows` names have to leave the retain set.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: another layout, clients without a number, no client with a window.

    Cost: reads the file (700 MB as published) once in a process; targets take 96 bytes a window.

    Reference:
        A. Trindade, ElectricityLoadDiagrams20112014, UCI Machine Learning Repository, 2015;
        preparation of B. Lim, S. O. Arik, N. Loeff, T. Pfister, Temporal Fusion Transformers for
        Interpretable Multi-Horizon Time Series Forecasting, 2021.
    """
    check_label(label, ("load",), "electricity")
    path = find_folder(root, ("electricity",), (_FILE,)) / _FILE
    series = _hourly(path, path.stat().st_mtime_ns)
    splits = {split: _windows(series, *days) for split, days in _DAYS.items()}
    if not len(splits["train"]):
        raise ValueError(
            f"expected {_WINDOW} hours of load of one client in days {_DAYS['train'][0]} to "
            f"{_DAYS['train'][1] - 1} of {path}, found none; copy the whole file"
        )
    shape, num_codes = (_WINDOW, 5), len(series.clients)
    return make_copy(
        "electricity", splits, task="regression", input_shape=shape, num_codes=num_codes
    )


def overlapping_windows(windows: Source, forget_ids: np.ndarray) -> np.ndarray:
    """The ids of the other windows that hold an hour which a forgotten window forecasts.

    Args:
        windows: a split of `electricity`, made by `source`.
        forget_ids: ids of that split.

    Returns:
        int32 [m], sorted: drop them from the retain set.

    Cost: O(windows + hours).

    Example:
        >>> import numpy as np
        >>> from mu_jax.datasets import Source
        >>> start = np.arange(0, 400, 8)
        >>> attributes = {"client": np.ones_like(start), "start": start}
        >>> windows = Source(None, "series", start, start, attributes=attributes)
        >>> overlapping_windows(windows, np.array([0])).tolist()[-1]  # 0 forecasts 168 to 191
        184
    """
    client, start = windows.attributes["client"], windows.attributes["start"]
    forgotten = np.isin(windows.index, forget_ids)
    overlaps = np.zeros(len(windows), bool)
    for number in np.unique(client[forgotten]):
        rows = np.flatnonzero(client == number)
        forecast = np.zeros(start[rows].max() + _WINDOW + 1, np.int64)
        for hour in start[rows][forgotten[rows]] + _ENCODER:
            forecast[hour + 1 : hour + _DECODER + 1] = 1
        before = np.cumsum(forecast)  # forgotten hours before each hour
        overlaps[rows] = before[start[rows] + _WINDOW] > before[start[rows]]
    return np.sort(windows.index[overlaps & ~forgotten])


class _Series(NamedTuple):
    """Hourly load of every client, sorted by their numbers.

    `load` f32[hours, clients] is nan where missing; `calendar` f32[hours, 3] holds hour, day of the
    week and hours since the start; `mean` and `scale` f32[clients, 4] are nan for clients that are
    left out.
    """

    load: np.ndarray
    calendar: np.ndarray
    clients: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def columns(self, client: int, hours: slice) -> np.ndarray:
        """Load and calendar of some hours, standardized, f32[hours, 4]."""
        columns = np.column_stack([self.load[hours, client], self.calendar[hours]])
        return (columns - self.mean[client]) / self.scale[client]


@dataclasses.dataclass(frozen=True)
class _Windows:
    """Windows as records, `records[i]["series"]` float32 [192, 5]."""

    series: _Series
    client: np.ndarray
    start: np.ndarray

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        client, start = int(self.client[position]), int(self.start[position])
        columns = self.series.columns(client, slice(start, start + _WINDOW))
        columns[_ENCODER:, 0] = 0
        return {"series": np.pad(columns, ((0, 0), (0, 1)), constant_values=client)}


def _windows(series: _Series, first_day: int, end_day: int) -> Source:
    """The windows of all clients within some days, permuted."""
    nothing = np.zeros(0, np.int32)
    clients, starts, targets = [nothing], [nothing], [np.zeros((0, _DECODER), np.float32)]
    for code in np.flatnonzero(np.isfinite(series.mean[:, 0])).tolist():
        first, end = _span(series.load[:, code], 24 * first_day, 24 * end_day)
        if end - first >= _WINDOW:
            starts.append(np.arange(first, end - _WINDOW + 1, dtype=np.int32))
            clients.append(np.full_like(starts[-1], code))
            load = series.columns(code, slice(first + _ENCODER, end))[:, 0]
            targets.append(np.lib.stride_tricks.sliding_window_view(load, _DECODER))
    order = np.random.RandomState(0).permutation(sum(map(len, starts)))
    client, start = np.concatenate(clients)[order], np.concatenate(starts)[order]
    number = series.clients[client]
    return Source(
        records=_Windows(series, client, start),
        inputs_name="series",
        targets=np.concatenate(targets)[order],
        index=number * _IDS_PER_CLIENT + start,
        attributes={
            "client": number,
            "start": start,
            "mean": series.mean[client, 0],
            "scale": series.scale[client, 0],
        },
    )


@functools.lru_cache(maxsize=1)
def _hourly(path: Path, modified: int) -> _Series:
    """Reads the file; `modified` is part of the cache's key only."""
    del modified
    clients, seconds, quarters = _read(path)
    order = np.argsort(seconds, kind="stable")
    hours = seconds[order] // 3600
    hour = np.arange(hours[0], hours[-1] + 1)
    begins = np.flatnonzero(np.diff(hours, prepend=hours[0] - 1))
    load = np.full((len(hour), len(clients)), np.nan, np.float32)
    for client, quarter in enumerate(quarters):
        load[hours[begins] - hours[0], client] = _means(quarter[order], begins)
    load = np.where(load == 0, np.nan, load)
    for client in range(len(clients)):
        first, end = _span(load[:, client], 0, len(load))
        load[first:end, client] = np.nan_to_num(load[first:end, client])
    # The first of January 1970 was a Thursday; Monday is 0.
    calendar = np.column_stack([hour % 24, (hour // 24 + 3) % 7, hour - hour[0]])
    series = _Series(load, calendar.astype(np.float32), clients, *np.empty((2, 0)))
    return series._replace(**_scalers(series))


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Numbers of the clients, sorted; seconds since 1970; the quarter hours of each client."""
    with extra("datasets"):
        import pyarrow
        import pyarrow.csv

    with path.open(encoding="utf-8", errors="replace") as lines:
        time, *names = next(csv.reader(lines, delimiter=";"), ["time"])
    numbers = [int(found[0]) for name in names if (found := re.search(r"\d{1,4}$", name))]
    if len(numbers) != len(names) or not numbers:
        raise ValueError(
            f"expected a header of a timestamp and clients such as MT_001, separated by ; in "
            f"{path}, found {(names or [time])[0][:40]!r}; copy the file as it is distributed"
        )
    types = {time: pyarrow.timestamp("s")} | {name: pyarrow.float32() for name in names}
    try:
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(delimiter=";"),
            convert_options=pyarrow.csv.ConvertOptions(decimal_point=",", column_types=types),
        )
    except pyarrow.ArrowInvalid as error:
        raise ValueError(
            f"expected a timestamp and numbers with a decimal comma in every line of {path}, found "
            f"something else ({str(error).splitlines()[0][:80]}); copy the file again"
        ) from error
    if not len(table):
        raise ValueError(f"expected lines after the header of {path}, found none; copy it again")
    order = np.argsort(numbers).tolist()
    seconds = table[0].to_numpy().astype("datetime64[s]").astype(np.int64)
    return np.array(numbers, np.int32)[order], seconds, [table[1 + i].to_numpy() for i in order]


def _means(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Means from each beginning to the next, nan where all values are."""
    there = np.isfinite(values)
    sums = np.add.reduceat(np.where(there, values, 0), begins, dtype=np.float64)
    counts = np.add.reduceat(there, begins, dtype=np.int64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _span(load: np.ndarray, first: int, end: int) -> tuple[int, int]:
    """The hours from the first to behind the last load within some bounds."""
    there = first + np.flatnonzero(np.isfinite(load[first:end]))
    return (int(there[0]), int(there[-1]) + 1) if there.size else (first, first)


def _scalers(series: _Series) -> dict[str, np.ndarray]:
    """Means and deviations of each client over the train days; a constant column has scale 1."""
    mean = np.full((len(series.clients), 4), np.nan, np.float32)
    scale = mean.copy()
    days = _DAYS["train"]
    for client in range(len(series.clients)):
        first, end = _span(series.load[:, client], 24 * days[0], 24 * days[1])
        if end - first >= _WINDOW:
            columns = np.column_stack([series.load[:, client], series.calendar])[first:end]
            mean[client] = columns.mean(axis=0, dtype=np.float64)
            scale[client] = columns.std(axis=0, dtype=np.float64)
    return {"mean": mean, "scale": np.where(scale == 0, np.float32(1), scale)}
