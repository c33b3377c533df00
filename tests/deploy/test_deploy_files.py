"""The files under deploy/ are what their tools accept, name only what exists, and keep the same promises everywhere."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from tests.cli.command import refusal
from worker.flow.lane import SHUTDOWN_PATIENCE_S
from worker.settings import PREFIX, ConsoleSettings, Settings, variable
from worker.watch import heartbeat

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if "b2copy-sync" in service["image"]}
CRM_OUTSIDE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.crm.yaml").read_text())
MANIFESTS = [
    document
    for path in sorted((DEPLOY / "kubernetes" / "base").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
PODS = {
    manifest["metadata"]["name"]: manifest["spec"]["template"]["spec"]
    for manifest in MANIFESTS
    if manifest["kind"] in {"Deployment", "Job"}
}
SHIPPED = [
    path
    for path in DEPLOY.rglob("*")
    if path.is_file()
    and not path.name.startswith("requirements")
    and not {"secrets", "__pycache__"} & set(path.parts[:-1])  # other tests import the examples
]
IDLE = ["sleep", "infinity"]  # what the pod for commands does
EXPOSURE_MAX = 2.0  # of `systemd-analyze security`, from 0 (safe) to 10


def tool(name: str) -> str:
    """Return the path of a validator: beside Python, or on PATH. Skips the test if there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"NOT VALIDATED: {name} is not installed")
    return found


def validated(*command: str | Path, **options: Any) -> str:
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, **options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return str(ran.stdout + ran.stderr)


def test_hadolint_accepts_the_containerfile() -> None:
    validated(tool("hadolint"), DEPLOY / "Containerfile")


def test_the_compose_file_and_the_workflow_fit_their_schemas() -> None:
    check = tool("check-jsonschema")
    files = [DEPLOY / "compose.yaml", DEPLOY / "compose.crm.yaml"]
    validated(check, "--builtin-schema", "vendor.compose-spec", *files)
    validated(check, "--builtin-schema", "vendor.github-workflows", *sorted((ROOT / ".github/workflows").glob("*.yml")))


def test_the_manifests_are_kubernetes(tmp_path: Path) -> None:
    validate = tool("kubernetes-validate")
    for number, manifest in enumerate(MANIFESTS):
        if manifest["kind"] != "Kustomization":
            (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(manifest))
    validated(validate, "--strict", *sorted(tmp_path.glob("*.yaml")))


def test_the_overlay_builds_and_keeps_every_manifest() -> None:
    built = validated(tool("kubectl"), "kustomize", DEPLOY / "kubernetes" / "overlays" / "production")
    kinds = sorted(document["kind"] for document in yaml.safe_load_all(built))

    assert kinds == sorted(manifest["kind"] for manifest in MANIFESTS if manifest["kind"] != "Kustomization")
    pods = [found for found in yaml.safe_load_all(built) if found["kind"] == "Deployment"]
    assert all("app.kubernetes.io/name" in pod["spec"]["template"]["metadata"]["labels"] for pod in pods)


def test_the_overlay_opens_another_port_if_its_comment_becomes_a_line(tmp_path: Path) -> None:
    kubectl = tool("kubectl")
    copy = shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    overlay = copy / "overlays" / "production" / "kustomization.yaml"
    overlay.write_text(re.sub(r"^  # (?=- target|  patch:|    - \{op)", "  ", overlay.read_text(), flags=re.M))

    built = yaml.safe_load_all(validated(kubectl, "kustomize", overlay.parent))

    [policy] = [one for one in built if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "b2copy-worker"]
    assert [port["port"] for port in policy["spec"]["egress"][0]["ports"]] == [443, 4318]


def test_postgresql_is_healthy_only_when_it_listens_to_others() -> None:
    """While an empty data folder is filled, a server runs that listens to a Unix socket alone."""
    _, program, *words = COMPOSE["services"]["postgres"]["healthcheck"]["test"]
    options = dict(zip(words[::2], words[1::2], strict=True))

    assert (program, options["-h"]) == ("pg_isready", "127.0.0.1")
    admitted = re.search(r"^hostssl all (\S+) ", (DEPLOY / "postgres" / "init.sh").read_text(), re.M)
    assert admitted is not None
    assert options["-U"] in admitted[1].split(","), "the server logs an error for each check of another user"


