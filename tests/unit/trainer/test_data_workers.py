"""Laws of data workers: no bit depends on them, what goes wrong in one is told, and nothing of them is left behind."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cordee import trainer
from cordee.trainer import data
from cordee.trainer.data import Batch, DataLoader, TensorDataset
from cordee.trainer.tensors import Tensor

HERE = Path(__file__).parent
KINDS = [
    {"num_workers": 1},
    {"num_workers": 3, "prefetch_factor": 1},
    {"num_workers": 3, "persistent_workers": True},
    pytest.param({"num_workers": 1, "workers": "processes"}, marks=pytest.mark.slow),
    pytest.param({"num_workers": 3, "workers": "processes", "persistent_workers": True}, marks=pytest.mark.slow),
]


@pytest.fixture
def support(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("data_support")


def fingerprint(batches: Any) -> str:
    """Of all there is in some batches, in order."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Batch):
            add(dict(value.items()) if value._named is not None else value.fields)
        elif isinstance(value, dict):
            for key in value:
                found.update(str(key).encode())
                add(value[key])
        elif isinstance(value, (tuple, list)):
            found.update(b"(")
            for item in value:
                add(item)
        elif isinstance(value, Tensor):
            found.update(f"{value.dtype}{value.shape}".encode() + value.numpy().tobytes())
        else:
            found.update(repr(value).encode())

    for batch in batches:
        add(batch)
    return found.hexdigest()


def data_workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # one that has ended meanwhile
            if "trainer.data.worker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def leaves_no_worker() -> bool:
    gc.collect()
    deadline = time.monotonic() + 5  # what collects a forgotten loader may be another thread, and still at it
    while data_workers() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not data_workers()


@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_depends_on_the_workers(support: Any, kind: dict[str, Any]) -> None:
    def loader(**kwargs: Any) -> DataLoader:
        return DataLoader(support.Augmented(50), 8, shuffle=True, seed=5, **kwargs)

    trainer.manual_seed(3)
    alone, helped = loader(), loader(**kind)
    for _ in range(2):
        expected = fingerprint(alone)
        trainer.manual_seed(4)  # what the training draws meanwhile is another matter
        trainer.rand(3)
        assert fingerprint(helped) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_shards_of_any_world_are_those_of_the_loader_alone(support: Any, kind: dict[str, Any]) -> None:
    alone = DataLoader(support.Augmented(50), 16, shuffle=True, shards=4)
    helped = DataLoader(support.Augmented(50), 16, shuffle=True, shards=4, **kind)
    # Ranges as a run deals them: two workers, then alone, a step again after a loss, then three.
    reads = [
        (0, 0, (0, 2)),
        (0, 1, (0, 2)),
        (0, 1, (0, 4)),
        (0, 2, (0, 4)),
        (0, 3, (1, 3)),
        (1, 0, (1, 3)),
        (1, 1, (3, 4)),
    ]
    for epoch, index, shards in reads:
        helped.expect(epoch, index, shards)
        for shard in range(*shards):
            ours, theirs = helped.shard_batch(epoch, index, shard), alone.shard_batch(epoch, index, shard)
            assert (ours is None) == (theirs is None)
            assert fingerprint([ours]) == fingerprint([theirs])
    assert fingerprint([helped.shard_batch(5, 2, 1)]) == fingerprint([alone.shard_batch(5, 2, 1)])  # not expected


def test_what_an_elastic_step_reads_is_loaded_ahead() -> None:
    loaded: list[int] = []

    class Watching(data.Dataset[Any]):
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> int:
            loaded.append(index)
            return index

    loader = DataLoader(Watching(), 16, shards=4, num_workers=1, prefetch_factor=3)
    loader.expect(0, 0, (0, 2))
    deadline = time.monotonic() + 10
    while len(loaded) < 12 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert loaded == [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19]  # two shards of batch 0, the first of batch 1
    loader.expect(0, 0, (0, 3))
    batches = [loader.shard_batch(0, 0, shard) for shard in range(3)]
    assert [batch.x.numpy()[0] for batch in batches if batch] == [0, 4, 8]
    assert loaded.count(0) == 1
    assert loaded.count(8) == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_how_long_a_step_waits_for_data_is_told(num_workers: int) -> None:
    ready = threading.Event()

    class Slow(data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, number: int) -> int:
            ready.wait(0.02)  # nobody sets it
            return number

    loader = data.DataLoader(Slow(), batch_size=2, shards=2, num_workers=num_workers)
    loader.expect(0, 0, (0, 2))
    assert loader.waited_seconds == 0.0
    loader.shard_batch(0, 0, 0)
    first = loader.waited_seconds
    assert first >= 0.01 if num_workers == 0 else first > 0.0
    for _ in loader:
        pass
    assert loader.waited_seconds > first


