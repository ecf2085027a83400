"""Settings of the service, and the files in configs/ that start it."""

import configparser
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from recycler.cli.main import cli
from recycler.errors import InvalidConfig, NotFound
from recycler.service.config import ServiceConfig, read_config
from recycler.service.kinds import accelerators

CONFIGS = Path(__file__).parents[1] / "configs"


def test_the_template_has_every_setting_with_its_default(tmp_path):
    file = CONFIGS / "service.yaml"
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    fields = set(ServiceConfig.model_fields) - {"logs"}
    assert set(table) == fields
    assert set(table["limits"]) == set(type(ServiceConfig().limits).model_fields) - {"memory"}
    found, plain = read_config(file), ServiceConfig()
    placed = {"store", "checkpoints", "exports"}
    for name in fields - placed:
        assert getattr(found, name) == getattr(plain, name), name
    assert found.checkpoints == (str(CONFIGS),)
    assert found.exports == str(CONFIGS / "exports")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("port: 99999", "port"),
        ("limits: {studies: 0}", "limits.studies"),
        ("checkpoint: [.]", "checkpoint"),
        ("tokens: 'yes'", "tokens"),
        ("- 1", "list"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path, text, field):
    file = tmp_path / "service.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidConfig) as caught:
        read_config(file)
    assert field in caught.value.message
    assert str(file) in caught.value.message
    assert caught.value.hint
    with pytest.raises(NotFound):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("execution", "taken"),
    [
        ({}, 0),
        ({"workers": 4}, 0),
        ({"workers": 4, "device": "cuda"}, 4),
        ({"workers": 4, "device": "cuda", "gpus": 0.5}, 2),
        ({"workers": 3, "gpus": 2.0}, 6),
    ],
)
def test_the_accelerators_of_an_operation(execution, taken):
    assert accelerators({"execution": execution}) == taken


def started() -> list[tuple[list[str], str]]:
    """(arguments of `recycler`, settings) of every way in configs/ to start the service."""
    compose = yaml.safe_load((CONFIGS / "compose.yaml").read_text(encoding="utf-8"))
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(CONFIGS / "recycler.service", encoding="utf-8")
    kube = [*yaml.safe_load_all((CONFIGS / "kuberay.yaml").read_text(encoding="utf-8"))]
    settings = next(d for d in kube if d["kind"] == "ConfigMap")["data"]["service.yaml"]
    pod = next(d for d in kube if d["kind"] == "Deployment")["spec"]["template"]["spec"]
    return [
        (compose["services"]["recycler"]["command"], compose["configs"]["service"]["content"]),
        (shlex.split(unit["Service"]["ExecStart"])[1:], ""),
        (pod["containers"][0]["args"], settings),
    ]


@pytest.mark.parametrize(("arguments", "settings"), started())
def test_what_configs_start_is_a_command_with_valid_settings(arguments, settings, tmp_path):
    command = cli.commands[arguments[0]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {a for a in arguments if a.startswith("--")} <= known
    file = tmp_path / "service.yaml"
    file.write_text(settings or "{}", encoding="utf-8")
    found = read_config(file)
    assert not settings or found.needs_tokens  # bound to all addresses


def test_an_address_in_use_is_an_error_with_a_hint(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        args = ["--store", str(tmp_path / "l.db"), "serve", "--port", port]
        done = CliRunner().invoke(cli, args)
    assert type(done.exception).__name__ == "Unavailable"
    assert port in done.exception.message
    assert "--port" in done.exception.hint


@pytest.mark.parametrize("option", ["--root", "--exports"])
def test_a_folder_that_can_not_be_used_is_refused_before_the_service_listens(tmp_path, option):
    file = tmp_path / "file"
    file.write_text("no folder", encoding="utf-8")
    done = CliRunner().invoke(
        cli, ["--store", str(tmp_path / "l.db"), "serve", "--port", "0", option, str(file / "x")]
    )
    assert type(done.exception).__name__ in ("NotFound", "Unavailable")
    assert str(file / "x") in done.exception.message
    assert option in done.exception.hint
    assert not (tmp_path / "l.db").exists()


def test_an_empty_file_of_settings_is_called_empty(tmp_path):
    file = tmp_path / "service.yaml"
    file.touch()
    with pytest.raises(InvalidConfig, match="is empty, expected a table of settings"):
        read_config(file)
