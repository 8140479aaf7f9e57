"""The arithmetic of a round and of an evaluation, on one network in memory that all hospitals use."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from wardround.models.linear import scoring_layer
from wardround.models.network import Network
from wardround.models.vectors import load_parameters, load_vector, sha256_of, to_vector
from wardround.per_patient.anatomy import Independence, take_over
from wardround.per_patient.batch import Loss
from wardround.per_patient.clipped_sum import ClippedSum
from wardround.per_patient.clipping_rules import Clipping, Flat
from wardround.per_patient.guards.draws import DrawsInWorker
from wardround.per_patient.layout import Layout
from wardround.per_patient.microbatches import patient_ranges
from wardround.per_patient.process import in_single_precision
from wardround.per_patient.side_by_side import Block, sums_side_by_side
from wardround.per_patient.slow_path import draws
from wardround.training.alone import gradients_alone
from wardround.training.augment.augmentation import Augmentation
from wardround.training.batch_sums import BatchSum, BatchSums, Step
from wardround.training.batching import Batching, Members
from wardround.training.centring import centred_inputs
from wardround.training.device import CPU
from wardround.training.encodings import Lattice, encoded
from wardround.training.exact_head import ExactHead, Int64, Steps
from wardround.training.heads import HeadSums
from wardround.training.losses import weighted
from wardround.training.patients import Rows, Sample
from wardround.training.processes import Processes, can_fork
from wardround.training.slotted import Slotted
from wardround.training.spread import Found, Item, spread
from wardround.types import Masks, Pictures, Scores, Vector

_PICTURES_AT_ONCE, _ON_A_GPU = 128, 512
"""Pictures whose float inputs are in memory at one time, at most; more leave a processor's cache, and take longer."""

_NOT_AUGMENTED = Augmentation()

_PIXELS_AT_ONCE = 1 << 22
"""Pixels or voxels, over all pictures, whose float inputs are in memory at one time, at most."""

_LARGEST_SHARED = 1 << 25
"""Bytes of weights, at most, of networks whose batches are summed side by side: ResNet-18 gained nothing by it."""

_PIXELS_SHARED = 1 << 19
"""Pixels or voxels, over all hospitals of a shared pass, at most, unless one has more."""


