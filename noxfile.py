"""What can be checked, tested and shown, and in which environment: `nox --list`.

`make test` runs the default sessions in this order; each can be run alone (`nox -s unit`), with arguments for
the tool behind `--` (`nox -s unit -- -k gtid`). Not for building images or running a local Kubernetes: those are
deploy/images and deploy/local, which the sessions call.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

ROOT = Path(__file__).parent
IMAGES = ["mariadb-operator:dev", "mariadb:10.11", "mariadb:11.8", "mariadb-lookalike:10.11"]
NAMESPACE = "mariadb-operator-system"
# Tests that share nothing. Stolen, because a few of them take most of the time.
PARALLEL = ["--numprocesses=auto", "--dist=worksteal"]
# deploy/images and deploy/local keep there what they made; deploy/local its kubectl, too.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mariadb-operator"

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"
nox.options.error_on_external_run = True
nox.options.sessions = [
    "lint",
    "types",
    "unit",
    "simulate",
    "unit-3.13",
    "integration",
    "e2e",
    "local",
    "docs",
    "diagrams",
]


def install(session: nox.Session) -> None:
    """Puts the locked development environment and this project into the session's environment."""
    session.install("--quiet", "--require-hashes", "-r", "requirements/dev.txt")
    session.install("--quiet", "--no-deps", "--editable", ".")


def require_programs(session: nox.Session, purpose: str) -> None:
    """Installs the programs of requirements/debian.txt that are missing, or says which and how to get them."""
    session.run("python", "deploy/packages.py", "--for", purpose)