def test_every_process_of_ours_reads_the_shared_settings() -> None:
    """Beat alone starts the comparison of B2COPY_RECONCILE_EVERY, and `migrate` stores B2COPY_FOUR_EYES."""
    from_map = {
        (name, container["name"]): [
            source.get("configMapRef", {}).get("name") for source in container.get("envFrom", [])
        ]
        for name, pod in PODS.items()
        for container in pod["containers"]
        if container["image"].startswith("b2copy-sync")
    }
    kinds = {one["kind"] for one in MANIFESTS if "template" in one.get("spec", {})}

    assert kinds == {"Deployment", "Job"}, "PODS has them all"
    assert len(from_map) == len(PODS)
    assert set(map(tuple, from_map.values())) == {("b2copy-settings",)}
    for unit in UNITS:
        assert "EnvironmentFile=/etc/b2copy-sync/settings.env\n" in unit.read_text(), unit.name
    for name, service in OURS.items():
        assert service["env_file"] == [{"path": "settings.env", "required": False}], name


def test_the_pod_for_commands_is_a_worker_that_does_nothing_by_itself() -> None:
    """Commands that come before the workers start, as after a restore, need what a worker has, and no worker."""
    named = {(one["kind"], one["metadata"]["name"]): one for one in MANIFESTS if "metadata" in one}
    command = named["Deployment", "b2copy-command"]
    pod, worker = PODS["b2copy-command"], PODS["b2copy-worker"]
    [container], [workers] = pod["containers"], worker["containers"]
    of_one_worker = {heartbeat.VARIABLE, "B2COPY_METRICS_LISTEN"}
    policy = named["NetworkPolicy", "b2copy-worker"]["spec"]

    assert command["spec"]["replicas"] == 0
    assert container["command"] == IDLE
    assert container["env"] == [one for one in workers["env"] if one["name"] not in of_one_worker]
    for name in ("image", "envFrom", "volumeMounts", "securityContext", "resources"):
        assert container[name] == workers[name], name
    for name in ("volumes", "securityContext", "automountServiceAccountToken"):
        assert pod[name] == worker[name], name
    assert policy["podSelector"] == {
        "matchExpressions": [{"key": "component", "operator": "In", "values": ["worker", "command"]}]
    }
    assert command["spec"]["template"]["metadata"]["labels"] == {"component": "command"}


def test_a_crm_outside_reaches_both_servers_at_one_address_alone() -> None:
    assert CRM_OUTSIDE["services"].keys() == {"redis", "postgres"}
    assert COMPOSE["networks"]["data"] == {"internal": True}  # no port of it is published
    for name, service in CRM_OUTSIDE["services"].items():
        assert set(service["networks"]) == {*COMPOSE["services"][name]["networks"], "crm"}
        assert all(port.startswith("${CRM_LISTEN:?") for port in service["ports"]), name


