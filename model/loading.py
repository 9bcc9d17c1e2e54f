"""From a checkpoint folder to a model that can run: weights, network, tokenizer, template, warm
steps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from model import device as devices
from model.checkpoint import dequantize_fits, load_weights
from model.config import ModelConfig, read_config
from model.constraint import WORD, Mask, TokenConstraint
from model.decoder import Decoder
from model.draft_head import DraftHead
from model.errors import CheckpointError
from model.generation import Generation
from model.hub import hub_snapshot
from model.kernel_choice import KernelChoice
from model.kernels import probe
from model.kernels.admission import Row, summary
from model.lane_state import LaneState
from model.load_plan import LoadPlan, plan_loading
from model.mtp import MtpHead
from model.mtp_checkpoint import load_mtp, plan_mtp
from model.mtp_measure import measure_mtp
from model.mtp_policy import DepthPolicy, MtpDepth
from model.mtp_speculation import Mtp
from model.mtp_steps import MtpSteps
from model.network import Network
from model.sampler import Variant
from model.sampling import SamplingParams
from model.state import SequenceState
from model.steps import Steps
from model.template import ChatTemplate
from model.tokenizer import Tokenizer

log = logging.getLogger(__name__)

DEMO_FOLDER = Path(__file__).parent / "demo" / "checkpoint"
WARM_UP_LENGTHS = (1, 300)  # tokens before the step: an empty body, and the second bucket


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded checkpoint. Belongs to the thread that loaded it."""

    name: str
    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    template: ChatTemplate
    device: devices.DeviceInfo
    network: Network
    steps: Steps
    fingerprint: str
    is_demo: bool
    dequantized: bool
    memory_limit: int
    kernel_rows: tuple[Row, ...]

    @property
    def context_length(self) -> int:
        return self.config.max_position_embeddings

    def generation(self, sampling: SamplingParams) -> Generation:
        """A fresh sequence."""
        return Generation(self.steps, sampling)

    def decoder(self, *, alone: bool = False) -> Decoder:
        """Steps many generations at once; with `alone` each by itself, one after another."""
        return Decoder(self.steps, alone=alone)

    @property
    def on_gpu(self) -> bool:
        return self.device.kind != "cpu"

    @property
    def bytes_per_token(self) -> int:
        """KV of one token, all attention layers."""
        layers = sum(kind == "full_attention" for kind in self.config.layer_types)
        width = self.config.num_key_value_heads * self.config.head_dim
        return 2 * layers * width * self.network.dtype.size

    @property
    def bytes_per_sequence(self) -> int:
        """The recurrent part and the tails of one sequence; where it may speculate, with the states
        captured after every token of two steps."""
        state, mtp = SequenceState(self.config, self.network.dtype), self.steps.mtp
        if mtp is None or not mtp.policy.may_pay():
            return state.nbytes
        recurrent = sum(a.nbytes for a in (*state.layers.conv_tails, *state.layers.recurrent))
        return state.nbytes + 2 * (mtp.policy.most + 1) * recurrent

    @property
    def guesses(self) -> dict[str, int]:
        """Counts of the MTP head's guesses so far: see MtpCounts; empty without a head."""
        return {} if self.steps.mtp is None else asdict(self.steps.mtp.counts)

    def memory(self) -> devices.Memory:
        """What mlx holds, and what it may hold: that much was there, or free, after loading."""
        return devices.memory(self.memory_limit)

    def self_test(self) -> None:
        """Computes one token from nothing. Raises what the device raises, or FloatingPointError."""
        generation = self.generation(SamplingParams(temperature=0.0))
        generation.prefill([0])
        token = generation.step(0)
        generation.recurrent()
        if token < 0:
            raise FloatingPointError("the logits of the self-test are not finite")

    def touch(self) -> None:
        """Gives the device something tiny to do, and waits for it."""
        mx.eval(mx.zeros(1) + 1)

    def logits(
        self, tokens: Sequence[int], *, chunks: Sequence[int] | None = None, decode: int = 0
    ) -> mx.array:
        """Float32 logits [T, vocabulary] after every token of a sequence.

        The last `decode` tokens go one by one through the compiled decode step, the others through
        prefill, in chunks of the given lengths (the last one repeats).
        """
        state = SequenceState(self.config, self.network.dtype)
        ids, rows, start = list(tokens), [], 0
        prefilled = len(ids) - decode
        lengths = list(chunks or [max(prefilled, 1)])
        while start < prefilled:
            length = lengths.pop(0) if len(lengths) > 1 else lengths[0]
            chunk = ids[start : min(start + length, prefilled)]
            rows.append(self.network.logits(self.steps.prefill(state, chunk))[0])
            start += len(chunk)
        variant = Variant(greedy=True, filtered=False, penalised=False, with_logits=True)
        lane, of_prompt = LaneState([state]), mx.array([0], mx.int32)
        for token in ids[prefilled:]:
            fed = mx.array([token], mx.int32)
            _, _, logits = self.steps.decode(variant, fed, lane, {}, {}, of_prompt)
            assert logits is not None  # noqa: S101 - the variant asked for them
            rows.append(logits)
            mx.eval(logits)
        return mx.concatenate(rows, axis=0)

    def warm_up(self, report: Callable[[str], None] = log.info) -> None:
        """Compiles the steps that first requests will use, alone and in company."""
        begin = time.monotonic()
        greedy = SamplingParams(temperature=0.0)
        if self.steps.compiled and not self.on_gpu:  # g++ runs for what no process compiled before
            report("compiling decode steps; the first time on a machine this takes a while")
        if self.on_gpu:  # compiles a prompt's kernels at their first use
            self.generation(greedy).prefill([0] * max(WARM_UP_LENGTHS))
        mtp, self.steps.mtp = self.steps.mtp, None
        filtered = SamplingParams(temperature=1.0, top_p=0.9, top_k=20)
        for sampling in (greedy, SamplingParams(temperature=1.0), filtered):
            for length in WARM_UP_LENGTHS:
                self._warm(length, sampling)
        self._warm(1, SamplingParams(temperature=1.0, top_p=0.9, presence_penalty=0.5))
        self._warm(1, filtered, filtered)
        self._warm(1, filtered, greedy)
        for length, sampling in zip(WARM_UP_LENGTHS, (greedy, filtered), strict=True):
            self._warm(length, sampling, constraint=_Waking(self.config.vocab_size))
        if mtp is not None:
            self._warm_up_mtp(mtp, report)
        kind = "compiled" if self.steps.compiled else "uncompiled"
        report(f"{kind} decode steps ready after {time.monotonic() - begin:.1f} s")

    def _warm_up_mtp(self, mtp: Mtp, report: Callable[[str], None]) -> None:
        self.steps.mtp = mtp
        try:
            report(f"MTP: {measure_mtp(self.steps, mtp, WARM_UP_LENGTHS)}")
        except RuntimeError as error:  # mlx's: kernels that do not compile here, or no memory
            self.steps.mtp = None
            log.warning("MTP: off, for a step with guesses failed: %s", error)

    def _warm(
        self, length: int, *rows: SamplingParams, constraint: TokenConstraint | None = None
    ) -> None:
        """Two steps of `rows` as after `length` tokens."""
        decoder = self.decoder()
        for sampling in rows:
            generation = self.generation(sampling)
            generation.pretend(length)
            decoder.join(generation, 0, constraint=constraint)
        for _ in range(2):
            decoder.step()
        for generation in decoder.members:
            decoder.leave(generation)
            generation.settle()


