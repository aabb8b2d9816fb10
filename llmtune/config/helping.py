"""The help of a word that takes settings. Reads folders only, so that it answers at once."""

from __future__ import annotations

from llmtune.config.locate import groups, option_files, search_dirs

EXAMPLES = """examples:
  llmtune {word} task=sentiment
  llmtune {word} task=classification data=files data.train=reviews.csv model=minilm
  llmtune {word} my.yaml optimizer.lr=3e-5
  llmtune {word} -m task=sentiment optimizer.lr=1e-5,3e-5 seed=1,2,3"""

FLAGS = """flags:
  -m, --multirun     try all combinations of values that stand with commas
  --cfg job          print the composed config and stop
  --config-dir DIR   a folder with groups of your own; ./conf is looked at anyway"""


def page(word: str, line: str) -> str:
    """What `llmtune <word> --help` prints."""
    dirs = search_dirs()
    names = [group for group in groups(dirs) if option_files(group, dirs)]
    width = max(map(len, names)) + 2
    chosen = "\n".join(f"  {group:<{width}}{', '.join(option_files(group, dirs))}" for group in names)
    return f"""llmtune {word}: {line.split(":")[0]}

usage: llmtune {word} [recipe.yaml] [group=option ...] [key=value ...] [flags]

groups and their options (more: llmtune ls GROUP):
{chosen}

keys: llmtune show lists them, llmtune show KEY explains one

{FLAGS}

{EXAMPLES.format(word=word)}"""
