"""Print the table of result records again, as text or Markdown.

python -m experiments.report runs/quickstart/results.jsonl
python -m experiments.report --markdown runs/*/results.jsonl
"""

from __future__ import annotations

from absl import app, flags

from experiments.lib.running import exit_with_sentence
from mu_jax import reporting

MARKDOWN = flags.DEFINE_bool("markdown", False, "Write Markdown.")


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("expected at least one file of records, found none; name some")
    with exit_with_sentence():
        records = [record for path in argv[1:] for record in reporting.read(path)]
        print(reporting.render(records, width=114, markdown=MARKDOWN.value))


if __name__ == "__main__":
    app.run(main)
