"""Public rerankers and embedders as they are: sentence-transformers, or their authors' own way of
calling them, is the oracle, on folders of their layout."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from public_folders import BARE_PAIRS, EMBEDDERS, TEMPLATES, edit_json, ms_marco_minilm
from tiny_models import pairs, words

from dear import Reranker
from dear.checkpoints.registry import known_embedder, locate

LONG = (words(320, 1), words(320, 2))
SOME = [*pairs(6, seed=3, longest=60), ("river bank", words(600, 4)), ("a", ""), LONG]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    patch = pytest.MonkeyPatch()
    root = tmp_path_factory.mktemp("public")
    patch.setenv("DEAR_MODELS", str(root))
    yield root
    patch.undo()


def built(root: Path, name: str) -> Path:
    folder = root / name
    if not folder.is_dir():
        folder.mkdir(parents=True)
        (BARE_PAIRS | TEMPLATES | EMBEDDERS)[name](folder)
    return folder


def cross_encoder(folder: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import CrossEncoder

        model = {"dtype": torch.float32}
        return CrossEncoder(str(folder), device="cpu", model_kwargs=model, **options)


def near(found: Any, expected: Any) -> None:
    expected = np.asarray(expected, dtype=np.float64)
    assert expected.std() > 5e-3  # the tolerance is five hundred times smaller
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- bare pairs


@pytest.mark.parametrize("name", BARE_PAIRS)
def test_bare_pairs_are_cross_encoders(name: str, root: Path) -> None:
    folder = built(root, name)
    theirs = cross_encoder(folder)
    mine = Reranker(name, dtype="float32")
    near(mine.score(SOME), theirs.predict(SOME, activation_fn=torch.nn.Identity()))
    near(mine.predict(SOME), theirs.predict(SOME))
    assert mine.predict(SOME[0]) == pytest.approx(float(theirs.predict(SOME[0])), abs=1e-5)
    assert mine.model.contract.max_tokens == min(theirs.max_seq_length, 8192)


def test_an_old_folder_keeps_its_activation(tmp_path: Path) -> None:
    ms_marco_minilm(tmp_path, old=True)
    mine, theirs = Reranker(tmp_path, dtype="float32"), cross_encoder(tmp_path)
    near(mine.predict(SOME), theirs.predict(SOME))
    np.testing.assert_array_equal(mine.predict(SOME), mine.score(SOME))  # Identity
    edit_json(tmp_path / "config.json", sbert_ce_default_activation_function="torch.nn.Tanh")
    near(Reranker(tmp_path, dtype="float32").predict(SOME), np.tanh(mine.score(SOME)))


# ---------------------------------------------------------------- templates of language models


def last_logits(folder: Path, rows: list[list[int]]) -> torch.Tensor:
    """(n, vocabulary) logits behind the last token, a sequence at a time."""
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids])).logits[0, -1] for ids in rows])


def qwen3_as_its_card_does(
    folder: Path, some: list[tuple[str, str]], instruction: str, max_length: int = 8192
) -> list[float]:
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n"
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    before, behind = (tokenizer.encode(t, add_special_tokens=False) for t in (prefix, suffix))
    room = max_length - len(before) - len(behind)
    rows = [
        before
        + tokenizer(
            f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {passage}",
            truncation="longest_first",
            max_length=room,
        )["input_ids"]
        + behind
        for query, passage in some
    ]
    logits = last_logits(folder, rows)
    yes, no = (tokenizer.convert_tokens_to_ids(answer) for answer in ("yes", "no"))
    return (logits[:, yes] - logits[:, no]).tolist()


WEB = "Given a web search query, retrieve relevant passages that answer the query"


def test_qwen3_reranker(root: Path) -> None:
    name = "Qwen/Qwen3-Reranker-0.6B"
    folder = built(root, name)
    mine = Reranker(name, dtype="float32")
    near(mine.score(SOME), qwen3_as_its_card_does(folder, SOME, WEB))
    np.testing.assert_allclose(
        mine.predict(SOME), torch.sigmoid(torch.from_numpy(mine.score(SOME))), atol=1e-6
    )
    told = Reranker(name, dtype="float32", instruction="Find code.")
    near(told.score(SOME), qwen3_as_its_card_does(folder, SOME, "Find code."))
    assert np.abs(told.score(SOME) - mine.score(SOME)).max() > 1e-2
    # a query's keys and values are computed once for all of its passages
    assert mine.model._engine_name == "prefix"  # type: ignore[attr-defined]


def test_a_long_passage_is_cut_where_the_card_cuts_it(root: Path) -> None:
    from dataclasses import replace

    from dear.checkpoints.contract import CONTRACTS

    name = "Qwen/Qwen3-Reranker-0.6B"
    folder = built(root, name)
    short = replace(CONTRACTS["qwen3-reranker"], max_tokens=600)
    some = [(words(9, 1), words(400, 2)), (words(5, 3), "short"), (words(40, 5), words(300, 6))]
    mine = Reranker(name, dtype="float32", contract=short)
    near(mine.score(some), qwen3_as_its_card_does(folder, some, WEB, 600))
    encoded = mine.model.encoder.encode([(words(900, 1), words(900, 2))])[0]  # type: ignore[attr-defined]
    assert len(encoded) == 600


@pytest.mark.parametrize("token", ["<|im_end|>", "<think>", "</think>", "<|endoftext|>"])
@pytest.mark.parametrize("name", ["Qwen/Qwen3-Reranker-0.6B", "qwen3:"])
def test_no_passage_writes_a_control_token(name: str, token: str, root: Path) -> None:
    """<think> is an added token of these tokenizers, and no special one."""
    folder = built(root, "Qwen/Qwen3-Reranker-0.6B")
    model: Any = Reranker(f"{name}{folder}" if name.endswith(":") else name).model
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    number = tokenizer.convert_tokens_to_ids(token)
    assert number in tokenizer(f"so {token} said")["input_ids"]  # the hole

    def ids(query: str, passage: str) -> list[int]:
        encode = model._ask if hasattr(model, "_ask") else model.encoder.encode
        return list(encode([(query, passage)])[0].ids)

    clean = ids("a", "b").count(number)
    assert ids("a", f"so {token} said").count(number) == clean
    assert ids(f"{token} a", f"{token}").count(number) == clean


def test_mxbai_rerank_v2(root: Path) -> None:
    name = "mixedbread-ai/mxbai-rerank-base-v2"
    folder = built(root, name)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    task = (
        "You are a search relevance expert who evaluates how well documents match search queries. "
        "For each query-document pair, carefully analyze the semantic relationship between them, "
        "then provide your binary relevance judgment (0 for not relevant, 1 for relevant)."
        "\nRelevance:"
    )
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    before = ids(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n")
    behind = ids("<|im_end|>\n<|im_start|>assistant\n")

    def expected(instruction: str) -> list[float]:
        rows = [
            before
            + ids(f"{instruction}query: {query}")
            + ids("\n")
            + ids(f"document: {passage}")
            + ids("\n")
            + ids(task)
            + behind
            for query, passage in SOME
        ]
        logits = last_logits(folder, rows)
        return (logits[:, ids("1")[0]] - logits[:, ids("0")[0]]).tolist()

    near(Reranker(name, dtype="float32").score(SOME), expected(""))
    told = Reranker(name, dtype="float32", instruction="Find code.")
    near(told.score(SOME), expected("instruction: Find code.\n"))


def test_bge_reranker_gemma(root: Path) -> None:
    name = "BAAI/bge-reranker-v2-gemma"
    folder = built(root, name)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    prompt = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the "
        "query by providing a prediction of either 'Yes' or 'No'."
    )
    some = SOME[:-1]  # all that is not cut
    rows = [
        [tokenizer.bos_token_id]
        + [i for text in (f"A: {q}", "\n", f"B: {p}", "\n", prompt) for i in ids(text)]
        for q, p in some
    ]
    mine = Reranker(name, dtype="float32")
    fits = [i for i, row in enumerate(rows) if len(row) <= 1024]
    assert len(fits) >= 6
    logits = last_logits(folder, rows)[:, ids("Yes")[0]]
    near(mine.score([some[i] for i in fits]), logits[fits])
    assert len(mine.model.encoder.encode([LONG])[0]) == 1024  # type: ignore[attr-defined]


def test_monot5_is_a_reading(root: Path) -> None:
    name = "castorini/monot5-base-msmarco"
    folder = built(root, name)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    model = hf.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    true, false = (
        tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in ("true", "false")
    )
    expected = []
    for query, passage in SOME[:6]:
        inputs = tokenizer(f"Query: {query} Document: {passage} Relevant:", return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs, decoder_input_ids=torch.tensor([[0]])).logits[0, -1]
        expected.append(float(logits[true] - logits[false]))
    mine = Reranker(name, dtype="float32")
    assert mine.model.name == f"monot5:{name}"
    near(mine.score(SOME[:6]), expected)


CHAT = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}<|im_start|>system\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% if m.role == 'query' %}<|im_start|>user\n<Query>: {{ m.content }}\n{% endif %}"
    "{% if m.role == 'document' %}<Document>: {{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


@pytest.mark.parametrize("prompt", [None, "Judge the Document."])
@pytest.mark.parametrize("no", [True, False])
def test_a_logit_score_folder(prompt: str | None, no: bool, root: Path, tmp_path: Path) -> None:
    """A causal model, its chat template and LogitScore, as CrossEncoder saves them."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    base = built(root, "Qwen/Qwen3-Reranker-0.6B")
    first = Transformer(str(base), transformer_task="text-generation")
    first.tokenizer.chat_template = CHAT
    first.modality_config["message"]["format"] = "flat"
    first.max_seq_length = 300
    answers = [first.tokenizer.convert_tokens_to_ids(answer) for answer in ("yes", "no")]
    score = LogitScore(answers[0], answers[1] if no else None)
    named = {"prompts": {"task": prompt}, "default_prompt_name": "task"} if prompt else {}
    CrossEncoder(modules=[first, score], device="cpu", **named).save_pretrained(
        str(tmp_path / "m"), create_model_card=False
    )
    theirs = cross_encoder(tmp_path / "m")
    mine = Reranker(tmp_path / "m", dtype="float32")
    some = SOME[:-1]
    near(mine.score(some), theirs.predict(some, activation_fn=torch.nn.Identity()))
    near(mine.predict(some), theirs.predict(some))
    assert mine.model.contract.max_tokens == 300


