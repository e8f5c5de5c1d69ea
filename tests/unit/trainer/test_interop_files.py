"""Files of weights: what others wrote is read exactly, what we write others read, and nothing in them is ever run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import interop, nn, optim
from cordee.trainer.array import to_numpy
from cordee.trainer.interop.pickle_reader import PickleRefusedError, read_pickle
from cordee.trainer.interop.safetensors import WeightsError

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "torch"


def values(tensor: Any) -> Any:
    return np.asarray(tensor.detach())


# -- safetensors -------------------------------------------------------------------------------------------------------


def test_pytorchs_safetensors_load_into_the_same_model() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.LayerNorm(2))
    model.load_state_dict(ct.load(GOLDEN / "model.safetensors"))
    for number, parameter in enumerate(model.parameters()):
        expected = (np.arange(parameter.numel()).reshape(parameter.shape) + number) / 8  # as make_torch_files.py says
        np.testing.assert_array_equal(values(parameter), expected.astype(np.float32))
    assert interop.safetensors_metadata(GOLDEN / "model.safetensors") == {"made by": "PyTorch"}


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "uint16", "bool", "complex64"],
)
@pytest.mark.parametrize("shape", [(), (0, 2), (3,), (2, 3)])
def test_safetensors_give_back_what_was_saved(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    ct.save({"a": ct.tensor(array), "odd": ct.tensor(np.ones(3, np.int8)), "same": ct.tensor(array)}, tmp_path / "w")
    back = ct.load(tmp_path / "w")
    assert back["a"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(values(back["a"]), array)
    np.testing.assert_array_equal(values(back["same"]), array)


def test_bfloat16_and_strided_tensors_are_saved_exactly(tmp_path: Path) -> None:
    brain = ct.tensor(np.array([1.5, -3.25, 1e30], ml_dtypes.bfloat16))
    strided = ct.tensor(np.arange(12.0).reshape(3, 4)).T
    ct.save({"brain": brain, "strided": strided}, tmp_path / "w.safetensors")
    back = ct.load(tmp_path / "w.safetensors")
    assert back["brain"].dtype == np.dtype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(to_numpy(back["brain"].data), to_numpy(brain.data))
    np.testing.assert_array_equal(values(back["strided"]), np.arange(12.0).reshape(3, 4).T)


def test_writing_into_a_loaded_tensor_does_not_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    ct.save({"a": ct.ones(3)}, path)
    before = path.read_bytes()
    ct.load(path)["a"].fill_(5)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(values(ct.load(path)["a"]), np.ones(3))


def write_safetensors(path: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data", "sentence"),
    [
        ({"a": entry([2], 0, 8)}, b"1234", "cut off"),
        ({"a": entry([2], 0, 4)}, b"1234", "needs 8 bytes and has 4"),
        ({"a": entry([1], 4, 8)}, b"12345678", "begins at byte 4"),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"1234", "where 4 was expected"),
        ({"a": entry([-1], 0, -4)}, b"", "at least 0"),
        ({"a": entry([2**62, 2**62], 0, 4)}, b"1234", "needs"),
        ({"a": entry([1], 0, 4, "F31")}, b"1234", "F31"),
        ({"a": 3}, b"", "no dtype, shape"),
        ([], b"", "not an object"),
        (b'{"a": 1', b"", "not JSON"),
        (b'{"a": {}, "a": {}}', b"", "twice"),
    ],
)
def test_a_damaged_safetensors_file_is_refused_in_a_sentence(
    tmp_path: Path, header: Any, data: bytes, sentence: str
) -> None:
    path = tmp_path / "bad.safetensors"
    write_safetensors(path, header, data)
    with pytest.raises(WeightsError, match=sentence):
        interop.load_safetensors(path)


def test_a_file_that_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello, this is no file of weights")
    (tmp_path / "short").write_bytes(b"12")
    for name in ("text", "short"):
        with pytest.raises(WeightsError, match="no safetensors file"):
            ct.load(tmp_path / name)


def test_what_is_no_tensor_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'epoch' is a int"):
        interop.save_safetensors({"epoch": 3}, tmp_path / "w")
    for thing, sentence in (
        (nn.Linear(2, 3), r"this is a Linear: save its state_dict\(\) instead: save\(x.state_dict\(\), f\)"),
        ({"a": [1, nn.Linear(2, 3)]}, r"\['a'\]\['1'\] is a Linear: save its state_dict"),
        ({"when": {1, 2}}, r"\['when'\] is a set: files hold tensors, numbers, texts"),
        ({(1, 2): 3}, "a key of this is a tuple"),
    ):
        with pytest.raises(TypeError, match=sentence):
            ct.save(thing, tmp_path / "w")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_as_pytorchs_scripts_write_them_comes_back(tmp_path: Path) -> None:
    def build() -> tuple[nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler]:
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        optimizer = optim.AdamW(net.parameters(), lr=0.1, betas=(0.8, 0.9))
        return net, optimizer, optim.lr_scheduler.StepLR(optimizer, 2)

    def train(net: nn.Module, optimizer: optim.Optimizer, scheduler: optim.lr_scheduler.LRScheduler) -> list[float]:
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = net(ct.arange(12.0).view(4, 3)).square().mean()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        return losses

    first = build()
    train(*first)
    states = dict(zip(("model", "optimizer", "scheduler"), (thing.state_dict() for thing in first), strict=True))
    ct.save({"epoch": 3, "best": float("inf"), "args": {"sizes": (1, 2), 7: None}, **states}, tmp_path / "c.pt")
    rest = train(*first)
    found = ct.load(tmp_path / "c.pt", map_location="cpu", weights_only=True)
    assert (found["epoch"], found["best"], found["args"]) == (3, float("inf"), {"sizes": (1, 2), 7: None})
    again = build()
    again[0].load_state_dict(found["model"])
    again[1].load_state_dict(found["optimizer"])
    again[2].load_state_dict(found["scheduler"])
    assert train(*again) == rest
    assert "model/0.weight" in interop.load_safetensors(tmp_path / "c.pt")  # for other readers
    with pytest.raises(ValueError, match="would run the file's code"):
        ct.load(tmp_path / "c.pt", weights_only=False)


def test_what_is_one_tensor_is_one_again(tmp_path: Path) -> None:
    a = ct.arange(3.0)
    ct.save([a, {"again": a, "x/y": ct.ones(1)}, {"x": {"y": ct.zeros(1)}}, np.float32(2.5)], tmp_path / "f")
    first, second, third, number = ct.load(tmp_path / "f")
    assert first is second["again"]
    assert (first.tolist(), second["x/y"].tolist(), third["x"]["y"].tolist(), number) == ([0, 1, 2], [1], [0], 2.5)
    ct.save({"a": {"b": ct.ones(1)}, "a/b": ct.zeros(1)}, tmp_path / "f")
    found = ct.load(tmp_path / "f")
    assert (found["a"]["b"].item(), found["a/b"].item()) == (1, 0)
    ct.save(a, tmp_path / "f")
    assert ct.load(tmp_path / "f").tolist() == [0, 1, 2]


@pytest.mark.parametrize("structure", ["{", '{"tensor": "b"}', '{"what": []}', '{"dict": 3}', '{"float": "x"}', "{}"])
def test_a_damaged_structure_is_refused(tmp_path: Path, structure: str) -> None:
    interop.save_safetensors({"a": ct.ones(1)}, tmp_path / "f", {"cordee.structure": structure})
    with pytest.raises(WeightsError, match="what the file says of its structure is damaged"):
        ct.load(tmp_path / "f")


# -- .pt files ---------------------------------------------------------------------------------------------------------


def test_a_file_of_torch_save_is_read_without_pytorch() -> None:
    got = ct.load(GOLDEN / "everything.pt")  # as make_torch_files.py wrote it
    assert (got["epoch"], got["loss"]) == (7, 0.25)
    assert got["nested"] == [{"a": (1, "two", None, 3.5, 2**80)}, {1, 2}, (4, 5), np.dtype("float16")]
    assert {name: (got[name].dtype.name, got[name].tolist()) for name in ("bool", "uint16", "float16", "bfloat16")} == {
        "bool": ("bool", [True, False]),
        "uint16": ("uint16", [65535]),
        "float16": ("float16", [[0.5]]),
        "bfloat16": ("bfloat16", [1.5, -2.0]),
    }
    assert got["empty"].shape == (0, 3)
    assert isinstance(got["parameter"], nn.Parameter)
    assert got["parameter"].requires_grad
    assert got["optimizer"]["param_groups"][0]["lr"] == 0.5
    assert got["optimizer"]["state"][0]["exp_avg"].shape == (2, 3)
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.LayerNorm(2))
    model.load_state_dict(got["model"])
    np.testing.assert_array_equal(values(model[0].weight), (np.arange(6).reshape(2, 3) / 8).astype(np.float32))


def test_tensors_that_share_a_storage_in_the_file_share_it_here() -> None:
    got = ct.load(GOLDEN / "everything.pt")
    np.testing.assert_array_equal(values(got["column"]), [1, 5, 9])
    got["shared"].data[5] = 50
    np.testing.assert_array_equal(values(got["column"]), [1, 50, 9])


def test_the_format_before_1_6_is_refused_with_advice() -> None:
    with pytest.raises(WeightsError, match=r"before 1\.6.*torch\.save or safetensors"):
        ct.load(GOLDEN / "legacy.pt")


def rewrite(path: Path, description: bytes | None = None, **changed: Any) -> Path:
    """The golden archive with another description, or other entries."""
    with zipfile.ZipFile(GOLDEN / "everything.pt") as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            name = info.filename.partition("/")[2]
            data = source.read(info)
            if name == "data.pkl" and description is not None:
                data = description
            if name in changed.get("drop", ()):
                continue
            if name in changed.get("cut", ()):
                data = data[:-1]
            kind = zipfile.ZIP_DEFLATED if name in changed.get("squeeze", ()) else zipfile.ZIP_STORED
            target.writestr(info.filename, data, kind)
    return path


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "system"), (eval, "eval"), (getattr, "getattr"), (__import__, "__import__")]
)
def test_a_pickle_that_would_run_code_is_refused_by_name(
    tmp_path: Path, protocol: int, function: Any, name: str
) -> None:
    trap = tmp_path / "run"
    evil = pickle.dumps({"weights": Calls(function, f"touch {trap}")}, protocol=protocol)
    with pytest.raises(WeightsError, match=rf"asks for \w+\.{name}"):
        ct.load(rewrite(tmp_path / "evil.pt", evil))
    assert not trap.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # GLOBAL, REDUCE
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"\x82\x01.",  # EXT1
        b"P0\n.",  # a persistent id as text
        b"\x80\x02ctorch\nSize\nK\x01b.",  # state for a function
        b"\x80\x02ctorch\nSize\nK\x01R.",  # called with a number
        b"\x80\x02K\x01K\x02a.",  # an item for a number
        b"\x80\x02\x85.",  # a tuple of nothing that is there
        b"t.",  # no mark
        b"h\x05.",  # nothing is remembered
        b"K\x01",  # no end
        b"",
        b"\xff\xff",
        b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",  # two billion zeros
    ],
)
def test_a_pickle_that_is_damaged_or_tricky_is_refused(tmp_path: Path, program: bytes) -> None:
    with pytest.raises(WeightsError, match="not read"):
        ct.load(rewrite(tmp_path / "evil.pt", program))


def test_a_refusal_never_writes_out_a_list_that_grows_without_end() -> None:
    doubling = b"".join(b"]\x94(h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(40))
    with pytest.raises(PickleRefusedError, match="calls a list"):
        read_pickle(b"\x80\x04]\x94" + doubling + b")R.", {}, lambda reference: reference, lambda built, _: built)


def tensor_pickle(offset: int, size: tuple[Any, ...], stride: tuple[Any, ...], numel: int = 12) -> bytes:
    """A description of one tensor, as torch.save writes it."""

    class Storage:
        pass

    class Pickler(pickle._Pickler):  # type: ignore[name-defined]  # the Python one: it can be told what to write
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", Named("torch", "FloatStorage"), "0", "cpu", numel) if thing is storage else None

        def save_global_by_name(self, thing: Any) -> None:
            self.write(pickle.GLOBAL + f"{thing.module}\n{thing.name}\n".encode())

    class Named:
        def __init__(self, module: str, name: str) -> None:
            self.module, self.name = module, name

    storage, out = Storage(), io.BytesIO()
    pickler = Pickler(out, 2)
    pickler.dispatch = {**pickle._Pickler.dispatch, Named: Pickler.save_global_by_name}  # type: ignore[attr-defined]
    pickler.write(pickle.PROTO + b"\x02")
    pickler.save(Named("torch._utils", "_rebuild_tensor_v2"))
    pickler.save((storage, offset, size, stride, False, {}))
    pickler.write(pickle.REDUCE + pickle.STOP)
    return out.getvalue()


def shared_key(path: Path) -> tuple[str, int]:
    """The largest storage of the golden archive and its elements."""
    with zipfile.ZipFile(path) as file:
        sizes = {i.filename.rpartition("/")[2]: i.file_size // 4 for i in file.infolist() if "/data/" in i.filename}
    return "0", sizes["0"]


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (7,), (1,)), (5, (2,), (1,)), (0, (2, 2), (5, 1)), (-1, (1,), (1,)), (0, (2,), (-1,)), (0, (2,), (1, 1)),
     (0, ("2",), (1,)), (0, (True,), (1,)), (0, (2**40, 2**40), (2**40, 1))],
)  # fmt: skip
def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path, offset: int, size: Any, stride: Any) -> None:
    _, numel = shared_key(GOLDEN / "everything.pt")
    assert numel == 6
    good = ct.load(rewrite(tmp_path / "good.pt", tensor_pickle(1, (2, 2), (3, 1), numel)))
    assert good.tolist() == [[0.125, 0.25], [0.5, 0.625]]
    with pytest.raises(WeightsError, match="not read: a tensor"):
        ct.load(rewrite(tmp_path / "bad.pt", tensor_pickle(offset, size, stride, numel)))


def test_a_storage_of_another_size_is_refused(tmp_path: Path) -> None:
    for numel, sentence in ((5, "at most 20 are read"), (7, "28 are described")):
        with pytest.raises(WeightsError, match=sentence):
            ct.load(rewrite(tmp_path / "bad.pt", tensor_pickle(0, (1,), (1,), numel)))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"drop": ["data/0"]}, "data/0 is missing"),
        ({"cut": ["data/0"]}, "are described"),
        ({"squeeze": ["data/0"]}, "compressed"),
        ({"squeeze": ["data.pkl"]}, "compressed"),
        ({"drop": ["data.pkl"]}, "no data.pkl"),
    ],
)
def test_a_damaged_archive_is_refused_in_a_sentence(tmp_path: Path, changed: Any, sentence: str) -> None:
    with pytest.raises(WeightsError, match=sentence):
        ct.load(rewrite(tmp_path / "bad.pt", **changed))


def test_flipped_bits_and_cut_archives_are_noticed(tmp_path: Path) -> None:
    data = bytearray((GOLDEN / "everything.pt").read_bytes())
    (tmp_path / "cut.pt").write_bytes(data[:-40])
    with zipfile.ZipFile(GOLDEN / "everything.pt") as file:
        info = next(i for i in file.infolist() if i.filename.endswith("data/0"))
        with file.open(info):
            start = (
                info.header_offset
                + 30
                + int.from_bytes(data[info.header_offset + 26 : info.header_offset + 28], "little")
            )
            start += int.from_bytes(data[info.header_offset + 28 : info.header_offset + 30], "little")
    data[start] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    for name in ("cut.pt", "flipped.pt"):
        with pytest.raises(WeightsError, match="damaged"):
            ct.load(tmp_path / name)


def test_a_torchscript_program_is_named_as_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as file:
        file.writestr("m/data.pkl", b"N.")
        file.writestr("m/code/__torch__.py", "")
    with pytest.raises(WeightsError, match="TorchScript"):
        ct.load(tmp_path / "script.pt")


# -- live --------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_models_travel_both_ways_with_live_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
    ours = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2))
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    save_file(theirs.state_dict(), tmp_path / "a.safetensors")
    torch.save(theirs.state_dict(), tmp_path / "b.pt")
    for name in ("a.safetensors", "b.pt"):
        ours.load_state_dict(ct.load(tmp_path / name))
        np.testing.assert_allclose(
            values(ours(ct.tensor(x))), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-6
        )
    with ct.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(2)
    ct.save(ours.state_dict(), tmp_path / "c.safetensors")
    theirs.load_state_dict(load_file(tmp_path / "c.safetensors"))
    np.testing.assert_allclose(
        values(ours(ct.tensor(x))), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.torch
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_dtype_of_live_pytorch_is_read_from_an_archive(tmp_path: Path, protocol: int) -> None:
    torch = pytest.importorskip("torch")
    names = (
        "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool complex64 complex128"
    )
    saved = {name: torch.tensor([[0, 1, 2], [3, 4, 5]]).to(getattr(torch, name)) for name in names.split()}
    torch.save({**saved, "turned": saved["float64"].T}, tmp_path / "all.pt", pickle_protocol=protocol)
    got = ct.load(tmp_path / "all.pt")
    for name in names.split():
        assert got[name].dtype.name == name
        np.testing.assert_array_equal(got[name].data.astype(complex), saved[name].to(torch.complex128).numpy())
    np.testing.assert_array_equal(to_numpy(got["turned"].data), saved["float64"].T.numpy())
