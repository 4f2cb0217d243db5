"""Windows, answers and rankings put together; and a recorded run, to the last passage."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import checkpoint

from dear.backends import Completion, OnAnswer, open_backend
from dear.cli.main import main
from dear.data.collections import open_collection
from dear.data.formats import read_run, write_beir, write_run
from dear.errors import BackendError, ConfigError
from dear.evaluate.metrics import evaluate
from dear.listwise.strategies import STRATEGIES, Full, Sliding, TopDown, open_strategy
from dear.prompts.listwise import LISTWISE_PROMPTS, WindowPrompt
from dear.records import Candidates, Passage, Query, Ranking, gather
from listwise_calls import rank_listwise

RESPONSES = "rankllm-listwise-responses"


class Sorter:
    """A backend that is always right: a passage's text is its place in the right order."""

    name = "sorter"

    def __init__(self, say: Callable[[list[int]], str] | None = None) -> None:
        self.batches: list[int] = []
        self.say = say or (lambda ids: " > ".join(f"[{i}]" for i in ids))

    def generate(
        self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
    ) -> list[Completion]:
        self.batches.append(len(prompts))
        return [Completion(text=self.say(self.ranked(p)), prompt_tokens=5) for p in prompts]

    def ranked(self, prompt: WindowPrompt) -> list[int]:
        """Identifiers, best first, as the messages show them."""
        lines = prompt.messages[-1][1].split("\n")
        shown = [line[1:].split("] ") for line in lines if line.startswith("[")]
        return [int(i) for i, _ in sorted(shown, key=lambda pair: int(pair[1]))]


def candidates(query: str, places: Sequence[int]) -> Candidates:
    return Candidates(
        query=Query(id=query, text="which is first?"),
        passages=tuple(Passage(id=f"{query}-{p}", text=str(p)) for p in places),
        scores=tuple(float(-i) for i in range(len(places))),
    )


def several(counts: Sequence[int], seed: int = 0) -> list[Candidates]:
    draw = random.Random(seed)
    return [candidates(f"q{i}", draw.sample(range(n), n)) for i, n in enumerate(counts)]


@given(
    st.lists(st.integers(0, 60), max_size=5),
    st.sampled_from(sorted(STRATEGIES)),
    st.integers(0, 10**6),
)
def test_a_right_backend_puts_the_best_on_top(counts: list[int], name: str, seed: int) -> None:
    strategy = open_strategy(name)
    rankings, report = rank_listwise(several(counts, seed), Sorter(), strategy=strategy)
    for i, (count, ranking) in enumerate(zip(counts, rankings, strict=True)):
        assert ranking.query_id == f"q{i}"
        assert sorted(ranking.passage_ids) == sorted(f"q{i}-{p}" for p in range(count))
        assert ranking.passage_ids[:10] == tuple(f"q{i}-{p}" for p in range(min(10, count)))
        assert ranking.scores == tuple(range(count, 0, -1))
    assert report.cost.windows <= sum(map(strategy.calls, counts))
    assert (report.mends, report.cost.mended_windows, report.unreadable) == (Counter(), 0, 0)
    assert report.cost.prompt_tokens == 5 * report.cost.windows


def test_written_scores_fall_strictly(tmp_path: Path) -> None:
    (ranking,), _ = rank_listwise(several([100]), Sorter())
    write_run(tmp_path / "run.trec", {"q0": ranking}, "listwise")
    lines = (tmp_path / "run.trec").read_text().splitlines()
    assert [float(line.split()[4]) for line in lines] == [float(n) for n in range(100, 0, -1)]
    assert read_run(tmp_path / "run.trec")["q0"].passage_ids == ranking.passage_ids


def test_queries_share_rounds_and_do_not_depend_on_each_other() -> None:
    many = several([100, 0, 25, 1, 100, 7])
    backend = Sorter()
    together, report = rank_listwise(many, backend)
    assert together == [rank_listwise([one], Sorter())[0][0] for one in many]
    assert backend.batches == [4, 3, *[2] * 7]
    assert report.cost.windows == 21
    small = Sorter()
    assert rank_listwise(many, small, batch_windows=2)[0] == together
    assert max(small.batches) == 2


def test_below_the_depth_nothing_moves() -> None:
    (one,) = several([50])
    (ranking,), report = rank_listwise([one], Sorter(), depth=30)
    given_ids = [p.id for p in one.passages]
    assert list(ranking.passage_ids[30:]) == given_ids[30:]
    assert set(ranking.passage_ids[:30]) == set(given_ids[:30])
    assert report.cost.windows == 2