def test_a_default_prompt_goes_before_the_query(tmp_path: Path) -> None:
    ms_marco_minilm(tmp_path / "base")
    model = cross_encoder(
        tmp_path / "base", prompts={"web": "query: "}, default_prompt_name="web", max_length=60
    )
    model.save_pretrained(str(tmp_path / "m"), create_model_card=False)
    theirs, mine = cross_encoder(tmp_path / "m"), Reranker(tmp_path / "m", dtype="float32")
    near(mine.score(SOME), theirs.predict(SOME, activation_fn=torch.nn.Identity()))
    assert mine.model.contract.max_tokens == 60


# ---------------------------------------------------------------- embedders


def sentence_transformer(folder: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        model = {"dtype": torch.float32}
        return SentenceTransformer(str(folder), device="cpu", model_kwargs=model, **options)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_embedders_are_sentence_transformers(name: str, root: Path) -> None:
    folder = built(root, name)
    theirs = sentence_transformer(folder)
    known = known_embedder(locate(name))
    if known is not None and not theirs.prompts.get("query"):
        # what its card says that a caller should write
        theirs.prompts |= {"query": known.query_prompt, "document": known.passage_prompt}
    queries, passages = [q or "a" for q, _ in SOME], [p or "b" for _, p in SOME]
    a, b = theirs.encode_query(queries), theirs.encode_document(passages)
    expected = theirs.similarity_pairwise(a, b)
    mine = Reranker(f"biencoder:{name}", dtype="float32")
    near(mine.score(list(zip(queries, passages, strict=True))), expected)
    scores = mine.score(list(zip(queries, passages, strict=True)))
    np.testing.assert_array_equal(mine.predict(list(zip(queries, passages, strict=True))), scores)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize(
    "mode", ["max", "weightedmean", "mean_sqrt_len_tokens", ("cls", "lasttoken", "mean")]
)
def test_every_similarity_and_pooling(similarity: str, mode: Any, tmp_path: Path) -> None:
    from public_folders import _bert, save_model
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    save_model(tmp_path / "base", hf.BertModel, _bert(tmp_path / "base"))
    SentenceTransformer(
        modules=[
            modules.Transformer(str(tmp_path / "base")),
            modules.Pooling(32, pooling_mode=mode),
        ],
        similarity_fn_name=similarity,
        device="cpu",
    ).save_pretrained(str(tmp_path / "m"), create_model_card=False)
    theirs = sentence_transformer(tmp_path / "m")
    expected = theirs.similarity_pairwise(
        theirs.encode([q for q, _ in SOME]), theirs.encode([p for _, p in SOME])
    )
    near(Reranker(f"biencoder:{tmp_path / 'm'}", dtype="float32").score(SOME), expected)


def test_a_prompt_that_is_not_pooled(tmp_path: Path) -> None:
    """INSTRUCTOR's way: the prompt is read, and left out of the mean."""
    from public_folders import NORMALIZE, _bert, pooling, sentence_folder

    kind, values = pooling("mean_tokens")
    sentence_folder(
        tmp_path,
        hf.BertModel,
        _bert(tmp_path),
        [(kind, values | {"include_prompt": False}), NORMALIZE],
        settings={"prompts": {"query": "river query: ", "document": "passage: "}},
    )
    theirs = sentence_transformer(tmp_path)
    queries, passages = [q for q, _ in SOME], [p for _, p in SOME]
    expected = theirs.similarity_pairwise(
        theirs.encode_query(queries), theirs.encode_document(passages)
    )
    near(Reranker(f"biencoder:{tmp_path}", dtype="float32").score(SOME), expected)


def test_an_embedder_is_told_what_to_look_for(root: Path) -> None:
    name = "biencoder:Qwen/Qwen3-Embedding-0.6B"
    built(root, "Qwen/Qwen3-Embedding-0.6B")
    told: Any = Reranker(name, dtype="float32", instruction="Find code").model
    assert told.query_prompt == "Instruct: Find code\nQuery:"


# ---------------------------------------------------------------- what is left to the library


def test_stacks_that_only_the_library_computes(tmp_path: Path) -> None:
    from public_folders import bert_tokenizer
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer import modules

    torch.manual_seed(0)
    tokenizer = bert_tokenizer(tmp_path / "tokenizer").backend_tokenizer
    static = modules.StaticEmbedding(tokenizer, embedding_dim=32)
    SentenceTransformer(modules=[static], similarity_fn_name="dot", device="cpu").save_pretrained(
        str(tmp_path / "static"), create_model_card=False
    )
    theirs = sentence_transformer(tmp_path / "static")
    some = [(q or "a", p or "b") for q, p in SOME]
    a, b = theirs.encode([q for q, _ in some]), theirs.encode([p for _, p in some])
    mine = Reranker(f"biencoder:{tmp_path / 'static'}")
    near(mine.score(some), theirs.similarity_pairwise(a, b))
    head = Dense(32, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
    model = CrossEncoder(modules=[static, head], device="cpu")
    model.save_pretrained(str(tmp_path / "cross"), create_model_card=False)
    cross = Reranker(tmp_path / "cross")
    near(cross.score(some), model.predict(some, activation_fn=torch.nn.Identity()))
    near(cross.predict(some), model.predict(some))


# ---------------------------------------------------------------- engines, exports, dtypes


def modular_bert(folder: Path, mode: str) -> Path:
    """Transformer, Pooling, Dense, Dense, as CrossEncoder saves them."""
    from public_folders import _bert, save_model
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    save_model(folder / "base", hf.BertModel, _bert(folder / "base"))
    torch.manual_seed(2)
    parts = [
        Transformer(str(folder / "base")),
        Pooling(32, pooling_mode=mode),
        Dense(32, 16, activation_function=torch.nn.Tanh()),
        Dense(16, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    CrossEncoder(modules=parts, device="cpu").save_pretrained(
        str(folder / "m"), create_model_card=False
    )
    return folder / "m"


@pytest.mark.parametrize("mode", ["cls", "mean", "lasttoken"])
def test_modules_go_through_every_engine(mode: str, tmp_path: Path) -> None:
    from dear.scoring.loading import load_scoring_model
    from dear.scoring.scorer import Scorer

    folder = modular_bert(tmp_path, mode)
    theirs = cross_encoder(folder)
    expected = theirs.predict(SOME, activation_fn=torch.nn.Identity())
    model = load_scoring_model(folder, dtype="float32")
    near(Scorer(model).score(SOME), expected)
    near(Scorer(model, engine="packed").score(SOME), expected)
    # the last layer is computed for one token where that is all that is read
    assert model.model.dear_reads_one == (mode == "cls")
    half = load_scoring_model(folder, dtype="bfloat16")
    spread = float(np.ptp(expected))
    np.testing.assert_allclose(Scorer(half).score(SOME), expected, atol=0.2 * spread)


@pytest.mark.parametrize("kind", ["modules", "answers"])
def test_an_export_reads_as_its_checkpoint(kind: str, root: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from dear.export.openvino import export_openvino
    from dear.scoring.loading import load_scoring_model

    answers = kind == "answers"
    source = built(root, "Qwen/Qwen3-Reranker-0.6B") if answers else modular_bert(tmp_path, "mean")
    some = [(q, p) for q, p in SOME if len(q) + len(p) < 1500]
    export_openvino(
        load_scoring_model(source, dtype="float32", device="cpu"), tmp_path / "e", "float32"
    )
    near(Reranker(tmp_path / "e").score(some), Reranker(source, dtype="float32").score(some))
    near(Reranker(tmp_path / "e").predict(some), Reranker(source, dtype="float32").predict(some))
    if answers:
        told = Reranker(tmp_path / "e", instruction="Find code.")
        near(
            told.score(some),
            Reranker(source, dtype="float32", instruction="Find code.").score(some),
        )
