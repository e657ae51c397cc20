"""Progress of long work: what the line says, where it goes, and that the work does not notice."""

import io
import os
import pathlib
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from processes import finish, start

import mu_jax as mu
from mu_jax import _progress as progress
from mu_jax import datasets, ensembles
from mu_jax.loops.scan import fold
from mu_jax.models import Decoder, DecoderConfig
from mu_jax.models.decoder.reading import read_decoder
from mu_jax.models.decoder.writing import write_decoder
from mu_jax.store import Store

MODEL = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """What is written to a terminal, 40 columns wide where that can be asked."""

    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def lines(stream):
    """What a person has seen in the line that is rewritten, one entry a rewriting."""
    return [part.removesuffix("\x1b[K") for part in stream.getvalue().split("\r")[1:]]


def data(rows=12, batch_size=4):
    return mu.batches(jnp.eye(rows), jnp.ones(rows), batch_size=batch_size)


def count(carry, batch):
    return carry + batch.weight.sum()


def terminal_as_stderr(monkeypatch):
    """A terminal in the place of stderr, and a look at the work every millisecond."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PULSE", 0.001)
    return stream


def slowly(batches, seconds=0.02):
    for batch in batches:
        time.sleep(seconds)
        yield batch


# What the line says.


def test_rate_and_remaining_time(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    display = progress.Display(stream, clock=clock)
    with display.work("train", 8, "model") as work:
        for seconds in (10, 10, 20):
            clock.now += seconds
            work.step()
            display.pulse()
        clock.now += 5
        display.pulse()  # nothing new: the time that is left goes on
    assert lines(stream) == [
        "train: 1 of 8 models, 10.0 s per model, 1 min 10 s left",
        "train: 2 of 8 models, 10.0 s per model, 1 min 00 s left",
        "train: 3 of 8 models, 13.3 s per model, 1 min 07 s left",
        "train: 3 of 8 models, 13.3 s per model, 1 min 02 s left",
        "",
    ]


def test_the_rate_is_that_of_the_last_minute(clock):
    work = progress.Work("", 100, "row")
    work.look(clock.now)
    for each in [30.0] * 4 + [1.0] * 70:  # it was slow at first
        clock.now += each
        work.step()
        work.look(clock.now)
    assert work.rate() == pytest.approx(1.0, rel=0.02)
    assert work.words(clock.now, with_rate=True).startswith("74 of 100 rows, 1.0 rows/s, 2")


def test_steps_that_were_there_before_make_no_rate(clock):
    stream = Terminal()
    display = progress.Display(stream, clock=clock)
    with display.work("originals", 64, "model", 48):
        clock.now += 5
        display.pulse()
    assert lines(stream)[0] == "originals: 48 of 64 models, 5 s"


def test_outer_work_stands_first_and_has_the_time(clock):
    stream = Terminal()
    display = progress.Display(stream, clock=clock)
    with display.work("tune"), display.work("", 4, "setting") as settings:
        for done in (25, 50):
            display.begin_loop(100, 0)
            clock.now += 3
            settings.step()
            display.advance_loop(done)
            display.pulse()
            display.end_loop()
    assert lines(stream) == [
        "tune: 1 of 4 settings, 3.0 s per setting, 9 s left; 25 of 100 batches",
        "tune: 2 of 4 settings, 3.0 s per setting, 6 s left; 50 of 100 batches",
        "",
    ]


def test_work_that_cannot_be_counted_says_for_how_long(clock):
    stream = Terminal()
    display = progress.Display(stream, clock=clock)
    with display.work(""):
        display.pulse()  # nothing to say
        clock.now += 100
        with display.work("compile ssd"):
            clock.now += 65
            display.pulse()
    assert lines(stream) == ["compile ssd: 1 min 05 s", ""]


def test_work_of_unknown_length(clock):
    stream = Terminal()
    display = progress.Display(stream, clock=clock)
    with display.work("read", None, "batch") as work:
        for _ in range(2):
            clock.now += 1
            work.step(1500)
            display.pulse()
    assert lines(stream)[1] == "read: 3,000 batches, 1,500 batches/s, 2 s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599.0, "59 min 59 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


# Where it goes.


def test_a_line_a_minute_where_there_is_no_terminal(clock):
    stream = io.StringIO()
    display = progress.Display(stream, clock=clock)
    with display.work("train", 40, "model") as work:
        for _ in range(40):
            clock.now += 10
            work.step()
            display.pulse()
    found = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in found] == [
        f"train: {done} of 40 models" for done in (6, 12, 18, 24, 30, 36)
    ]
    assert found[0] == "train: 6 of 40 models, 10.0 s per model, 5 min 40 s left"
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_a_dumb_terminal_is_none(clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    display = progress.Display(stream, clock=clock)
    with display.work("train", 2, "model"):
        clock.now += 60
        display.pulse()
    assert stream.getvalue() == "train: 0 of 2 models, 1 min 00 s\n"


def test_a_line_that_stays_goes_above_the_one_that_is_rewritten(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    display = progress.Display(stream, clock=clock)
    with display.work("train", 2, "model"):
        display.pulse()
        display.say("kept")
        display.pulse()
    line = "\rtrain: 0 of 2 models, 0 s\x1b[K"
    assert stream.getvalue() == f"{line}\r\x1b[Kkept\n{line}\r\x1b[K"


def test_a_real_terminal_of_forty_columns(clock, monkeypatch):
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    monkeypatch.setenv("TERM", "xterm")
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, np.array([24, 40, 0, 0], np.uint16).tobytes())
    with os.fdopen(slave, "w") as stream:
        display = progress.Display(stream, clock=clock)
        with display.work("a label that is longer than the terminal is wide", 2, "model"):
            display.pulse()
            shown = os.read(master, 1000).decode()
        cleared = os.read(master, 1000).decode()
    os.close(master)
    assert shown == "\ra label that is longer than the termin…\x1b[K"
    assert cleared == "\r\x1b[K"


def test_a_process_that_is_not_the_first_says_nothing(clock):
    stream = Terminal()
    display = progress.Display(stream, clock=clock, speaks=lambda: False)
    with display.work("train", 2, "model"):
        clock.now += 100
        display.pulse()
        display.say("done")
    assert stream.getvalue() == ""


def test_a_stream_that_is_closed_stops_no_work(clock):
    stream = Terminal()
    display = progress.Display(stream, clock=clock)
    with display.work("train", 2, "model") as work:
        stream.close()
        display.pulse()
        work.step()
    assert work.done == 1


# Who is watched.


def test_the_library_is_silent_unless_asked(capfd, monkeypatch):
    monkeypatch.setattr(progress, "PULSE", 0.001)
    threads = threading.active_count()
    fold(count, jnp.float32(0), slowly(data()))
    assert list(progress.each(range(3), "rows", "row")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "") and threading.active_count() == threads


def test_switched_off_by_the_environment(monkeypatch):
    terminal = terminal_as_stderr(monkeypatch)
    monkeypatch.setenv("MU_JAX_PROGRESS", "off")
    with mu.progress("fit"):
        fold(count, jnp.float32(0), slowly(data()))
    assert terminal.getvalue() == ""


def test_a_stream_of_batches(monkeypatch):
    terminal = terminal_as_stderr(monkeypatch)
    with mu.progress("fit"):
        total = fold(count, jnp.float32(0), mu.stream(Slow(12), batch_size=2), epochs=2)
    assert total == 24
    seen = [line for line in lines(terminal) if "batches" in line]
    assert seen and all(line.startswith("fit: ") and " of 12 batches" in line for line in seen)
    assert any("batches/s" in line and line.endswith(" left") for line in seen)
    assert terminal.getvalue().endswith("\r\x1b[K") and "\n" not in terminal.getvalue()


class Slow:
    """Rows of which each takes a while to read."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        time.sleep(0.01)
        return np.eye(self.rows, dtype=np.float32)[row], np.float32(1)


