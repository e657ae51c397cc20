"""Print the table of result records again, as text or Markdown.

python -m experiments.report runs/quickstart/results.jsonl
python -m experiments.report --markdown runs/*/results.jsonl
"""

from __future__ import annotations

from absl import flags

from experiments.lib.command_line import start
from experiments.lib.running import exit_with_sentence
from mu_jax import reporting

FLAGS = flags.FlagValues()
MARKDOWN = flags.DEFINE_bool("markdown", False, "Write Markdown.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        records = [record for path in argv[1:] for record in reporting.read(path)]
        print(reporting.render(records, width=114, markdown=MARKDOWN.value))


if __name__ == "__main__":
    start(main, FLAGS, arguments="files of records, such as runs/quickstart/results.jsonl")