class _Waking:
    """A constraint that sleeps for one step and allows everything from then on."""

    def __init__(self, vocab_size: int) -> None:
        self._mask = np.full(-(-vocab_size // WORD), -1, np.int32)
        self._awake = False

    def accept(self, token: int) -> None:
        self._awake = True

    def mask(self) -> Mask | None:
        return self._mask if self._awake else None


def load_model(
    path: Path | str | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    dequantize: bool | None = None,
    kernels: KernelChoice = "auto",
    mtp: Path | None = None,
    mtp_depth: MtpDepth = "auto",
) -> Model:
    """Loads a checkpoint folder, or a hub id (downloaded or from the hub's cache), or None: the
    embedded demo.

    `dequantize` defaults to true on a CPU whose memory holds the float32 weights, since quantized
    products are slow there; `progress(bytes_done, bytes_total)` is called while weights load;
    `kernels` says which fused kernels may try to prove themselves. mtp: a file or folder with the
    MTP head, where the checkpoint has none or another; mtp_depth: how many tokens it guesses.
    Raises CheckpointError.
    """
    folder = DEMO_FOLDER if path is None else resolve(str(path))
    device = devices.current()
    on_gpu = device.kind != "cpu"
    if claimed := devices.claim_memory():
        log.info("%s", claimed)
    config = read_config(folder)
    # Refuses by the headers alone, before anything that takes time.
    plan = plan_loading(folder, config)
    mtp_plan = _plan_mtp(folder, config, mtp, mtp_depth)
    tokenizer, template = Tokenizer.from_folder(folder), ChatTemplate.from_folder(folder)
    if dequantize is None:
        dequantize = not on_gpu and dequantize_fits(folder, config, device)
    weights = load_weights(
        folder,
        config,
        compute_dtype=device.compute_dtype,
        dequantize=dequantize,
        progress=progress,
        plan=plan,
    )
    head_weights = mtp_plan and load_mtp(
        mtp_plan, config, compute_dtype=device.compute_dtype, dequantize=dequantize
    )
    left = [name for name in weights.set_aside if head_weights is None or "mtp" not in name]
    if left:
        log.info("%d vision and MTP tensors set aside", len(left))
    network = Network(config, weights, device.compute_dtype, on_gpu=on_gpu)
    log.info("delta rule: %s", network.delta_rule_choice)
    rows = probe.admit(network, kernels, device=device.kind, guesses=head_weights is not None)
    log.info("kernels: %s", summary(rows))
    steps = Steps(network, on_gpu=on_gpu)
    if head_weights is not None:
        controls = [control.id for control in tokenizer.controls.values()]
        draft = DraftHead.of(network.lm_head, config.vocab_size, controls)
        head = MtpHead(config, head_weights, network, on_gpu=on_gpu, draft=draft)
        steps.mtp = Mtp(MtpSteps(head, compiled=steps.compiled), DepthPolicy(mtp_depth))
    is_demo = folder.resolve() == DEMO_FOLDER.resolve()
    return Model(
        name="mxserve-demo" if is_demo else folder_name(folder, path),
        folder=folder,
        config=config,
        tokenizer=tokenizer,
        template=template,
        device=device,
        network=network,
        steps=steps,
        fingerprint=weights.fingerprint,
        is_demo=is_demo,
        dequantized=dequantize,
        memory_limit=mx.get_active_memory() + devices.current().memory_available,
        kernel_rows=rows,
    )


def _plan_mtp(
    folder: Path, config: ModelConfig, side: Path | None, depth: MtpDepth
) -> LoadPlan | None:
    """What to load of an MTP head; None without one. One that nobody asked for is left where it
    does not fit."""
    if depth == 0:
        return None
    try:
        plan = plan_mtp(folder, config, side)
    except CheckpointError as error:
        if side is not None or depth != "auto":
            raise
        log.warning("the checkpoint's MTP head is left: %s", error)
        return None
    if plan is None and depth != "auto":
        raise CheckpointError(
            f"{folder}: expected mtp.* tensors for guesses of {depth} tokens, found none; "
            "--mtp takes them from elsewhere"
        )
    return plan


def folder_name(folder: Path, path: Path | str | None) -> str:
    """The name to serve under: the hub id as given, else the folder's own name."""
    given = str(path)
    return given if given.count("/") == 1 and not Path(given).exists() else folder.resolve().name


def resolve(path: str) -> Path:
    """A local folder, or that of a hub id (`owner/name`). Raises CheckpointError."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise CheckpointError(f"{path}: no such folder (and not a hub id of the form owner/name)")
    return hub_snapshot(path)
