"""Replays the samples of one operator of PyTorch's `op_db` against ours: values, dtypes, gradients, methods, errors.

Per dtype at most `CAPS` samples are taken, spread evenly over all that `op_db` generates (same seed each time). A
sample passes when our result has PyTorch's structure, shapes, dtypes and values; a gradient passes when the gradients
of a random weighted sum of the outputs agree in float64. Where the result is only unique up to signs or phases (SVD,
eigenvectors), the same canonical function is applied to both sides. An expected error passes when ours raises a
ValueError, TypeError, IndexError or RuntimeError that is not just a complaint about an unknown argument.
"""

from __future__ import annotations

import itertools
import re
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import opinfo_names as names
import torch
from opinfo_compare import IGNORED_KEYWORDS, Converter, UnfitSampleError, check_gradients, compare

__all__ = ["CAPS", "Failure", "Outcome", "replay"]

CAPS = {
    torch.float64: 30,
    torch.float32: 15,
    torch.int64: 8,
    torch.bool: 6,
    torch.bfloat16: 6,
    torch.complex128: 6,
}
MOST_GENERATED = 600
SECONDS_PER_SAMPLE = 10


ERRORS = (ValueError, TypeError, IndexError, RuntimeError)
UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword|positional arguments? but|multiple values for|required positional")

# Unique only up to the sign or phase of each column: what both sides are turned into before they are compared.
CANONICAL: dict[str, Callable[[Any], Any]] = {
    "svd": lambda out: (abs(out[0][..., : out[1].shape[-1]]), out[1], abs(out[2][..., : out[1].shape[-1]])),
    "linalg.svd": lambda out: (abs(out[0][..., : out[1].shape[-1]]), out[1], abs(out[2][..., : out[1].shape[-1], :])),
    "linalg.eigh": lambda out: (out[0], abs(out[1])),
    "linalg.eig": lambda out: (out[0], abs(out[1])),
    "linalg.lstsq": lambda out: out[0] if isinstance(out, tuple) else out,
}


def _of_triangle(call: Callable[..., Any], *args: Any, upper: bool = False, idx: int = 0, **kwargs: Any) -> Any:
    triangle = args[idx].triu() if upper else args[idx].tril()
    return call(*args[:idx], triangle, *args[idx + 1 :], upper, **kwargs)


# For gradients: what an operator's input is to be, since elsewhere its gradient is anybody's choice. `op_db` says the
# same (`gradcheck_wrapper`), but in PyTorch's functions.
PREPARED: dict[str, Callable[..., Any]] = {
    "gradcheck_wrapper_hermitian_input": lambda call, x, *args, **kwargs: call(x + x.mT, *args, **kwargs),
    "gradcheck_wrapper_ctc_loss": lambda call, x, *args, **kwargs: call(x.log_softmax(2), *args, **kwargs),
    "gradcheck_wrapper_triangular_input": _of_triangle,
    "gradcheck_wrapper_triangular_input_real_positive_diagonal": _of_triangle,
    "cholesky_solve": partial(_of_triangle, idx=1),
}
TIES = frozenset({"topk", "kthvalue", "median", "nanmedian", "mode", "sort", "argsort"})
"""Which of several equal elements these name is left open: indices are compared only where there are no equal ones."""


@dataclass
class Failure:
    """One thing that did not agree."""

    kind: str
    dtype: str
    sample: str
    message: str


@dataclass
class Outcome:
    """What the replay of one operator gave."""

    name: str
    status: str
    reason: str = ""
    samples: int = 0
    passed: int = 0
    gradients: int = 0
    gradients_passed: int = 0
    errors: int = 0
    errors_raised: int = 0
    method: bool | None = None
    in_place: bool | None = None
    aliases: int = 0
    aliases_present: int = 0
    unfit_samples: int = 0
    failures: list[Failure] = field(default_factory=list)


def _without_device(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key != "out"}


# -- running -----------------------------------------------------------------------------------------------------------


def _out_of_time(signum: int, frame: Any) -> None:
    raise TimeoutError(f"took more than {SECONDS_PER_SAMPLE} s")


