"""From a recipe's collections to groups with texts: by id, and with the teacher's scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dear.data.collections import Collection
from dear.data.groups import Group
from dear.data.labels import read_labels
from dear.errors import ConfigError, DataError
from dear.recipes import DataRecipe, GroupsRecipe
from dear.records import Ranking
from dear.train.examples import examples_of, fingerprint, load_examples
from tiny_training import recipe, write_labels

SIX = GroupsRecipe(size=6)


def source(**values: object) -> DataRecipe:
    return DataRecipe(collection="tiny", **values)  # type: ignore[arg-type]


def test_texts_and_teacher_scores_are_looked_up_by_id(tiny: Collection, labels: str) -> None:
    """Published fault 1: teacher and student saw different passages."""
    found = load_examples(
        [source(labels=(labels,))],
        SIX,
        seed=1,
        with_labels=True,
        collections={"tiny": tiny},
    )
    known = read_labels(Path(labels))
    assert len(found) == 18
    for example in found:
        name = example.group.query_id.removeprefix("tiny/")
        assert example.query == tiny.queries()[name].text
        ids = example.group.passage_ids
        assert example.passages == tuple(tiny.corpus[p].full_text for p in ids)
        assert example.group.teacher == tuple(known.of(name, ids).tolist())
        grades = tiny.judgements("train")[name]
        assert example.group.grades == tuple(grades.get(p, 0) for p in ids)


def test_a_missing_label_is_an_error_with_the_count(tiny: Collection, tmp_path: Path) -> None:
    folder = write_labels(tmp_path / "l", tiny, leave_out=5)
    with pytest.raises(DataError, match=r"^[1-5] of \d+ pairs .* have no label"):
        load_examples(
            [source(labels=(folder,))], SIX, seed=1, with_labels=True, collections={"tiny": tiny}
        )


def test_labels_are_not_opened_where_the_loss_reads_none(tiny: Collection) -> None:
    found = load_examples(
        [source(labels=("no/such/folder",))],
        SIX,
        seed=1,
        with_labels=False,
        collections={"tiny": tiny},
    )
    assert {example.group.teacher for example in found} == {None}


def test_a_loss_with_a_teacher_needs_labels(tiny: Collection) -> None:
    with pytest.raises(ConfigError, match="tiny: the loss reads a teacher's scores, but `labels`"):
        load_examples([source()], SIX, seed=1, with_labels=True, collections={"tiny": tiny})


def test_labels_are_scaled_and_ensembled(tiny: Collection, labels: str) -> None:
    def teacher(**values: object) -> list[tuple[float, ...] | None]:
        found = load_examples(
            [source(**values)],
            # by rank, so that the same passages are drawn whatever the scores are
            replace(SIX, negatives="random"),
            seed=1,
            with_labels=True,
            collections={"tiny": tiny},
        )
        return [example.group.teacher for example in found]

    plain = teacher(labels=(labels,))
    twenty = teacher(labels=(labels,), label_scale=20.0)
    assert len(plain) == 18
    for a, b in zip(plain, twenty, strict=True):
        assert a is not None
        assert b == pytest.approx([20 * x for x in a])
    once = teacher(labels=(labels,), label_weights=(1.0,))  # one member: its z-scores
    both = teacher(labels=(labels, labels), label_weights=(1.0, 2.0))
    assert len(once) == 18
    for a, b in zip(once, both, strict=True):
        assert a is not None
        assert b == pytest.approx([3 * x for x in a])


def test_a_title_is_the_beginning_of_its_passage(tiny: Collection) -> None:
    corpus = {}
    for name, passage in tiny.corpus.items():
        title, text = passage.text.split(" ", 1)
        corpus[name] = replace(passage, title=title, text=text)
    titled = Collection.from_parts("tiny", corpus, tiny.queries(), {})
    titled.judgements = tiny.judgements  # type: ignore[method-assign]
    titled.run = tiny.run  # type: ignore[method-assign]
    found = [
        load_examples([source()], SIX, seed=1, with_labels=False, collections={"tiny": one})
        for one in (tiny, titled)
    ]
    assert found[0] == found[1] != []


def test_two_collections_with_the_same_ids_do_not_mix(tiny: Collection) -> None:
    other = Collection.from_parts("other", tiny.corpus, tiny.queries(), {})
    other.judgements = lambda split: tiny.judgements("dev")  # type: ignore[method-assign]
    other.run = lambda name, split: tiny.run(name, "dev")  # type: ignore[method-assign]
    found = load_examples(
        [source(), DataRecipe(collection="other")],
        SIX,
        seed=1,
        with_labels=False,
        collections={"tiny": tiny, "other": other},
    )
    names = [example.group.query_id for example in found]
    assert len(names) == len(set(names)) == 24
    assert {n.split("/")[0] for n in names} == {"tiny", "other"}


def test_queries_limits_the_run_and_judged_false_takes_the_run_alone(
    tiny: Collection, labels: str
) -> None:
    few = load_examples(
        [source(queries=3)], SIX, seed=1, with_labels=False, collections={"tiny": tiny}
    )
    assert [e.group.query_id for e in few] == ["tiny/q0", "tiny/q1", "tiny/q2"]
    alone = load_examples(
        [source(judged=False, labels=(labels,))],
        SIX,
        seed=1,
        with_labels=True,
        collections={"tiny": tiny},
    )
    run = tiny.run("bm25", "train")
    for example in alone:
        name = example.group.query_id.removeprefix("tiny/")
        assert set(example.group.passage_ids) <= set(run[name].passage_ids)
        assert set(example.group.grades) == {0}


def test_a_run_is_a_file_or_a_name(tiny: Collection, tmp_path: Path) -> None:
    from dear.data.formats import write_run

    path = tmp_path / "mine.trec"
    write_run(path, {"q5": tiny.run("bm25", "train")["q5"]}, tag="x")
    found = load_examples(
        [source(run=str(path))], SIX, seed=1, with_labels=False, collections={"tiny": tiny}
    )
    assert [e.group.query_id for e in found] == ["tiny/q5"]


def test_nothing_to_train_on_names_the_source(tiny: Collection, tmp_path: Path) -> None:
    from dear.data.formats import write_run

    path = tmp_path / "mine.trec"
    ranking = Ranking(query_id="q5", passage_ids=("p5-0",), scores=(1.0,))
    write_run(path, {"q5": ranking}, tag="x")  # its only candidate is relevant
    with pytest.raises(DataError, match=r"tiny, split 'train', run .*mine\.trec.*no query has"):
        load_examples(
            [source(run=str(path))], SIX, seed=1, with_labels=False, collections={"tiny": tiny}
        )


def test_an_id_without_text_is_named(tiny: Collection) -> None:
    group = Group(query_id="q0", passage_ids=("p0-0", "gone"), grades=(1, 0))
    with pytest.raises(DataError, match="passage 'gone' is not in the corpus"):
        examples_of([group], tiny.queries(), tiny.corpus)


def test_the_fingerprint_sees_texts_order_and_scores(tiny: Collection) -> None:
    group = Group(query_id="q0", passage_ids=("p0-0", "p1-0"), grades=(1, 0), teacher=(1.0, 0.5))
    one = examples_of([group], tiny.queries(), tiny.corpus)[0]
    two = examples_of([replace(group, query_id="q1")], tiny.queries(), tiny.corpus)[0]
    all_prints = {
        fingerprint(examples)
        for examples in (
            [one],
            [one, two],
            [two, one],
            [replace(one, query="w1")],
            [replace(one, group=replace(group, teacher=(1.0, 0.6)))],
            [replace(one, group=replace(group, grades=(2, 0)))],
        )
    }
    assert len(all_prints) == 6
    assert fingerprint([one]) == fingerprint([replace(one)])


def test_the_seed_of_a_recipe_draws_its_groups(tiny: Collection, bert: str) -> None:
    def drawn(seed: int) -> str:
        made = recipe(bert, train__seed=seed)
        return fingerprint(
            load_examples(
                made.data,
                made.groups,
                seed=made.train.seed,
                with_labels=False,
                collections={"tiny": tiny},
            )
        )

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
