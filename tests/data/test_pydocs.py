"""pydocs: what is taken from source, what is left out, and that it is the same each time."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
import sysconfig
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear.data.pydocs import (
    MIN_QUERY_WORDS,
    SPLITS,
    DocumentedFunction,
    PydocsParts,
    build_pydocs,
    first_paragraph,
    functions_of,
    open_pydocs,
    read_functions,
    split_of,
)
from dear.errors import DataError
from dear.records import Passage, Query

DOC = "Say four or more words."


@pytest.fixture(scope="module")
def parts() -> PydocsParts:
    return build_pydocs()


def functions(source: str) -> list[DocumentedFunction]:
    return list(functions_of(textwrap.dedent(source), "module"))


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
    return root


def one_function(name: str, doc: str = DOC, body: str = "return 1") -> str:
    return f'def {name}():\n    """{doc}"""\n    {body}\n'


def fingerprint(parts: PydocsParts) -> str:
    orders = (list(parts.corpus.values()), list(parts.queries.values()), parts.judgements)
    return hashlib.sha256(repr(orders).encode()).hexdigest()


# the whole library


def test_every_passage_is_one_function_without_its_docstring(parts: PydocsParts) -> None:
    for passage in parts.corpus.values():
        (node,) = ast.parse(passage.text).body
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef), passage.id
        assert ast.get_docstring(node) is None, passage.id
        assert passage.title == ""
        assert passage.id.partition("#")[0].rpartition(".")[2].rpartition(":")[2] == node.name


def test_every_query_is_one_line_of_enough_words(parts: PydocsParts) -> None:
    texts = [query.text for query in parts.queries.values()]
    assert all(text == " ".join(text.split()) for text in texts)
    assert all(len(text.split()) >= MIN_QUERY_WORDS for text in texts)
    assert len(set(texts)) == len(texts)


def test_every_passage_is_relevant_to_exactly_one_query_of_one_split(parts: PydocsParts) -> None:
    relevant = Counter(
        passage_id
        for by_query in parts.judgements.values()
        for by_passage in by_query.values()
        for passage_id in by_passage
    )
    assert relevant.keys() == parts.corpus.keys()
    assert set(relevant.values()) == {1}


def test_every_query_is_in_the_split_of_its_own_module(parts: PydocsParts) -> None:
    judged = [query_id for split in SPLITS for query_id in parts.judgements[split]]
    assert sorted(judged) == sorted(parts.queries)
    for split in SPLITS:
        assert {split_of(q.partition(":")[0]) for q in parts.judgements[split]} == {split}


def test_ids_and_texts_fit_every_file_format(parts: PydocsParts) -> None:
    for key, record in [*parts.corpus.items(), *parts.queries.items()]:
        assert key == record.id
        assert len(key.split()) == 1
        record.text.encode()  # lone surrogates could not be written
        assert "\r" not in record.text


def test_no_two_passages_share_their_code(parts: PydocsParts) -> None:
    assert len({passage.text for passage in parts.corpus.values()}) == len(parts.corpus)


def test_the_library_is_large_enough_to_train_on(parts: PydocsParts) -> None:
    assert 3500 <= len(parts.corpus) <= 9000
    share = {split: len(parts.judgements[split]) / len(parts.queries) for split in SPLITS}
    assert 0.55 < share["train"] < 0.85
    assert 0.04 < share["dev"] < 0.20
    assert 0.10 < share["test"] < 0.35


def test_a_known_function_is_there(parts: PydocsParts) -> None:
    key = "random:Random.shuffle"
    assert parts.queries[key].text == "Shuffle list x in place, and return None."
    assert parts.corpus[key].text.startswith("def shuffle(self, x):\n")
    split = split_of("random")
    assert parts.judgements[split][key] == {key: 1}


def test_the_library_has_no_tests_and_no_foreign_packages(parts: PydocsParts) -> None:
    folders = {part for key in parts.corpus for part in key.partition(":")[0].split(".")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "turtledemo", "site-packages"}


def test_open_pydocs_is_what_build_pydocs_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, {f"m{i}.py": one_function(f"f{i}", f"{DOC} {i}") for i in range(40)})
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    collection, parts = open_pydocs(), build_pydocs()
    assert collection.name == "pydocs"
    assert collection.corpus == parts.corpus
    for split in SPLITS:
        assert collection.judgements(split) == parts.judgements[split]
        assert collection.queries(split) == {q: parts.queries[q] for q in parts.judgements[split]}


# the same each time


def test_another_process_with_another_hash_seed_builds_the_same(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"m{i}.py": one_function(f"f{i}", f"{DOC} {i % 3}") for i in range(9)})
    code = (
        "import sys; from dear.data.pydocs import build_pydocs; p = build_pydocs(sys.argv[1]);"
        "print([*p.corpus.items(), *p.queries.items()], p.judgements)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert b"m8:f8" in outputs.pop()


def test_the_order_of_the_file_system_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("b.py", "a.py", "p/__init__.py", "p/c.py", "q/r/d.py")
    write_tree(tmp_path, {name: one_function(f"f{len(name)}") for name in names})
    expected = fingerprint(build_pydocs(tmp_path))
    walk = os.walk

    def backwards(top: Path):  # type: ignore[no-untyped-def]
        for folder, subfolders, files in walk(top):
            subfolders.sort(reverse=True)
            yield folder, subfolders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert fingerprint(build_pydocs(tmp_path)) == expected


@pytest.mark.parametrize(
    ("module", "split"),
    [("random", "train"), ("json.decoder", "train"), ("typing", "dev"), ("tkinter", "test")],
)
def test_split_of_is_pinned_for_ever(module: str, split: str) -> None:
    assert split_of(module) == split


def test_split_of_gives_70_10_20() -> None:
    counts = Counter(split_of(f"package.module{i}") for i in range(20_000))
    assert counts["train"] / 20_000 == pytest.approx(0.7, abs=0.015)
    assert counts["dev"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert counts["test"] / 20_000 == pytest.approx(0.2, abs=0.015)


# the docstring leaves, the rest stays

WORDS = st.text(st.sampled_from("abcé \t'#\\;:ßλ😀"), max_size=30).map(
    lambda text: "Four words or more " + text.replace("\\", "\\\\")
)
STATEMENTS = st.lists(
    st.sampled_from(
        ["x = 1", "return {'é': 'ü'}", "# a remark", "if x:\n    y = 2", "'a loose string'[0]", ""]
    ),
    max_size=5,
).map(lambda statements: [*statements, "return 'λ'"])


@given(
    doc=WORDS,
    statements=STATEMENTS,
    decorators=st.lists(st.sampled_from(["@property", "@call(1,\n      2)"]), max_size=2),
    head=st.sampled_from(["def f(x):", "async def f(x,\n            y=':'):  # why"]),
    quotes=st.sampled_from(['"""', "'''", '"']),
    glue=st.sampled_from(["\n", "\n\n", "  # said\n", "; z = 3\n"]),
    depth=st.integers(0, 3),
)
def test_only_the_docstring_goes(
    doc: str,
    statements: list[str],
    decorators: list[str],
    head: str,
    quotes: str,
    glue: str,
    depth: int,
) -> None:
    body = textwrap.indent("\n".join(statements), "    ")
    top = "\n".join([*decorators, head])
    literal = quotes + doc.replace("'", "") + quotes
    documented = f"{top}\n    {literal}{glue}{body}"
    bare = f"{top}\n    {'z = 3' if ';' in glue else ''}\n{body}"
    source = documented
    for _ in range(depth):
        source = "class C:\n" + textwrap.indent(source, "    ")
    (function,) = functions_of(source, "module")
    assert function.name == "C." * depth + "f"
    assert function.summary == " ".join(ast.literal_eval(literal).split())
    assert ast.dump(ast.parse(function.code)) == ast.dump(ast.parse(bare))
    assert ("# a remark" in function.code) == ("# a remark" in statements)
    assert all(line == line.rstrip() for line in function.code.split("\n"))


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (
            'def f(x="ü"): "Döcstring of four words"; return "ä"',
            'def f(x="ü"): return "ä"',
        ),
        ('def f():\n    ("Four words "\n     "in parentheses")\n\n    x()', "def f():\n    x()"),
        ('def f():\n\t"""Four words and tabs."""\n\tx()', "def f():\n\tx()"),
        ('x\n\fdef f():\n    """After a form feed."""\n    x()', "def f():\n    x()"),
        (
            'def f():\n    """Four words or more."""\n    x = """\nleft\n"""',
            'def f():\n    x = """\nleft\n"""',
        ),
    ],
)
def test_corners_of_the_layout(source: str, code: str) -> None:
    assert [f.code for f in functions(source)] == [code]


