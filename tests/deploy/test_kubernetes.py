"""The manifests: as kustomize builds them, against the schemas of Kubernetes, and against the server's own settings."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_server.settings.settings import Settings, read_settings

OVERLAYS = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "overlays"
VERSIONS = ("1.29", "1.31", "1.33")
"""The first with native sidecars on by default, and later ones."""

OLDEST_KUBECTL = (1, 21)
"""The first whose kustomize knows components. Native sidecars want a newer one anyway."""

Manifest = Mapping[str, Any]


def why_no_kustomize() -> str | None:
    """Why overlays cannot be built here; None if they can."""
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    command = ["kubectl", "version", "--client", "--output", "json"]
    version = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["clientVersion"]
    found = int(version["major"]), int(version["minor"].rstrip("+"))
    return None if found >= OLDEST_KUBECTL else f"kubectl {found} is older than {OLDEST_KUBECTL}"


@cache
def manifests(overlay: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` would send."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    if (reason := why_no_kustomize()) is not None:
        pytest.skip(reason)
    command = ["kubectl", "kustomize", str(OVERLAYS / overlay)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return tuple(yaml.safe_load_all(built.stdout))


def only(overlay: str, kind: str) -> Manifest:
    (manifest,) = [each for each in manifests(overlay) if each["kind"] == kind]
    return manifest


def pod_of(overlay: str) -> Manifest:
    kind = {"service": "Deployment", "trainer": "Job"}[overlay]
    pod: Manifest = only(overlay, kind)["spec"]["template"]["spec"]
    return pod


def server_of(overlay: str) -> Manifest:
    pod = pod_of(overlay)
    (server,) = [each for each in containers_of(pod) if each["name"] == "chatenv"]
    return server


def containers_of(pod: Manifest) -> Iterator[Manifest]:
    yield from pod.get("initContainers", ())
    yield from pod["containers"]


def settings_of(overlay: str) -> Settings:
    return read_settings([], {each["name"]: each["value"] for each in server_of(overlay)["env"]})


overlays = pytest.mark.parametrize("overlay", sorted(path.name for path in OVERLAYS.iterdir()))


@overlays
@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_fits_the_schema_of_its_kind(overlay: str, version: str) -> None:
    validation = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for manifest in manifests(overlay):
        validation.validate(manifest, version, strict=True)


@overlays
def test_the_environment_is_made_of_settings_that_the_server_accepts(overlay: str) -> None:
    given = {each["name"] for each in server_of(overlay)["env"]}
    known = {f"CHATENV_{name.upper()}" for name in Settings.__dataclass_fields__}
    assert given <= known
    assert settings_of(overlay).listen


@overlays
def test_no_container_can_gain_rights_or_write_outside_its_volumes(overlay: str) -> None:
    pod = pod_of(overlay)
    for container in containers_of(pod):
        rights = {**pod["securityContext"], **container["securityContext"]}
        assert rights["runAsNonRoot"] is True
        assert rights["runAsUser"] > 0
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False


@overlays
def test_the_server_is_probed_and_bounded(overlay: str) -> None:
    server = server_of(overlay)
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= server.keys()
    assert {"cpu", "memory"} <= server["resources"]["requests"].keys()
    assert "memory" in server["resources"]["limits"]


@overlays
def test_calls_in_flight_have_their_grace_before_the_pod_is_killed(overlay: str) -> None:
    assert pod_of(overlay)["terminationGracePeriodSeconds"] > settings_of(overlay).drain_grace


def test_the_sidecar_is_a_native_one() -> None:
    (server,) = pod_of("trainer")["initContainers"]
    assert (server["name"], server["restartPolicy"]) == ("chatenv", "Always")


def test_trainer_and_sidecar_meet_at_one_socket_in_one_volume() -> None:
    pod, server = pod_of("trainer"), server_of("trainer")
    (trainer,) = pod["containers"]
    (volume,) = [each for each in pod["volumes"] if "emptyDir" in each]
    mount = {"name": volume["name"], "mountPath": "/run/chatenv"}
    assert mount in server["volumeMounts"]
    assert mount in trainer["volumeMounts"]
    assert {"name": "CHATENV_ADDRESS", "value": settings_of("trainer").listen[0]} in trainer["env"]
    assert settings_of("trainer").listen[0].startswith("unix:///run/chatenv/")


def test_the_socket_is_open_to_the_group_that_the_whole_pod_shares() -> None:
    assert pod_of("trainer")["securityContext"]["fsGroup"] == server_of("trainer")["securityContext"]["runAsGroup"]
    assert settings_of("trainer").socket_mode == 0o660


def test_probes_and_service_and_policy_lead_to_the_port_that_is_served_on() -> None:
    server = server_of("service")
    (port,) = server["ports"]
    assert settings_of("service").listen == (f"0.0.0.0:{port['containerPort']}",)
    probes = [server[name]["grpc"]["port"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert set(probes) == {port["containerPort"]}
    assert only("service", "Service")["spec"]["ports"][0]["targetPort"] == port["name"]
    (ingress,) = only("service", "NetworkPolicy")["spec"]["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": port["name"]}]


def test_every_selector_finds_the_servers_pods() -> None:
    labels = only("service", "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    for kind, path in (
        ("Deployment", "selector"),
        ("NetworkPolicy", "podSelector"),
        ("PodDisruptionBudget", "selector"),
    ):
        assert only("service", kind)["spec"][path]["matchLabels"].items() <= labels
    assert only("service", "Service")["spec"]["selector"].items() <= labels


def test_callers_need_no_label_but_their_own() -> None:
    (ingress,) = only("service", "NetworkPolicy")["spec"]["ingress"]
    assert ingress["from"] == [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"chatenv-client": "true"}}}]


def test_the_service_has_no_address_of_its_own_so_that_clients_see_every_pod() -> None:
    assert only("service", "Service")["spec"]["clusterIP"] == "None"
