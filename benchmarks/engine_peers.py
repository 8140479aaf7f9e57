"""One private step of every engine: forward, loss, backward, clip of each patient, noise on the sum, SGD.

A build takes a `Workload` and returns its step. Steps differ only in how the sum of clipped gradients comes about:
the update is that of `torch.optim.SGD` on (sum + noise) / batch, and gradients are dropped at the end of the step.
Peers are used as their own documentation says. Their noise is torch's generator, ours is the cryptographic one.
"""

import contextlib
import importlib
import importlib.util
import io
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[], None]


@dataclass(frozen=True)
class Workload:
    """What every engine is given.

    Attributes:
        model: its own copy of the weights; the step changes them.
        loss: loss of each picture, (picture,).
        inputs: (picture, channel, *space).
        labels: (picture,) or (picture, *space).
        noise_multiplier: std of the noise on the sum, divided by `clipping_norm`.
        clipping_norm: bound on one patient's gradient.
        learning_rate: of plain SGD. Small, so that a hundred noisy steps leave the weights what they were.
        patient: patient of each picture, ascending; None if each picture is a patient's only one.
        memory_bytes: what our engine may use for materialised gradients.
    """

    model: nn.Module
    loss: Loss
    inputs: Tensor
    labels: Tensor
    noise_multiplier: float = 1.0
    clipping_norm: float = 1.0
    learning_rate: float = 1e-5
    patient: Tensor | None = None
    memory_bytes: int = 1 << 30

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Those that are trained."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def optimizer(self) -> torch.optim.SGD:
        """Plain SGD on all parameters."""
        return torch.optim.SGD(self.model.parameters(), lr=self.learning_rate)

    def mean_loss(self) -> Tensor:
        """Forward pass and mean loss over the batch."""
        return self.loss(self.model(self.inputs), self.labels).mean()


@dataclass(frozen=True)
class Sources:
    """Folders with the sources of peers that no index has, None where they are not given."""

    deepee: Path | None = None
    fastdp: Path | None = None


def ordinary(work: Workload) -> Step:
    """The step without privacy, in torch's default format: what every ratio is over."""
    optimizer = work.optimizer()

    def step() -> None:
        torch.autograd.backward(work.mean_loss())
        optimizer.step()
        optimizer.zero_grad()

    return step


def ordinary_channels_last(work: Workload) -> Step:
    """The step without privacy, weights and pictures stored with the channels last."""
    volumetric = work.inputs.ndim == 5
    layout = torch.channels_last_3d if volumetric else torch.channels_last
    for parameter in work.model.parameters():
        if parameter.ndim == work.inputs.ndim:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    inputs = work.inputs.contiguous(memory_format=layout)
    optimizer = work.optimizer()

    def step() -> None:
        torch.autograd.backward(work.loss(work.model(inputs), work.labels).mean())
        optimizer.step()
        optimizer.zero_grad()

    return step


def ordinary_kept_heap(work: Workload) -> Step:
    """The step without privacy where free memory at the heap's end is kept, as our engine has it in its process."""
    from wardround.per_patient.process import keep_heap

    keep_heap()
    return ordinary(work)


def ordinary_noise(work: Workload) -> Step:
    """The step without clipping, noise of torch's generator added: what noise costs a peer."""
    optimizer = work.optimizer()
    std = work.noise_multiplier * work.clipping_norm / len(work.inputs)

    def step() -> None:
        torch.autograd.backward(work.mean_loss())
        for parameter in work.model.parameters():
            if parameter.grad is not None:
                parameter.grad.add_(torch.normal(0.0, std, parameter.shape, dtype=parameter.dtype))
        optimizer.step()
        optimizer.zero_grad()

    return step


def wardround(work: Workload) -> Step:
    """`clipped_sum` and noise from `Stream`, as a hospital's own step uses them."""
    from wardround.per_patient import PatientBatch, clipped_sum
    from wardround.randomness import Stream

    optimizer = work.optimizer()
    patient = torch.arange(len(work.inputs)) if work.patient is None else work.patient
    num_patients = int(patient.max()) + 1 if len(patient) else 0
    batch = PatientBatch(work.inputs, work.labels, patient, num_patients)
    stream = Stream.from_os()
    std = work.noise_multiplier * work.clipping_norm
    denominator = max(num_patients, 1)
    parameters = list(work.parameters.values())
    sizes = [parameter.numel() for parameter in parameters]
    out = torch.empty(sum(sizes), dtype=work.inputs.dtype)

    def step() -> None:
        released = clipped_sum(
            work.model,
            work.loss,
            batch,
            clipping_norm=work.clipping_norm,
            memory_bytes=work.memory_bytes,
            out=out,
        ).vector
        if std > 0:
            stream.add_normal(released.numpy(), std)
        for parameter, piece in zip(parameters, torch.split(released.div_(denominator), sizes), strict=True):
            parameter.grad = piece.view_as(parameter).to(parameter.dtype)
        optimizer.step()
        optimizer.zero_grad()

    return step