def test_every_sample_comes_once_with_many_threads() -> None:
    loader = DataLoader(TensorDataset(np.arange(1000)), 7, shuffle=True, num_workers=4)
    assert sorted(int(value) for batch in loader for value in batch.x.numpy()) == list(range(1000))


@pytest.mark.parametrize(
    "kind", [{"num_workers": 2}, pytest.param({"num_workers": 2, "workers": "processes"}, marks=pytest.mark.slow)]
)
def test_an_exception_comes_out_where_its_batch_would(support: Any, kind: dict[str, Any]) -> None:
    loader = DataLoader(support.Failing(40), 4, **kind)
    seen = []
    with pytest.raises(LookupError, match="sample 21 is broken") as caught:
        for batch in loader:
            seen.extend(batch.x.numpy().tolist())
    assert seen == list(range(20))
    trace = "".join(map(str, [caught.getrepr(style="short")]))
    assert "data_support.py" in trace  # where it was raised, in the worker
    assert "__getitem__" in trace
    assert leaves_no_worker()


@pytest.mark.slow
def test_an_exception_that_cannot_be_sent_is_told_in_words(support: Any) -> None:
    with pytest.raises(RuntimeError, match="Unreadable: 1 and 2"):
        next(iter(DataLoader(support.FailingOddly(4), num_workers=1, workers="processes")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "Suicidal",
            r"was ended by signal 9 \(SIGKILL\) while it loaded the samples at positions 20 to 23 of epoch 0",
        ),
        ("Quitting", "has ended with exit code 7"),
    ],
)
def test_a_worker_that_dies_is_noticed_at_once(support: Any, name: str, words: str) -> None:
    loader = DataLoader(getattr(support, name)(40), 4, num_workers=2, workers="processes", persistent_workers=True)
    with pytest.raises(RuntimeError, match=words):
        for _ in loader:
            pass
    assert leaves_no_worker()
    loader.dataset.__class__ = support.Plain  # a new iteration starts new workers
    assert len(list(loader)) == 10


@pytest.mark.slow
def test_a_worker_killed_from_outside_is_noticed_while_it_is_waited_for(support: Any) -> None:
    loader = DataLoader(support.Sleeping(4), num_workers=1, workers="processes")

    assert leaves_no_worker()

    def kill() -> None:
        while not (children := data_workers()):
            time.sleep(0.01)
        time.sleep(1.5)
        children[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RuntimeError, match="signal 9"):
        next(iter(loader))
    killer.join()


def test_a_timeout_is_told(support: Any) -> None:
    release = threading.Event()

    class Hanging(support.Plain):  # type: ignore[misc,name-defined]
        def __getitem__(self, index: int) -> int:
            release.wait(30)
            return index

    with pytest.raises(RuntimeError, match=r"nothing came from the data workers for 0.2 seconds \(its timeout\)"):
        try:
            next(iter(DataLoader(Hanging(4), num_workers=1, timeout=0.2)))
        finally:
            release.set()


@pytest.mark.parametrize("kind", [{}, pytest.param({"workers": "processes"}, marks=pytest.mark.slow)])
def test_workers_know_who_they_are_and_are_prepared(support: Any, kind: dict[str, Any]) -> None:
    dataset = support.WhoAmI(40)
    loader = DataLoader(dataset, 1, num_workers=2, worker_init_fn=support.open_in_worker, **kind)
    seen = [tuple(int(field.item()) for field in batch) for batch in loader]
    assert {count for _, _, count, _ in seen} == {2}
    assert {number for _, number, _, _ in seen} <= {0, 1}
    if kind:
        assert os.getpid() not in {pid for pid, _, _, _ in seen}
        assert all(number == opened for _, number, _, opened in seen)
    assert data.get_worker_info() is None


EPOCHS = """
import gc, json, psutil
import numpy as np
from cordee.trainer.data import DataLoader, TensorDataset

dataset = TensorDataset(np.ones((256, 50_000), np.float32))
process = psutil.Process()
for _ in range(8):  # each hands out 51 MB
    for batch in DataLoader(dataset, 32, num_workers=2, workers="processes"):
        assert batch.x.shape == (32, 50_000)
    gc.collect()
    print(json.dumps([process.num_fds(), process.memory_info().rss, len(process.children())]))
"""