def test_a_quick_block_shows_nothing(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with mu.progress("importance"):
        fold(count, jnp.float32(0), data())
    assert stream.getvalue() == ""


def test_what_is_computed_is_the_same(monkeypatch):
    terminal_as_stderr(monkeypatch)
    optimizer, key = optax.adam(0.1), jax.random.key(0)
    objective = mu.supervised(MODEL)

    def fitted():
        state, _ = mu.fit(
            MODEL, objective, optimizer, mu.Variables(jnp.ones(12)), data(), key=key, epochs=3
        )
        return np.asarray(state.variables.params)

    expected = fitted()
    with mu.progress("fit"):
        found = fitted()
    np.testing.assert_array_equal(found, expected)


def test_no_loop_waits_unless_the_line_is_due(monkeypatch):
    """Between two looks of the watcher the host runs ahead, as it does without progress."""
    waits = []
    monkeypatch.setattr(jax, "block_until_ready", waits.append)
    monkeypatch.setattr(progress, "PULSE", 1000.0)
    with mu.progress("fit"):
        fold(count, jnp.float32(0), iter(data()))
        assert waits == []
        progress._SHOWN.get().pulse()
        fold(count, jnp.float32(0), iter(data()))
    assert len(waits) == 1


def test_an_error_leaves_nothing_open(monkeypatch):
    terminal = terminal_as_stderr(monkeypatch)
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), mu.progress("outer"), mu.progress("inner"):
        for _ in progress.each(range(3), "rows", "row"):
            1 / 0  # noqa: B018
    assert progress._SHOWN.get() is None and threading.active_count() == before
    with mu.progress("next"):
        time.sleep(0.05)
    assert lines(terminal)[-2] == "next: 0 s" and lines(terminal)[-1] == ""


