"""The files in cluster/: valid for those who read them, of one version, closed to the outside, and without secrets."""

import json
import re
import shutil
import subprocess
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.job.cli import job_cli_group
from ray.serve.schema import ServeDeploySchema
from shell_lines import JOBS, ROOT, commands, read_job_command

CLUSTER = ROOT / "cluster"
LAUNCHED = ["aws", "gcp"]
KUBERAY = ["raycluster", "rayjob", "rayservice"]
MOST_BYTES = 5_000_000
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def locked(package: str) -> str:
    found = re.search(rf"^{re.escape(package)}==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert found, package
    return found[1]


@pytest.mark.parametrize("name", LAUNCHED)
def test_rays_launcher_accepts_the_cluster(name: str) -> None:
    config = prepare_config(read_yaml(CLUSTER / f"{name}.yaml"))
    validate_config(config)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    workers = {key: kind for key, kind in config["available_node_types"].items() if key != config["head_node_type"]}
    assert [kind["resources"].get("GPU", 0) for kind in workers.values()] == [0, 1, 4, 8]
    for kind in workers.values():
        assert 0 <= kind["min_workers"] <= kind["max_workers"]
        assert kind["min_workers"] == 0 or "GPU" not in kind["resources"], "an idle cluster pays for no GPU"
    assert config["idle_timeout_minutes"] > 0


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_launched_cluster_asks_for_a_token_and_shows_its_dashboard_to_itself_alone(name: str) -> None:
    config = read_yaml(CLUSTER / f"{name}.yaml")
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    starts = [config[f"{role}_start_ray_commands"][-1] for role in ("head", "worker")]
    for start in starts:
        assert re.match(r"export RAY_AUTH_MODE=token .*; ray start ", start)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "--num-cpus=0" in starts[0]
    assert config["docker"]["image"].endswith(f":{VERSION}")
    assert "security_group" not in config["provider"], "Ray's own opens SSH alone"


def kuberay(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The resource, and the specification of the cluster in it."""
    resource = read_yaml(CLUSTER / "kuberay" / f"{name}.yaml")
    spec = resource["spec"]
    return resource, {
        "RayCluster": spec,
        "RayJob": spec.get("rayClusterSpec"),
        "RayService": spec.get("rayClusterConfig"),
    }[resource["kind"]]


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_finds_what_its_kinds_require(name: str) -> None:
    resource, cluster = kuberay(name)
    assert resource["apiVersion"] == "ray.io/v1"
    assert resource["kind"].lower() == name
    assert re.fullmatch(
        r"[a-z]([a-z0-9-]{0,45}[a-z0-9-])?", resource["metadata"].get("name", resource["metadata"].get("generateName"))
    )
    assert cluster["rayVersion"] == locked("ray") == ray.__version__
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] > 0
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = cluster["workerGroupSpecs"]
    assert len({group["groupName"] for group in groups}) == len(groups)
    for group in groups:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["rayStartParams"] == {}


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_have_bounds_and_no_privileges(name: str) -> None:
    _, cluster = kuberay(name)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is (group is groups[0]), "the autoscaler alone speaks to Kubernetes"
        (container,) = pod["containers"]
        assert re.fullmatch(rf"registry\.example\.org/consilience:{re.escape(VERSION)}(-vllm)?", container["image"])
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_asks_for_a_token_and_lets_in_the_operator_alone(name: str) -> None:
    _, cluster = kuberay(name)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["networkPolicy"]["mode"] == "DenyAllIngress"
    rules = cluster["networkPolicy"]["head"]["ingressRules"]
    assert [peer for rule in rules for peer in rule["from"]] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kuberay-system"}}}
    ]


def test_the_gate_that_the_network_policies_need_is_opened() -> None:
    """KubeRay 1.7 refuses a cluster with `networkPolicy` while the gate is shut, as it is by default."""
    opened = "featureGates[0].name=RayClusterNetworkPolicy,featureGates[0].enabled=true"
    assert opened in (CLUSTER / "README.md").read_text()
    for name in KUBERAY:
        assert "RayClusterNetworkPolicy" in (CLUSTER / "kuberay" / f"{name}.yaml").read_text().split("apiVersion")[0]


def test_the_kuberay_job_is_one_that_exists_and_is_tried_again() -> None:
    spec = kuberay("rayjob")[0]["spec"]
    assert read_job_command(spec["entrypoint"].split()) == spec["metadata"]["job"]
    assert spec["entrypoint"].endswith(f"--out {spec['metadata']['run']}")
    assert spec["entrypointNumCpus"] > 0
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    assert not {"submitterPodTemplate", "submitterConfig", "clusterSelector"} & set(spec), "not with SidecarMode"


def test_the_kuberay_service_serves_the_production_config() -> None:
    spec = kuberay("rayservice")[0]["spec"]
    served = yaml.safe_load(spec["serveConfigV2"])
    ServeDeploySchema.model_validate(served)
    assert served == read_yaml(ROOT / "configs/serve-production.yaml")
    environment = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "CONSILIENCE_TOKEN_FILE", "value": "/run/secrets/consilience/service-tokens"} in environment


def test_no_file_holds_a_secret() -> None:
    secret = re.compile(
        r"AKIA[0-9A-Z]{16}|-----BEGIN|\bsk-[\w-]{16,}|\bhf_\w{16,}|\b[0-9a-f]{32,}\b|\b(?:password|token|secret|api_?key)\s*[:=]\s*['\"]?[\w+/-]{12,}",
        re.IGNORECASE,
    )
    files = [path for path in CLUSTER.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not (found := secret.search(text)), f"{path.name}: {found}"
        assert not re.search(r"^kind: Secret$", text, re.MULTILINE)


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (CLUSTER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_is_built_from_the_lock_and_runs_as_nobody_special() -> None:
    steps = instructions()
    base = steps[0]
    assert base[0] == "FROM"
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base[1]), "pinned to a release"
    assert [value for key, value in steps if key == "USER"] == ["ray"]
    assert steps.index(("USER", "ray")) > max(place for place, (key, _) in enumerate(steps) if key in ("RUN", "COPY"))
    assert any(key == "RUN" and "--requirement requirements.lock" in value for key, value in steps)
    names = [word.split("=")[0] for key, value in steps if key in ("ENV", "ARG") for word in value.split()]
    assert not [name for name in names if re.search(r"TOKEN|SECRET|PASSWORD|_KEY", name)]
    assert "RAY_AUTH_MODE" in names


def test_the_image_gets_all_code_and_the_build_sees_it() -> None:
    copied = [word for key, value in instructions() if key == "COPY" for word in value.split()[:-1]]
    assert {"consilience", "actors", "jobs", "serve_app", "configs"} <= set(copied)
    patterns = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in let_in), f"{source}: not in the build's context"


def submissions() -> list[list[str]]:
    return [words for words in commands(CLUSTER / "README.md") if words[:3] == ["ray", "job", "submit"]]


def test_every_job_has_its_line() -> None:
    submit = job_cli_group.commands["submit"]
    named = []
    for words in submissions():
        given = submit.make_context("submit", words[3:]).params
        assert given["working_dir"] == "."
        assert given["entrypoint_num_cpus"] > 0
        name = read_job_command(list(given["entrypoint"]))
        assert json.loads(given["metadata_json"]) == {"job": name}
        named.append(name)
    assert sorted(named) == JOBS


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `ray job submit --working-dir .` sends from a clone, with the litter of a working copy in it."""
    clone, package = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("sent") / "package.zip"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in [*listed.split("\0")[:-1], ".rayignore"]:
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, clone / name)
    for litter in (".git/objects/pack", ".venv/lib/torch.so", "runs/demo/consensus.parquet", "data/votes.gz"):
        (clone / litter).parent.mkdir(parents=True, exist_ok=True)
        (clone / litter).write_bytes(b"\0" * 100)
    create_package(str(clone), package, include_gitignore=True)
    return package


def test_a_submitted_job_uploads_little(upload: Path) -> None:
    assert upload.stat().st_size < MOST_BYTES


def test_a_submitted_job_uploads_code_and_configs_alone(upload: Path) -> None:
    names = zipfile.ZipFile(upload).namelist()
    assert {"jobs/pipeline.py", "configs/demo.yaml", "configs/demo_dilemmas.jsonl"} <= set(names)
    sent = {name.split("/")[0] for name in names}
    assert not sent & {".git", ".venv", "runs", "data", "docs", "tests", "cluster"}


def test_the_jobs_dashboard_shows_what_is_measured() -> None:
    board = json.loads((CLUSTER / "grafana-jobs.json").read_text())
    shown = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    measured = set(re.findall(r'"(consilience_job_\w+)"', (ROOT / "jobs/reporting.py").read_text()))
    assert set(re.findall(r"ray_(consilience_\w+)", shown)) == measured
    rays_own = "".join(
        path.read_text() for path in (Path(ray.__file__).parent / "dashboard/modules/metrics").rglob("*.py")
    )
    for name in set(re.findall(r"\b((?:ray_(?!consilience)|autoscaler_)\w+)", shown)):
        assert re.search(rf"\b{name}\b", rays_own), name
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in board["panels"]]
    assert len(set(places)) == len(places)
