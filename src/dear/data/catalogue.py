"""The collections known by name: literal tables, one entry each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DEFAULT_GRADE = 1
DEFAULT_MEASURE = "nDCG@10"


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Judged queries and judgements of a split; None where nobody could say for certain.

    irds: the ir_datasets id whose queries and judgements these are.
    """

    queries: int | None = None
    judgements: int | None = None
    irds: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionEntry:
    """A collection known by name.

    group: under which heading it is listed.  family: the benchmark that it is one part of.
    documents: passages of the whole collection; a folder may hold the candidates only.
    min_grade: the lowest grade that is relevant in binary measures.
    main_measure: by which it is reported.  first_stage, depth: what is usually reranked.
    hub: a Hugging Face data set in BEIR layout.  restricted: somebody must be asked first, whoever
    knows how to read it.  access: how to get it, where it is not simply downloaded.
    caveat: what its numbers must be read with.
    opener: `pydocs` is made on the spot; `folder` is looked for in the data folders under its
    name and its aliases, and then downloaded (Split.irds, hub).
    """

    name: str
    description: str
    licence: str
    group: str
    aliases: tuple[str, ...] = ()
    family: str | None = None
    documents: int | None = None
    splits: Mapping[str, Split] = field(default_factory=dict)
    min_grade: int = DEFAULT_GRADE
    main_measure: str = DEFAULT_MEASURE
    first_stage: str = "BM25"
    depth: int = 100
    hub: str | None = None
    restricted: bool = False
    access: str = ""
    caveat: str = ""
    opener: Literal["folder", "pydocs"] = "folder"

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, then its aliases."""
        return (self.name, *self.aliases)

    @property
    def irds(self) -> dict[str, str]:
        """Split → ir_datasets id, for those that have one."""
        return {name: split.irds for name, split in self.splits.items() if split.irds}


_WEB_GROUP = "web search"
_MS_MARCO = "MS MARCO terms: non-commercial research"
_CANDIDATES = "a folder often holds candidate passages only: rerank there, do not retrieve"
_GRADES = "grades 0 to 3; 2 and up are relevant in binary measures, as at TREC"

WEB = (
    CollectionEntry(
        name="msmarco",
        aliases=("msmarco-dev", "msmarco-passage", "ms-marco", "beir-msmarco"),
        description="MS MARCO passages, dev (small)",
        licence=_MS_MARCO,
        group=_WEB_GROUP,
        documents=8_841_823,
        splits={"dev": Split(queries=6_980, judgements=7_437, irds="msmarco-passage/dev/small")},
        main_measure="MRR@10",
        hub="BeIR/msmarco",
        caveat="about one relevant passage a query; report MRR@10 beside nDCG@10",
    ),
    CollectionEntry(
        name="dl19",
        aliases=("dl-19", "dl2019", "trec-dl19", "trec-dl-19", "trec-dl-2019"),
        description="TREC Deep Learning 2019, graded",
        licence=_MS_MARCO,
        group=_WEB_GROUP,
        documents=8_841_823,
        splits={
            "test": Split(queries=43, judgements=9_260, irds="msmarco-passage/trec-dl-2019/judged")
        },
        min_grade=2,
        caveat=f"{_GRADES}; {_CANDIDATES}",
    ),
    CollectionEntry(
        name="dl20",
        aliases=("dl-20", "dl2020", "trec-dl20", "trec-dl-20", "trec-dl-2020"),
        description="TREC Deep Learning 2020, graded",
        licence=_MS_MARCO,
        group=_WEB_GROUP,
        documents=8_841_823,
        splits={
            "test": Split(queries=54, judgements=11_386, irds="msmarco-passage/trec-dl-2020/judged")
        },
        min_grade=2,
        caveat=_GRADES,
    ),
    CollectionEntry(
        name="dl21",
        aliases=("dl-21", "dl2021", "trec-dl21", "trec-dl-21", "trec-dl-2021"),
        description="TREC Deep Learning 2021 (MS MARCO v2), graded",
        licence=_MS_MARCO,
        group=_WEB_GROUP,
        documents=138_364_198,
        splits={
            "test": Split(
                queries=53, judgements=10_828, irds="msmarco-passage-v2/trec-dl-2021/judged"
            )
        },
        min_grade=2,
        caveat=f"{_GRADES}; {_CANDIDATES}",
    ),
    CollectionEntry(
        name="dl22",
        aliases=("dl-22", "dl2022", "trec-dl22", "trec-dl-22", "trec-dl-2022"),
        description="TREC Deep Learning 2022 (MS MARCO v2), graded",
        licence=_MS_MARCO,
        group=_WEB_GROUP,
        documents=138_364_198,
        splits={
            "test": Split(
                queries=76, judgements=386_416, irds="msmarco-passage-v2/trec-dl-2022/judged"
            )
        },
        min_grade=2,
        caveat=f"{_GRADES}; judgements were carried over to near-duplicates; {_CANDIDATES}",
    ),
)


_SMALL_GROUP = "small and classic"
_GLASGOW = "one of the Glasgow IR test collections; put it into a folder in BEIR layout"

PYDOCS = CollectionEntry(
    name="pydocs",
    description="find a standard library function's code by its docstring",
    licence="that of your Python (PSF-2.0)",
    group="always there",
    opener="pydocs",
    caveat="made from the running Python: numbers differ between its versions",
)

SMALL = (
    CollectionEntry(
        name="cranfield",
        description="aerodynamics questions → abstracts, graded",
        licence="none stated",
        group=_SMALL_GROUP,
        documents=1_400,
        splits={"test": Split(queries=225, judgements=1_837)},
        access=_GLASGOW,
        caveat="how its five codes become grades differs between copies",
    ),
    CollectionEntry(
        name="cacm",
        description="computer science questions → titles and abstracts of CACM",
        licence="none stated",
        group=_SMALL_GROUP,
        documents=3_204,
        splits={"test": Split(queries=52, judgements=796)},
        access=_GLASGOW,
    ),
    CollectionEntry(
        name="vaswani",
        aliases=("npl",),
        description="physics and electronics questions → abstracts (NPL)",
        licence="none stated",
        group=_SMALL_GROUP,
        documents=11_429,
        splits={"test": Split(queries=93, judgements=2_083, irds="vaswani")},
    ),
    CollectionEntry(
        name="insuranceqa",
        description="insurance questions → answers",
        licence="research purpose only",
        group=_SMALL_GROUP,
        documents=27_413,
        splits={
            "train": Split(queries=12_889, judgements=21_325),
            "dev": Split(queries=2_000, judgements=3_354),
            "test": Split(queries=2_000, judgements=3_308),
        },
        access="PyPI package insuranceqa_data 1.0, as a folder in BEIR layout",
    ),
    CollectionEntry(
        name="medquad",
        description="medical questions → answers of the NIH",
        licence="CC BY 4.0",
        group=_SMALL_GROUP,
        documents=16_350,
        splits={
            "train": Split(queries=12_205, judgements=13_954),
            "dev": Split(queries=761, judgements=841),
            "test": Split(queries=1_379, judgements=1_564),
        },
        access="github.com/abachaa/MedQuAD, as a folder in BEIR layout",
        caveat="the split is ours, by topic; there is no official one",
    ),
)


_EIGHT = "BEIR, DeAR's eight"
_REST = "BEIR, the others"
_BEIR_TERMS = "CC BY-SA 4.0 says BEIR's hub copy; the texts' own terms apply"
_NIST = "needs an agreement with NIST"
_ITSELF = "a query stands in the corpus: leave its own passage out of the run"

BEIR = (
    CollectionEntry(
        name="trec-covid",
        aliases=("covid", "treccovid"),
        description="questions about COVID-19 → papers, graded",
        licence="CORD-19 terms; CC BY-SA 4.0 says BEIR's hub copy",
        group=_EIGHT,
        documents=171_332,
        splits={"test": Split(queries=50, judgements=66_336, irds="beir/trec-covid")},
        hub="BeIR/trec-covid",
    ),
    CollectionEntry(
        name="nfcorpus",
        description="nutrition questions → medical abstracts, graded",
        licence="academic use only",
        group=_EIGHT,
        documents=3_633,
        splits={
            "train": Split(queries=2_590, judgements=110_575, irds="beir/nfcorpus/train"),
            "dev": Split(queries=324, judgements=11_385, irds="beir/nfcorpus/dev"),
            "test": Split(queries=323, judgements=12_334, irds="beir/nfcorpus/test"),
        },
        hub="BeIR/nfcorpus",
    ),
    CollectionEntry(
        name="webis-touche2020",
        aliases=("touche", "touche2020", "touche-2020"),
        description="controversial questions → arguments, graded",
        licence="CC BY 4.0",
        group=_EIGHT,
        documents=382_545,
        splits={"test": Split(queries=49, judgements=2_214, irds="beir/webis-touche2020/v2")},
        hub="BeIR/webis-touche2020",
        caveat="BEIR's second set of judgements; the first has 2,962, other grades and numbers",
    ),
    CollectionEntry(
        name="dbpedia-entity",
        aliases=("dbpedia",),
        description="entity queries → DBpedia abstracts, graded",
        licence=_BEIR_TERMS,
        group=_EIGHT,
        documents=4_635_922,
        splits={
            "dev": Split(queries=67, judgements=5_673, irds="beir/dbpedia-entity/dev"),
            "test": Split(queries=400, judgements=43_515, irds="beir/dbpedia-entity/test"),
        },
        hub="BeIR/dbpedia-entity",
    ),
    CollectionEntry(
        name="scifact",
        description="scientific claims → abstracts",
        licence="claims CC BY 4.0, abstracts ODC-By 1.0",
        group=_EIGHT,
        documents=5_183,
        splits={
            "train": Split(queries=809, judgements=919, irds="beir/scifact/train"),
            "test": Split(queries=300, judgements=339, irds="beir/scifact/test"),
        },
        hub="BeIR/scifact",
    ),
    CollectionEntry(
        name="signal1m",
        aliases=("signal", "signal-1m"),
        description="news headlines → tweets, graded",
        licence="on request from its owners",
        group=_EIGHT,
        documents=2_866_316,
        splits={"test": Split(queries=97)},
        restricted=True,
        access="not free to download: ask its owners, then put it into a folder in BEIR layout",
    ),
    CollectionEntry(
        name="trec-news",
        aliases=("news", "trecnews"),
        description="news articles → background articles, graded",
        licence=f"Washington Post corpus: {_NIST}",
        group=_EIGHT,
        documents=594_977,
        splits={"test": Split(queries=57)},
        restricted=True,
        access=f"not free to download: the Washington Post corpus {_NIST}; "
        "put BEIR's form of it into a folder in BEIR layout",
    ),
    CollectionEntry(
        name="robust04",
        aliases=("robust", "trec-robust04", "robust-04"),
        description="hard topics of 2004 → newswire, graded",
        licence=f"TREC Disks 4 and 5: {_NIST}",
        group=_EIGHT,
        documents=528_155,
        splits={
            "test": Split(queries=249, judgements=311_410, irds="disks45/nocr/trec-robust-2004")
        },
        restricted=True,
        access=f"not free to download: TREC Disks 4 and 5 {_NIST}; ir_datasets reads the discs "
        "once they lie in its folder, and tells where",
        caveat="through ir_datasets, a topic's title is the query",
    ),
    CollectionEntry(
        name="nq",
        aliases=("beir-nq",),
        description="questions to Google → Wikipedia passages",
        licence=_BEIR_TERMS,
        group=_REST,
        documents=2_681_468,
        splits={"test": Split(queries=3_452, judgements=4_201, irds="beir/nq")},
        hub="BeIR/nq",
    ),
    CollectionEntry(
        name="hotpotqa",
        aliases=("hotpot",),
        description="questions that take two passages → Wikipedia",
        licence=_BEIR_TERMS,
        group=_REST,
        documents=5_233_329,
        splits={
            "train": Split(queries=85_000, judgements=170_000, irds="beir/hotpotqa/train"),
            "dev": Split(queries=5_447, judgements=10_894, irds="beir/hotpotqa/dev"),
            "test": Split(queries=7_405, judgements=14_810, irds="beir/hotpotqa/test"),
        },
        hub="BeIR/hotpotqa",
    ),
    CollectionEntry(
        name="fiqa",
        aliases=("fiqa-2018", "fiqa2018"),
        description="questions about money → answers",
        licence=_BEIR_TERMS,
        group=_REST,
        documents=57_638,
        splits={
            "train": Split(queries=5_500, judgements=14_166, irds="beir/fiqa/train"),
            "dev": Split(queries=500, judgements=1_238, irds="beir/fiqa/dev"),
            "test": Split(queries=648, judgements=1_706, irds="beir/fiqa/test"),
        },
        hub="BeIR/fiqa",
    ),
    CollectionEntry(
        name="arguana",
        description="arguments → their counter-arguments",
        licence=_BEIR_TERMS,
        group=_REST,
        documents=8_674,
        splits={"test": Split(queries=1_406, judgements=1_406, irds="beir/arguana")},
        hub="BeIR/arguana",
        caveat=_ITSELF,
    ),
    *(
        CollectionEntry(
            name=f"cqadupstack-{forum}",
            aliases=(f"cqadupstack/{forum}",),
            family="cqadupstack",
            description=f"questions of {forum} → their duplicates",
            licence=_BEIR_TERMS,
            group=_REST,
            documents=documents,
            splits={
                "test": Split(
                    queries=queries, judgements=judgements, irds=f"beir/cqadupstack/{forum}"
                )
            },
            caveat="BEIR reports the mean over its twelve forums",
        )
        for forum, documents, queries, judgements in (
            ("android", 22_998, 699, 1_696),
            ("english", 40_221, 1_570, 3_765),
            ("gaming", 45_301, 1_595, 2_263),
            ("gis", 37_637, 885, 1_114),
            ("mathematica", 16_705, 804, 1_358),
            ("physics", 38_316, 1_039, 1_933),
            ("programmers", 32_176, 876, 1_675),
            ("stats", 42_269, 652, 913),
            ("tex", 68_184, 2_906, 5_154),
            ("unix", 47_382, 1_072, 1_693),
            ("webmasters", 17_405, 506, 1_395),
            ("wordpress", 48_605, 541, 744),
        )
    ),
    CollectionEntry(
        name="quora",
        description="questions → their duplicates",
        licence=_BEIR_TERMS,
        group=_REST,
        documents=522_931,
        splits={
            "dev": Split(queries=5_000, judgements=7_626, irds="beir/quora/dev"),
            "test": Split(queries=10_000, judgements=15_675, irds="beir/quora/test"),
        },
        hub="BeIR/quora",
        caveat=_ITSELF,
    ),
    CollectionEntry(
        name="scidocs",
        description="titles of papers → what they cite",
        licence=_BEIR_TERMS,
        group=_REST,
        documents=25_657,
        splits={"test": Split(queries=1_000, judgements=29_928, irds="beir/scidocs")},
        hub="BeIR/scidocs",
    ),
    CollectionEntry(
        name="fever",
        description="claims → Wikipedia abstracts",
        licence=_BEIR_TERMS,
        group=_REST,
        documents=5_416_568,
        splits={
            "train": Split(queries=109_810, judgements=140_085, irds="beir/fever/train"),
            "dev": Split(queries=6_666, judgements=8_079, irds="beir/fever/dev"),
            "test": Split(queries=6_666, judgements=7_937, irds="beir/fever/test"),
        },
        hub="BeIR/fever",
    ),
    CollectionEntry(
        name="climate-fever",
        aliases=("climatefever",),
        description="claims about the climate → Wikipedia abstracts",
        licence=_BEIR_TERMS,
        group=_REST,
        documents=5_416_593,
        splits={"test": Split(queries=1_535, judgements=4_681, irds="beir/climate-fever")},
        hub="BeIR/climate-fever",
    ),
    CollectionEntry(
        name="bioasq",
        description="biomedical questions → PubMed abstracts",
        licence="BioASQ's terms",
        group=_REST,
        documents=14_914_602,
        splits={"test": Split(queries=500)},
        restricted=True,
        access="not free to download: register at bioasq.org, "
        "then put BEIR's form of it into a folder in BEIR layout",
    ),
)


_REASONING_GROUP = "reasoning"
_FORUM = "questions of a forum → pages that hold the reason"
_EXCLUDED = "some passages are excluded for a query, with grade -100: leave them out of the run"

REASONING = (
    CollectionEntry(
        name="noveleval",
        aliases=("novel-eval", "noveleval-2306"),
        description="questions about news of 2023, 20 graded candidates each",
        licence="Apache 2.0; passages are web pages",
        group=_REASONING_GROUP,
        documents=420,
        splits={"test": Split(queries=21, judgements=420)},
        first_stage="the released order",
        depth=20,
        access="github.com/sunnweiwei/RankGPT, NovelEval/, as a folder in BEIR layout",
        caveat="reported as nDCG@1, @5 and @10; published BM25 is no order of the released file",
    ),
    CollectionEntry(
        name="nq-open",
        aliases=("natural-questions", "nq-dpr", "nq-top1"),
        description="Natural Questions over DPR's Wikipedia, by answer match",
        licence="questions CC BY-SA 3.0, Wikipedia CC BY-SA",
        group=_REASONING_GROUP,
        documents=21_015_324,
        splits={
            "dev": Split(queries=6_515, judgements=979_893, irds="dpr-w100/natural-questions/dev"),
        },
        main_measure="answer@1",
        access="the 3,610 test questions are in no catalogue: "
        "a folder in BEIR layout, with answers.jsonl, has any split",
        caveat="a passage counts when it holds an answer's words, which is not relevance",
    ),
    *(
        CollectionEntry(
            name=f"bright-{subset}",
            aliases=(f"bright/{subset}",),
            family="bright",
            description=f"BRIGHT, {what}",
            licence="CC BY 4.0",
            group=_REASONING_GROUP,
            documents=documents,
            splits={"test": Split(queries=queries, judgements=judgements, irds=f"bright/{subset}")},
            caveat=_EXCLUDED if judgements > 10_000 else "",
        )
        for subset, what, documents, queries, judgements in (
            ("biology", _FORUM, 57_359, 103, 372),
            ("earth-science", _FORUM, 121_249, 116, 585),
            ("economics", _FORUM, 50_220, 103, 800),
            ("psychology", _FORUM, 52_835, 101, 692),
            ("robotics", _FORUM, 61_961, 101, 520),
            ("stackoverflow", _FORUM, 107_081, 117, 478),
            ("sustainable-living", _FORUM, 60_792, 108, 576),
            ("leetcode", "problems → problems solved alike", 413_932, 142, 33_747),
            ("pony", "tasks in a rare language → pages of its manual", 7_894, 112, 2_219),
            ("aops", "problems of olympiads → problems solved alike", 188_002, 111, 623_280),
            ("theoremqa-questions", "problems → problems by one theorem", 188_002, 194, 607_140),
            ("theoremqa-theorems", "problems → the theorem", 23_839, 76, 151),
        )
    ),
)


__all__ = [
    "COLLECTIONS",
    "FAMILIES",
    "CollectionEntry",
    "Split",
    "entry_of_irds",
    "find_entry",
    "known_names",
]

COLLECTIONS: dict[str, CollectionEntry] = {
    entry.name: entry for entry in (PYDOCS, *WEB, *BEIR, *REASONING, *SMALL)
}

FAMILIES: dict[str, tuple[str, ...]] = {
    family: tuple(e.name for e in COLLECTIONS.values() if e.family == family)
    for family in dict.fromkeys(e.family for e in COLLECTIONS.values() if e.family)
}
"""Name of a benchmark of several collections → their names."""

_BY_NAME = {name: entry for entry in COLLECTIONS.values() for name in entry.names}
_BY_IRDS = {one: entry for entry in COLLECTIONS.values() for one in entry.irds.values()}


def find_entry(name: str) -> CollectionEntry | None:
    """The entry of that name or alias; `_` reads as `-`, and case does not matter."""
    return _BY_NAME.get(name.lower().replace("_", "-"))


def entry_of_irds(dataset_id: str) -> CollectionEntry | None:
    """The entry that one of ir_datasets' ids is a split of."""
    return _BY_IRDS.get(dataset_id)


def known_names() -> tuple[str, ...]:
    """Every name and alias, and the families'."""
    return (*_BY_NAME, *FAMILIES)