def test_systemd_accepts_the_units_and_finds_them_hardened(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    for unit in UNITS:  # with a program that exists here
        (tmp_path / unit.name).write_text(re.sub(r"/opt/b2copy-sync/venv/bin/\S+", "/bin/true", unit.read_text()))
    copies = sorted(tmp_path.glob("*.service"))
    assert "Unknown" not in validated(analyze, "verify", *copies)
    for unit in copies:
        validated(analyze, "security", "--offline=true", f"--threshold={EXPOSURE_MAX * 10:g}", unit)


def test_the_scripts_are_shell() -> None:
    for script in (DEPLOY / "new-secrets", DEPLOY / "postgres" / "init.sh", DEPLOY / "systemd" / "b2copy-sync"):
        validated("sh", "-n", script)


def test_no_script_has_a_password_in_the_arguments_of_a_command() -> None:
    """Every user of the host can read them."""
    for script in (DEPLOY / "new-secrets", DEPLOY / "postgres" / "init.sh", DEPLOY / "systemd" / "b2copy-sync"):
        assert not re.search(r"password=[\"']?\$", script.read_text()), script


def test_a_certificate_names_its_server_as_clients_do(tmp_path: Path) -> None:
    names = {"REDIS_NAMES": "redis.internal", "POSTGRES_NAMES": "db.internal 10.0.0.5 fd00::5"}
    validated(DEPLOY / "new-secrets", tmp_path / "secrets", env=os.environ | names)

    found = {}
    for server in ("redis", "postgres"):
        certificate = x509.load_pem_x509_certificate((tmp_path / "secrets" / server / "server.pem").read_bytes())
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found[server] = {
            *alternative.get_values_for_type(x509.DNSName),
            *map(str, alternative.get_values_for_type(x509.IPAddress)),
        }
    assert found["redis"] == {"redis", "localhost", "127.0.0.1", "redis.internal"}
    assert found["postgres"] == {"postgres", "localhost", "127.0.0.1", "db.internal", "10.0.0.5", "fd00::5"}


def run_command_of_host(settings: Path, **environment: str) -> dict[str, str]:
    """Return the settings of ours that the command on a host with systemd gives to the program. Its file is another."""
    script = (DEPLOY / "systemd" / "b2copy-sync").read_text()
    script = script.replace("/opt/b2copy-sync/venv/bin/b2copy-sync", "env -0")
    script = script.replace("/etc/b2copy-sync/settings.env", str(settings))
    ran = validated("sh", "-c", script, "b2copy-sync", env={"PATH": os.environ["PATH"]} | environment)
    return dict(entry.split("=", 1) for entry in ran.split("\0") if entry.startswith(PREFIX))


def test_the_command_of_a_host_reads_settings_as_systemd_does(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text(
        "# a comment\n; another\n\n"
        "B2COPY_WEBHOOK_URL=https://crm.example/x?a=1&b=2\n"
        "  B2COPY_RATE_LIMIT = 10 / second \t\n"
        "B2COPY_CALL_PATHS=/api/admin/*,/a;rm -rf $HOME #`id`\n"
        "B2COPY_ISSUER=\"b2copy sync 'x' \"\n"
        "B2COPY_DUPLICATE_CLIENTS='un\\known \"$HOME\" '\r\n"
        "B2COPY_NOTIFY_TASK=\n"
        "B2COPY_FOUR_EYES=it's=money"  # the last line has no end
    )

    found = run_command_of_host(file)

    assert {name: found[name] for name in found if name in file.read_text()} == {
        "B2COPY_WEBHOOK_URL": "https://crm.example/x?a=1&b=2",
        "B2COPY_RATE_LIMIT": "10 / second",
        "B2COPY_CALL_PATHS": "/api/admin/*,/a;rm -rf $HOME #`id`",
        "B2COPY_ISSUER": "b2copy sync 'x' ",
        "B2COPY_DUPLICATE_CLIENTS": 'un\\known "$HOME" ',
        "B2COPY_NOTIFY_TASK": "",
        "B2COPY_FOUR_EYES": "it's=money",
    }


@pytest.mark.parametrize(
    "line",
    [
        "B2COPY_ISSUER=a\\b",
        'B2COPY_ISSUER="a\\"b"',
        'B2COPY_ISSUER="a" b',
        "B2COPY_ISSUER='a",
        "export B2COPY_ISSUER=a",
        "# a comment that ends with a backslash \\",
    ],
)
def test_the_command_of_a_host_refuses_what_systemd_might_read_otherwise(line: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_text(f"B2COPY_HOST=https://b2copy.example.com\n{line}\n")

    with pytest.raises(AssertionError, match=f"{file}: line 2 "):
        run_command_of_host(file)


def test_the_command_of_a_host_has_the_settings_of_its_workers() -> None:
    unit = (DEPLOY / "systemd" / "b2copy-sync-worker@.service").read_text()
    loaded = dict(re.findall(r"^LoadCredential=(\w+):(.*)$", unit, re.M))
    wanted = dict(re.findall(rf"^Environment=({PREFIX}\w+)=(.*)$", unit, re.M))
    wanted = {name: loaded.get(value.removeprefix("%d/"), value) for name, value in wanted.items()}
    for of_one_worker in (heartbeat.VARIABLE, "B2COPY_METRICS_LISTEN"):
        del wanted[of_one_worker]
    file = DEPLOY / "systemd" / "settings.env"
    shared = re.findall(rf"^({PREFIX}\w+)=(.*)$", file.read_text(), re.M)
    assert run_command_of_host(file) == wanted | dict(shared)
    owner = run_command_of_host(file, ROLE="owner")
    assert owner["B2COPY_DATABASE_URL"] == "postgresql://b2copy_owner@db.internal/b2copy"
    assert owner["B2COPY_DATABASE_PASSWORD_FILE"] == "/etc/b2copy-sync/postgres-owner.password"


def test_every_setting_they_name_exists() -> None:
    known = {variable(field) for field in (Settings.model_fields | ConsoleSettings.model_fields)}
    unknown = {
        (path.name, name)
        for path in SHIPPED
        for name in re.findall(rf"\b{PREFIX}[A-Z_]+\b", path.read_text())
        if name not in known
    }

    assert unknown == set()


def started_commands() -> list[list[str]]:
    """Return every command line that the files start, as words."""
    found = [service["command"] for service in OURS.values()]
    found += [one["command"] for pod in PODS.values() for one in pod["containers"] if one["command"] != IDLE]
    for probe in ("livenessProbe", "readinessProbe"):
        found += [pod["containers"][0][probe]["exec"]["command"] for pod in PODS.values() if has_probe(pod)]
    for unit in UNITS:
        found += [shlex.split(line)[0:] for line in re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.M)]
    found += [
        re.findall(r'"([^"]+)"', line) for line in re.findall(r"CMD (\[.*\])", (DEPLOY / "Containerfile").read_text())
    ]
    return [[Path(words[0]).name, *words[1:]] for words in found]


def has_probe(pod: dict[str, Any]) -> bool:
    return "livenessProbe" in pod["containers"][0]


def test_every_command_they_start_exists() -> None:
    for program, *words in started_commands():
        assert program == "b2copy-sync"
        assert refusal(words) == "", words


def writable_folders(pod: dict[str, Any]) -> set[str]:
    """Return the mount paths of a pod's container that are not read-only and are lost with the pod."""
    emptied = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    return {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"] in emptied}


def test_what_is_probed_touches_the_file_that_the_probe_reads() -> None:
    live = ["b2copy-sync", "health", "--live"]
    containerfile = (DEPLOY / "Containerfile").read_text()
    assert (
        f"HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD {json.dumps(live)}"
        in containerfile
    )
    assert re.search(rf"^ENV {heartbeat.VARIABLE}=/tmp/\S+$", containerfile, re.M)
    probed = {name: pod for name, pod in PODS.items() if has_probe(pod)}
    assert probed.keys() == {"b2copy-worker"}
    for pod in probed.values():
        (container,) = pod["containers"]
        assert container["livenessProbe"]["exec"]["command"] == live
        assert container["readinessProbe"]["exec"]["command"] == ["b2copy-sync", "health", "--ready"]
        (file,) = [one["value"] for one in container["env"] if one["name"] == heartbeat.VARIABLE]
        assert str(Path(file).parent) in writable_folders(pod)
    checked = {name: service for name, service in OURS.items() if not service.get("healthcheck", {}).get("disable")}
    assert checked.keys() == {"worker"}
    for service in checked.values():
        folder = Path(service["environment"][heartbeat.VARIABLE]).parent
        assert [mount for mount in service["tmpfs"] if mount.startswith(f"{folder}:")]


def test_each_worker_of_one_host_has_a_heartbeat_file_of_its_own() -> None:
    unit = (DEPLOY / "systemd" / "b2copy-sync-worker@.service").read_text()
    (folder,) = re.findall(r"^RuntimeDirectory=(.*)$", unit, re.M)  # removed when this worker stops

    assert "%i" in folder
    assert f"Environment={heartbeat.VARIABLE}=%t/{folder}/alive" in unit


def test_each_worker_of_one_host_has_a_metrics_port_of_its_own() -> None:
    unit = (DEPLOY / "systemd" / "b2copy-sync-worker@.service").read_text()
    (listen,) = re.findall(r"^Environment=B2COPY_METRICS_LISTEN=127\.0\.0\.1:(.*)$", unit, re.M)
    ports = {int(listen.replace("%i", str(number))) for number in range(1, 10)}
    others = re.findall(r"--listen 127\.0\.0\.1:(\d+)", "".join(path.read_text() for path in UNITS))

    assert len(ports) == 9
    assert others
    assert ports & set(map(int, others)) == set()
    assert max(ports) < 65536
    assert set(re.findall(r"b2copy-sync-worker@(\w+)", (DEPLOY / "README.md").read_text())) <= set("123456789")


def stop_timeouts(name: str) -> list[int]:
    """Return how many seconds a process has to stop: by compose, Kubernetes and systemd."""
    (unit,) = (DEPLOY / "systemd").glob(f"b2copy-sync-{name}*.service")
    by_systemd = re.findall(r"^TimeoutStopSec=(\d+)s$", unit.read_text(), re.M)
    by_compose = COMPOSE["services"][name]["stop_grace_period"].removesuffix("s")
    return [int(by_compose), int(PODS[f"b2copy-{name}"]["terminationGracePeriodSeconds"]), *map(int, by_systemd)]


def test_a_worker_has_time_for_its_longest_call_and_its_patience_before_it_is_killed() -> None:
    field = Settings.model_fields["call_deadline"]
    (longest,) = [limit.le for limit in field.metadata if getattr(limit, "le", None)]
    assert field.default < SHUTDOWN_PATIENCE_S

    timeouts = stop_timeouts("worker")

    assert len(timeouts) == 3
    assert len(set(timeouts)) == 1, "compose, Kubernetes and systemd must say the same"
    assert timeouts[0] > longest + SHUTDOWN_PATIENCE_S
    assert len(set(stop_timeouts("beat"))) == 1


def test_sigterm_reaches_the_main_process_alone() -> None:
    containerfile = (DEPLOY / "Containerfile").read_text()
    assert "STOPSIGNAL SIGTERM" in containerfile
    assert re.findall(r"^CMD \[", containerfile, re.M)  # exec form: no shell in between
    for unit in UNITS:
        if "Type=oneshot" not in unit.read_text():
            assert "KillMode=mixed" in unit.read_text()
            assert "Restart=always" in unit.read_text()


def test_nothing_runs_with_more_rights_than_it_needs() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service["user"].startswith("0"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    for name, pod in PODS.items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
    assert re.search(r"^USER \d+:\d+$", (DEPLOY / "Containerfile").read_text(), re.M)
    for unit in UNITS:
        assert "DynamicUser=yes" in unit.read_text()


def test_no_secret_is_an_environment_variable() -> None:
    for path in SHIPPED:
        for scheme, login in re.findall(r"(rediss?|postgresql)://([^/\s@]+)@", path.read_text()):
            assert ":" not in login or path.suffix == ".md", f"{path.name}: {scheme} with a password"
    units = "".join(unit.read_text() for unit in UNITS)
    assert units.count("LoadCredential=") >= 4
    assert not re.search(r"PASSWORD=", (DEPLOY / "compose.yaml").read_text())


def files_read(pod: dict[str, Any]) -> set[str]:
    """Return the names of the mounted secret files that the settings of a pod's container name."""
    return {name for one in pod["containers"][0]["env"] for name in re.findall(r"/run/secrets/([\w.-]+)", one["value"])}


def test_each_process_is_given_the_secrets_that_it_reads_and_no_other() -> None:
    handbook = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    given = {
        secret: {Path(file).name for file in re.findall(r"--from-file=(\S+)", line)}
        for secret, line in re.findall(r"create secret generic (\S+) (.*)", handbook)
    }
    secret_of = {
        name: [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        for name, pod in PODS.items()
    }
    assert {name: given[secret] for name, [secret] in secret_of.items()} == {
        name: files_read(pod) for name, pod in PODS.items()
    }

    on_workers_host, elsewhere = re.findall(r"```console\n([^`]*?install -m 600 secrets/[^`]*)```", handbook)
    for block, units in ((on_workers_host, ("worker@", "console")), (elsewhere, ("beat", "metrics", "migrate"))):
        copied = {Path(file).name for file in re.findall(r"secrets/\S+", block)} | {"ca.pem"}
        texts = [(DEPLOY / "systemd" / f"b2copy-sync-{unit}.service").read_text() for unit in units]
        loaded = {Path(file).name for text in texts for file in re.findall(r"^LoadCredential=\w+:(.*)$", text, re.M)}
        assert copied == loaded - {"console.users"}  # `console-user` writes that one


def test_every_image_has_a_version_and_redis_keeps_its_messages() -> None:
    images = [service["image"] for service in COMPOSE["services"].values()]
    images += [container["image"] for pod in PODS.values() for container in pod["containers"]]
    images += re.findall(r"^ARG PYTHON=(.*)$", (DEPLOY / "Containerfile").read_text(), re.M)
    for image in images:
        assert re.search(r":-?[^:]*\d+\.\d+", image), image
        assert "latest" not in image
    redis = (DEPLOY / "redis" / "redis.conf").read_text()
    assert "\nappendonly yes\n" in redis
    assert "\nmaxmemory-policy noeviction\n" in redis
    assert "\nport 0\n" in redis


def test_the_build_lock_is_a_part_of_the_lock_for_development() -> None:
    def entries(name: str) -> set[str]:
        return set(re.split(r"\n(?=\S)", (DEPLOY / name).read_text().strip()))

    assert entries("requirements-build.txt") <= entries("requirements-dev.txt")