def _ours(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call ours: warnings of NumPy are failures, and so is taking for ever."""
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(SECONDS_PER_SAMPLE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)
            return function(*args, **kwargs)
    finally:
        signal.alarm(0)


def _spread(items: Iterator[Any], most: int) -> list[Any]:
    generated = list(itertools.islice(items, MOST_GENERATED))
    if len(generated) <= most:
        return generated
    return [generated[i * len(generated) // most] for i in range(most)]


def _summary(sample: Any) -> str:
    def show(value: Any) -> str:
        if isinstance(value, torch.Tensor):
            grid = "" if value.is_contiguous() else ", strided"
            return f"T{list(value.shape)}:{str(value.dtype).removeprefix('torch.')}{grid}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(map(show, value)) + "]"
        return repr(value)[:80]

    parts = [show(sample.input), *map(show, sample.args), *(f"{k}={show(v)}" for k, v in sample.kwargs.items())]
    return f"({', '.join(parts)})"


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "cordee" in f.filename]
    at = f" [{ours[-1].filename.rpartition('cordee/')[2]}:{ours[-1].lineno}]" if ours else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:260]}{at}"


class _Replay:
    """The replay of one operator."""

    def __init__(self, op: Any, function: Callable[..., Any], outcome: Outcome) -> None:
        self.op, self.function, self.outcome = op, function, outcome
        self.full = outcome.name
        self.canonical = CANONICAL.get(op.name)

    def fail(self, kind: str, dtype: Any, sample: Any, error: BaseException) -> None:
        name = str(dtype).removeprefix("torch.")
        self.outcome.failures.append(Failure(kind, name, _summary(sample), _where(error)))

    def is_random(self, sample: Any) -> bool:
        return names.is_random(self.op.name) or bool(sample.kwargs.get("dropout_p"))

    def _may_tie(self, dtype: Any, sample: Any) -> bool:
        return (
            self.op.name in TIES
            and dtype not in (torch.float64, torch.float32)
            and not sample.kwargs.get("stable")
            and not (self.op.name == "median" and not sample.args and not sample.kwargs)
        )

    def sample(self, dtype: Any, sample: Any) -> None:
        convert = Converter()
        wanted, call = self.op.op, self.function
        try:
            self._refuse_unfit(sample)
            args = [convert(sample.input), *convert(list(sample.args))]
            kwargs = convert.keywords(sample.kwargs)
            prepare = PREPARED.get(self.op.name) or PREPARED.get(getattr(self.op.gradcheck_wrapper, "__name__", ""))
            if prepare is not None and convert.leaves:
                wanted, call = partial(prepare, wanted), partial(prepare, call)
            theirs = wanted(sample.input, *sample.args, **_without_device(sample.kwargs))
        except UnfitSampleError:
            self.outcome.unfit_samples += 1
            return
        except Exception:  # PyTorch itself refuses: nothing to compare with
            self.outcome.unfit_samples += 1
            return
        values = not self.is_random(sample)
        self.outcome.samples += 1
        ours: Any = None
        try:
            ours = _ours(call, *args, **kwargs)
            if self.canonical is not None:
                ours, theirs = self.canonical(ours), self.canonical(theirs)
            if self._may_tie(dtype, sample):
                compare(ours, theirs, values=False)
                ours, theirs = (ours[:1], theirs[:1]) if isinstance(theirs, tuple) else ((), ())
            compare(ours, theirs, values)
            self.outcome.passed += 1
        except UnfitSampleError:
            self.outcome.samples -= 1
            self.outcome.unfit_samples += 1
            return
        except Exception as error:  # whatever ours raises is a finding
            self.fail("value", dtype, sample, error)
            ours = None
        if not (convert.leaves and values):
            return
        try:
            counted = _ours(check_gradients, ours, theirs, convert.leaves) if ours is not None else True
            self.outcome.gradients += counted
            self.outcome.gradients_passed += counted and ours is not None
        except UnfitSampleError:
            return
        except Exception as error:
            self.outcome.gradients += 1
            self.fail("gradient", dtype, sample, error)

    def samples(self, dtypes: list[Any]) -> None:
        for dtype in dtypes:
            differentiable = dtype == torch.float64 and self.op.supports_autograd
            torch.manual_seed(0)
            np.random.seed(0)
            try:
                chosen = _spread(self.op.sample_inputs("cpu", dtype, requires_grad=differentiable), CAPS[dtype])
            except Exception:  # PyTorch cannot make its own samples here
                continue
            for sample in chosen:
                self.sample(dtype, sample)

    def _refuse_unfit(self, sample: Any) -> None:
        """A view of a larger storage can only be replayed as a tensor of its own; then `as_strided` sees less."""
        view = sample.input
        if self.op.name == "as_strided" and view.untyped_storage().nbytes() > view.numel() * view.itemsize:
            raise UnfitSampleError

    @staticmethod
    def _number_for_tensor(sample: Any) -> bool:
        """A number beside a tensor, which ours takes as a tensor without dimensions where PyTorch does not."""
        given = [isinstance(value, torch.Tensor) for value in (sample.input, *sample.args)]
        number = any(isinstance(value, (int, float, complex)) for value in (sample.input, *sample.args))
        return number and any(given)

    def expected_errors(self) -> None:
        if self.op.error_inputs_func is None:
            return
        torch.manual_seed(0)
        try:
            expected = list(self.op.error_inputs("cpu"))
        except Exception:
            return
        for item in expected:
            sample, convert = item.sample_input, Converter()
            try:
                args = [convert(sample.input), *convert(list(sample.args))]
                kwargs = {k: convert(v) for k, v in sample.kwargs.items()}
                if IGNORED_KEYWORDS & kwargs.keys() or (
                    item.error_type is Exception and self._number_for_tensor(sample)
                ):
                    raise UnfitSampleError
                self.op.op(sample.input, *sample.args, **sample.kwargs)
            except UnfitSampleError:
                self.outcome.unfit_samples += 1
                continue
            except Exception:  # as expected
                pass
            else:
                continue
            self.outcome.errors += 1
            try:
                _ours(self.function, *args, **kwargs)
            except ERRORS as error:
                if UNKNOWN_ARGUMENT.search(str(error)) and item.error_type is not TypeError:
                    self.fail("error", "", sample, error)
                else:
                    self.outcome.errors_raised += 1
            except Exception as error:
                self.fail("error", "", sample, error)
            else:
                want = AssertionError(f"nothing raised; PyTorch: {item.error_type.__name__}: {item.error_regex}"[:200])
                self.fail("error", "", sample, want)

    def variants(self, dtypes: list[Any]) -> None:
        """The tensor's method and its in-place twin agree with PyTorch's on a few samples."""
        op, dtype = self.op, torch.float64 if torch.float64 in dtypes else dtypes[0]
        if names.is_random(op.name) or op.name.startswith("__"):
            return
        name = op.name.rpartition(".")[2]
        if op.method_variant is not None and hasattr(torch.Tensor, name):
            self.outcome.method = self._variant("method", op.method_variant, names.find_method(name), dtype)
        twin = getattr(op.inplace_variant, "__name__", "")
        if op.inplace_variant is not None and hasattr(torch.Tensor, twin):
            self.outcome.in_place = self._variant("in place", op.inplace_variant, names.find_method(twin), dtype)

    def _variant(self, kind: str, theirs: Any, ours: Any, dtype: Any) -> bool:
        if ours is None:
            return False
        torch.manual_seed(0)
        for sample in _spread(self.op.sample_inputs("cpu", dtype, requires_grad=False), 4):
            convert = Converter()
            try:
                self._refuse_unfit(sample)
                args, kwargs = [convert(sample.input), *convert(list(sample.args))], convert.keywords(sample.kwargs)
                want = theirs(sample.input, *sample.args, **_without_device(sample.kwargs))
            except Exception:
                continue
            try:
                got = _ours(ours, *args, **kwargs)
                if self.canonical is not None:
                    got, want = self.canonical(got), self.canonical(want)
                compare(got, want, values=True)
                if kind == "in place":
                    compare(args[0], want, values=True, where="the tensor written to")
            except Exception as error:
                self.fail(kind, dtype, sample, error)
                return False
        return True


def replay(op: Any, only_dtype: str | None = None) -> Outcome:
    """Replay one operator of `op_db`."""
    full = f"{op.name}/{op.variant_test_name}" if op.variant_test_name else op.name
    function = names.find(op.name, op.variant_test_name)
    reason = names.out_of_scope(op.name, op.variant_test_name)
    if function is None:
        return Outcome(full, "out of scope", reason) if reason else Outcome(full, "missing")
    outcome = Outcome(full, "covered")
    wanted = [d for d in CAPS if only_dtype in (None, str(d).removeprefix("torch."))]
    dtypes = [d for d in wanted if d in op.supported_dtypes("cpu")]
    if not op.name.startswith("fft."):
        dtypes = [d for d in dtypes if not d.is_complex]
    run = _Replay(op, function, outcome)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.samples(dtypes)
        run.expected_errors()
        if dtypes:
            run.variants(dtypes)
    outcome.aliases = len(op.aliases)
    outcome.aliases_present = sum(names.find(alias.name, "") is not None for alias in op.aliases)
    return outcome
