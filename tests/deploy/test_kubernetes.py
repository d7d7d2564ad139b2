"""The Kustomize base: what Kubernetes will accept, and what must agree with the server's own defaults."""

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tidegate.config import Limits, Settings

BASE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "base"
GIB = 1024**3

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl (make services)")


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(BASE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert rendered.returncode == 0, rendered.stderr
    assert rendered.stderr == "", "kustomize warns of deprecated fields here"
    return list(yaml.safe_load_all(rendered.stdout))


@pytest.fixture(scope="module")
def pod(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The pod that the StatefulSet makes."""
    (stateful_set,) = of_kind(documents, "StatefulSet")
    spec: dict[str, Any] = stateful_set["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    """Its one container."""
    (only,) = pod["containers"]
    return dict(only)


@pytest.fixture(scope="module")
def settings(documents: list[dict[str, Any]]) -> Settings:
    """The settings that the pod's TOML file gives the server; a key that the server does not know is an error."""
    (config_map,) = of_kind(documents, "ConfigMap")
    return Settings(**tomllib.loads(config_map["data"]["tidegate.toml"]))


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The documents of one kind."""
    return [document for document in documents if document["kind"] == kind]


def test_every_document_is_valid(documents: list[dict[str, Any]]) -> None:
    """Each document passes the strict schema (no unknown field) of an old and of the newest Kubernetes known here."""
    assert {document["kind"] for document in documents} >= {"ConfigMap", "NetworkPolicy", "Service", "StatefulSet"}
    for document in documents:
        for version in ("1.28", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(document, version, strict=True)


def test_ports_are_the_servers(documents: list[dict[str, Any]], container: dict[str, Any], settings: Settings) -> None:
    """Container, Services and scrape annotation name the ports that the server listens on."""
    ports = {"grpc": settings.port, "http": settings.http_port}
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports
    for service in of_kind(documents, "Service"):
        assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == ports
    (stateful_set,) = of_kind(documents, "StatefulSet")
    annotations = stateful_set["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.http_port)


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
)
def test_probes_ask_over_http(container: dict[str, Any], probe: str, path: str) -> None:
    """Each probe asks its own path on the HTTP port."""
    assert container[probe]["httpGet"] == {"path": path, "port": "http"}


def test_grace_is_longer_than_the_drain(pod: dict[str, Any], container: dict[str, Any], settings: Settings) -> None:
    """The server serves for some seconds after its pod has left the lists; Kubernetes kills only after these and the
    server's own drain limit, with time to spare for the exit."""
    assert settings.limits.drain_seconds_max == Limits().drain_seconds_max
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert int(seconds) > container["readinessProbe"]["periodSeconds"]
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + settings.limits.drain_seconds_max + 10


def test_arguments_are_the_servers(container: dict[str, Any], pod: dict[str, Any]) -> None:
    """The flags are settings of the server, and the file they name is mounted."""
    verb, *flags = container["args"]
    given = {flag.removeprefix("--").partition("=")[0]: flag.partition("=")[2] for flag in flags}
    assert verb == "serve"
    assert given.keys() - {"config"} <= Settings.model_fields.keys()
    assert given["host"] == "0.0.0.0"
    assert "insecure" in given
    (config,) = [mount for mount in container["volumeMounts"] if mount["name"] == "config"]
    assert given["config"] == f"{config['mountPath']}/tidegate.toml"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_environment_is_the_servers(container: dict[str, Any], pod: dict[str, Any]) -> None:
    """Each variable is a setting, and Kubernetes adds none of its own: its TIDEGATE_PORT is an address."""
    names = {entry["name"].removeprefix("TIDEGATE_").lower() for entry in container["env"]}
    assert names <= Settings.model_fields.keys()
    assert pod["enableServiceLinks"] is False


def test_state_fits_the_memory_limit(container: dict[str, Any], settings: Settings) -> None:
    """The sessions' columns leave at least half of the container's memory to the rest."""
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * GIB
    assert 0 < settings.limits.state_bytes_max <= limit // 2


def test_pod_is_locked_down(pod: dict[str, Any], container: dict[str, Any], documents: list[dict[str, Any]]) -> None:
    """No root, no capability, no writable root, no token of the API."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    (account,) = of_kind(documents, "ServiceAccount")
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert pod["automountServiceAccountToken"] is account["automountServiceAccountToken"] is False


def test_selectors_find_the_pods(documents: list[dict[str, Any]]) -> None:
    """All selectors match the pods' labels, and the StatefulSet's own Service is headless."""
    (stateful_set,) = of_kind(documents, "StatefulSet")
    labels = stateful_set["spec"]["template"]["metadata"]["labels"].items()
    services = {service["metadata"]["name"]: service["spec"] for service in of_kind(documents, "Service")}
    (policy,) = of_kind(documents, "NetworkPolicy")
    selectors = [spec["selector"] for spec in services.values()]
    selectors += [stateful_set["spec"]["selector"]["matchLabels"], policy["spec"]["podSelector"]["matchLabels"]]
    assert all(selector and selector.items() <= labels for selector in selectors)
    assert services[stateful_set["spec"]["serviceName"]]["clusterIP"] == "None"
    assert any(spec.get("clusterIP") != "None" for spec in services.values())