def wardround_no_noise(work: Workload) -> Step:
    """Ours without the noise: the difference is what noise costs."""
    return wardround(replace(work, noise_multiplier=0.0))


def torch_func(work: Workload) -> Step:
    """`vmap` of `grad` of the whole network, as the tutorial of torch.func has it."""
    optimizer = work.optimizer()
    parameters = work.parameters

    def picture_loss(values: dict[str, Tensor], picture: Tensor, label: Tensor) -> Tensor:
        return work.loss(functional_call(work.model, values, (picture[None],)), label[None])[0]

    per_picture = vmap(grad(picture_loss), in_dims=(None, 0, 0), randomness="different")

    def step() -> None:
        values = {name: value.detach() for name, value in parameters.items()}
        gradients = per_picture(values, work.inputs, work.labels)
        norms = torch.stack([value.flatten(1).norm(dim=1) for value in gradients.values()]).norm(dim=0)
        scale = (work.clipping_norm / norms).clamp(max=1.0)
        for name, parameter in parameters.items():
            total = torch.einsum("i,i...", scale, gradients.pop(name))
            noise = torch.normal(0.0, work.noise_multiplier * work.clipping_norm, total.shape, dtype=total.dtype)
            parameter.grad = total.add_(noise).div_(len(work.inputs))
        optimizer.step()
        optimizer.zero_grad()

    return step


def _opacus(mode: str) -> Callable[[Workload], Step]:
    """Opacus's wrapped module and wrapped optimizer; `mode` is its `grad_sample_mode`."""

    def build(work: Workload) -> Step:
        modules = importlib.import_module("opacus.grad_sample")
        optimizers = importlib.import_module("opacus.optimizers")
        if mode == "ew":
            model = modules.GradSampleModuleExpandedWeights(work.model, loss_reduction="mean")
        else:
            model = modules.GradSampleModule(
                work.model, loss_reduction="mean", force_functorch=mode == "functorch"
            )
        optimizer = optimizers.DPOptimizer(work.optimizer(), **_opacus_arguments(work))

        def step() -> None:
            torch.autograd.backward(work.loss(model(work.inputs), work.labels).mean())
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    return build


def _opacus_arguments(work: Workload) -> dict[str, Any]:
    return {
        "noise_multiplier": work.noise_multiplier,
        "max_grad_norm": work.clipping_norm,
        "expected_batch_size": len(work.inputs),
        "loss_reduction": "mean",
    }


class _Criterion:
    """A loss that Opacus's ghost mode can switch to one number a picture: it already gives one."""

    reduction = "mean"

    def __init__(self, loss: Loss) -> None:
        self._loss = loss

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._loss(logits, labels)


