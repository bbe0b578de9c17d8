"""The manifests of docker/kubernetes: valid, and true of this server."""

import os
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml
from prometheus_client.parser import text_string_to_metric_families

from llamacart.cli import build_app
from llamacart_server.commands.draining import CLOSING_SECONDS
from llamacart_server.middleware.lifecycle import LAST_WORDS_SECONDS
from llamacart_server.settings import ENV_PREFIX, ServeSettings, load_settings, unknown_variables

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "kubernetes"
KUBERNETES = "1.34"
CRDS = "KUBERNETES_CRDS"


def documents(name):
    return [d for d in yaml.safe_load_all((FOLDER / name).read_text()) if d]


RESOURCES = [
    resource
    for name in yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    for resource in documents(name)
]


def called(resource):
    return f"{resource['kind']}/{resource['metadata']['name']}"


CORE = [r for r in RESOURCES if r["kind"] not in ("InferencePool", "HTTPRoute", "PodMonitor")]
CUSTOM = [r for r in RESOURCES if r not in CORE]


def find(kind, name="llamacart"):
    [found] = [r for r in RESOURCES if called(r) == f"{kind}/{name}"]
    return found


SERVER = find("Deployment")["spec"]["template"]["spec"]
[CONTAINER] = SERVER["containers"]
ENVIRONMENT = {v["name"]: v["value"] for v in CONTAINER["env"]}
PODS = [r["spec"]["template"] for r in RESOURCES if r["kind"] == "Deployment"]


@pytest.fixture
def settings(monkeypatch):
    """Of a server in a pod."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return load_settings()


# --- schemas ------------------------------------------------------------------------------------


def test_every_file_is_applied():
    files = {path.name for path in FOLDER.glob("*.yaml")}
    listed = set(yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"])
    assert files - listed == {"kustomization.yaml", "prometheus-adapter.yaml"}
    assert listed <= files


@pytest.mark.parametrize("resource", CORE, ids=called)
def test_what_kubernetes_defines_fits_its_schema(resource):
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


@pytest.mark.parametrize("key", ["replica", "selectorr"])
def test_a_key_that_is_not_known_is_found(key):
    wrong = {**find("Deployment"), "spec": {**find("Deployment")["spec"], key: 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.skipif(CRDS not in os.environ, reason=f"{CRDS} names no folder of definitions")
@pytest.mark.parametrize("resource", CUSTOM, ids=called)
def test_what_others_define_fits_their_definitions(resource):
    definitions = [
        definition
        for path in Path(os.environ[CRDS]).glob("*.yaml")
        for definition in yaml.safe_load_all(path.read_text())
    ]
    [definition] = [d for d in definitions if d["spec"]["names"]["kind"] == resource["kind"]]
    group, version = resource["apiVersion"].split("/")
    assert definition["spec"]["group"] == group
    [schema] = [
        v["schema"]["openAPIV3Schema"]
        for v in definition["spec"]["versions"]
        if v["name"] == version
    ]
    jsonschema.validate(resource, closed(schema))


def closed(schema):
    """The schema without room for fields that it does not name, as Kubernetes prunes them."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


# --- who selects whom ---------------------------------------------------------------------------


def pods_with(labels):
    return [p for p in PODS if labels.items() <= p["metadata"]["labels"].items()]


def selector(resource):
    spec = resource["spec"]
    chosen = spec.get("podSelector") or spec["selector"]
    return chosen.get("matchLabels", chosen)


SELECTING = [
    "Deployment",
    "Service",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "InferencePool",
    "PodMonitor",
]


@pytest.mark.parametrize("resource", [r for r in RESOURCES if r["kind"] in SELECTING], ids=called)
def test_a_selector_chooses_the_pods_of_its_own_name(resource):
    [pod] = pods_with(selector(resource))
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == resource["metadata"]["name"]