def test_a_loop_that_failed_is_not_shown_behind_the_next(clock, monkeypatch):
    stream = Terminal()
    display = progress.Display(stream, clock=clock)
    with display.work("fit"):
        display.begin_loop(10, 0)
        display.advance_loop(3)
        display.begin_loop(20, 0)  # the first one ended in an error that was caught
        display.advance_loop(1)
        display.pulse()
    assert lines(stream)[0] == "fit: loop 2: 1 of 20 batches, 0 s"


# Everything long.


def watched(monkeypatch, call):
    """The work that a call has opened, as (label, total, unit, done at the end)."""
    opened, begin = [], progress.Display.work

    def work(self, *about):
        manager = begin(self, *about)
        enter = manager.__enter__

        class Noted:
            def __enter__(self):
                opened.append(enter())
                return opened[-1]

            def __exit__(self, *error):
                return manager.__exit__(*error)

        return Noted()

    monkeypatch.setattr(progress.Display, "work", work)
    with mu.progress():
        call()
    return [(work.label, work.total, work.unit, work.done) for work in opened if work.unit]


def test_an_ensemble_on_disk(monkeypatch, tmp_path):
    def stored(models):
        return ensembles.stored(tmp_path, {"of": "squares"}, lambda n: n * n, models, block=2)

    for models in (3, 3, 6):
        found = watched(monkeypatch, lambda models=models: stored(models))
        assert [work for work in found if work[2] == "model"] == [("", models, "model", models)]


def test_settings_of_a_search(monkeypatch):
    from mu_jax.tuning.trying import unlearn_each

    forget, retain = mu.split(data(), [1, 2])
    settings = [{"alpha": alpha} for alpha in (1.0, 2.0, 3.0)]
    arguments = jax.random.key(0), mu.Variables(jnp.ones(12)), forget, retain

    def call():
        found.extend(
            unlearn_each(lambda alpha: mu.ssd(MODEL, alpha), settings, *arguments, at_once=2)
        )

    found = []
    assert watched(monkeypatch, call) == [("tune", 3, "setting", 3)]
    assert len(found) == 3


def test_models_that_are_scored(monkeypatch):
    forget, retain = mu.split(data(), [1, 2])
    versions = {"ours": [mu.Variables(jnp.ones(12) * scale) for scale in (1.0, 2.0)]}

    def call():
        mu.evaluation.score(MODEL, versions, forget=forget, retain=retain, kind="regression")

    assert ("ours", 2, "model", 2) in watched(monkeypatch, call)


def test_rows_of_a_dataset_and_files_of_a_store(monkeypatch, tmp_path):
    rows = datasets.from_arrays(np.eye(4, dtype=np.float32), np.arange(4), ids=list("dbca"))
    found = watched(
        monkeypatch, lambda: datasets.prepare("people", {"train": rows}, data_dir=tmp_path)
    )
    assert ("write", 4, "row", 4) in found
    store = Store(tmp_path / "store")
    (label, total, unit, done), *_ = watched(
        monkeypatch, lambda: store.publish(mu.Variables(jnp.ones(3)), method="train")
    )
    assert (label, unit) == ("digests", "file") and total == done > 0


def test_tensors_of_a_decoder(monkeypatch, tmp_path):
    decoder = Decoder(
        DecoderConfig(
            *("llama",), vocab_size=32, width=8, depth=2, num_heads=2, num_kv_heads=1, head_dim=4,
            mlp_width=16, max_positions=64,
        )
    )  # fmt: skip
    variables, path = decoder.init(jax.random.key(0)), tmp_path / "model"
    (wrote,) = watched(monkeypatch, lambda: write_decoder(path, decoder, variables))
    assert wrote[::2] == ("write", "tensor") and wrote[1] == wrote[3]
    for scan in (False, True):
        (read,) = watched(monkeypatch, lambda scan=scan: read_decoder(path, scan_layers=scan))
        assert read == ("read", wrote[1], "tensor", wrote[1])


# Several processes.


@pytest.mark.multiprocess
def test_of_two_processes_the_first_one_speaks():
    outputs = finish(start(__file__), 120)
    assert [code for _, code in outputs] == [0, 0], outputs
    first, second = (output for output, _ in outputs)
    assert "fit: " in first and " of 16 batches" in first and "said" in first
    assert "fit" not in second and "said" not in second
    assert first.splitlines()[-1] == second.splitlines()[-1] == "16.0"


def one_of_two(port, process):
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process))
    progress.PULSE, progress.LINE = 0.01, 0.0
    batches = mu.shard(data(16, 2), mu.data_mesh())
    with mu.progress("fit"):
        total = fold(count, jnp.float32(0), batches, epochs=2)
        for _ in range(2):
            jax.block_until_ready(fold(count, jnp.float32(0), slowly(batches, 0.05), epochs=1))
        progress.say("said")
    print(float(total) / 2)
    jax.distributed.shutdown()


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    one_of_two(*sys.argv[1:])
