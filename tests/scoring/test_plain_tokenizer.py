"""`tokenizers` alone reads texts as transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import bert_tokenizer, llama_tokenizer

from dear.checkpoints.contract import CARD, DEAR, PLAIN, ScoringContract
from dear.checkpoints.plain_tokenizer import PlainTokenizer, save_tokenizer
from dear.errors import ConfigError, DataError
from dear.scoring.encoding import PairEncoder, encode_texts

TOKENIZERS: dict[str, Any] = {
    "bert": bert_tokenizer(model_max_length=64),
    "llama": llama_tokenizer(pad_token="</s>"),
    "untyped": bert_tokenizer(model_max_length=64),
}
TOKENIZERS["untyped"].model_input_names = ["input_ids", "attention_mask"]
TEMPLATE = ScoringContract(
    name="chat",
    prompt="template",
    template=("[CLS] {instruction} {query}", "{passage} [SEP]"),
    max_tokens=24,
    add_special_tokens=False,
)
CONTRACTS = [
    CARD,
    PLAIN,
    DEAR,
    ScoringContract(name="short", max_tokens=12),
    ScoringContract(
        name="separate", truncation="separate", max_query_tokens=3, max_passage_tokens=5
    ),
]
texts = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(["a", "the", "[SEP]", "</s>", "<s>", "é", "İ", "\n", "  ", "中", "x" * 40]),
        max_size=20,
    ).map(" ".join),
).filter(lambda text: not any(0xD800 <= ord(letter) < 0xE000 for letter in text))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PlainTokenizer]:
    found = {}
    for name, tokenizer in TOKENIZERS.items():
        folder = tmp_path_factory.mktemp(name)
        save_tokenizer(tokenizer, folder)
        found[name] = PlainTokenizer(folder)
    return found


@pytest.mark.parametrize("name", TOKENIZERS)
@given(some=st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_pairs_become_the_same_tokens(
    name: str, plain: dict[str, PlainTokenizer], some: list[tuple[str, str]]
) -> None:
    for contract in [*CONTRACTS, *([TEMPLATE] if name != "llama" else [])]:
        mine = PairEncoder(plain[name], contract).encode(some)
        theirs = PairEncoder(TOKENIZERS[name], contract).encode(some)
        assert [one.ids for one in mine] == [one.ids for one in theirs]
        assert [one.cut for one in mine] == [one.cut for one in theirs]
        assert [one.types for one in mine] == [one.types for one in theirs]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(some=st.lists(texts, min_size=1, max_size=4))
def test_texts_become_the_same_tokens(
    name: str, plain: dict[str, PlainTokenizer], some: list[str]
) -> None:
    for limit in (8, 64):
        assert encode_texts(plain[name], some, limit) == encode_texts(TOKENIZERS[name], some, limit)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_else_is_asked_of_it(name: str, plain: dict[str, PlainTokenizer]) -> None:
    mine, theirs = plain[name], TOKENIZERS[name]
    assert mine.pad_token_id == theirs.pad_token_id
    assert mine.eos_token_id == theirs.eos_token_id
    assert len(mine) == len(theirs)
    assert set(mine.all_special_ids) == set(theirs.all_special_ids)
    ids = theirs("a the x")["input_ids"]
    assert mine("a the x")["input_ids"] == ids
    assert mine.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert mine.decode(ids) == theirs.decode(ids)


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        PlainTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        PlainTokenizer(tmp_path)
    TOKENIZERS["bert"].backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="no pad token"):
        PlainTokenizer(tmp_path)
