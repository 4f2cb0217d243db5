"""MS MARCO passages and the TREC Deep Learning tracks over them."""

from __future__ import annotations

from dear.data.catalogue.entry import CollectionEntry, Split

_GROUP = "web search"
_LICENCE = "MS MARCO terms: non-commercial research"
_CANDIDATES = "a folder often holds candidate passages only: rerank there, do not retrieve"
_GRADES = "grades 0 to 3; 2 and up are relevant in binary measures, as at TREC"

WEB = (
    CollectionEntry(
        name="msmarco",
        aliases=("msmarco-dev", "msmarco-passage", "ms-marco", "beir-msmarco"),
        description="MS MARCO passages, dev (small)",
        licence=_LICENCE,
        group=_GROUP,
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
        licence=_LICENCE,
        group=_GROUP,
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
        licence=_LICENCE,
        group=_GROUP,
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
        licence=_LICENCE,
        group=_GROUP,
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
        licence=_LICENCE,
        group=_GROUP,
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
