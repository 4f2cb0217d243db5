"""Collections where matching words is not enough: new facts, answers, reasoning."""

from __future__ import annotations

from dear.data.catalogue.entry import CollectionEntry, Split

_GROUP = "reasoning"
_FORUM = "questions of a forum → pages that hold the reason"
_EXCLUDED = "some passages are excluded for a query, with grade -100: leave them out of the run"

REASONING = (
    CollectionEntry(
        name="noveleval",
        aliases=("novel-eval", "noveleval-2306"),
        description="questions about news of 2023, 20 graded candidates each",
        licence="Apache 2.0; passages are web pages",
        group=_GROUP,
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
        group=_GROUP,
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
            group=_GROUP,
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