class Workbench:
    """The one copy of the network, and the pictures that it reads.

    Args:
        network: its trained part is overwritten by every call that takes weights.
        pixels: the picture cache, (picture, channel, height, width), uint8; may be a memory map.
        loss: loss of each picture, unreduced.
        memory_bytes: memory for per-patient gradients at one time.
        masks: class of each pixel or voxel, (picture, *space), where that is predicted; else labels are.
        augmentation: of training pictures; each is varied by a key of its own patient and the step's seed alone, so
            that no patient's input depends on another patient.
        inputs: of every picture, (picture, ...), where they are not what the network's encoding gives: features that
            were noised before they came here.
        lattice: of a network that answers for each pixel by its own features: what training reads in place of the
            whole encoding; evaluation reads all. None trains on all.
        device: of `gradient_sums`, of a network that the engine takes, and of answers; results come back from it
            (`wardround.training.device`). It gets a copy of the trained part, and `network` stays where it is.
        cores: that batches may be spread over while torch gives a kernel one thread; as many as it has threads now.

    Attributes:
        network: the network, with the weights of the last call on the processor.
        initial_weights: the weights it was built with, (parameter,).
        cores: as given.
        at_once: pictures of a batch, at most.
    """

    def __init__(
        self,
        network: Network,
        pixels: Pictures,
        loss: Loss,
        memory_bytes: int,
        *,
        masks: Masks | None = None,
        augmentation: Augmentation = _NOT_AUGMENTED,
        inputs: Tensor | None = None,
        lattice: Lattice | None = None,
        device: torch.device = CPU,
        cores: int | None = None,
    ) -> None:
        self.network, self._pixels, self._masks, self._loss, self.device = network, pixels, masks, loss, device
        self._memory_bytes, self._augmentation, self._lattice = memory_bytes, augmentation, lattice
        pixels_each = augmentation.multiplicity * max(1, int(np.prod(pixels.shape[2:])))
        most = _PICTURES_AT_ONCE if device == CPU else _ON_A_GPU
        self.at_once = max(1, min(most, _PIXELS_AT_ONCE // pixels_each))
        self.cores = torch.get_num_threads() if cores is None else cores
        self._there = network.trained if device == CPU else copy.deepcopy(network.trained).to(device)
        self._trained = {m: [p for p in m.parameters() if p.requires_grad] for m in (network.trained, self._there)}
        self._loaded: tuple[nn.Module, Vector] | None = None
        self._in_training: nn.Module | None = None
        # A network that the catalogue did not build is not known to keep patients apart.
        self._independence = Independence.CHECKED if network.parts else Independence.BY_CONSTRUCTION
        self.initial_weights = to_vector(network.trained)
        self._slotted: Slotted | None = None
        self._inputs = encoded(network, pixels) if network.encode_once and inputs is None else inputs
        self._centred: tuple[Vector, Workbench] | None = None
        self._answered: tuple[tuple[str | bytes, ...], Scores] | None = None
        self._batching = Batching(network, pixels, self._inputs, masks, augmentation, lattice, self.at_once)
        self._head = HeadSums.of(network, self._inputs, loss, self.cores) if augmentation.is_identity else None

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the initial weights."""
        return sha256_of(self.initial_weights)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channel, *space) of a picture."""
        return tuple(self._pixels.shape[1:])

    @property
    def kept_inputs(self) -> Tensor | None:
        """Inputs of every picture, (picture, ...), where they are computed once."""
        return self._inputs

    @property
    def trains_head(self) -> bool:
        """True where a linear head on kept inputs is trained, by matrix products."""
        return self._head is not None

    def centred(self, centre: Vector | None) -> "Workbench":
        """Returns the workbench of a head on rows less a centre (`wardround.training.centring`); itself for None."""
        if centre is None:
            return self
        if self._centred is None or not np.array_equal(self._centred[0], centre):
            self._centred = None  # its rows go before others are made
            inputs = centred_inputs(self.network, self._inputs, centre)
            # Evaluations load weights into the trained part; a session of ONNX Runtime before it cannot be copied.
            network = replace(self.network, trained=copy.deepcopy(self.network.trained))
            given = network, self._pixels, self._loss, self._memory_bytes
            bench = Workbench(*given, inputs=inputs, device=self.device, cores=self.cores)
            self._centred = (centre, bench)
        return self._centred[1]

    @cached_property
    def copies(self) -> list[nn.Module]:
        """Copies of the trained part for patients' own gradients, one a core and for one thread each."""
        return [copy.deepcopy(self.network.trained) for _ in range(self.num_copies)]

    @cached_property
    def num_copies(self) -> int:
        """Number of `copies`; 0 of a GPU, a head, whose products take all cores, or a network that draws numbers."""
        if self.device != CPU or self.cores == 1 or self._head is not None or not len(self._pixels):
            return 0
        self._train(self._there)
        return (
            0 if draws(self._there, torch.zeros_like(self.inputs_of(np.zeros(2, dtype=np.int64)))) else self.cores
        )

    @cached_property
    def processes(self) -> "Processes[Workbench] | None":
        """Processes with a copy of this workbench each, one a core, forked when they are used.

        None of one core, a linear head, whose products take all cores by themselves, or a machine that cannot fork, as
        one with a GPU.
        """
        if self.cores == 1 or self._head is not None or self.device != CPU or not can_fork():
            return None
        if len(self._pixels):
            self.inputs_of(np.zeros(1, dtype=np.int64))  # inputs that are kept are kept once, not by each of them
        return Processes(self.cores, 12 * self.initial_weights.size + (1 << 20))

    def end_processes(self) -> None:
        """Ends the processes that were forked, if any were; others are forked when there is work for them."""
        if (forked := vars(self).get("processes")) is not None:  # the property would encode inputs
            forked.close()

    def gradient_sums(
        self,
        weights: Vector,
        samples: Sequence[Sample],
        clipping_norm: float,
        dropout_seed: int,
        rule: Clipping | None = None,
        class_weights: tuple[float, ...] | None = None,
    ) -> list[ClippedSum]:
        """Returns the clipped gradient sum of each sample, evaluated in common batches.

        Args:
            weights: at which the gradient is taken, (parameter,).
            samples: one for each hospital; may be empty.
            clipping_norm: as in `wardround.per_patient.clipped_sum.clipped_sum`; infinity turns clipping off.
            dropout_seed: of this step; a patient's masks follow from it and the patient's own key.
            rule: by which gradients are brought to that norm; flat if not given.
            class_weights: weight of each class's pictures in the loss, (class,), public; one if not given.

        Guarantee:
            That of `clipped_sums_by_group`, for each hospital. Not noised: nothing of it may leave as it is.
            A linear head on kept inputs is computed by matrix products (`wardround.training.heads`).
        """
        if self._head is not None:
            drawn = [(sample.patients, sample.chosen) for sample in samples]
            return self._head.sums(weights, drawn, clipping_norm, rule or Flat(), class_weights)
        step = Step(weights, clipping_norm, dropout_seed, rule, class_weights)
        totals: list[Tensor | None] = [None] * len(samples)
        within = [0] * len(samples)
        for sums in self._in_turn(step, list(self._batching.shared_out(samples))):
            for hospital, vector, count in sums:
                totals[hospital] = _added(totals[hospital], torch.from_numpy(vector))
                within[hospital] += count
        return [
            ClippedSum(torch.zeros(weights.size) if total is None else total, clipping_norm, count)
            for total, count in zip(totals, within, strict=True)
        ]

    @property
    def batch_processes(self) -> "Processes[Workbench] | None":
        """Processes that sum batches; None of a large network, or where there are none."""
        return self.processes if self.initial_weights.nbytes <= _LARGEST_SHARED else None

    def _in_turn(self, step: Step, batches: list[Members]) -> Iterator[list[BatchSum]]:
        """Yields the sums of each batch; they are computed side by side where torch gives a kernel one thread."""
        processes = self.batch_processes if len(batches) > 1 and torch.get_num_threads() == 1 else None
        if processes is None:
            return (self.batch_sums((step, members)) for members in batches)
        return processes.in_order(Workbench.batch_sums, [(step, members) for members in batches], self)

    def batch_sums(self, item: tuple[Step, Members]) -> list[BatchSum]:
        """Returns the sums of one batch: `BatchSums.of`."""
        step, members = item
        self._load(self._there, step.weights)
        self._train(self._there)
        given = self._there, self._loss, self._memory_bytes, self._independence, self.device, self._layout
        return BatchSums(*given).of(step, self._batching.read(members, step.dropout_seed), members.group)

    def plain_sums_at(
        self, weights: Sequence[Vector], samples: Sequence[Sample], class_weights: tuple[float, ...] | None
    ) -> list[ClippedSum] | None:
        """Returns the plain gradient sum of each sample at its own weights, (parameter,), in common passes; or None.

        None of a head, varied pictures, a GPU, a network that is not known or draws (`per_patient.side_by_side`).
        Nothing is clipped or noised: nothing of it may leave as it is.
        """
        drawn = [place for place, sample in enumerate(samples) if len(sample.chosen)]
        counts = [int(samples[place].patients.counts[samples[place].chosen].sum()) for place in drawn]
        is_fit = self._head is None and self.device == CPU and self._augmentation.is_identity
        if not is_fit or self._independence is not Independence.CHECKED or max(counts, default=0) > self.at_once:
            return None
        self._train(self._there)
        loss = self._loss if class_weights is None else weighted(self._loss, class_weights)
        shared = _PIXELS_SHARED // max(1, int(np.prod(self._pixels.shape[2:])))
        most = max(1, min(self.at_once, shared, -(-sum(counts) // self.cores)))

        def block(first: int, last: int) -> Block:
            [(batch, _)] = self._batching.batches([samples[place] for place in drawn[first:last]], 0)
            return batch, counts[first:last], [torch.from_numpy(weights[place]) for place in drawn[first:last]]

        blocks = [partial(block, *ends) for ends in patient_ranges(counts, most)]
        found = sums_side_by_side(self._there, self._layout, loss, blocks, self.cores)
        if found is None:
            return None
        of = dict(zip(drawn, found, strict=True))
        return [ClippedSum(of.get(at, torch.zeros(own.size)), math.inf) for at, own in enumerate(weights)]

    @property
    def head(self) -> HeadSums:
        """The sums of a linear head on kept inputs (`trains_head`). Not noised: nothing of it may leave as it is."""
        assert self._head is not None, "it was asked whether there is one"
        return self._head

    def sums_exactly(self, steps: Steps) -> bool:
        """Returns whether `exact_sum` can be asked for: of a linear head on kept inputs, on a grid that is fine."""
        return self._exact is not None and steps.are_fine

    def exact_sum(
        self, weights: Vector, sample: Sample, clipping_norm: float, rule: Clipping, steps: Steps
    ) -> Int64:
        """Returns the clipped gradient sum of a sample in grid steps, (parameter,); see `ExactHead.sum_of`.

        Not noised: nothing of it may leave as it is.
        """
        assert self._exact is not None, "it was asked whether there is one"
        return self._exact.sum_of(weights, sample.patients, sample.chosen, rule, clipping_norm, steps)

    @cached_property
    def _exact(self) -> ExactHead | None:
        layer, is_ordinal = scoring_layer(self.network)
        if self._head is None or self._inputs is None or layer is None:
            return None
        has_bias = layer.bias is not None
        return ExactHead(layer.out_features, self._inputs, has_bias, is_ordinal=is_ordinal, threads=self.cores)

    def patient_gradients(self, weights: Vector, sample: Sample, dropout_seed: int) -> Iterator[Vector]:
        """Yields the gradient of each patient of a sample, not clipped, (parameter,), in the sample's order.

        Guarantee: none. Each gradient is one patient's, and no bit of it depends on the other patients of the sample,
            for all of it is computed on the processor, for every device: kernels of a GPU promise no bits.
            Small networks compute it in batches of a fixed shape (`wardround.per_patient.fixed_shape`), others and
            those whose pictures are varied or give masks from the patient's pictures only
            (`wardround.per_patient.isolated`). Batches and patients are spread over the cores, one thread for each.
        """
        self._load(self.network.trained, weights)
        self._train(self.network.trained)
        for each in self.copies:
            load_vector(each.train(), weights)
        slots = self._independence is Independence.CHECKED and self._masks is None
        if self._slotted is None and slots and self._augmentation.is_identity:
            self._slotted = Slotted(self.network, self._loss, self._pixels, self._inputs, self._memory_bytes)
        if self._slotted is not None and self._slotted.count:
            drawn, counts = sample.patients.pictures_of(sample.chosen), sample.patients.counts[sample.chosen]
            yield from self._slotted.gradients(drawn, counts, dropout_seed, self._each)
            return
        yield from gradients_alone(
            self._batching.batches([sample], dropout_seed, at_once=1), sample.patients.keys[sample.chosen].tolist(),
            weights.size, self._loss, max(1, len(self.copies)), self._each,
            memory_bytes=self._memory_bytes, dropout_seed=dropout_seed, independence=self._independence,
        )  # fmt: skip

    def _each(self, function: Callable[[nn.Module, Item], Found], items: Sequence[Item]) -> list[Found]:
        """Returns a function of the network and each item, on all cores once the network is known, as by the first."""
        trained, found = self.network.trained, list[Found]()
        if len(items) > 1 and self.copies:
            if not take_over(trained, self.copies):
                found = [function(trained, items[0])]
            if take_over(trained, self.copies):
                try:
                    return found + spread(self.copies, function, items[len(found) :])
                except DrawsInWorker:  # at these pictures, and not at those that it was tried with
                    self.copies = []
        return found + [function(trained, item) for item in items[len(found) :]]

    def probabilities(self, weights: Vector | tuple[Vector, ...], rows: Rows) -> Scores:
        """Returns class probabilities of some pictures, (picture, class); of several models their mean.

        The last answer is kept: the end of a run asks for one several times.
        """
        models = weights if isinstance(weights, tuple) else (weights,)
        asked: tuple[str | bytes, ...] = (*map(sha256_of, models), rows.tobytes())
        if self._answered is None or self._answered[0] != asked:
            found = torch.cat([part for _, part in self._probabilities(models, rows)]).numpy()
            self._answered = asked, found
        return self._answered[1].copy()

    def inputs_of(self, rows: Rows) -> Tensor:
        """Returns inputs of the trained part, (picture, ...): fixed, public, and of each picture alone."""
        return self._batching.inputs_of(rows)

    def predicted_masks(self, weights: Vector | tuple[Vector, ...], rows: Rows) -> Iterator[tuple[Rows, Masks]]:
        """Yields some rows, and the likeliest class of each of their pixels or voxels, (row, *space)."""
        for part, probabilities in self._probabilities(weights, rows):
            yield part, probabilities.argmax(dim=1).to(torch.uint8).numpy()

    def true_masks(self, rows: Rows) -> Masks:
        """Returns the true class of each pixel or voxel, against `predicted_masks`, (row, *space)."""
        assert self._masks is not None, "only segmentation has masks"
        masks = torch.from_numpy(self._masks[rows])
        return self._augmentation.centre(masks[:, None])[0][:, 0].numpy()

    def _probabilities(self, weights: Vector | tuple[Vector, ...], rows: Rows) -> Iterator[tuple[Rows, Tensor]]:
        """Yields some rows and the class probabilities of each, (row, class, *space), float64."""
        models = weights if isinstance(weights, tuple) else (weights,)
        for part in np.array_split(rows, max(1, math.ceil(len(rows) / self.at_once))):
            total: float | Tensor = 0.0
            for model in models:
                self._load(self._there, model)
                self._there.eval()
                with torch.no_grad(), in_single_precision():
                    logits = self._there(self.inputs_of(part).to(self.device)).cpu()
                total = total + torch.softmax(logits.to(torch.float64), dim=1)
            assert isinstance(total, Tensor), "an ensemble has models"
            yield part, total / len(models)

    def _load(self, trained: nn.Module, weights: Vector) -> None:  # hospitals of one round share one array
        if self._loaded is None or self._loaded[0] is not trained or self._loaded[1] is not weights:
            load_parameters(self._trained[trained], weights)
            self._loaded = trained, weights

    def _train(self, trained: nn.Module) -> None:
        """Puts the network into training mode: a walk over its modules, once between two evaluations."""
        if self._in_training is not trained or not trained.training:
            self._in_training = trained.train()

    @cached_property
    def _layout(self) -> Layout:
        return Layout.of(self._there)


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    """Returns the sum of two parts: one part as it is, several in double precision."""
    return part if total is None else total.to(torch.float64) + part
