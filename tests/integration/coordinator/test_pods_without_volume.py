"""Workers that share no folder with the coordinator: their logs and their job's result come to it all the same.

Real coordinators, agents and training, over real ports; the agents' folders are their own, as those of pods are.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.integration.coordinator.conftest import make_bundle, make_document

from cordee.coordinator.client import Client, read_endpoint

pytestmark = pytest.mark.slow

PODLIKE = Path(__file__).parent / "podlike_coordinator.py"
WAIT_SECONDS = 60.0

SCRIPT = """
import os, sys, time
from pathlib import Path
from cordee import trainer
from cordee.trainer import data, elastic, nn, optim

trainer.manual_seed(1)
images, labels = data.datasets.digits()
images = images.reshape(-1, 64) / 16
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = optim.AdamW(model.parameters(), lr=3e-3)
criterion = nn.CrossEntropyLoss()
loader = data.DataLoader(data.TensorDataset(images, labels), batch_size=128, shuffle=True, shards=4, seed=3)
run = elastic.Run(model, optimizer, loader)
print("the script begins", file=sys.stderr)
for step in run.steps(epochs=EPOCHS):
    for batch in step.shards:
        step.backward(criterion(model(batch.x), batch.y))
    step.commit()
    print(f"step {step.number}", "ü" * 100)
    time.sleep(PAUSE)
    while step.number == 15 and not Path("GATE").exists():
        print("waits to be let through")
        time.sleep(0.1)
folder = Path(os.environ["CORDEE_OUTPUT_DIR"], "notes")
folder.mkdir(exist_ok=True)
(folder / "end of it.txt").write_text("done\\n" * 1000)
"""


class Cluster:
    """A coordinator that can be killed, and its pods."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.state, self.pods = folder / "state", folder / "pods"
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PODLIKE), str(self.state), str(self.pods)], env=self._environment
        )
        eventually(self._answers)

    def _answers(self) -> bool:
        endpoint = read_endpoint(self.state)
        if endpoint is None:
            return False
        with Client(endpoint) as client:
            return client.is_alive()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def client(self) -> Client:
        endpoint = read_endpoint(self.state)
        assert endpoint is not None
        return Client(endpoint)

    def submit(self, script: str, **spec: Any) -> str:
        bundle, sha256 = make_bundle({"train.py": textwrap.dedent(script)})
        with self.client() as client:
            document = make_document("pods", (2, 2))
            document["spec"] |= spec
            return client.submit(document, bundle, sha256)["id"]

    def end_of(self, job: str) -> Any:
        with self.client() as client:
            eventually(lambda: client.job(job)["state"] in ("succeeded", "failed", "cancelled"))
            return client.job(job)

    def written(self, worker: str = "*") -> list[bytes]:
        """Every line of the agents' own logs."""
        files = sorted(self.pods.glob(f"{worker}.*/logs/*.jsonl*"))
        return [line for file in files for line in file.read_bytes().splitlines()]

    def arrived(self, job: str, worker: str = "*") -> list[bytes]:
        """Every line of them that the coordinator has."""
        files = sorted((self.state / "jobs" / job / "logs").glob(f"{worker}.jsonl*"))
        return [line for file in files for line in file.read_bytes().splitlines()]

    def close(self) -> None:
        with contextlib.suppress(Exception), self.client() as client:
            for job in client.jobs():
                with contextlib.suppress(Exception):
                    client.cancel(job["id"])
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(WAIT_SECONDS)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("PODS") == str(self.pods):
                    process.kill()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.05)  # other processes bring it about


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CORDEE_")}
    kept |= getattr(request, "param", {})
    cluster = Cluster(tmp_path, kept | {"CORDEE_DEVICE": "cpu", "XDG_DATA_HOME": str(tmp_path / "data")})
    yield cluster
    cluster.close()


def script(epochs: int = 1, pause: float = 0.0, gate: Path = Path("/")) -> str:
    """`gate`: it goes beyond step 15 when that is there, and prints lines until then."""
    return SCRIPT.replace("EPOCHS", str(epochs)).replace("PAUSE", str(pause)).replace("GATE", str(gate))


