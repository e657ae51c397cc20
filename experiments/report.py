"""Show results again: their table as text or Markdown, or everything as one HTML page.

python -m experiments.report runs/quickstart/results.jsonl
python -m experiments.report --markdown runs/*/results.jsonl
python -m experiments.report --html=report.html runs/quickstart/results.jsonl
python -m experiments.report --over_runs --picture=relearning.svg runs/language/results.jsonl
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments.lib.command_line import start
from experiments.lib.language import results
from experiments.lib.paths import check_file
from experiments.lib.running import exit_with_sentence, stage
from mu_jax import reporting

FLAGS = flags.FlagValues()
MARKDOWN = flags.DEFINE_bool("markdown", False, "Write Markdown.", flag_values=FLAGS)
OVER_RUNS = flags.DEFINE_bool(
    "over_runs",
    False,
    "Tables over all forget sets and seeds in place of one for each forget set.",
    flag_values=FLAGS,
)
HTML = flags.DEFINE_string(
    "html",
    None,
    "Write the page of results, which needs no network, into this .html.",
    flag_values=FLAGS,
)
TITLE = flags.DEFINE_string(
    "title", "", "Of the page; default: the forget sets.", flag_values=FLAGS
)
PICTURE = flags.DEFINE_string(
    "picture",
    None,
    "Draw what relearning brings back into this .svg; records of experiments.language.",
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        found = {pathlib.Path(path): list(reporting.read(path)) for path in argv[1:]}
        records = [record for each in found.values() for record in each]
        shown = results.overview(records) if OVER_RUNS.value else records
        text = reporting.render(shown, width=114, markdown=MARKDOWN.value)
        if PICTURE.value is not None:
            results.draw(check_file(PICTURE.value), found)
        if HTML.value is not None:
            print(f"Page: {write_page(HTML.value, argv[1:])}\n")
        print(text)


def write_page(path: str, names: list[str]) -> pathlib.Path:
    """Write the page of the runs whose records have these names."""
    from experiments.lib import pages  # needs the extra `report`

    target = pages.check_page(path)
    with stage("draw the page"):
        return pages.write_page(target, [reporting.read_run(name) for name in names], TITLE.value)


if __name__ == "__main__":
    start(main, FLAGS, arguments="files of records, such as runs/quickstart/results.jsonl")