def opacus_ghost(work: Workload) -> Step:
    """Opacus's ghost clipping: norms in a first backward pass, the clipped sum in a second one."""
    modules = importlib.import_module("opacus.grad_sample")
    optimizers = importlib.import_module("opacus.optimizers")
    losses = importlib.import_module("opacus.utils.fast_gradient_clipping_utils")
    model = modules.GradSampleModuleFastGradientClipping(
        work.model, max_grad_norm=work.clipping_norm, loss_reduction="mean", use_ghost_clipping=True
    )
    optimizer = optimizers.DPOptimizerFastGradientClipping(work.optimizer(), **_opacus_arguments(work))
    loss = losses.DPLossFastGradientClipping(model, optimizer, _Criterion(work.loss), loss_reduction="mean")

    def step() -> None:
        loss(model(work.inputs), work.labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def deepee(work: Workload) -> Step:
    """A replica of the network for each picture, each in a thread of its own."""
    wrapper_type = importlib.import_module("deepee").PrivacyWrapper
    wrapper = wrapper_type(work.model, len(work.inputs), work.clipping_norm, work.noise_multiplier)
    optimizer = work.optimizer()

    def step() -> None:
        with _threads_without_accelerator():
            logits = wrapper(work.inputs)
        # The sum: a mean would divide each replica's gradient by the batch before it is clipped.
        torch.autograd.backward(work.loss(logits, work.labels).sum())
        wrapper.clip_and_accumulate()
        wrapper.noise_gradient()
        optimizer.step()
        wrapper.prepare_next_batch()
        optimizer.zero_grad()
        for replica in wrapper.models:
            replica.zero_grad()

    return step


@contextlib.contextmanager
def _threads_without_accelerator() -> Iterator[None]:
    """torch's `parallel_apply` refuses to run without an accelerator since 2.x; this one is a thread a replica."""

    def parallel_apply(replicas: list[nn.Module], inputs: Tensor) -> list[Tensor]:
        outputs: list[Any] = [None] * len(inputs)

        def run(index: int) -> None:
            try:
                outputs[index] = replicas[index](inputs[index])
            except Exception as error:
                outputs[index] = error

        threads = [threading.Thread(target=run, args=(index,)) for index in range(len(inputs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for output in outputs:
            if isinstance(output, Exception):
                raise output
        return outputs

    parallel: Any = importlib.import_module("torch.nn.parallel")
    original = parallel.parallel_apply
    parallel.parallel_apply = parallel_apply
    try:
        yield
    finally:
        parallel.parallel_apply = original


def _fastdp(one_origin: bool) -> Callable[[Workload], Step]:
    """fastDP's default mode; `one_origin` keeps autograd from forming the ordinary weight gradients as well."""

    def build(work: Workload) -> Step:
        with contextlib.redirect_stdout(io.StringIO()):
            optimizer = work.optimizer()
            first = next(iter(work.parameters))
            engine = importlib.import_module("fastDP").PrivacyEngine(
                work.model,
                batch_size=len(work.inputs),
                sample_size=50_000,
                epochs=1,
                max_grad_norm=work.clipping_norm,
                noise_multiplier=work.noise_multiplier,
                clipping_mode="MixOpt",
                clipping_fn="Abadi",
                numerical_stability_constant=1e-12,
                loss_reduction="mean",
                origin_params=[first] if one_origin else None,
            )
            engine.attach(optimizer)

        def step() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                torch.autograd.backward(work.mean_loss())
                optimizer.step()
                optimizer.zero_grad()

        return step

    return build


@dataclass(frozen=True)
class Engine:
    """A step to compare.

    Attributes:
        title: how the table calls it.
        build: workload to step.
        kind: "variant" of the ordinary step, "ours", or "peer".
        needs: package that must be importable.
        source: field of `Sources` that must be given.
    """

    title: str
    build: Callable[[Workload], Step]
    kind: str = "peer"
    needs: str | None = None
    source: str | None = None

    def missing(self, sources: Sources) -> str | None:
        """A sentence that says what to install or to give, None if the engine can be tried."""
        if self.source is not None and getattr(sources, self.source) is None:
            return f"skipped: give its source folder with --{self.source} PATH"
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            return f"needs {self.needs}: pip install 'wardround[bench]'"
        return None


ENGINES: dict[str, Engine] = {
    "ordinary_channels_last": Engine("ordinary, channels last", ordinary_channels_last, "variant"),
    "ordinary_kept_heap": Engine("ordinary, heap kept as by ours", ordinary_kept_heap, "variant"),
    "ordinary_noise": Engine("ordinary + noise", ordinary_noise, "variant"),
    "wardround": Engine("wardround", wardround, "ours"),
    "wardround_no_noise": Engine("wardround, no noise", wardround_no_noise, "variant"),
    "torch_func": Engine("torch.func vmap(grad)", torch_func),
    "opacus_hooks": Engine("Opacus hooks", _opacus("hooks"), needs="opacus"),
    "opacus_functorch": Engine("Opacus functorch", _opacus("functorch"), needs="opacus"),
    "opacus_ew": Engine("Opacus ew", _opacus("ew"), needs="opacus"),
    "opacus_ghost": Engine("Opacus ghost", opacus_ghost, needs="opacus"),
    "deepee": Engine("deepee", deepee, source="deepee"),
    "fastdp_mixopt": Engine("fastDP MixOpt", _fastdp(False), source="fastdp"),
    "fastdp_origin": Engine("fastDP MixOpt, one origin", _fastdp(True), source="fastdp"),
}


def settle(request: dict[str, Any]) -> None:
    """Gives this process the threads of a request, and the source folders of peers.

    The folders go to the end of the path: they hold packages called `tests` too.
    """
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    for folder in (request["deepee"], request["fastdp"]):
        if folder is not None and folder not in sys.path:
            sys.path.append(folder)
