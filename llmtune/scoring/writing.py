"""Scores of written texts against references: BLEU, chrF and TER by sacrebleu, ROUGE by rouge_score; chunk by chunk.

Corpus scores are made of sums over rows, so that a chunk of rows leaves a few numbers behind, whatever its size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

METRICS = {"bleu": "max", "chrf": "max", "ter": "min", "rouge1": "max", "rouge2": "max", "rougeL": "max"}
"""metric -> the direction in which it is better; all from 0 to 100 (TER may be more), as papers have them"""
TOKENIZERS = ("auto", "13a", "intl", "zh", "char", "none")
"""of BLEU, as sacrebleu calls them"""
HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
KANA, HANGUL = r"\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f", r"\uac00-\ud7af\u1100-\u11ff"
WITHOUT_BLANKS = rf"{HAN}{KANA}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""of scripts that don't set words apart: Chinese, Japanese, Thai, Lao, Burmese, Khmer"""
WORDS = re.compile(rf"[{WITHOUT_BLANKS}]|[^\W_{WITHOUT_BLANKS}]+")
LEAST_SHARE = 0.2
"""of all letters: from here on a text is in a script without blanks, names in Latin letters and digits or not"""


def tokenizer_for(texts: Sequence[str]) -> str:
    """sacrebleu's tokenizer for references like these: `zh` (Chinese), `char` (other scripts without blanks between
    words, and Korean), `13a` (all others)."""
    letters = sum(char.isalpha() for text in texts for char in text)

    def share(chars: str) -> float:
        return sum(len(re.findall(f"[{chars}]", text)) for text in texts) / max(1, letters)

    if share(WITHOUT_BLANKS) + share(HANGUL) < LEAST_SHARE:
        return "13a"
    return "zh" if share(HAN) > 4 * (share(KANA) + share(HANGUL)) and share(HAN) >= LEAST_SHARE else "char"


class Words:
    """A tokenizer for rouge_score: lower-cased words of any script, single characters where a script has no blanks.

    On English it gives what rouge_score's own gives, which knows no letters but a-z.
    """

    def __init__(self, stemmer: bool):
        from rouge_score.tokenizers import DefaultTokenizer

        self._stems = DefaultTokenizer(use_stemmer=True).tokenize if stemmer else None

    def tokenize(self, text: str) -> list[str]:
        words = WORDS.findall(text.lower())
        if self._stems is None:
            return words
        return [stem for word in words for stem in (self._stems(word) if word.isascii() else [word])]


class WritingScores:
    """Adds up rows of texts and their references.

    Args:
        names: out of METRICS.
        tokenizer: of BLEU, out of TOKENIZERS; `auto`: by the references of the first rows that are added. For Chinese
            TER too takes characters for words.
        stemmer: does ROUGE take English words by their stems?
    """

    def __init__(self, names: Sequence[str], tokenizer: str = "auto", stemmer: bool = False):
        self.names = list(names)
        self._tokenizer, self._stemmer = tokenizer, stemmer
        self._corpus: dict[str, Any] = {}
        self._sums: dict[str, list[float]] = {}
        self._num_references: set[int] = set()
        self._rouge: Any = None
        self._rows = 0

    def add(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Count rows: what was written, and what each might have been (one reference or more)."""
        if not texts:
            return
        if not self._rows:
            self._settle([one for some in references for one in some])
        self._rows += len(texts)
        self._num_references |= {len(some) for some in references}
        for name, metric in self._corpus.items():
            self._add(name, _statistics(metric, texts, references))
        if self._rouge is not None:
            found = [self._rouge.score_multi(list(some), text) for text, some in zip(texts, references)]
            for name in self._rouge.rouge_types:
                self._add(name, [[row[name].fmeasure] for row in found])

    def scores(self) -> dict[str, float]:
        """By name; none where no row was counted."""
        found: dict[str, float] = {}
        for name in self.names if self._rows else ():
            if name in self._corpus:
                found[name] = float(self._corpus[name]._compute_score_from_stats(list(self._sums[name])).score)
            else:
                found[name] = 100.0 * self._sums[name][0] / self._rows
        return found

    def signatures(self) -> dict[str, str]:
        """By name, everything that a score hangs on: sacrebleu's signature, and one of its kind for ROUGE."""
        from importlib.metadata import version

        found = {}
        number = next(iter(self._num_references)) if len(self._num_references) == 1 else None
        stems = "porter" if self._stemmer else "no"
        own = f"nrefs:{number or 'var'}|best:f|case:lc|tok:words+characters|stem:{stems}|"
        for name in self.names if self._rows else ():
            if name in self._corpus:
                self._corpus[name].num_refs = number or -1  # else that of the last chunk
                found[name] = str(self._corpus[name].get_signature())
            else:
                found[name] = f"{own}version:{version('rouge_score')}"
        return found

    def _settle(self, references: list[str]) -> None:
        from sacrebleu.metrics import BLEU, CHRF, TER

        tokenizer = tokenizer_for(references) if self._tokenizer == "auto" else self._tokenizer
        by_characters = tokenizer in ("zh", "char")
        made: dict[str, Any] = {
            "bleu": BLEU(tokenize=tokenizer, force=True),
            "chrf": CHRF(),
            "ter": TER(normalized=by_characters, asian_support=by_characters),
        }
        self._corpus = {name: made[name] for name in self.names if name in made}
        rouges = [name for name in self.names if name not in made]
        if rouges:
            from rouge_score.rouge_scorer import RougeScorer

            self._rouge = RougeScorer(rouges, tokenizer=Words(self._stemmer))

    def _add(self, name: str, rows: list[list[float]]) -> None:
        sums = self._sums.get(name, [0] * len(rows[0]))
        self._sums[name] = [sum(column) for column in zip(sums, *rows)]


def row_scores(name: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """How near each text is to the nearest of its references, from 0 to 100; `name` out of `chrf` and `rougeL`.

    Corpus scores such as BLEU say little of a single row: it is 0 where no four words in a row are right.
    """
    if name == "chrf":
        from sacrebleu.metrics import CHRF

        metric = CHRF()
        return [float(metric.sentence_score(text, list(some)).score) for text, some in zip(texts, references)]
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name], tokenizer=Words(stemmer=False))
    return [100.0 * scorer.score_multi(list(some), text)[name].fmeasure for text, some in zip(texts, references)]


def _statistics(metric: Any, texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[float]]:
    """Of each row the numbers that a corpus score is made of, by adding them up."""
    most = max(len(some) for some in references)
    streams = [[some[place] if place < len(some) else None for some in references] for place in range(most)]
    return metric._extract_corpus_statistics(list(texts), streams)