def pytest(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Runs tests. No test collected is pytest's exit status 5, and so a failure, as it should be."""
    session.run("python", "-m", "pytest", *arguments, *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, import layers, shell scripts."""
    install(session)
    require_programs(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    scripts = [str(path.relative_to(ROOT)) for path in shell_scripts()]
    session.run("shellcheck", *scripts, external=True)


def shell_scripts() -> list[Path]:
    """Every shell script that is ours."""
    named = [ROOT / ".ci/run"]
    found = [
        path for folder in ("mariadb_operator", "deploy") for path in sorted((ROOT / folder).rglob("*.sh"))
    ]
    return named + found


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over the code, the tests and the tools."""
    install(session)
    session.run("mypy")
    session.run("mypy", "noxfile.py", "tests")
    for tool in ("deploy/demo", "deploy/images", "deploy/local", "deploy/packages.py"):
        session.run("mypy", tool, env={"MYPYPATH": tool})


@nox.session
def unit(session: nox.Session) -> None:
    """What needs no server: the machine, the models, the builders, against simulated neighbours."""
    install(session)
    pytest(session, "tests/unit", *PARALLEL)


@nox.session
def simulate(session: nox.Session) -> None:
    """Failovers under random faults in a simulated world, and broken rules that have to be found in it.

    `-- --seeds N` plays so many other seeds and no tests, `-- --seed N` one, with its story.
    """
    install(session)
    seeds = session.posargs or ["--seeds", "10"]
    if not session.posargs:
        # A seed is the same story only where sets of texts have the same order.
        pytest(session, "tests/simulation", *PARALLEL, env={"PYTHONHASHSEED": "0"})
    session.run("python", "-m", "tests.simulation", *seeds)


@nox.session(name="unit-3.13")
def unit_in_trixie(session: nox.Session) -> None:
    """The unit tests once more under the Python of Debian trixie, which the operator's image has."""
    install(session)
    if os.geteuid() != 0 and shutil.which("docker") is None:
        session.skip("needs root or a Docker engine, for a container of Debian trixie")
    command = ["python", "-m", "pytest", "tests/unit", *PARALLEL, *session.posargs]
    session.run("python", "deploy/images", "python313", *command)


@nox.session
def integration(session: nox.Session) -> None:
    """Real mariadbd processes on loopback."""
    install(session)
    require_programs(session, "integration")
    pytest(session, "tests/integration", *PARALLEL)


@nox.session
def e2e(session: nox.Session) -> None:
    """The operator in a real Kubernetes: the one of KUBECONFIG, else the local one."""
    install(session)
    given = os.environ.get("KUBECONFIG")
    kubeconfig = given or start_cluster(session)
    deploy_operator(session, kubeconfig)
    pytest(session, "tests/e2e", env={"KUBECONFIG": kubeconfig})
    if not given:
        session.log("the local cluster stays up for the next run; `make cluster-down` removes it")


@nox.session
def local(session: nox.Session) -> None:
    """The local Kubernetes itself, by clusters of its own: made, killed half-made, side by side, gone without a trace."""
    install(session)
    if os.environ.get("KUBECONFIG"):
        session.skip("KUBECONFIG names another cluster to test on; unset it to test deploy/local")
    require_root(session)
    session.run("python", "deploy/local", "check")
    session.run("python", "deploy/local", "programs")
    pytest(session, "tests/local")


@nox.session
def docs(session: nox.Session) -> None:
    """Builds the pages, every warning an error, and checks their code blocks and links."""
    install(session)
    site = str(Path(session.create_tmp()) / "site")
    # Its notice of a successor is news, not a fault of our pages.
    quiet = {"NO_MKDOCS_2_WARNING": "1"}
    session.run("mkdocs", "build", "--strict", "--quiet", "--site-dir", site, env=quiet)
    pytest(session, "tests/documentation")


@nox.session
def diagrams(session: nox.Session) -> None:
    """What is generated from the code is the committed one: docs/machine/ and crds/."""
    install(session)
    require_programs(session, "diagrams")
    session.run("python", "-m", "statemachines", "export", "--check")
    session.run("python", "-m", "mariadb_operator.api.crd", "--check")


@nox.session(default=False)
def generate(session: nox.Session) -> None:
    """Writes docs/machine/, docs/reference/ and crds/ anew."""
    install(session)
    require_programs(session, "diagrams")
    session.run("python", "-m", "statemachines", "export")
    session.run("python", "-m", "mariadb_operator.api.crd")
    session.run("python", "-m", "tests.documentation.reference")


@nox.session(default=False)
def tidy(session: nox.Session) -> None:
    """Formats, and mends what ruff can mend."""
    install(session)
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Resolves requirements/*.txt anew, for every supported Python; `-- --upgrade` takes newer versions."""
    session.install("--quiet", "uv")
    pins = [
        ("requirements/operator.txt", ["pyproject.toml"]),
        (
            "requirements/dev.txt",
            ["pyproject.toml", "--group", "dev", "--constraint", "requirements/operator.txt"],
        ),
        ("requirements/nox.txt", ["--group", "nox", "--constraint", "requirements/dev.txt"]),
    ]
    for target, sources in pins:
        session.run(
            *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
            *("--generate-hashes", "--no-emit-index-url", "--custom-compile-command", "nox -s lock"),
            *[*sources, "--output-file", target, *session.posargs],
        )


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """The figures of docs/benchmarks.md, measured on the local cluster."""
    install(session)
    kubeconfig = os.environ.get("KUBECONFIG") or start_cluster(session)
    deploy_operator(session, kubeconfig)
    pytest(session, "tests/benchmarks", "-s", env={"KUBECONFIG": kubeconfig})
    session.run("python", "-m", "tests.benchmarks.report")


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """A cluster from nothing, its primary killed under a writer, and what became of it."""
    install(session)
    if kubeconfig := os.environ.get("KUBECONFIG"):
        show(session, kubeconfig)
        return
    require_root(session)
    if cluster_is_up(session):
        show(session, start_cluster(session))
        return
    try:
        show(session, start_cluster(session))
    finally:
        stop_cluster(session)


def show(session: nox.Session, kubeconfig: str) -> None:
    """Runs the demo in that cluster."""
    deploy_operator(session, kubeconfig)
    session.run("python", "deploy/demo", *session.posargs, env={"KUBECONFIG": kubeconfig})


@nox.session(default=False)
def cluster(session: nox.Session) -> None:
    """A local Kubernetes with the images loaded and the operator running."""
    install(session)
    kubeconfig = start_cluster(session)
    deploy_operator(session, kubeconfig)
    kubectl = shutil.which("kubectl")
    assert kubectl is not None
    session.log("ready; to use it:")
    session.log(f"export KUBECONFIG={kubeconfig}")
    session.log(f"export PATH={Path(kubectl).parent}:$PATH")


@nox.session(default=False)
def cluster_down(session: nox.Session) -> None:
    """Removes the local Kubernetes and everything in it."""
    install(session)
    stop_cluster(session)


def start_cluster(session: nox.Session) -> str:
    """Brings up the local cluster with the images of this work tree; returns the path of its kubeconfig."""
    require_root(session)
    # Building the images changes this machine already: first it is seen whether all is there that has to be.
    session.run("python", "deploy/local", "check")
    python = str(Path(session.bin) / "python")
    # Both take minutes the first time, and each waits for the network or one compiler half of the time.
    with subprocess.Popen([python, "deploy/images", "build"], cwd=ROOT) as building:
        try:
            session.run("python", "deploy/local", "programs")
        except BaseException:
            building.terminate()
            raise
        if building.wait() != 0:
            session.error(
                f"building the images failed with status {building.returncode}; its output is above"
            )
    tars = [CACHE / "images" / (image.replace(":", "_") + ".tar") for image in IMAGES]
    session.run("python", "deploy/local", "up", *(f"--image={tar}" for tar in tars))
    printed = session.run("python", "deploy/local", "kubeconfig", silent=True)
    # Tests and pages call kubectl: the one of the cluster's version comes first, for nox and for what it runs.
    for kubectl in CACHE.glob("programs/kubernetes-*/kubectl"):
        os.environ["PATH"] = os.pathsep.join([str(kubectl.parent), os.environ.get("PATH") or os.defpath])
        # Empty in some versions of nox: then the process's own is meant, not a PATH of one folder.
        inherited = session.env.get("PATH") or os.environ["PATH"]
        session.env["PATH"] = os.pathsep.join([str(kubectl.parent), inherited])
    return str(printed).strip()


def cluster_is_up(session: nox.Session) -> bool:
    """Whether `up` had come to its end; a kubeconfig alone may be older than the last boot."""
    command = [str(Path(session.bin) / "python"), "deploy/local", "status"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def stop_cluster(session: nox.Session) -> None:
    """Takes the local cluster down, and the Docker engine that built its images, if that is ours."""
    session.run("python", "deploy/local", "down")
    session.run("python", "deploy/images", "stop")


def require_root(session: nox.Session) -> None:
    """Ends the session with the other way there is, unless root."""
    if os.geteuid() != 0:
        session.error(
            "the local Kubernetes needs root (network namespaces, cgroups, mounts). Run this as root, or set "
            "KUBECONFIG to any cluster whose nodes have these images: " + ", ".join(IMAGES)
        )


def deploy_operator(session: nox.Session, kubeconfig: str) -> None:
    """Applies the resource definitions and the operator, and waits until it runs on the image at hand."""
    if shutil.which("kubectl") is None:
        session.error(
            "KUBECONFIG is set, and kubectl is not on PATH: put one of that cluster's version there, or unset "
            "KUBECONFIG for the local cluster, which brings its own"
        )
    kubectl = ["kubectl", "--kubeconfig", kubeconfig]
    deployment = ["deployment/mariadb-operator", "--namespace", NAMESPACE]
    already = session.run(*kubectl, "get", *deployment, "--ignore-not-found", silent=True, external=True)
    steps = [
        ["apply", "--server-side", "-k", "deploy/kustomize/crds"],
        ["wait", "--for=condition=Established", "--timeout=60s", "crd/mariadbclusters.mariadb.fsm.dev"],
        # A test that was interrupted may have left its hand on a field, such as replicas.
        ["apply", "--server-side", "--force-conflicts", "-k", "deploy/kustomize"],
        # The tag stays the same from build to build: without this the old image would go on.
        *([["rollout", "restart", *deployment]] if already else []),
        ["rollout", "status", *deployment, "--timeout=180s"],
    ]
    for step in steps:
        session.run(*kubectl, *step, external=True)
