"""Small and classic collections, and the one that every Python installation holds."""

from __future__ import annotations

from dear.data.catalogue.entry import CollectionEntry, Split

_GROUP = "small and classic"
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
        group=_GROUP,
        documents=1_400,
        splits={"test": Split(queries=225, judgements=1_837)},
        access=_GLASGOW,
        caveat="how its five codes become grades differs between copies",
    ),
    CollectionEntry(
        name="cacm",
        description="computer science questions → titles and abstracts of CACM",
        licence="none stated",
        group=_GROUP,
        documents=3_204,
        splits={"test": Split(queries=52, judgements=796)},
        access=_GLASGOW,
    ),
    CollectionEntry(
        name="vaswani",
        aliases=("npl",),
        description="physics and electronics questions → abstracts (NPL)",
        licence="none stated",
        group=_GROUP,
        documents=11_429,
        splits={"test": Split(queries=93, judgements=2_083, irds="vaswani")},
    ),
    CollectionEntry(
        name="insuranceqa",
        description="insurance questions → answers",
        licence="research purpose only",
        group=_GROUP,
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
        group=_GROUP,
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