@pytest.mark.slow
def test_processes_leave_no_descriptor_no_memory_and_no_process() -> None:
    before = set(Path("/dev/shm").glob("*cordee*"))  # others'
    # In a process where nothing else comes and goes: this one's memory is that of all tests before.
    script = subprocess.run([sys.executable, "-P", "-c", EPOCHS], capture_output=True, text=True, check=False)
    assert script.returncode == 0, script.stderr
    first, *_, last = [json.loads(line) for line in script.stdout.splitlines()][1:]
    assert last[0] == first[0]
    assert last[1] - first[1] < 80e6
    assert last[2] == first[2] == 0
    assert set(Path("/dev/shm").glob("*cordee*")) <= before


@pytest.mark.slow
def test_arrays_of_a_dataset_are_in_memory_once_for_all_processes(support: Any) -> None:
    dataset = TensorDataset(np.ones((64, 500_000), np.float32))  # 128 MB
    loader = DataLoader(dataset, 8, num_workers=2, workers="processes", persistent_workers=True)
    assert len(list(loader)) == 8
    workers = data_workers()
    assert len(workers) == 2
    assert all(worker.memory_full_info().uss < 110e6 for worker in workers)


def test_forgotten_loaders_end_their_threads() -> None:
    before = set(threading.enumerate())  # by identity: those that earlier tests forgot may end meanwhile
    loader = DataLoader(TensorDataset(np.arange(100)), 4, num_workers=3, persistent_workers=True)
    for _ in range(3):
        iterator = iter(loader)
        next(iterator)
        del iterator
    del loader
    gc.collect()
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def run_script(tmp_path: Path, text: str) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])},
    )  # fmt: skip


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once_unless_its_own_classes_are_needed(tmp_path: Path) -> None:
    process = run_script(
        tmp_path,
        """
        import numpy as np
        from cordee.trainer import data
        print("once")
        loader = data.DataLoader(data.TensorDataset(np.arange(8)), 4, num_workers=2, workers="processes")
        print([batch.x.tolist() for batch in loader])
        """,
    )
    out, err = process.communicate(timeout=60)
    assert out == "once\n[[0, 1, 2, 3], [4, 5, 6, 7]]\n", err

    own = """
        import numpy as np
        from cordee.trainer import data
        class Own(data.Dataset):
            def __len__(self):
                return 8
            def __getitem__(self, index):
                return index
        {guard}
            loader = data.DataLoader(Own(), 4, num_workers=1, workers="processes")
            print([batch.x.tolist() for batch in loader])
        """
    out, err = run_script(tmp_path, own.format(guard="if True:")).communicate(timeout=60)
    assert 'put what is to run once below `if __name__ == "__main__":`' in err
    out, err = run_script(tmp_path, own.format(guard='if __name__ == "__main__":')).communicate(timeout=60)
    assert out == "[[0, 1, 2, 3], [4, 5, 6, 7]]\n", err


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_trains_however_it_ends(tmp_path: Path, end: signal.Signals) -> None:
    process = run_script(
        tmp_path,
        """
        import data_support
        from cordee.trainer import data
        loader = data.DataLoader(data_support.Sleeping(8), 4, num_workers=2, workers="processes")
        next(iter(loader))
        """,
    )
    parent = psutil.Process(process.pid)
    deadline = time.monotonic() + 30
    while len(children := parent.children()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(2)  # they are asleep in their samples now
    process.send_signal(end)
    process.communicate(timeout=30)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert process.returncode == -end


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda d: DataLoader(d, prefetch_factor=2), ValueError, "prefetch_factor is about data workers"),
        (lambda d: DataLoader(d, persistent_workers=True), ValueError, "persistent_workers is about data workers"),
        (lambda d: DataLoader(d, num_workers=-1), ValueError, "num_workers must be at least 0"),
        (lambda d: DataLoader(d, num_workers=1, timeout=-1), ValueError, "timeout must not be negative"),
        (
            lambda d: DataLoader(d, workers="goblins"),
            ValueError,
            'workers is "threads" or "processes", not \'goblins\'',
        ),
        (lambda d: DataLoader(d, multiprocessing_context="fork"), ValueError, "a fork copies threads"),
        (
            lambda d: next(iter(DataLoader(d, num_workers=1, workers="processes", collate_fn=lambda s: s))),
            TypeError,
            "cannot be sent to data workers that are processes",
        ),
    ],
)
def test_a_mistake_is_a_sentence(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make(TensorDataset(np.arange(8)))
