"""From the original BF16 checkpoint to a quantized one: `mxserve convert`.

How the parts fit, and what they agree on:

- `source.py`: `open_source(path_or_hub_id) -> Source`. Lazy: headers are read, tensors when asked
  for. Names are the network's (`model.layers.0.mlp.switch_mlp.gate_proj.weight`, as in
  model/tensors.py), shapes those of the MLX layout, values what the network computes with (norms
  have their one added, gate and up of the experts are apart). `source.tensors[name]` tells shape,
  kind and stored dtype; `.values(start, stop)` gives float32 [stop - start, ...] of a range of the
  first axis (rows, or experts); `source[name]` the whole as an mx.array in the stored dtype.
- `recipe.py`: `RECIPES[name].decide(module, shape) -> QuantSpec | None`; None is bfloat16.
  `module` is a name without `.weight`.
- `prescale.py`: what AWQ hands over, `Prescaling = Mapping[str, Scaling]` by tensor name: factors
  of the inputs (columns) and outputs (rows) of a matrix, multiplied in float32 before anything is
  quantized, or of a norm's values. What stays bfloat16 is rounded after it: powers of two change
  nothing else. `Importance = Mapping[str, float32 array]` by module: the mean square of every
  input, [in], or [experts, in] for the routed experts; it weighs the errors between which the
  quantizers choose. Made by `imatrix.py` and `awq.py`:
  `imatrix.read_importance(file, config) -> Importance`, and
  `awq.plan_prescaling(source, recipe, importance) -> awq.Plan`, whose `scalings` is a Prescaling
  and whose `report` goes to conversion.json (a JSON list, one entry for each group of tensors).
- `quantize.py`: `quantize(values, spec, importance=None) -> ({suffix: numpy array as stored},
  infinities replaced)` and `dequantize(parts, spec)`, its inverse; behind them `exponent.py`,
  `grids.py` (E4M3 and E2M1 as tables), `microscaling.py`, `affine.py`, `rounding.py`,
  `nibbles.py`: numpy only, so every machine writes the same bytes. Importance is that of inputs
  before scaling; convert.py divides it by the square of their factors.
- `plan.py`: the tensors to be written and their places in the files. `job.py`: one conversion as
  asked for. `convert.py`, `files.py`, `journal.py`: streamed there, taken up again where it was
  killed. `beside.py`: config.json, index, tokenizer. `report.py`: in words and figures.
- `inspect.py`, `findings.py`: what is in a checkpoint, and what its values give away.

Vision tensors are kept as `vision_tower.*`, in the dtype they have. MTP tensors (`mtp.*`) are kept
as they are, in the original layout, norms without their one and experts fused, in a file of their
own, mtp.safetensors.
"""
