"""The `ray up` files pass Ray's own validation, and are what we promise. No cloud is asked."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FILES = sorted((Path(__file__).resolve().parents[2] / "cluster" / "ray-up").glob("*.yaml"))


def load(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(path.read_text())  # `ray up` reads with PyYAML too
    return config


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does before it asks anybody. The schema first: filling in defaults would hide what is missing."""
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    local = {"min_workers"} if config["provider"]["type"] == "local" else set()  # Ray moves it before it validates
    jsonschema.validate({key: value for key, value in config.items() if key not in local}, schema)
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_takes_the_file(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # the local provider writes its state there
    prepared = validate(load(path))
    assert prepared["head_node_type"] in prepared["available_node_types"]
    assert prepared["setup_commands"] == ["chmod 600 /home/fedsim/.ray/auth_token"]
    commands = [*prepared["initialization_commands"], *prepared["head_setup_commands"]]
    commands += [*prepared["worker_setup_commands"], *prepared["setup_commands"]]
    assert not any("pip" in command for command in commands)  # nor what Ray's defaults would install


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_token_on_and_dashboard_local(path: Path) -> None:
    config = load(path)
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert list(config["file_mounts"]) == ["/home/fedsim/.ray/auth_token"]
    head = config["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head
    assert config["provider"]["type"] == "local" or config["provider"]["use_internal_ips"] is True


@pytest.mark.parametrize(
    ("key", "value"),
    [("cluster_nam", "x"), ("head_node_type", "heads"), ("max_workers", 1), ("cluster_name", None)],
)
def test_a_mistake_is_caught(key: str, value: Any) -> None:
    config = load(next(path for path in FILES if path.stem == "aws"))
    config[key] = value
    if value is None:
        del config[key]
    with pytest.raises((ValueError, jsonschema.ValidationError)):
        validate(config)