def test_scores_of_the_stage_before_move_places() -> None:
    # the lists reverse what the stage before says of the best six
    one = replace(several([8])[0], scores=tuple(float(9 - i) for i in range(8)))
    before = [p.id for p in one.passages]
    backend = Sorter(lambda ids: " > ".join(f"[{i}]" for i in sorted(ids, reverse=True)))
    orders = {
        w: rank_listwise([one], backend, strategy=Full(), depth=6, fuse_weight=w)[0][0].passage_ids
        for w in (0.0, 0.5, 1.0, 2.0)
    }
    assert list(orders[0.0]) == list(orders[0.5]) == [*before[5::-1], *before[6:]]
    # as strong as each other: equal sums keep the order of the lists
    assert list(orders[1.0]) == [*before[5::-1], *before[6:]]
    assert list(orders[2.0]) == before
    with pytest.raises(ConfigError, match="weight must be 0 or more, not -1"):
        rank_listwise([one], backend, fuse_weight=-1)


def test_answers_without_a_ranking_keep_the_order_and_are_counted() -> None:
    one = several([30])
    (ranking,), report = rank_listwise(one, Sorter(lambda ids: "20 passages are provided."))
    assert list(ranking.passage_ids) == [p.id for p in one[0].passages]
    assert (report.unreadable, report.cost.windows, report.cost.mended_windows) == (2, 2, 0)


def test_mends_are_counted_by_kind() -> None:
    backend = Sorter(lambda ids: f"<think>hm</think>[{ids[0]}] > [{ids[0]}] > [99]")
    (ranking,), report = rank_listwise(several([30]), backend, strategy=Full())
    assert ranking.passage_ids[0] == "q0-0"
    assert report.cost.mended_windows == 1
    values = report.to_dict()
    assert values["mends"] == {
        "duplicate": 1,
        "missing": 29,
        "out of range": 1,
        "thought stripped": 1,
    }


def test_an_answer_that_ended_for_its_length_is_cut_off() -> None:
    class Short(Sorter):
        def generate(
            self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
        ) -> list[Completion]:
            return [Completion(text="[2] > [1]", finish="length") for _ in prompts]

    _, report = rank_listwise(several([3]), Short())
    assert report.mends == {"missing": 1, "cut off": 1}


def test_progress_ends_where_all_is_done() -> None:
    seen: list[tuple[int, int]] = []
    strategy = TopDown()
    rank_listwise(
        several([100, 100]),
        Sorter(),
        strategy=strategy,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[0] == (2, 2 * strategy.calls(100))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_progress_tells_of_every_batch_and_of_every_answer_that_is_told() -> None:
    class Telling(Sorter):
        def generate(
            self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
        ) -> list[Completion]:
            answers = super().generate(prompts)
            assert on_answer is not None
            for place, answer in enumerate(answers):
                on_answer(place, answer)
            return answers

    most = 3 * Sliding().calls(40)
    # three windows a round: a batch of two, and one of one
    batches = [2, 3, 5, 6, 8, 9, 9]
    for backend, told in (
        (Sorter(), batches),
        (Telling(), [1, 2, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9, 9, 9]),
    ):
        seen: list[tuple[int, int]] = []
        rank_listwise(
            several([40, 40, 40]),
            backend,
            batch_windows=2,
            progress=lambda done, total, seen=seen: seen.append((done, total)),
        )
        assert seen == [(done, most) for done in told]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rankvicuna'"):
        rank_listwise([], Sorter(), prompt="rankvicunia")
    with pytest.raises(ConfigError, match="depth must be 1"):
        rank_listwise([], Sorter(), depth=0)
    with pytest.raises(ConfigError, match="batch_windows must be 1"):
        rank_listwise([], Sorter(), batch_windows=0)

    class Silent(Sorter):
        def generate(
            self, prompts: Sequence[WindowPrompt], on_answer: OnAnswer | None = None
        ) -> list[Completion]:
            return []

    with pytest.raises(BackendError, match="sorter: 0 answers to 1 prompt"):
        rank_listwise(several([3]), Silent())


PASSAGES = [Passage(id=word, text=f"all about {word}") for word in ("ant", "bee", "cat", "dog")]
ANSWER = ["cat", "ant", "dog", "bee"]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """`dear rank` over a small collection, and answers to its one window."""
    query = Query(id="q", text="what is best?")
    ids = tuple(p.id for p in PASSAGES)
    run = {"q": Ranking(query_id="q", passage_ids=ids, scores=(4.0, 3.0, 2.0, 1.0))}
    folder = tmp_path / "mine"
    write_beir(
        folder,
        corpus=PASSAGES,
        queries=[query],
        judgements={"test": {"q": {"cat": 1}}},
        runs={"test": {"bm25": run}},
    )
    prompt = LISTWISE_PROMPTS["rankvicuna"].render(query, PASSAGES)
    answer = " > ".join(f"[{ids.index(i) + 1}]" for i in ANSWER)
    row = {"qid": "q", "query": query.text, "prompt": prompt.messages[-1][1], "response": answer}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row), encoding="utf-8")
    output = str(tmp_path / "out.trec")
    return ["rank", str(folder), "--run", "bm25", "--output", output]


