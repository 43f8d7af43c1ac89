"""The image holds everything, so that nothing is installed or downloaded when a cluster starts."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "cluster" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
STEPS = [line.split(None, 1) for line in LINES if line and not line.startswith("#")]


def arguments(instruction: str) -> list[str]:
    return [rest for word, rest in STEPS if word == instruction]


def test_versions_are_pinned_and_installed_as_root_before_the_user_changes() -> None:
    order = [word for word, _ in STEPS]
    install = next(number for number, (word, rest) in enumerate(STEPS) if word == "RUN" and "pip install" in rest)
    assert "-c constraints.txt" in STEPS[install][1]
    assert install < order.index("USER")
    assert arguments("USER") == ["fedsim"]
    assert "ENTRYPOINT" not in order  # KubeRay, `ray up` and `docker run` give the command
    assert "CMD" not in order


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().split()
    for step in arguments("COPY"):
        for source in step.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    assert ignored[0] == "*"  # results, data and keys stay out


def test_offline_and_authenticated_by_default() -> None:
    environment = " ".join(arguments("ENV")).split()
    assert {"HF_HUB_OFFLINE=1", "RAY_AUTH_MODE=token"} <= set(environment)
