"""`python -m llmtune` is `llmtune`."""

import sys

from llmtune.cli import main

if __name__ == "__main__":
    sys.exit(main())