def test_the_command_ranks_lists_alone_or_behind_a_model(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = ["--listwise", f"replay:{tmp_path / 'answers.jsonl'}"]
    model = ["--model", str(checkpoint(tmp_path / "tiny", "bert"))]
    backend = open_backend(lists[1])
    output = tmp_path / "out.trec"
    for more in (lists, [*lists, "--strategy", "full"], [*lists, *model]):
        output.unlink(missing_ok=True)
        assert main([*command, *more]) == 0, capsys.readouterr().err
        assert list(read_run(output)["q"].passage_ids) == ANSWER
        note = json.loads((tmp_path / "out.trec.json").read_text(encoding="utf-8"))
        assert note["listwise"]["windows"] == 1
        behind = more[-1] == model[-1]
        assert ("fingerprint" in note) == behind
        # the note and the run's tag name the model that scored the pairs, where there is one
        assert note["model"] == (model[1] if behind else backend.name)
        assert note["listwise"]["backend"] == backend.name
        tag = output.read_text(encoding="utf-8").split()[5]
        assert tag == ("tiny" if behind else f"listwise-{note['listwise']['strategy']}")
        assert "1 window, 0 of them mended, 0 without a ranking" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "give a model, a listwise backend, or both"),
        (["--listwise", "replay:ANSWERS", "--fuse", "auto"], "about a --model's scores alone"),
        (["--listwise", "replay:ANSWERS", "--strategy", "slide"], "unknown strategy 'slide'"),
        (["--listwise", "replay:ANSWERS", "--step", "30"], "step must be 1 to the window's 20"),
        (["--listwise", "replay:ANSWERS", "--prompt", "rankgtp"], "did you mean 'rankgpt'"),
        (["--listwise", "replay:ANSWERS", "--prompt", "pairs"], "does not say what to answer"),
        (["--listwise", "replay:ANSWERS", "--depth", "3"], "3 passages from 'ant' to 'cat'"),
        (["--listwise", "ANSWERS"], "expected KIND:WHERE"),
        (["--listwise", "replay:ANSWERS", "--fuse", "-1"], "a number that is 0 or more"),
        (["--model", "x", "--guard"], "guard is for a listwise backend"),
    ],
)
def test_the_command_refuses_in_one_line(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    words = [word.replace("ANSWERS", str(tmp_path / "answers.jsonl")) for word in more]
    assert main([*command, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out.trec").exists()


def written_order(path: Path) -> dict[str, list[str]]:
    """Query → passages by the rank column."""
    ranked: dict[str, list[tuple[int, str]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            query, _, passage, rank, _, _ = line.split()
            ranked.setdefault(query, []).append((int(rank), passage))
    return {query: [p for _, p in sorted(pairs)] for query, pairs in ranked.items()}


def test_recorded_answers_give_the_recorded_run(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = shared_data / RESPONSES
    output = tmp_path / "out.trec"
    words = ["rank", str(shared_data / "dl19"), "--run", "bm25", "--output", str(output)]
    words += ["--listwise", f"replay:{recorded}/rankvicuna-7b.bm25.dl19.jsonl.gz"]
    words += ["--window", "20", "--step", "10", "--depth", "100"]
    assert main(words) == 0
    assert "387 windows, 0 of them mended, 0 without a ranking" in capsys.readouterr().out
    # candidates with equal scores were asked about in the order in which the run has them
    expected = written_order(recorded / "runs" / "rankvicuna-7b.bm25.dl19.trec.gz")
    found = read_run(output)
    assert {q: list(r.passage_ids) for q, r in found.items()} == expected
    judgements = open_collection(str(shared_data / "dl19")).judgements("test")
    assert round(evaluate(found, judgements, ["nDCG@10"]).means["nDCG@10"], 4) == 0.6682


def test_recorded_malformed_answers_rank_every_passage(shared_data: Path) -> None:
    # the zero-shot model's answers to the last twenty only: what its authors asked further up
    # follows from how they read these, list numbers included
    collection = open_collection(str(shared_data / "dl19"))
    backend = open_backend(f"replay:{shared_data / RESPONSES}/vicuna-7b-v1.5.bm25.dl19.jsonl.gz")
    run = {q: r.top(100) for q, r in read_run(collection.runs("test")["bm25"]).items()}
    last = {
        q: Ranking(query_id=q, passage_ids=r.passage_ids[80:], scores=r.scores[80:])
        for q, r in run.items()
    }
    found = [gather(r, collection.queries(), collection.corpus) for r in last.values()]
    rankings, report = rank_listwise(found, backend, prompt="rankgpt")
    assert [set(r.passage_ids) for r in rankings] == [set(r.passage_ids) for r in last.values()]
    assert report.cost.windows == 43
    assert (report.unreadable, report.cost.mended_windows) == (1, 4)
