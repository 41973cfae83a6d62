"""Configuration of training: the data's way to the model, the optimizer, checkpoints and metrics."""

from __future__ import annotations

from typing import Literal

import msgspec

from hpc.config.base import Config, require_plain
from hpc.config.cluster import ClusterConfig
from hpc.config.layout import LayoutConfig
from hpc.config.lora import LoraConfig
from hpc.config.model import ModelConfig


def _positive(config: Config, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise ValueError(f"{name} is {getattr(config, name)}, it must be positive")


class OptimizerConfig(Config):
    """The optimizer and its learning rate."""

    kind: Literal["adamw", "muon"] = "adamw"
    """muon: the matrices of hidden layers by Muon, the rest by AdamW; each rank must have whole matrices."""
    lr: float = 1e-5
    """Highest learning rate, reached at the end of the warm-up."""
    min_lr: float = 1e-6
    """Learning rate at the last step."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls from lr to min_lr; constant: it stays at lr."""
    warmup_steps: int = 2
    """Steps over which the learning rate rises linearly to lr."""
    weight_decay: float = 0.1
    """Decoupled weight decay; never of biases and norms."""
    beta1: float = 0.9
    """Decay of the mean of gradients."""
    beta2: float = 0.95
    """Decay of the mean of squared gradients."""
    eps: float = 1e-8
    """Added to the root of the mean of squared gradients."""
    clip_grad: float = 1.0
    """Largest norm of the gradient over all parameters; 0: no clipping."""

    def __post_init__(self) -> None:
        _positive(self, "lr", "eps")
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(f"min_lr is {self.min_lr}, it must be between 0 and lr ({self.lr})")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 0 or more and below 1")
        for name in ("warmup_steps", "weight_decay", "clip_grad"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 0 or more")


class PolicyConfig(Config):
    """The loss of GRPO."""

    clip: float = 0.2
    """A token's probability may gain by a change of at most this share, relative to that it was sampled with."""
    kl: float = 0.001
    """Weight of the penalty (k3) for leaving the policy that the rollouts were sampled with; 0: none."""
    temperature: float = 1.0
    """Temperature of the engine's log-probabilities; 1 for vLLM, which gives those before temperature."""

    def __post_init__(self) -> None:
        _positive(self, "clip", "temperature")
        if self.kl < 0:
            raise ValueError(f"kl is {self.kl}, it must be 0 or more")


class GuardConfig(Config):
    """What to do about a step whose loss or gradient is no number, or far beyond the usual."""

    policy: Literal["skip", "stop"] = "skip"
    """skip: leave the weights as they are, count it and go on; stop: end with an error."""
    spike_factor: float | None = None
    """A gradient norm beyond so many times the median of the last `window` steps is a spike; None: none is."""
    window: int = 32
    """Steps that say what is usual; no step is a spike before there are so many."""
    max_skips: int = 5
    """So many skipped steps one after the other end the training."""

    def __post_init__(self) -> None:
        _positive(self, "window", "max_skips")
        if self.spike_factor is not None and self.spike_factor <= 1:
            raise ValueError(f"spike_factor is {self.spike_factor}, it must be above 1, or null")


class CheckpointsConfig(Config):
    """When checkpoints are written and which are kept."""

    every: int = 100
    """Steps between checkpoints; one more is written at the end and when the job must go."""
    keep: int = 3
    """So many of the newest are kept, the best one beside them."""
    asynchronous: bool = True
    """Write in the background while training goes on."""

    def __post_init__(self) -> None:
        _positive(self, "every", "keep")


class MetricsConfig(Config):
    """Where the figures of training go, beside metrics.jsonl in the run directory."""

    every: int = 1
    """Steps between lines."""
    tensorboard: bool = True
    """Write TensorBoard's event files too, where tensorboard is installed."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases; offline: files to be sent later by `wandb sync`."""
    wandb_project: str = "apollo-hpc"
    """Project of Weights & Biases."""
    peak_tflops: float | None = None
    """Peak of one GPU for the share of it that is used (MFU); None: known for common GPUs."""

    def __post_init__(self) -> None:
        _positive(self, "every")
        if self.peak_tflops is not None:
            _positive(self, "peak_tflops")


class TrainConfig(Config):
    """One training of a model on a dataset."""

    method: Literal["sft", "grpo"] = "sft"
    """sft: predict the trained tokens of the examples; grpo: raise or lower their probabilities by the
    advantages that the dataset has, which must hold the engine's log-probabilities, too."""
    dataset: str = ""
    """Folder of a dataset, as `hpc dataset build` makes it. It must be given."""
    split: str = "train"
    """Split that is trained on."""
    validation: str | None = None
    """Split whose loss is measured; it decides which checkpoint is the best. None: no measuring."""
    validation_every: int = 100
    """Steps between measurements; one more is made at the end."""
    seq_length: int = 4096
    """Tokens of one row that the model sees at once."""
    packing: bool = True
    """Put several examples into a row, each seeing itself alone; else one example is a row."""
    overlong: Literal["error", "drop", "truncate"] = "error"
    """Examples longer than a row: refuse to train, leave them out, or cut them after the last action that fits."""
    epochs: int = 1
    """How often each example is trained."""
    steps: int | None = None
    """End after so many steps, even within an epoch; None: when the epochs are over."""
    global_batch: int = 64
    """Rows of one optimizer step, over all ranks."""
    micro_batch: int = 1
    """Rows that a rank works on at once; must be 1 with packing."""
    seed: int = 1
    """Decides the order of the examples and the random numbers."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of the weights and activations; sums of gradients and the optimizer are always fp32."""
    recompute: Literal["none", "full"] = "none"
    """full: forget activations and compute them again in the backward pass (less memory, a third more work)."""
    ranks_per_node: int = 1
    """Processes that each task of the job starts: the GPUs of a node. With cluster tasks_per_node above 1,
    srun starts the processes; leave this 1 then."""
    threads: int = 1
    """CPU threads of a rank."""
    start_from: str | None = None
    """Checkpoint of another run to go on from, as in runs/NAME or runs/NAME@STEP: the weights, the optimizer,
    and the position in the data, in any layout. None: the model's own weights."""
    warm_start: str | None = None
    """Checkpoint of another run whose weights and optimizer are taken for other data, from its first row on, as
    the rounds of GRPO do and a second stage of fine-tuning can."""
    optimizer: OptimizerConfig = msgspec.field(default_factory=OptimizerConfig)
    """AdamW and its learning rate."""
    policy: PolicyConfig = msgspec.field(default_factory=PolicyConfig)
    """The loss of GRPO."""
    guard: GuardConfig = msgspec.field(default_factory=GuardConfig)
    """Steps gone wrong."""
    checkpoints: CheckpointsConfig = msgspec.field(default_factory=CheckpointsConfig)
    """When checkpoints are written and which are kept."""
    metrics: MetricsConfig = msgspec.field(default_factory=MetricsConfig)
    """Where the figures go."""

    def __post_init__(self) -> None:
        _positive(
            self, "seq_length", "epochs", "global_batch", "micro_batch", "ranks_per_node", "threads", "validation_every"
        )
        if self.steps is not None:
            _positive(self, "steps")
        if self.packing and self.micro_batch != 1:
            raise ValueError(
                f"micro_batch is {self.micro_batch} with packing, it must be 1: a packed row holds several examples"
            )
        if self.validation is not None and self.method == "grpo":
            raise ValueError(f"validation is {self.validation!r} with method=grpo, which has none; set it null")
        if self.start_from is not None and self.warm_start is not None:
            raise ValueError(
                f"start_from is {self.start_from!r} and warm_start {self.warm_start!r}, set one of them to null"
            )
        if self.validation is not None and self.validation == self.split:
            raise ValueError(f"validation is {self.validation!r}, the split that is trained on; name another")


class TrainRunDirConfig(Config):
    """Where a training writes."""

    name: str | None = None
    """Name of the run directory; None: METHOD-<date>-<time>."""
    root: str = "runs"
    """Folder of run directories."""

    def __post_init__(self) -> None:
        require_plain(self.name)


class TrainRunConfig(Config):
    """Root configuration of `hpc train`."""

    run: TrainRunDirConfig
    cluster: ClusterConfig
    model: ModelConfig
    layout: LayoutConfig
    train: TrainConfig
    lora: LoraConfig = LoraConfig()