def test_logs_and_result_arrive_though_no_folder_is_shared(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(script())
    view = cluster.end_of(job)
    assert (view["state"], view["step"]) == ("succeeded", 15), view["events"]
    folder = cluster.state / "jobs" / job
    assert Path(view["weights_path"]) == folder / "result" / "model.safetensors"
    with cluster.client() as client:
        lines = list(client.logs(job, follow=True))
        for worker in (f"{job}-w0", f"{job}-w1"):
            said = [line["line"] for line in lines if line["worker"] == worker and line["stream"] == "stdout"]
            assert said == [f"step {step} {'ü' * 100}" for step in range(1, 16)]
        assert sorted(cluster.arrived(job)) == sorted(cluster.written())
        files = client.files(job)
        assert [file["path"] for file in files] == ["result/model.safetensors", "output/notes/end of it.txt"]
        for file in files:
            sha256 = client.fetch(job, file["path"], tmp_path / "fetched" / file["path"])
            (original,) = {path.read_bytes() for path in cluster.pods.glob(f"*/{file['path']}")}
            assert (tmp_path / "fetched" / file["path"]).read_bytes() == original
            assert sha256 == hashlib.sha256(original).hexdigest()
    weights = (tmp_path / "fetched" / "result" / "model.safetensors").read_bytes()
    metadata = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])["__metadata__"]
    assert metadata["weights_sha256"] == view["weights_sha256"]