@pytest.mark.parametrize("service", [r for r in RESOURCES if r["kind"] == "Service"], ids=called)
def test_a_service_leads_to_ports_that_there_are(service):
    [pod] = pods_with(selector(service))
    there = {p["name"] for c in pod["spec"]["containers"] for p in c["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= there


def test_what_a_resource_names_is_there():
    there = {called(r) for r in RESOURCES}
    target = find("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    binding = find("RoleBinding", "llamacart-router")
    names = {f"{target['kind']}/{target['name']}"}
    names |= {f"{s['kind']}/{s['name']}" for s in binding["subjects"]}
    names.add(f"{binding['roleRef']['kind']}/{binding['roleRef']['name']}")
    picker = find("InferencePool")["spec"]["endpointPickerRef"]
    names.add(f"Service/{picker['name']}")
    for rule in find("HTTPRoute")["spec"]["rules"]:
        names |= {f"{b['kind']}/{b['name']}" for b in rule["backendRefs"]}
    for pod in PODS:
        account = pod["spec"].get("serviceAccountName")
        names |= {f"ServiceAccount/{account}"} if account else set()
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                names.add(f"ConfigMap/{volume['configMap']['name']}")
            if "persistentVolumeClaim" in volume:
                names.add(f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}")
    assert names <= there
    [port] = [
        p for p in find("Service", "llamacart-router")["spec"]["ports"] if p["name"] == "grpc"
    ]
    assert port["port"] == picker["port"]["number"]


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod["spec"]["containers"][0]["name"])
def test_what_is_mounted_is_a_volume_and_the_rest_is_read_only(pod):
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    for container in pod["spec"]["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["securityContext"]["readOnlyRootFilesystem"]


# --- what is true of the server -----------------------------------------------------------------


def test_the_command_line_and_the_environment_are_taken(settings):
    group = typer.main.get_command(build_app())
    name, *arguments = CONTAINER["args"]
    command = group.get_command(group.make_context("llamacart", [name]), name)
    command.make_context(name, arguments)
    assert unknown_variables(ENVIRONMENT) == []
    assert (settings.parallel, settings.shutdown_seconds) == (16, 120)


def test_files_lie_where_volumes_are_mounted(settings):
    mounts = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    for path in (settings.model, str(settings.cartridges)):
        assert any(path.startswith(f"{mount}/") for mount in mounts)


def test_it_runs_as_the_image_does():
    image = (ROOT / "docker" / "Dockerfile").read_text()
    user, volume, port = (
        re.search(rf"^{word} (\S+)$", image, re.MULTILINE)[1]
        for word in ("USER", "VOLUME", "EXPOSE")
    )
    security = SERVER["securityContext"]
    assert user == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert volume in {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert [int(port)] == [p["containerPort"] for p in CONTAINER["ports"]]


def test_everybody_uses_the_port_that_the_server_listens_on(settings):
    assert [p["containerPort"] for p in CONTAINER["ports"]] == [settings.port]
    assert [p["number"] for p in find("InferencePool")["spec"]["targetPorts"]] == [settings.port]
    [endpoint] = find("PodMonitor")["spec"]["podMetricsEndpoints"]
    [rule] = find("NetworkPolicy")["spec"]["ingress"]
    assert [endpoint["port"], *(p["port"] for p in rule["ports"])] == ["http", "http"]
    assert CONTAINER["ports"][0]["name"] == "http"


def test_no_service_sets_a_variable_that_is_a_setting():
    variables = {f"{ENV_PREFIX}{name.upper()}" for name in ServeSettings.model_fields}
    names = [r["metadata"]["name"] for r in RESOURCES if r["kind"] == "Service"]
    set_by_services = {f"{name.upper().replace('-', '_')}_PORT" for name in names}
    assert variables & set_by_services  # it would
    assert SERVER["enableServiceLinks"] is False


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_probes_ask_for_routes_that_need_no_key(serve, engine, probe):
    asked = CONTAINER[probe]["httpGet"]
    assert asked["port"] == "http"
    assert serve(engine, api_key="k").get(asked["path"]).status_code == 200


def test_there_is_time_to_drain(settings):
    wait = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = settings.shutdown_seconds + LAST_WORDS_SECONDS + CLOSING_SECONDS
    grace = SERVER["terminationGracePeriodSeconds"]
    assert wait + drain < grace
    router = find("Deployment", "llamacart-router")["spec"]["template"]["spec"]
    assert router["terminationGracePeriodSeconds"] >= grace
    # Before it drains, everybody has seen that it is not ready any more.
    probe = CONTAINER["readinessProbe"]
    assert wait >= probe["periodSeconds"] * probe["failureThreshold"]


def test_the_route_waits_longer_than_the_server(settings):
    [rule] = find("HTTPRoute")["spec"]["rules"]
    assert float(rule["timeouts"]["request"].removesuffix("s")) > settings.request_timeout


# --- metrics ------------------------------------------------------------------------------------


@pytest.fixture
def gauges(serve, engine):
    text = serve(engine, metrics_names="vllm").get("/metrics").text
    return {f.name for f in text_string_to_metric_families(text) if f.type == "gauge"}


def scaled_by():
    metrics = find("HorizontalPodAutoscaler")["spec"]["metrics"]
    return {
        m["pods"]["metric"]["name"]: float(m["pods"]["target"]["averageValue"]) for m in metrics
    }


def test_the_autoscaler_asks_for_gauges_that_there_are(gauges, settings):
    assert set(scaled_by()) <= gauges
    assert scaled_by()["llamacart_requests_running"] < settings.parallel


def test_the_adapter_offers_what_the_autoscaler_asks_for():
    [document] = documents("prometheus-adapter.yaml")
    [rule] = document["rules"]["custom"]
    offered = re.compile(re.search(r'__name__=~"([^"]+)"', rule["seriesQuery"])[1])
    assert all(offered.fullmatch(name) for name in scaled_by())


def test_prometheus_keeps_all_but_what_is_for_routers(gauges):
    [endpoint] = find("PodMonitor")["spec"]["podMetricsEndpoints"]
    [relabel] = endpoint["metricRelabelings"]
    dropped = {name for name in gauges if re.fullmatch(relabel["regex"], name)}
    assert dropped == {"llamacart_lora_requests_info", "vllm:lora_requests_info"}


def test_the_router_uses_what_it_declares_and_knows_the_pods():
    config = yaml.safe_load(find("ConfigMap", "llamacart-router")["data"]["router.yaml"])
    declared = {plugin["type"]: plugin.get("parameters", {}) for plugin in config["plugins"]}
    [profile] = config["schedulingProfiles"]
    assert {plugin["pluginRef"] for plugin in profile["plugins"]} <= set(declared)
    engines = declared["core-metrics-extractor"]
    labels = find("Deployment")["spec"]["template"]["metadata"]["labels"]
    names = [engine["name"] for engine in engines["engineConfigs"]]
    assert names == [labels["llm-d.ai/engine-type"]] == [engines["defaultEngine"]]
    [router] = find("Deployment", "llamacart-router")["spec"]["template"]["spec"]["containers"]
    assert "--config-file=/config/router.yaml" in router["args"]
