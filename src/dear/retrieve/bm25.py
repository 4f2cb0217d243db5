"""The first stage: BM25 over title and text, by bm25s with PyStemmer's stems.

The defaults are those of the runs that come with the test collections: Lucene's variant, k1 = 0.9,
b = 0.4, English stop words and stems, documents with score 0 left out. Terms are words in the
sense of Unicode, combining marks included, in composed form (NFC; ligatures and full-width forms
become plain ones). Scripts that are written without spaces (Chinese, Japanese, Thai, Lao, Khmer,
Burmese) give single characters and pairs of neighbours, as Lucene's CJKAnalyzer does with
outputUnigrams.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import regex

from dear.characters import normal
from dear.digests import Input
from dear.errors import ConfigError, DataError, excerpt, nearest
from dear.records import Passage, Query, Ranking
from dear.retrieve.table import RetrieverSpec, Setting, require_top_k

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

METHODS = ("lucene", "robertson", "atire")
"""The variants in which a passage without any query term scores 0 (Kamphuis et al. 2020)."""

STOPWORDS = (
    "english",
    "english_plus",
    "german",
    "dutch",
    "french",
    "spanish",
    "portuguese",
    "italian",
    "russian",
    "swedish",
    "norwegian",
    "chinese",
    "turkish",
    "korean",
    "danish",
)
"""The lists that bm25s carries; `english` is Lucene's 33 words."""


def _expect_known(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"bm25 {option} = {value!r} is not known{nearest(value, known)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bm25Options:
    """How passages and queries become terms, and terms a score.

    k1: how fast repeats of a term saturate, 0 or more. b: how much length counts, in [0, 1].
    stemmer: a Snowball language, None for none. stopwords: one of STOPWORDS, None for none.
    split_identifiers: `snake_case`, `camelCase` and `HTTPServer` count as their parts, too.
    single_letters: words of one letter or digit are terms, too ("C", "R", "vitamin D").
    ConfigError names the option that is out of range.
    """

    k1: float = 0.9
    b: float = 0.4
    method: str = "lucene"
    stemmer: str | None = "english"
    stopwords: str | None = "english"
    split_identifiers: bool = False
    single_letters: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.k1 < float("inf"):
            raise ConfigError(f"bm25 k1 = {self.k1}: must be 0 or more")
        if not 0 <= self.b <= 1:
            raise ConfigError(f"bm25 b = {self.b}: must lie in [0, 1]")
        _expect_known("method", self.method, METHODS)
        if self.stopwords is not None:
            _expect_known("stopwords", self.stopwords, STOPWORDS)


DEFAULTS = Bm25Options()

COLLECTION_OPTIONS: dict[str, Bm25Options] = {
    "pydocs": Bm25Options(split_identifiers=True),
}
"""Collections whose text asks for other options than DEFAULTS."""


def options_for(collection_name: str) -> Bm25Options:
    """The options that suit a collection by name; DEFAULTS for most."""
    return COLLECTION_OPTIONS.get(collection_name, DEFAULTS)


class Bm25Index:
    """A corpus, ready to be searched many times.

    corpus: passage id → passage; the id that counts is the mapping's.
    DataError for an empty corpus, ConfigError for a stemmer that PyStemmer does not have.
    Memory: 8 bytes for each pair of passage and distinct term; some ten times that while it builds.
    """

    name = "bm25"

    def __init__(self, corpus: Mapping[str, Passage], *, options: Bm25Options = DEFAULTS) -> None:
        import bm25s

        if not corpus:
            raise DataError("bm25: the corpus has no passages")
        self.options = options
        self.passage_ids: tuple[str, ...] = tuple(corpus)
        self._stemmer = _load_stemmer(options.stemmer)
        self._words = words_of(single_letters=options.single_letters)
        self._index: Any = None
        tokens = self._tokenize(passage.full_text for passage in corpus.values())
        if tokens.vocab:  # bm25s cannot index a corpus without a single term
            self._index = bm25s.BM25(k1=options.k1, b=options.b, method=options.method)
            self._index.index(tokens, create_empty_token=False, show_progress=False)
        logger.info("bm25: %d passages, %d terms", len(corpus), len(tokens.vocab))

    @property
    def values(self) -> Mapping[str, Any]:
        """Its options, for a run's note."""
        return {self.name: asdict(self.options)}

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What its runs depend on beside texts."""
        return {"options": Input.of_values(asdict(self.options))}

    def search(
        self,
        queries: Mapping[str, Query],
        top_k: int = 100,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Ranking]:
        """Query id → the best `top_k` passages with a score above 0, in the order of `queries`.

        A query that shares no term with the corpus has no entry; their number is logged, with one
        of them.
        progress: called with (queries done, queries in all) after each query.
        ConfigError if top_k is below 1; more than there are passages is fine.
        """
        require_top_k(self.name, top_k)
        run: dict[str, Ranking] = {}
        for done, (query_id, query) in enumerate(queries.items(), start=1):
            ranking = self._rank(query_id, self._scores(query.text), top_k)
            if ranking is not None:
                run[query_id] = ranking
            if progress is not None:
                progress(done, len(queries))
        if len(run) < len(queries):
            without = next(q for q in queries.values() if q.id not in run)
            logger.warning(
                "bm25: %d of %d queries match no passage, such as %s: %s",
                *(len(queries) - len(run), len(queries), without.id, excerpt(without.text)),
            )
        return run

    def score_passages(
        self, queries: Mapping[str, Query], passages: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, float]]:
        """See `Retriever`."""
        found = {}
        for query_id, ids in passages.items():
            scores = self._scores(queries[query_id].text)
            found[query_id] = {i: float(scores[self._numbers[i]]) for i in ids}
        return found

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {i: number for number, i in enumerate(self.passage_ids)}

    def _tokenize(self, texts: Iterable[str]) -> Any:
        """bm25s' Tokenized: ids, one list of term numbers a text, and vocab, term → number."""
        import bm25s

        if self.options.split_identifiers:
            texts = map(split_identifiers, texts)
        tokenizer = bm25s.tokenization.Tokenizer(
            splitter=self._words, stopwords=self.options.stopwords, stemmer=self._stemmer
        )
        return tokenizer.tokenize(
            texts, length=0, return_as="tuple", show_progress=False, allow_empty=False
        )

    def _terms(self, text: str) -> list[str]:
        """The terms of one text in its order, repeats kept."""
        tokens = self._tokenize([text])
        term_of = {number: term for term, number in tokens.vocab.items()}
        return [term_of[number] for number in tokens.ids[0]]

    def _scores(self, query_text: str) -> np.ndarray:
        """(len(passage_ids),) float32; a term that the query repeats counts as often."""
        import numpy as np

        if self._index is None:
            return np.zeros(len(self.passage_ids), dtype=np.float32)
        numbers = self._index.get_tokens_ids(self._terms(query_text))
        scores: np.ndarray = self._index.get_scores_from_ids(numbers)
        return scores

    def _rank(self, query_id: str, scores: np.ndarray, top_k: int) -> Ranking | None:
        import numpy as np

        matches = np.flatnonzero(scores > 0)
        if not len(matches):
            return None
        if len(matches) > top_k:
            # every tie with the last place stays in until Ranking.sorted has broken it by id
            threshold = np.partition(scores[matches], -top_k)[-top_k]
            matches = matches[scores[matches] >= threshold]
        ids = [self.passage_ids[i] for i in matches]
        return Ranking.sorted(query_id, ids, scores[matches].tolist()).top(top_k)


def retrieve(
    corpus: Mapping[str, Passage],
    queries: Mapping[str, Query],
    *,
    top_k: int = 100,
    options: Bm25Options = DEFAULTS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Ranking]:
    """Index `corpus` and search it once: see Bm25Index, and Bm25Index.search for the arguments."""
    require_top_k("bm25", top_k)  # before the index, which may take a minute
    return Bm25Index(corpus, options=options).search(queries, top_k, progress=progress)


def open_bm25(_spec: RetrieverSpec, setting: Setting) -> Bm25Index:
    """BM25 over a corpus."""
    return Bm25Index(setting.corpus, options=setting.bm25)


Words = Callable[[str], list[str]]
"""Text → words, in its order."""

# characters that are written but not read: they neither part words nor make others of them
_INVISIBLE = dict.fromkeys((0x00AD, 0x200C, 0x200D, 0x2060, 0xFEFF))
# stdlib's \w has no combining marks, which are vowels in Hindi, Thai and many others
_ANY_WORD = regex.compile(r"[\w\p{No}]+")
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u30FC]+"
)
_CHARACTER = regex.compile(r"\X")
# other shapes of the same letters; not superscripts and the like, which NFKC would change as well
_PRESENTATION = re.compile("[\ufb00-\ufb4f\ufb50-\ufdff\ufe70-\ufefc\uff00-\uffef]+")