def test_a_killed_coordinator_loses_and_doubles_no_line(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(script(epochs=2, gate=tmp_path / "gate"))
    eventually(lambda: len(cluster.arrived(job)) > 8)
    for _ in range(2):
        cluster.kill()
        there = len(cluster.written())
        eventually(lambda there=there: len(cluster.written()) > there + 6)  # they train on, and write
        cluster.start()
        eventually(lambda there=there: len(cluster.arrived(job)) > there)
    (tmp_path / "gate").touch()
    view = cluster.end_of(job)
    assert (view["state"], view["step"], view["recoveries"]) == ("succeeded", 30, 0), view["events"]
    with cluster.client() as client:
        assert len(list(client.logs(job, follow=True))) == len(cluster.written())
    assert sorted(cluster.arrived(job)) == sorted(cluster.written())


PUTS_OUT = """
worker = os.environ["CORDEE_WORKER"]
Path(os.environ["CORDEE_OUTPUT_DIR"], f"{worker}.txt").write_text(f"{worker}\\n" * 1000)
"""


def test_a_drained_pods_last_lines_and_what_it_has_put_out_arrive(cluster: Cluster) -> None:
    job = cluster.submit(script(epochs=400, pause=0.05).replace("for step in", PUTS_OUT + "for step in"))
    eventually(lambda: len(cluster.arrived(job)) > 8)
    with cluster.client() as client:
        client.scale(job, 1, 1)
        eventually(lambda: client.job(job)["workers"]["now"] == 1)
        eventually(lambda: any(b"drained (exit code 71)" in line for line in cluster.arrived(job)))
        left = [file["path"] for file in client.files(job)]
        client.cancel(job)
        assert list(client.logs(job, follow=True))
    (drained,) = {worker for worker in ("w0", "w1") if f"output/{job}-{worker}.txt" in left}
    (theirs,) = cluster.pods.glob(f"{job}-{drained}.*/output/*.txt")
    assert (cluster.state / "jobs" / job / "output" / theirs.name).read_bytes() == theirs.read_bytes()
    assert sorted(cluster.arrived(job)) == sorted(cluster.written())


def test_a_killed_forwarder_is_replaced_and_doubles_nothing(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(script(epochs=2, gate=tmp_path / "gate"))
    eventually(lambda: len(cluster.arrived(job)) > 8)
    killed = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mine = process.environ().get("PODS") == str(cluster.pods)
            if mine and "cordee.worker.forwarder" in process.cmdline():
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
    assert killed == 2
    (tmp_path / "gate").touch()
    assert cluster.end_of(job)["state"] == "succeeded"
    with cluster.client() as client:
        assert list(client.logs(job, follow=True))
    assert sum(b"the forwarder of this log was killed by SIGKILL" in line for line in cluster.written()) == 2
    assert sorted(cluster.arrived(job)) == sorted(cluster.written())


def test_a_ledger_is_proven_though_each_worker_wrote_its_own(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(script(epochs=2, gate=tmp_path / "gate"), ledger=True)
    eventually(lambda: len(cluster.arrived(job)) > 8)
    with cluster.client() as client:  # rank 0 goes, with its folder: what it had noted is not lost
        first = next(member for member in client.job(job)["members"] if member["rank"] == 0)
    agent = psutil.Process(first["pid"]).parent()
    assert agent is not None
    (pod,) = cluster.pods.glob(f"{first['worker']}.*")
    agent.kill()
    agent.wait()
    shutil.rmtree(pod)
    (tmp_path / "gate").touch()
    view = cluster.end_of(job)
    assert (view["state"], view["step"]) == ("succeeded", 30), view["events"]
    proof = ledger_of(cluster, job)
    assert (proof["proven"], proof["steps"], proof["num_violations"]) == (True, 30, 0), proof
    assert len(list((cluster.state / "jobs" / job / "ledger").iterdir())) >= 2


def ledger_of(cluster: Cluster, job: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "cordee.coordinator.cli", "ledger", job, "--state", str(cluster.state), "-o", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return json.loads(done.stdout)


# --- as a container's process 1 ---

contained = pytest.mark.parametrize("cluster", [{"CONTAINED": "1"}], indirect=True, ids=["contained"])
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")),
    reason="makes namespaces: needs root, and util-linux' unshare and setpriv",
)

ORPHANS = """
import subprocess
for _ in range(20):  # whose parent is gone before they end
    subprocess.run(["sh", "-c", "(setsid sleep 0.05 &) ; exit 0"], check=True)
try:
    Path("/written").write_text("")
except OSError as error:
    print("root:", error.strerror)
print("I am", os.getuid(), os.getppid(), os.environ.get("HOME"))
time.sleep(0.3)
states = [path.read_text().rpartition(")")[2].split()[0] for path in Path("/proc").glob("[0-9]*/stat")]
print("zombies:", states.count("Z"))
"""


@needs_root
@contained
def test_a_job_trains_where_every_agent_is_process_1_of_a_nameless_user(cluster: Cluster) -> None:
    job = cluster.submit(script(epochs=2, pause=0.05).replace("run = elastic", ORPHANS + "run = elastic"))
    view = cluster.end_of(job)
    assert (view["state"], view["step"]) == ("succeeded", 30), (view["events"], cluster.arrived(job))
    with cluster.client() as client:
        said = [line["line"] for line in client.logs(job, worker=f"{job}-w1", follow=True)]
    assert said[:2] == ["root: Read-only file system", "I am 65532 1 None"]
    assert "zombies: 0" in said
    assert sorted(cluster.arrived(job)) == sorted(cluster.written())
    assert Path(view["weights_path"]).is_file()


@needs_root
@contained
def test_process_1_drains_when_it_is_asked_to(cluster: Cluster) -> None:
    job = cluster.submit(script(epochs=400, pause=0.05), workers={"min": 1, "max": 2})
    eventually(lambda: len(cluster.arrived(job)) > 8)
    with cluster.client() as client:
        first = agent_of(cluster, f"{job}-w0")
        os.kill(first.pid, signal.SIGTERM)  # as the kubelet does
        first.wait(WAIT_SECONDS)
        eventually(lambda: any(b"drained (exit code 71)" in line for line in cluster.arrived(job, f"{job}-w0")))
        kinds = [event["kind"] for event in client.events(job)]
        assert "drained" in kinds, kinds
        assert "lost" not in kinds
        client.cancel(job)


def agent_of(cluster: Cluster, worker: str) -> psutil.Process:
    """The process that is 1 in its namespace."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command, told = process.cmdline(), process.environ()
            mine = told.get("PODS") == str(cluster.pods) and told.get("CORDEE_WORKER") == worker
            if mine and command[0] == sys.executable and "cordee.worker.agent" in command:
                return process
    raise AssertionError(worker)
