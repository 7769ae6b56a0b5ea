"""The manifests: as kustomize builds them, against the schemas of Kubernetes, and against the server's own settings."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("chatenv_server", reason="the server extra is not installed", exc_type=ImportError)

from chatenv_server.settings.settings import Settings, read_settings

OVERLAYS = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "overlays"
VERSIONS = ("1.29", "1.31", "1.33")
"""The first with native sidecars on by default, and later ones."""

OLDEST_KUBECTL = (1, 21)
"""The first whose kustomize knows components. Native sidecars want a newer one anyway."""

OF_SECRETS = ("CHATENV_BEARER_TOKEN_FILE", "CHATENV_TLS_CERTIFICATE", "CHATENV_TLS_KEY")
"""Variables that name files which pods mount from Secrets."""

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


def only(overlay: str, kind: str, name: str = "") -> Manifest:
    """The manifest of a kind; of those that the store has as well, the servers'."""
    wanted = name or ("trainer" if kind == "Job" else "chatenv")
    (manifest,) = [each for each in manifests(overlay) if (each["kind"], each["metadata"]["name"]) == (kind, wanted)]
    return manifest


def pod_of(overlay: str) -> Manifest:
    kind = {"service": "Deployment", "trainer": "Job"}[overlay.partition("-")[0]]
    pod: Manifest = only(overlay, kind)["spec"]["template"]["spec"]
    return pod


def server_of(overlay: str) -> Manifest:
    pod = pod_of(overlay)
    (server,) = [each for each in containers_of(pod) if each["name"] == "chatenv"]
    return server


def containers_of(pod: Manifest) -> Iterator[Manifest]:
    yield from pod.get("initContainers", ())
    yield from pod["containers"]


def environment_of(overlay: str) -> dict[str, str]:
    return {each["name"]: each["value"] for each in server_of(overlay)["env"] if "value" in each}


def settings_of(overlay: str, **files: str) -> Settings:
    """The server's own reading of its environment.

    Args:
        overlay: name of the overlay.
        files: by variable, what stands here for a file of the pod.
    """
    return read_settings([], environment_of(overlay) | files)


