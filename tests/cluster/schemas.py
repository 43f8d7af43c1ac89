"""What KubeRay (v1.7) takes of RayJob and RayCluster, as far as our files use it. Every object is closed.

The operator's own CRDs let unknown keys pass; here a misspelt key is an error. ``violations`` adds the rules that the
operator's controller checks and a schema cannot say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

TEXT, FLAG, NATURAL = {"type": "string", "minLength": 1}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
LABELS = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Mi|Gi)?$"}


def closed(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with these keys and no other."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def listing(items: Schema, least: int = 1) -> Schema:
    return {"type": "array", "minItems": least, "items": items}


AMOUNTS = closed({"cpu": QUANTITY, "memory": QUANTITY}, {"nvidia.com/gpu": QUANTITY})
CONTAINER = closed(
    {"name": TEXT, "image": TEXT, "resources": closed({"requests": AMOUNTS, "limits": AMOUNTS})},
    {
        "securityContext": closed(
            {"allowPrivilegeEscalation": {"const": False}, "capabilities": closed({"drop": {"const": ["ALL"]}})}
        ),
        "ports": listing(closed({"name": TEXT, "containerPort": NATURAL})),
        "volumeMounts": listing(closed({"name": TEXT, "mountPath": TEXT})),
    },
)
VOLUME = {
    "oneOf": [
        closed({"name": TEXT, "persistentVolumeClaim": closed({"claimName": TEXT})}),
        closed({"name": TEXT, "emptyDir": closed({"medium": {"const": "Memory"}, "sizeLimit": QUANTITY})}),
    ]
}
POD = closed(
    {
        "metadata": closed({"labels": LABELS}),
        "spec": closed(
            {"containers": listing(CONTAINER)},
            {
                "restartPolicy": {"enum": ["Never", "OnFailure", "Always"]},
                "automountServiceAccountToken": FLAG,
                "securityContext": closed(
                    {"runAsNonRoot": {"const": True}}, {"runAsUser": NATURAL, "fsGroup": NATURAL}
                ),
                "volumes": listing(VOLUME),
            },
        ),
    }
)
START_PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}  # numbers must be quoted
CLUSTER = closed(
    {
        "rayVersion": {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"},
        "headGroupSpec": closed(
            {"rayStartParams": START_PARAMS, "template": POD},
            {"serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]}},
        ),
    },
    {
        "authOptions": closed({"mode": {"enum": ["token", "disabled"]}}),
        "enableInTreeAutoscaling": FLAG,
        "workerGroupSpecs": listing(
            closed(
                {
                    "groupName": TEXT,
                    "minReplicas": NATURAL,
                    "maxReplicas": NATURAL,
                    "rayStartParams": START_PARAMS,
                    "template": POD,
                },
                {"replicas": NATURAL},
            )
        ),
    },
)
JOB = closed(
    {"entrypoint": TEXT},
    {
        "backoffLimit": NATURAL,
        "activeDeadlineSeconds": NATURAL,
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
        "submitterConfig": closed({"backoffLimit": NATURAL}),
        "submitterPodTemplate": POD,
        "shutdownAfterJobFinishes": FLAG,
        "ttlSecondsAfterFinished": NATURAL,
        "clusterSelector": LABELS,
        "metadata": LABELS,
        "runtimeEnvYAML": TEXT,
        "rayClusterSpec": CLUSTER,
    },
)


def resource(kind: str, api: str, spec: Schema) -> Schema:
    name = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}  # DNS-1035
    metadata = closed({"name": name}, {"labels": LABELS})
    return closed({"apiVersion": {"const": api}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})


RAY_JOB = resource("RayJob", "ray.io/v1", JOB)
RAY_CLUSTER = resource("RayCluster", "ray.io/v1", CLUSTER)

PEER = closed(
    {}, {"podSelector": closed({"matchLabels": LABELS}), "namespaceSelector": closed({"matchLabels": LABELS})}
)
PORTS = listing(closed({"protocol": {"enum": ["TCP", "UDP"]}, "port": NATURAL}))
NETWORK_POLICY = resource(
    "NetworkPolicy",
    "networking.k8s.io/v1",
    closed(
        {
            "podSelector": closed({"matchLabels": LABELS}),
            "policyTypes": {"const": ["Ingress", "Egress"]},
            "ingress": listing(closed({"from": listing(PEER)}, {"ports": PORTS})),
            "egress": listing(closed({"to": listing(PEER)}, {"ports": PORTS})),
        }
    ),
)


def violations(manifest: Mapping[str, Any]) -> list[str]:
    """Rules of the operator (utils/validation.go) that the manifest breaks."""
    is_job, spec = manifest["kind"] == "RayJob", manifest["spec"]
    found = []
    if len(manifest["metadata"]["name"]) > (47 if is_job else 53):
        found.append("the name is too long")
    if is_job:
        if ("rayClusterSpec" in spec) == ("clusterSelector" in spec):
            found.append("give rayClusterSpec or clusterSelector")
        if spec.get("backoffLimit") and "clusterSelector" in spec:
            found.append("backoffLimit needs a cluster of the job's own")
        if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
            found.append("ttlSecondsAfterFinished needs shutdownAfterJobFinishes")
    cluster = spec.get("rayClusterSpec") if is_job else spec
    return found + (list(_cluster_violations(cluster)) if cluster else [])


def _cluster_violations(cluster: Mapping[str, Any]) -> Iterator[str]:
    version = tuple(map(int, cluster["rayVersion"].split(".")))
    if cluster.get("authOptions", {}).get("mode") == "token" and version < (2, 52, 0):
        yield "token authentication needs Ray 2.52"
    groups = [("head", cluster["headGroupSpec"])]
    groups += [(group["groupName"], group) for group in cluster.get("workerGroupSpecs", [])]
    names = [name for name, _ in groups]
    if len(set(names)) < len(names):
        yield "two groups have one name"
    for name, group in groups:
        container = group["template"]["spec"]["containers"][0]
        if "num-gpus" in group["rayStartParams"] and "nvidia.com/gpu" in container["resources"]["limits"]:
            yield f"{name}: GPUs are said twice"
        if group.get("minReplicas", 0) > group.get("maxReplicas", 0):
            yield f"{name}: minReplicas is above maxReplicas"
        if not group.get("minReplicas", 0) <= group.get("replicas", 0) <= group.get("maxReplicas", 0):
            yield f"{name}: replicas is out of range"
        volumes = {volume["name"] for volume in group["template"]["spec"].get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{name}: no volume {mount['name']}"
        for amount in (container["resources"]["requests"], container["resources"]["limits"]):
            if not re.fullmatch("[0-9]+(Mi|Gi)", amount["memory"]):
                yield f"{name}: memory {amount['memory']} has no unit"
