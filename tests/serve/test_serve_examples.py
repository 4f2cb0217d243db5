"""The files of examples/serve, each read by the program that it is for."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from dear.serve.options import ServeOptions

HERE = Path(__file__).resolve().parents[2] / "examples" / "serve"


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_config_is_one_of_options() -> None:
    table = tomllib.loads((HERE / "serve.toml").read_text())
    values = {key.replace("-", "_"): value for key, value in table.items()}
    options = ServeOptions(**values | {"models": tuple(values["models"])})
    assert options.pairs() == [("passages", "biencoder:minilm-l6")]


def test_the_compose_file_says_what_the_server_understands() -> None:
    found = yaml.safe_load((HERE / "compose.yaml").read_text())
    service = found["services"]["dear"]
    assert (HERE / service["build"]["dockerfile"]).is_file()
    assert service["command"][1] == "--api-key-file"
    assert {f"/run/secrets/{name}" for name in found["secrets"]} == {service["command"][2]}


def test_nginx_reads_its_file(tmp_path: Path) -> None:
    nginx, openssl = program("nginx"), program("openssl")
    for name in HERE.iterdir():
        shutil.copy(name, tmp_path)
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem",
         "-out", "certificate.pem", "-days", "1", "-subj", "/CN=rerank.example.org"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    done = subprocess.run(
        [nginx, "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "log",
         "-g", f"pid {tmp_path / 'pid'};"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_systemd_reads_its_file() -> None:
    done = subprocess.run(
        [program("systemd-analyze"), "verify", HERE / "dear.service"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "dear.service" not in done.stderr, done.stderr