# what counts as a function


def test_functions_below_control_flow_count_and_nested_ones_do_not() -> None:
    source = f'''
    if a:
        def first():
            """{DOC}"""
            return 1
    else:
        def second():
            """{DOC}"""
            return 2
    try:
        class C:
            async def third(self):
                """{DOC}"""
                def inner():
                    """{DOC}"""
                    return 3
                return inner
    except ImportError:
        def fourth():
            """{DOC}"""
            return 4
    finally:
        with b:
            def fifth():
                """{DOC}"""
                return 5
    match c:
        case 1:
            def sixth():
                """{DOC}"""
                return 6
    '''
    names = [f.name for f in functions(source)]
    assert names == ["first", "second", "C.third", "fourth", "fifth", "sixth"]


@pytest.mark.parametrize("body", ["pass", "...", "pass; ..."])
def test_a_body_that_does_nothing_is_left_out(body: str) -> None:
    assert functions(one_function("f", body=body)) == []
    assert len(functions(one_function("f", body=f"{body}; return 1"))) == 1


def test_a_function_that_is_its_docstring_is_left_out() -> None:
    assert functions(f'def f():\n    """{DOC}"""\n') == []


@pytest.mark.parametrize(
    ("doc", "kept"),
    [
        ("one two three four", True),
        ("one two three", False),
        ("one two three\n\n    four five", False),
        ("one two\n    three four", True),
        ("", False),
    ],
)
def test_the_first_paragraph_needs_four_words(doc: str, kept: bool) -> None:
    assert bool(functions(one_function("f", doc))) is kept


