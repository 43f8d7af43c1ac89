"""The Kubernetes files: closed schemas, the operator's rules, and what we promise about them."""

from __future__ import annotations

import copy
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from tests.cluster.schemas import NETWORK_POLICY, RAY_CLUSTER, RAY_JOB, violations

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
SCHEMAS = {"rayjob.yaml": RAY_JOB, "raycluster.yaml": RAY_CLUSTER, "networkpolicy.yaml": NETWORK_POLICY}


def load(name: str) -> Any:
    return YAML(typ="safe", pure=True).load(KUBERAY / name)


@pytest.fixture
def job() -> Any:
    return copy.deepcopy(load("rayjob.yaml"))


@pytest.fixture
def cluster() -> Any:
    return copy.deepcopy(load("raycluster.yaml"))


def changed(manifest: Any, path: str, value: Any) -> Any:
    """The manifest with one value replaced, or removed (None)."""
    *parents, last = (int(step) if step.isdigit() else step for step in path.split("/"))
    place = manifest
    for step in parents:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return manifest


def test_every_manifest_has_a_schema() -> None:
    assert {path.name for path in KUBERAY.iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_manifest_is_valid(name: str) -> None:
    manifest = load(name)
    jsonschema.validate(manifest, SCHEMAS[name])
    assert name == "networkpolicy.yaml" or violations(manifest) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec/entryPoint", "fedsim run x", "'entryPoint' was unexpected"),
        ("spec/entrypoint", None, "'entrypoint' is a required property"),
        ("spec/backoffLimit", "3", "'3' is not of type 'integer'"),
        ("spec/rayClusterSpec/headGroupSpec/template", None, "'template' is a required property"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/minReplicas", None, "'minReplicas' is a required property"),
        ("spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", 0, "0 is not of type 'string'"),
        ("apiVersion", "ray.io/v1alpha1", "'ray.io/v1' was expected"),
        ("metadata/name", "Fedsim_1", "does not match"),
    ],
)
def test_the_schema_catches(job: Any, path: str, value: Any, message: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(changed(job, path, value), RAY_JOB)


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("metadata/name", "f" * 48, "the name is too long"),
        ("spec/clusterSelector", {"a": "b"}, "give rayClusterSpec or clusterSelector"),
        ("spec/shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"),
        ("spec/rayClusterSpec/rayVersion", "2.51.0", "token authentication needs Ray 2.52"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/maxReplicas", 1, "banks: minReplicas is above maxReplicas"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/groupName", "head", "two groups have one name"),
        ("spec/rayClusterSpec/headGroupSpec/template/spec/volumes/0/name", "other", "head: no volume shared"),
    ],
)
def test_the_rules_catch(job: Any, path: str, value: Any, rule: str) -> None:
    assert rule in violations(changed(job, path, value))


def test_gpus_are_said_once(cluster: Any) -> None:
    group = cluster["spec"]["workerGroupSpecs"][0]
    group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "1"
    assert violations(cluster) == []
    group["rayStartParams"]["num-gpus"] = "1"
    assert violations(cluster) == ["banks: GPUs are said twice"]


def test_a_repeated_attempt_goes_on_from_the_shared_volume(job: Any) -> None:
    spec = job["spec"]
    command, subcommand, scenario, *options = shlex.split(spec["entrypoint"])
    assert (command, subcommand) == ("fedsim", "run")
    given = dict(pairwise(options))
    assert given["--resume"] == "auto"
    assert spec["backoffLimit"] > 0
    for group in (spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        claims = {v["name"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
        mounts = [m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] in claims]
        assert all(path.startswith(f"{mounts[0]}/") for path in (scenario, given["--out"]))


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_token_on_no_service_account_and_no_way_in_from_outside(name: str) -> None:
    spec = load(name)["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    pods = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    pods += [spec["submitterPodTemplate"]] if "submitterPodTemplate" in spec else []
    selected = load("networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"]
    for pod in pods:
        assert selected.items() <= pod["metadata"]["labels"].items()
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


def test_nothing_leaves_but_questions_to_the_name_server() -> None:
    policy = load("networkpolicy.yaml")["spec"]
    own = {"podSelector": policy["podSelector"]}
    inside, names = policy["egress"]
    assert inside == {"to": [own]}
    assert [port["port"] for port in names["ports"]] == [53, 53]
    assert policy["ingress"][0] == {"from": [own]}
    assert [port["port"] for port in policy["ingress"][1]["ports"]] == [8265]


def test_versions_are_those_of_the_repository() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    version = next(
        line.split('"')[1] for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version")
    )
    job, cluster = load("rayjob.yaml")["spec"]["rayClusterSpec"], load("raycluster.yaml")["spec"]
    assert job == cluster
    assert job["rayVersion"] == pins["ray"]
    images = {
        line.split(":", 2)[-1].strip()
        for path in (ROOT / "cluster").rglob("*.yaml")
        for line in path.read_text().splitlines()
        if "registry.example/fedsim" in line
    }
    assert images == {version}