def words_of(*, single_letters: bool = False) -> Words:
    """What texts become before stop words and stems; `single_letters` as in Bm25Options."""
    shortest = 1 if single_letters else 2
    ascii_words = re.compile(rf"\w{{{shortest},}}").findall

    def words(text: str) -> list[str]:
        if text.isascii():
            return ascii_words(text)
        plain = _PRESENTATION.sub(_compatible, text.translate(_INVISIBLE))
        composed = normal("NFC", plain)
        return [part for word in _ANY_WORD.findall(composed) for part in _parts(word, shortest)]

    return words


def _compatible(found: re.Match[str]) -> str:
    # full-width letters had no lower case to be found with; bm25s lowers before it splits
    return normal("NFKC", found[0]).lower()


def _parts(word: str, shortest: int) -> Iterator[str]:
    """The word itself, or, of its runs without spaces, characters and pairs of neighbours."""
    end = 0
    for run in _UNSPACED.finditer(word):
        if run.start() - end >= shortest:
            yield word[end : run.start()]
        characters = _CHARACTER.findall(run[0])
        yield from characters
        yield from map("".join, pairwise(characters))
        end = run.end()
    if len(word) - end >= shortest:
        yield word[end:]


_WORD = re.compile(r"\w+")
# fooBar → foo|Bar, HTTPServer → HTTP|Server; digits stay with what they follow (utf8, sha256)
_CAMEL_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def split_identifiers(text: str) -> str:
    """The parts of each compound identifier in front of it, other words as they are.

    `read_file` → `read file read_file`, `HTTPServer` → `HTTP Server HTTPServer`. The whole stays
    because a query may name it: worth 0.019 nDCG@10 on pydocs dev.
    """
    return _WORD.sub(_parts_and_whole, text)


def _parts_and_whole(match: re.Match[str]) -> str:
    whole = match.group()
    parts = _CAMEL_BOUNDARY.sub(" ", whole.replace("_", " ")).split()
    return whole if parts == [whole] else " ".join((*parts, whole))


def _load_stemmer(language: str | None) -> Any:
    if language is None:
        return None
    import Stemmer

    _expect_known("stemmer", language, Stemmer.algorithms())
    return Stemmer.Stemmer(language)