@pytest.mark.parametrize("source", ["def f(:", "def f():\n\0", "print 'x'"])
def test_source_that_does_not_parse_is_left_out(source: str) -> None:
    assert functions(source) == []


def test_other_peoples_syntax_warnings_are_not_ours() -> None:
    assert len(functions(one_function("f", body="return '\\d' is 1"))) == 1


@given(st.text(st.sampled_from("ab \n\t.")))
def test_first_paragraph_is_the_text_up_to_the_first_blank_line(text: str) -> None:
    result = first_paragraph(text)
    assert result == first_paragraph(result)
    if result:
        assert result == first_paragraph(text + "\n \nmore")
    words = text.split()
    assert result.split() == words[: len(result.split())]
    assert bool(result) == bool(words)


# files and duplicates


def test_folders_that_are_not_the_library_are_skipped(tmp_path: Path) -> None:
    skipped = ["site-packages/a.py", "x/tests/b.py", "test/c.py", "turtledemo/d.py"]
    skipped += ["config-3.11-linux/e.py", "idlelib/idle_test/f.py", "sitecustomize.py", "g.txt"]
    kept = {"x/y.py": "x.y", "x/__init__.py": "x", "testing.py": "testing"}
    write_tree(tmp_path, {name: one_function("f") for name in (*skipped, *kept)})
    assert [f.module for f in read_functions(tmp_path)] == sorted(kept.values())


def test_coding_lines_and_broken_bytes(tmp_path: Path) -> None:
    source = one_function("f", "Löwe läuft über Öl")
    (tmp_path / "latin.py").write_bytes(f"# coding: latin-1\n{source}".encode("latin-1"))
    (tmp_path / "crlf.py").write_bytes(source.replace("\n", "\r\n").encode())
    (tmp_path / "broken.py").write_bytes(source.encode("latin-1"))
    (tmp_path / "unknown.py").write_bytes(f"# coding: nonesuch\n{source}".encode())
    found = list(read_functions(tmp_path))
    assert [f.module for f in found] == ["crlf", "latin"]
    assert {f.summary for f in found} == {"Löwe läuft über Öl"}
    assert {f.code for f in found} == {"def f():\n    return 1"}


def test_repeated_names_get_numbers(tmp_path: Path) -> None:
    source = "".join(one_function("f", f"{DOC} {i}", f"return {i}") for i in (1, 2, 3))
    built = build_pydocs(write_tree(tmp_path, {"m.py": source}))
    assert list(built.corpus) == list(built.queries) == ["m:f", "m:f#2", "m:f#3"]


def test_functions_with_one_docstring_are_all_relevant_to_it(tmp_path: Path) -> None:
    files = {f"m{i}.py": one_function("f", body=f"return {i}") for i in range(9)}
    built = build_pydocs(write_tree(tmp_path, files))
    assert list(built.queries.values()) == [Query(id="m0:f", text=DOC)]
    assert len({split_of(f"m{i}") for i in range(9)}) > 1  # else the next line says nothing
    assert built.judgements[split_of("m0")] == {"m0:f": {f"m{i}:f": 1 for i in range(9)}}


def test_of_functions_with_one_code_the_first_stays(tmp_path: Path) -> None:
    files = {"b.py": one_function("f", f"{DOC} B"), "a.py": one_function("f", f"{DOC} A")}
    built = build_pydocs(write_tree(tmp_path, files))
    assert built.corpus == {"a:f": Passage(id="a:f", text="def f():\n    return 1")}
    assert built.queries == {"a:f": Query(id="a:f", text=f"{DOC} A")}


def test_a_library_without_source_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no documented Python source.*\.py files"):
        build_pydocs(tmp_path)
