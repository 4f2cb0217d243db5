"""BEIR (Thakur et al., NeurIPS 2021): first the eight of DeAR's table, then the rest."""

from __future__ import annotations

from dear.data.catalogue.entry import CollectionEntry, Split

_EIGHT = "BEIR, DeAR's eight"
_REST = "BEIR, the others"
_LICENCE = "CC BY-SA 4.0 says BEIR's hub copy; the texts' own terms apply"
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
        licence=_LICENCE,
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
        licence=_LICENCE,
        group=_REST,
        documents=2_681_468,
        splits={"test": Split(queries=3_452, judgements=4_201, irds="beir/nq")},
        hub="BeIR/nq",
    ),
    CollectionEntry(
        name="hotpotqa",
        aliases=("hotpot",),
        description="questions that take two passages → Wikipedia",
        licence=_LICENCE,
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
        licence=_LICENCE,
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
        licence=_LICENCE,
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
            licence=_LICENCE,
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
        licence=_LICENCE,
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
        licence=_LICENCE,
        group=_REST,
        documents=25_657,
        splits={"test": Split(queries=1_000, judgements=29_928, irds="beir/scidocs")},
        hub="BeIR/scidocs",
    ),
    CollectionEntry(
        name="fever",
        description="claims → Wikipedia abstracts",
        licence=_LICENCE,
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
        licence=_LICENCE,
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