NAMES = sorted(path.name for path in OVERLAYS.iterdir())
overlays = pytest.mark.parametrize("overlay", NAMES)
with_metrics = pytest.mark.parametrize("overlay", [name for name in NAMES if name.endswith("-metrics")])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By variable, a file in the place of each that pods mount from a Secret."""
    folder = tmp_path_factory.mktemp("mounted")
    for name in OF_SECRETS:
        folder.joinpath(name).write_text("stands for a file", encoding="utf-8")
    return {name: str(folder / name) for name in OF_SECRETS}


@overlays
@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_fits_the_schema_of_its_kind(overlay: str, version: str) -> None:
    validation = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for manifest in manifests(overlay):
        validation.validate(manifest, version, strict=True)


@overlays
def test_the_environment_is_made_of_settings_that_the_server_accepts(overlay: str, files: dict[str, str]) -> None:
    given = environment_of(overlay)
    assert settings_of(overlay, **{name: path for name, path in files.items() if name in given}).listen


def every_pod_of(overlay: str) -> Iterator[Manifest]:
    """Those of the store, too."""
    for manifest in manifests(overlay):
        if manifest["kind"] in ("Deployment", "Job", "StatefulSet"):
            yield manifest["spec"]["template"]["spec"]


@overlays
def test_no_container_can_gain_rights_or_write_outside_its_volumes(overlay: str) -> None:
    for pod in every_pod_of(overlay):
        check_rights(pod)


def check_rights(pod: Manifest) -> None:
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
    grace = float(environment_of(overlay).get("CHATENV_DRAIN_GRACE", Settings().drain_grace))
    assert pod_of(overlay)["terminationGracePeriodSeconds"] > grace


SERVER_BYTES = 128 * 2**20
"""A server with a real tokenizer and no episodes."""
BYTES_PER_TOKEN = 22
"""Of an episode whose sampled tokens have logprobs; measured, docs/kubernetes.md."""


@overlays
def test_a_full_cache_of_tokens_takes_no_more_than_half_of_the_memory(overlay: str) -> None:
    limit = server_of(overlay)["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    needed = SERVER_BYTES + BYTES_PER_TOKEN * int(environment_of(overlay)["CHATENV_MAX_CACHED_TOKENS"])
    assert needed <= 0.5 * float(limit.removesuffix("Gi")) * 2**30


@overlays
def test_no_volume_of_a_trainer_is_given_another_owner_at_each_start(overlay: str) -> None:
    context = pod_of(overlay)["securityContext"]
    assert ("fsGroup" in context) == (context.get("fsGroupChangePolicy") == "OnRootMismatch")


@with_metrics
def test_metrics_are_served_on_a_port_that_prometheus_finds(overlay: str) -> None:
    settings = settings_of(overlay)
    (port,) = [each for each in server_of(overlay)["ports"] if each["name"] == "metrics"]
    assert settings.metrics_listen == f"0.0.0.0:{port['containerPort']}"
    kind = "Deployment" if overlay.startswith("service") else "Job"
    noted = only(overlay, kind)["spec"]["template"]["metadata"]["annotations"]
    assert noted == {"prometheus.io/scrape": "true", "prometheus.io/port": str(port["containerPort"])}


def test_prometheus_gets_through_the_policy_to_metrics_and_to_nothing_else() -> None:
    callers, prometheus = only("service-metrics", "NetworkPolicy")["spec"]["ingress"]
    assert callers == only("service", "NetworkPolicy")["spec"]["ingress"][0]
    assert prometheus["ports"] == [{"protocol": "TCP", "port": "metrics"}]
    assert prometheus["from"][0]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}


def test_the_image_has_what_metrics_and_the_store_need() -> None:
    dockerfile = OVERLAYS.parents[2].joinpath("Dockerfile").read_text(encoding="utf-8")
    assert "ARG EXTRAS=server,metrics,redis\n" in dockerfile


def test_the_secured_service_speaks_no_plain_text_and_asks_for_a_token(files: dict[str, str]) -> None:
    settings = settings_of("service-secured", **files)
    assert not settings.allow_plaintext
    assert settings.tls_certificate
    assert settings.bearer_token_file
    assert only("service-secured", "Service")["spec"]["ports"][0]["appProtocol"] == "https"


def test_what_the_secured_service_reads_is_mounted_for_its_group_alone() -> None:
    pod, server, given = pod_of("service-secured"), server_of("service-secured"), environment_of("service-secured")
    keys = {"chatenv-token": {"token"}, "chatenv-tls": {"tls.crt", "tls.key"}}
    secrets = {each["name"]: each["secret"] for each in pod["volumes"] if "secret" in each}
    mounted = {
        f"{mount['mountPath']}/{key}"
        for mount in server["volumeMounts"]
        if mount["name"] in secrets
        for key in keys[secrets[mount["name"]]["secretName"]]
    }
    assert {given[name] for name in OF_SECRETS} == mounted
    assert {secret["defaultMode"] for secret in secrets.values()} == {0o440}
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def test_the_probes_of_the_secured_service_ask_on_a_socket(files: dict[str, str]) -> None:
    server = server_of("service-secured")
    assert settings_of("service-secured", **files).listen[0].startswith("unix:///run/chatenv/")
    assert "/run/chatenv" in {mount["mountPath"] for mount in server["volumeMounts"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["exec"] == {"command": ["python", "-m", "chatenv_server.running.healthcheck"]}
        assert "grpc" not in server[probe]


def test_servers_are_spread_over_nodes() -> None:
    (spread,) = pod_of("service")["topologySpreadConstraints"]
    labels = only("service", "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    assert (spread["topologyKey"], spread["maxSkew"]) == ("kubernetes.io/hostname", 1)
    assert spread["labelSelector"]["matchLabels"].items() <= labels


def test_metrics_and_security_go_together(tmp_path: Path, files: dict[str, str]) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    if (reason := why_no_kustomize()) is not None:
        pytest.skip(reason)
    shutil.copytree(OVERLAYS.parent, tmp_path / "kubernetes")
    both = tmp_path / "kubernetes" / "overlays" / "both"
    both.mkdir()
    lines = ["resources: [../service]", "components: [../../secured, ../../metrics]", "namespace: chatenv"]
    both.joinpath("kustomization.yaml").write_text("\n".join(lines), encoding="utf-8")
    built = subprocess.run(["kubectl", "kustomize", both], capture_output=True, text=True, check=True)
    (server,) = [
        each["spec"]["template"]["spec"]["containers"][0]
        for each in yaml.safe_load_all(built.stdout)
        if each["kind"] == "Deployment"
    ]
    given = {each["name"]: each["value"] for each in server["env"] if "value" in each}
    settings = read_settings([], given | files)
    assert settings.metrics_listen
    assert settings.tls_certificate


def test_the_sidecar_is_a_native_one() -> None:
    (server,) = pod_of("trainer")["initContainers"]
    assert (server["name"], server["restartPolicy"]) == ("chatenv", "Always")


def test_trainer_and_sidecar_meet_at_one_socket_in_one_volume() -> None:
    pod, server = pod_of("trainer"), server_of("trainer")
    (trainer,) = pod["containers"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "chatenv-socket"]
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


def test_a_rollout_has_a_new_server_before_an_old_one_goes() -> None:
    deployment = only("service", "Deployment")["spec"]
    assert deployment["replicas"] > 1
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert only("service", "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


SERVICES = [name for name in NAMES if name.startswith("service")]


@pytest.mark.parametrize("overlay", SERVICES)
def test_all_servers_share_the_one_redis_that_is_there_and_are_let_in(overlay: str) -> None:
    service, store = (only(overlay, kind, "chatenv-redis") for kind in ("Service", "StatefulSet"))
    (port,) = store["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert settings_of_store(overlay) == ("chatenv-redis", service["spec"]["ports"][0]["port"])
    assert port["containerPort"] == service["spec"]["ports"][0]["port"]
    labels = store["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    servers = only(overlay, "Deployment")["spec"]["template"]["metadata"]["labels"]
    (ingress,) = only(overlay, "NetworkPolicy", "chatenv-redis")["spec"]["ingress"]
    assert ingress["from"][0]["podSelector"]["matchLabels"].items() <= servers.items()
    to_store, _ = only(overlay, "NetworkPolicy")["spec"]["egress"]
    assert to_store["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    assert to_store["ports"] == ingress["ports"]


def settings_of_store(overlay: str) -> tuple[str | None, int | None]:
    url = urlsplit(environment_of(overlay)["CHATENV_STORE"])
    return url.hostname, url.port


@pytest.mark.parametrize("overlay", SERVICES)
def test_redis_keeps_what_it_acknowledged_and_drops_no_episode(overlay: str) -> None:
    (redis,) = only(overlay, "StatefulSet", "chatenv-redis")["spec"]["template"]["spec"]["containers"]
    arguments = dict(zip(redis["args"][::2], redis["args"][1::2], strict=True))
    assert (arguments["--appendonly"], arguments["--maxmemory-policy"]) == ("yes", "noeviction")
    (mount,) = redis["volumeMounts"]
    assert mount["mountPath"] == arguments["--dir"]
    budget = BYTES_PER_TOKEN * int(environment_of(overlay)["CHATENV_MAX_LIVE_TOKENS"])
    memory = float(arguments["--maxmemory"].removesuffix("gb")) * 2**30
    assert budget <= memory / 2
    assert memory <= float(redis["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30 / 2


def test_the_secured_redis_asks_for_the_password_that_the_servers_give() -> None:
    (redis,) = only("service-secured", "StatefulSet", "chatenv-redis")["spec"]["template"]["spec"]["containers"]
    (auth,) = redis["env"]
    assert "--requirepass" in redis["command"][2]
    assert auth["name"] == "REDISCLI_AUTH"
    names = [each["name"] for each in server_of("service-secured")["env"]]
    assert names.index("STORE_PASSWORD") < names.index("CHATENV_STORE")  # else it would not be filled in
    (password,) = [each for each in server_of("service-secured")["env"] if each["name"] == "STORE_PASSWORD"]
    assert password["valueFrom"] == auth["valueFrom"]


def test_the_sidecars_episodes_are_on_a_volume_that_outlives_its_container() -> None:
    url = environment_of("trainer")["CHATENV_STORE"]
    (volume,) = [each for each in pod_of("trainer")["volumes"] if each["name"] == "chatenv-episodes"]
    (mount,) = [each for each in server_of("trainer")["volumeMounts"] if each["name"] == volume["name"]]
    assert url.startswith(f"sqlite://{mount['mountPath']}/")
    assert "medium" not in volume["emptyDir"]
    budget = BYTES_PER_TOKEN * int(environment_of("trainer")["CHATENV_MAX_LIVE_TOKENS"])
    assert budget <= float(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30 / 2


def test_callers_need_no_label_but_their_own() -> None:
    (ingress,) = only("service", "NetworkPolicy")["spec"]["ingress"]
    assert ingress["from"] == [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"chatenv-client": "true"}}}]


def test_the_service_has_no_address_of_its_own_so_that_clients_see_every_pod() -> None:
    assert only("service", "Service")["spec"]["clusterIP"] == "None"
