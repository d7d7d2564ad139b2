"""Replicas on Kubernetes that share sessions: what it will accept, and what must agree with servers and store."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from redis import Redis

from tests.store.places import checkpoint, everything, put
from tidegate.config import Settings
from tidegate.store.protocol import Terms
from tidegate.store.redis import RedisStore

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
GIB = 1024**3
GENERATED = ("ConfigMap", "Secret")
START_SECONDS_MAX = 60

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl (make services)")


def rendered(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "kustomize warns of deprecated fields here"
    return list(yaml.safe_load_all(done.stdout))


def named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The one of that kind and name, which of a generated one has a hash behind it."""
    pattern = re.compile(re.escape(name) + ("-[a-z0-9]{10}" if kind in GENERATED else ""))
    (found,) = [
        document
        for document in documents
        if document["kind"] == kind and pattern.fullmatch(document["metadata"]["name"])
    ]
    return found


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return rendered(KUBERNETES / "durable")


@pytest.fixture(scope="module")
def server(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The servers' StatefulSet."""
    found: dict[str, Any] = named(documents, "StatefulSet", "tidegate")["spec"]
    return found


@pytest.fixture(scope="module")
def valkey(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The store's."""
    found: dict[str, Any] = named(documents, "StatefulSet", "tidegate-valkey")["spec"]
    return found


def labels(stateful_set: dict[str, Any]) -> dict[str, str]:
    return dict(stateful_set["template"]["metadata"]["labels"])


def container(stateful_set: dict[str, Any]) -> dict[str, Any]:
    (only,) = stateful_set["template"]["spec"]["containers"]
    return dict(only)


def store_of(server: dict[str, Any]) -> dict[str, str]:
    """The key of the secret that says where the store is."""
    (entry,) = [entry for entry in container(server)["env"] if entry["name"] == "TIDEGATE_STORE"]
    return dict(entry["valueFrom"]["secretKeyRef"])


def test_every_document_is_valid(documents: list[dict[str, Any]]) -> None:
    """Each passes the strict schema (no unknown field) of an old and of the newest Kubernetes known here."""
    assert {document["kind"] for document in documents} >= {"PodDisruptionBudget", "Secret", "StatefulSet"}
    for document in documents:
        for version in ("1.28", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(document, version, strict=True)


def test_it_is_the_base_with_more_replicas(server: dict[str, Any]) -> None:
    """But for their number, the store and their nodes, the servers are those of the base."""
    base = named(rendered(KUBERNETES / "base"), "StatefulSet", "tidegate")["spec"]
    pod, base_pod = server["template"]["spec"], base["template"]["spec"]
    assert server["replicas"] > base["replicas"]
    assert {key for key in pod if pod[key] != base_pod.get(key)} == {"containers", "topologySpreadConstraints"}
    env = container(server)["env"]
    assert [entry for entry in env if entry["name"] != "TIDEGATE_STORE"] == container(base)["env"]
    assert pod["terminationGracePeriodSeconds"] > Settings().limits.drain_seconds_max


def test_replicas_are_drained_one_after_another(documents: list[dict[str, Any]], server: dict[str, Any]) -> None:
    """The disruption budget and the spread are of the servers' pods, and others are left meanwhile."""
    budget = named(documents, "PodDisruptionBudget", "tidegate")["spec"]
    assert budget["maxUnavailable"] == 1 < server["replicas"]
    assert budget["selector"]["matchLabels"].items() <= labels(server).items()
    (spread,) = server["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels(server).items()


def test_servers_find_the_store(
    documents: list[dict[str, Any]], server: dict[str, Any], valkey: dict[str, Any]
) -> None:
    """Their setting is one, comes from the secret, and names the store's Service and port; its policy lets them in."""
    reference = store_of(server)
    secret = named(documents, "Secret", "tidegate-store")
    assert reference["name"] == secret["metadata"]["name"]
    setting = base64.b64decode(secret["data"][reference["key"]]).decode()
    assert Settings(store=setting).store == setting
    service = named(documents, "Service", "tidegate-valkey")
    (port,) = service["spec"]["ports"]
    assert setting == f"redis://{service['metadata']['name']}:{port['port']}/0"
    assert service["spec"]["selector"].items() <= labels(valkey).items()
    assert {entry["name"]: entry["containerPort"] for entry in container(valkey)["ports"]} == {"redis": port["port"]}
    policy = named(documents, "NetworkPolicy", "tidegate-valkey")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels(valkey).items()
    ((rule,),) = [entry["from"] for entry in policy["ingress"]]
    assert rule["podSelector"]["matchLabels"].items() <= labels(server).items()
    servers = named(documents, "NetworkPolicy", "tidegate")["spec"]
    assert not servers["podSelector"]["matchLabels"].items() <= labels(valkey).items()


def test_the_stores_pod_is_locked_down_and_keeps_its_data(valkey: dict[str, Any]) -> None:
    """No root, no writable root; the configuration that it names is mounted, and its folder is a volume claim."""
    pod, only = valkey["template"]["spec"], container(valkey)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert only["securityContext"]["readOnlyRootFilesystem"] is True
    assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    places = {mount["name"]: mount["mountPath"] for mount in only["volumeMounts"]}
    assert only["command"][1] == f"{places['config']}/valkey.conf"
    assert [claim["metadata"]["name"] for claim in valkey["volumeClaimTemplates"]] == ["data"]
    assert places["data"] == "/data"


@pytest.fixture
def socket(documents: list[dict[str, Any]], tmp_path: Path) -> Iterator[Path]:
    """That of a redis-server with the rendered configuration, which has its data here and no port."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: make services")
    configuration, socket = tmp_path / "valkey.conf", tmp_path / "socket"
    text = named(documents, "ConfigMap", "tidegate-valkey")["data"]["valkey.conf"]
    assert "\ndir /data\n" in text
    configuration.write_text(text.replace("dir /data", f"dir {tmp_path}"))
    command = ["redis-server", str(configuration), "--port", "0", "--unixsocket", str(socket)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not socket.exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield socket
    finally:
        process.terminate()
        process.wait(START_SECONDS_MAX)


async def test_the_configuration_is_one(socket: Path, valkey: dict[str, Any]) -> None:
    """A server starts with it, has what it is for, and sessions are kept there; twice its memory is the pod's limit."""
    with Redis(unix_socket_path=str(socket)) as redis:
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
        assert redis.config_get(*wanted) == wanted
        most = int(redis.config_get("maxmemory")["maxmemory"])
        assert int(container(valkey)["resources"]["limits"]["memory"].removesuffix("Gi")) * GIB == 2 * most
    store = RedisStore(f"unix://{socket}?db=0", Terms("a"))
    await store.start()
    await put(store, [checkpoint(b"a")])
    assert await everything(store) == [checkpoint(b"a")]
    await store.stop()


def test_a_store_of_ones_own(tmp_path: Path, server: dict[str, Any]) -> None:
    """Without the component, nothing of the store is rendered, and the servers ask for the secret by its plain name."""
    components = os.path.relpath(KUBERNETES, tmp_path)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{components}/base"],
        "components": [f"{components}/components/replicas"],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    documents = rendered(tmp_path)
    assert not [document for document in documents if "valkey" in document["metadata"]["name"]]
    own = named(documents, "StatefulSet", "tidegate")["spec"]
    assert store_of(own) == {"name": "tidegate-store", "key": "url"}
    assert own["replicas"] == server["replicas"]
