"""Memory stays bounded whatever the size of a file and of its longest row."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

CEILING_MIB = 150
PROGRAM = """
    import resource, sys
    from pathlib import Path
    import datasets, yaml
    from llmtune.config.settings import ColumnSettings, DataSettings
    from llmtune.data.roles import LABEL, TEXT
    from llmtune.data.tokens.encode import encode_splits
    from llmtune.data.tokens.token_rows import Limits
    from llmtune.data.rows import read_splits

    def mib():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

    plain = yaml.safe_load(Path(sys.argv[1]).read_text())
    plain |= {"train": "big.jsonl", "columns": ColumnSettings(**plain["columns"])}
    before = mib()
    raw = read_splits(DataSettings(**plain), (TEXT, LABEL))
    encode_splits(raw, lambda columns, most: {"input_ids": [[1, 2, 3] for _ in columns["text"]]}, {}, limits=Limits(64))
    print(mib() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_large_file_with_one_huge_row_is_streamed(folder, request):
    text = "some words that make a row of about two hundred characters and a bit, " * 3
    with open(folder / "big.jsonl", "w") as file:
        for i in range(150_000):
            file.write(json.dumps({"text": f"{i} {text}" if i != 1234 else "word " * 1_000_000, "label": i % 2}) + "\n")
    shipped = request.config.rootpath / "conf" / "data" / "files.yaml"
    job = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(shipped)], capture_output=True, text=True, check=False
    )
    assert job.returncode == 0, job.stderr
    assert float(job.stdout) < CEILING_MIB
