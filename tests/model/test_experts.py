"""The mixture of experts inside a compiled decode step."""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import pytest

from model.config import ModelConfig, QuantSpec, read_config
from model.experts import SORT_FROM, Experts
from model.kernels import Kernels
from model.loading import DEMO_FOLDER, load_model

CONFIG: ModelConfig = read_config(DEMO_FOLDER)
# GPUs multiply float32 in shorter formats (TF32), and their compute type is bfloat16.
TOLERANCE = 1e-5 if mx.default_device() == mx.Device(mx.cpu) else 5e-2


@dataclass(frozen=True)
class Arrays:
    """Float32 weights of one block, as the loader would hand them over."""

    arrays: Mapping[str, mx.array]
    quantized: Mapping[str, QuantSpec]


def random_block(*, on_gpu: bool) -> Experts:
    hidden, count = CONFIG.hidden_size, CONFIG.num_experts
    inner, shared = CONFIG.moe_intermediate_size, CONFIG.shared_expert_intermediate_size
    shapes = {
        "gate": (count, hidden),
        "switch_mlp.gate_proj": (count, inner, hidden),
        "switch_mlp.up_proj": (count, inner, hidden),
        "switch_mlp.down_proj": (count, hidden, inner),
        "shared_expert_gate": (1, hidden),
        "shared_expert.gate_proj": (shared, hidden),
        "shared_expert.up_proj": (shared, hidden),
        "shared_expert.down_proj": (hidden, shared),
    }
    mx.random.seed(3)
    arrays = {
        f"mlp.{name}.weight": mx.random.normal(shape) * shape[-1] ** -0.5
        for name, shape in shapes.items()
    }
    return Experts(CONFIG, Arrays(arrays, {}), "mlp", on_gpu=on_gpu)


def difference(a: mx.array, b: mx.array) -> float:
    """The largest, of what is largest."""
    return float(mx.abs(a - b).max() / mx.abs(b).max())


def step(block: Experts, x: mx.array) -> mx.array:
    return block.step(x, x, Kernels.plain()) - x


def rows_alone(block: Experts, x: mx.array) -> mx.array:
    kernels = Kernels.plain()
    return mx.concatenate([block.prefill(x[i : i + 1], kernels) for i in range(x.shape[0])])


@pytest.mark.parametrize("rows", [1, SORT_FROM - 1, SORT_FROM, 2 * SORT_FROM])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_compiled_decode_step_of_many_rows_equals_the_rows_alone(rows: int, on_gpu: bool) -> None:
    block = random_block(on_gpu=on_gpu)
    x = mx.random.normal((rows, 1, CONFIG.hidden_size))
    compiled = mx.compile(lambda x: step(block, x))
    assert difference(compiled(x), rows_alone(block, x)) < TOLERANCE


@pytest.mark.parametrize("dequantize", [False, True])
@pytest.mark.parametrize("rows", [SORT_FROM, 2 * SORT_FROM])
def test_loaded_experts_decode_many_rows(rows: int, dequantize: bool) -> None:
    model = load_model(DEMO_FOLDER, dequantize=dequantize)
    block = model.network.layers[0].experts
    x = mx.random.normal((rows, 1, CONFIG.hidden_size)).astype(model.network.dtype)
    compiled = mx.compile(lambda x: step(block, x))
    assert difference(compiled(x), rows_alone(block, x)) < TOLERANCE


@pytest.mark.parametrize("dequantize", [False, True])
def test_a_prompt_on_the_cpu_takes_each_expert_once_and_agrees(dequantize: bool) -> None:
    model = load_model(DEMO_FOLDER, dequantize=dequantize)
    block = model.network.layers[0].experts
    x = mx.random.normal((1, 40, CONFIG.hidden_size)).astype(model.network.dtype)
    whole = block.prefill(x, Kernels.plain())
    for token in range(40):
        alone = step(block, x[:, token : token + 1])
        assert difference(alone, whole[:, token : token + 1]) < TOLERANCE
