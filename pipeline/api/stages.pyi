"""The keys of each stage for editors and type checkers. Written by `make schema`: do not edit."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

__all__ = ["Prune", "Factorize", "Sparsify", "Share", "Finetune", "Export", "Simplify", "Quantize", "QuantizeAwareFinetune", "Measure", "Bundle"]


def Prune(
    *,
    on_no_gain: Literal['keep', 'skip', 'fail'] = ...,
    criterion: Literal['l1', 'l2', 'group_l2', 'fpgm', 'bn_scale', 'taylor', 'taylor_gates', 'obd', 'group_fisher', 'hrank', 'chip', 'thinet', 'apoz', 'mean_activation', 'random'] = ...,
    images: int = ...,
    batch: int = ...,
    normalise: Literal['none', 'mean', 'max', 'l2', 'rank'] | None = ...,
    allocation: Literal['uniform', 'global', 'isomorphic', 'sensitivity', 'rates', 'knapsack'] = ...,
    ratio: float | str | None = ...,
    target: Mapping[str, Any] | None = ...,
    precision: Literal['fp32', 'int8', 'int8-dynamic', 'int8-weights', 'int4-weights', 'fp16-weights', 'fp16'] | None = ...,
    moves: Sequence[Literal['channels', 'blocks', 'heads', 'resolution']] | None = ...,
    rates: Mapping[str, Any] = ...,
    tolerance: str = ...,
    granularity: Literal['channels', 'heads', 'blocks'] = ...,
    floor: float | str = ...,
    align: int = ...,
    constraints: Mapping[str, Any] = ...,
    keep: Sequence[str] = ...,
    statistics: Literal['allow', 'freeze'] = ...,
    candidates: int = ...,
    schedule: Mapping[str, Any] | None = ...,
) -> dict[str, Any]:
    """{kind: prune}: Remove the least important channels of a torch network.

    on_no_gain: What to do if the stage's exported file is not shown to be faster than the one before: `keep` the stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.

    criterion: How channels are scored. From weights: l1 and l2 of the filters, group_l2 of everything that is removed with a channel, fpgm (distance to the other filters), bn_scale. From images: hrank (rank of feature maps), chip, thinet (which also rescales the remaining channels), apoz, mean_activation. From gradients: taylor, taylor_gates, obd, group_fisher. By chance: random, the baseline.

    images: Training images for criteria that use images or gradients, drawn with the run's seed; as many validation images rate candidates and sensitivity.

    batch: Images in one pass; this affects only memory.

    normalise: What the scores of a group are divided by, so that groups can be compared: their mean, max or l2 norm; rank uses only their order; none leaves them unchanged. Absent: what suits the criterion.

    allocation: How many channels each group loses: the same fraction everywhere (uniform), by one ranking of all channels (global), by a ranking among groups of the same structure (isomorphic, Fang et al. 2024), like global but no more than `tolerance` allows for each group alone (sensitivity, Li et al. 2017), what `rates` says, or so that the least score is lost for what is gained (knapsack, for a target; the default for a latency, which also takes uniform, global and isomorphic, with channels and heads as moves).

    ratio: Fraction of the removable channels to remove. Operations fall faster: half of the channels are about a quarter of the operations.

    target: Instead of `ratio`: a cost to prune down to.

    precision: With a latency as `target`: the precision of the file that is timed, by the names of `quantize`. Absent: what the stages after this one make of it.

    moves: With a latency as `target`: what may be removed: channels, whole residual blocks (blocks), whole attention heads (heads), and pixels of the images where the data have a key size (resolution). Absent: channels and blocks, without blocks where the schedule is layerwise or soft, or another allocation than knapsack is asked for.

    rates: Instead of `ratio`, for `allocation: rates`: the fraction to remove by layer or pattern; if several patterns match, the last one counts, and groups that none matches are not pruned.

    tolerance: Accuracy on validation images that pruning each group alone may cost, for `allocation: sensitivity`.

    granularity: What is removed: channels, and in attention the same ones in every head (channels); channels, and in attention whole heads (heads); whole residual blocks, beginning with those that change their input least (blocks, ShortGPT by Men et al. 2024). `ratio` is then a fraction of the blocks, and a target is met by removing as many as it takes.

    floor: Smallest fraction of its channels that every group keeps.

    align: Kept widths are rounded to the nearest multiple of this; groups no wider than this are not pruned. 8 suits the vector units of most CPUs. It does not apply to whole heads.

    constraints: Other floors, multiples and limits by layer or pattern; the last that matches a group counts.

    keep: Layers whose output channels are not pruned, by qualified name; patterns such as layer4.* are allowed.

    statistics: Whether channels over which the network takes statistics (layer norm, softmax) may be removed: the statistics are then taken over the remaining channels, which is not the same function as with zeros in the others.

    candidates: Random allocations of the same cost, each evaluated on validation images with renewed batch-norm statistics; the best one is used if it beats the planned one (EagleEye, Li et al. 2020).

    schedule: Train between removals, or while channels are still there. Absent: remove all at once.
    """

def Factorize(
    *,
    on_no_gain: Literal['keep', 'skip', 'fail'] = ...,
    target: Mapping[str, Any],
    precision: Literal['fp32', 'int8', 'int8-dynamic', 'int8-weights', 'int4-weights', 'fp16-weights', 'fp16'] | None = ...,
    method: Literal['auto', 'svd', 'spatial', 'channel', 'tucker'] = ...,
    whiten: bool = ...,
    images: int = ...,
    batch: int = ...,
    align: int = ...,
    min_rank: int = ...,
    keep: Sequence[str] = ...,
    adopt: Literal['all', 'measured'] = ...,
) -> dict[str, Any]:
    """{kind: factorize}: Write layers of a torch network as products of thinner ones.

    on_no_gain: What to do if the stage's exported file is not shown to be faster than the one before: `keep` the stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.

    target: What is left of a cost or of a time, or how much energy is kept.

    precision: With a latency as `target`: the precision of the file that is timed, by the names of `quantize`. Absent: what the stages after this one make of it.

    method: How convolutions larger than 1x1 are factorised: Kx1 and 1xK (spatial), KxK and 1x1 (channel), 1x1, KxK and 1x1 (tucker), for each layer what costs least for its error (auto), or not (svd). Linear layers, 1x1 convolutions and the input matrix of recurrent layers are factorised by SVD with each of them.

    whiten: Least error of each layer's output on training images; otherwise of its weights, without data.

    images: Training images for `whiten`, and for the statistics of batch norms, which are renewed; drawn with the run's seed.

    batch: Images in one pass; this affects only memory.

    align: Ranks are multiples of this. 8 suits the vector units of most CPUs.

    min_rank: Least rank of any layer.

    keep: Layers that stay as they are, by qualified name; patterns such as head* are allowed.

    adopt: Which of the chosen layers are factorised: all, or those with which alone the network's FP32 file is faster on the recipe's target, timed side by side (measured).
    """

def Sparsify(
    *,
    on_no_gain: Literal['keep', 'skip', 'fail'] = ...,
    method: Literal['magnitude', 'random', 'obd', 'obs', 'block_fisher', 'dns', 'rigl', 'movement'] = ...,
    density: float | str | None = ...,
    scope: Literal['layer', 'global', 'erk'] = ...,
    pattern: str | None = ...,
    keep: Sequence[str] = ...,
    dead: Literal['fold', 'keep'] = ...,
    schedule: Mapping[str, Any] | None = ...,
    images: int = ...,
    batch: int = ...,
) -> dict[str, Any]:
    """{kind: sparsify}: Set the least important weights of a torch network to zero.

    on_no_gain: What to do if the stage's exported file is not shown to be faster than the one before: `keep` the stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.

    method: Which weights become zero: the smallest (magnitude, Han et al. 2015), or any, by chance (random, the control). At once, by training images: those that change the loss least by its second derivatives (obd, LeCun et al. 1989); or those that the others can make up for, which change with them, by the outputs of each layer (obs, Hassibi and Stork 1992) or by the loss (block_fisher, Singh and Alistarh 2020). With a schedule alone: those below a threshold, from where they may come back (dns, Dynamic Network Surgery by Guo et al. 2016); the smallest, in exchange for those with the largest gradients (rigl, Evci et al. 2020); those that training moves towards zero (movement, Sanh et al. 2020, for tuning to another task).

    density: Share of the weights that stays, such as 0.1 or 10%, of the layers that `keep` does not name. Absent for a pattern N:M, which gives N / M.

    scope: How the density is divided: the same in every layer (layer), one ranking of all weights (global), or by Erdos-Renyi-Kernel, which leaves narrow layers more (erk, Evci et al. 2020).

    pattern: Where zeros may lie: `2:4` keeps the two best of every four input channels, for each output channel and position of the kernel; `1x4` keeps or cuts four output channels together. Absent: anywhere.

    keep: Layers that stay dense, by qualified name; patterns such as layer4.* are allowed.

    dead: What becomes of channels that are left without inputs or that nothing reads any more. Their weights and biases become zero, after the constants that they compute went into the biases behind them where that is exact; the outputs of the network stay as they were (fold). Or they stay as they are (keep).

    schedule: Train while weights become zero. Absent: all at once, without training.

    images: Training images for methods that look at data, drawn with the run's seed.

    batch: Images in one pass; this affects only memory.
    """

def Share(
    *,
    on_no_gain: Literal['keep', 'skip', 'fail'] = ...,
    clusters: int = ...,
    scope: Literal['layer', 'channel'] = ...,
    grid: Literal['auto', 'float', 'int8', 'int7', 'int8-products', 'int7-products'] = ...,
    start: Literal['linear', 'density', 'kmeans++'] = ...,
    gradient: Literal['sum', 'mean'] = ...,
    keep: Sequence[str] = ...,
    schedule: Mapping[str, Any] | None = ...,
) -> dict[str, Any]:
    """{kind: share}: Let the weights of each layer of a torch network share a few values.

    on_no_gain: What to do if the stage's exported file is not shown to be faster than the one before: `keep` the stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.

    clusters: Values in a codebook at most, that of zeros among them: 16 take 4 bits, 32 take 5.

    scope: One codebook for each layer, or one for each output channel, which takes more.

    grid: Values that a codebook may have: any (float), or those of weights in 8 bits (int8) or 7 (int7) with a scale for each output channel, so that the quantized file has as few; int8-products and int7-products are for files that quantize linear layers alone: convolutions may have any. `auto`: as the later stages make them.

    start: Where k-means begins: evenly between smallest and largest weight (linear), which keeps values for the few large ones; at even quantiles (density); or at weights drawn by distance (kmeans++).

    gradient: What moves a value when the network is trained, here and in every later stage: the sum of the gradients of its weights (sum, Han et al. 2016), or their mean, which suits the rates of single weights with sgd. With adamw both move alike.

    keep: Layers whose weights share nothing, by qualified name; patterns such as layer4.* are allowed.

    schedule: Train the codebooks. Absent: they stay as k-means finds them.
    """

def Finetune(
    *,
    on_no_gain: Literal['keep', 'skip', 'fail'] = ...,
    epochs: int,
    batch: int = ...,
    optimizer: Literal['adamw', 'sgd'] = ...,
    learning_rate: float = ...,
    schedule: Literal['cosine', 'constant', 'rewind', 'one_cycle'] = ...,
    from_fraction: float | None = ...,
    weight_decay: float = ...,
    momentum: float = ...,
    warmup: float = ...,
    label_smoothing: float = ...,
    ema: float = ...,
    recalibrate: int = ...,
    augment: Mapping[str, Any] = ...,
    distill: Mapping[str, Any] | None = ...,
    store: Literal['float32', 'float16'] = ...,
    regularise: Mapping[str, Any] | None = ...,
    weights: Literal['given', 'scratch'] = ...,
) -> dict[str, Any]:
    """{kind: finetune}: Train, keep the best weights by validation accuracy.

    on_no_gain: What to do if the stage's exported file is not shown to be faster than the one before: `keep` the stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.

    epochs: Passes over the training images; 0 only renews batch-norm statistics.

    batch: Images per step.

    optimizer: AdamW, or SGD with Nesterov momentum.

    learning_rate: Peak rate; what it does over the training says `schedule`.

    schedule: Linear warm-up, then a cosine to zero (cosine) or the same rate throughout (constant); up and down by cosine without warm-up (one_cycle, Smith and Topin 2018); or the last part of the training that made the network once more, without warm-up (rewind, Renda et al. 2020), with its peak as `learning_rate`.

    from_fraction: With `schedule: rewind`: the share of the first training that is not repeated; absent 0.5. What `epochs` repeat is the rest: of 20 epochs 10 with 0.5.

    weight_decay: Applied to weights with two or more dimensions, not to biases and norms.

    momentum: Of SGD.

    warmup: Epochs of linear warm-up, with `schedule` cosine or constant.

    label_smoothing: Probability that is spread evenly over all classes.

    ema: Decay of a moving average of the weights, which is then evaluated and kept; 0 for none.

    recalibrate: Training images that renew batch-norm statistics before each evaluation; 0 for none. It helps after pruning and with `ema`, when running averages lag behind the weights.

    augment: Random changes of the training images.

    distill: Learn from a teacher as well as from labels.

    store: Precision of the stored weights (biases and norms stay in float32); accuracy is that of the stored weights.

    regularise: Make channels small while training, for a `prune` stage after this one.

    weights: What the training starts from: the network's weights, or new ones for the same layers, drawn with the run's seed (scratch): the control that tells what the weights are worth that compression has left (Liu et al. 2019). Zeros that `sparsify` made stay.
    """

def Export(
    *,
    on_no_gain: Literal['keep', 'skip', 'fail'] = ...,
    to: Literal['onnx', 'openvino'],
    opset: int = ...,
    batch: Literal['fixed', 'dynamic'] = ...,
    weights: Literal['fp32', 'fp16'] = ...,
) -> dict[str, Any]:
    """{kind: export}: Torch to ONNX, or ONNX to OpenVINO.

    on_no_gain: What to do if the stage's exported file is not shown to be faster than the one before: `keep` the stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.

    to: `onnx` from a torch network, `openvino` from an ONNX file.

    opset: Version of the ONNX operators; an OpenVINO export has that of its ONNX file.

    batch: `fixed`: the target's batch; `dynamic`: any number of images per call.

    weights: How OpenVINO stores weights: `fp16` halves the file. ONNX files are `fp32`.
    """

def Simplify(
    *,
    on_no_gain: Literal['keep', 'skip', 'fail'] = ...,
) -> dict[str, Any]:
    """{kind: simplify}: ONNX to a smaller ONNX file that computes the same.

    on_no_gain: What to do if the stage's exported file is not shown to be faster than the one before: `keep` the stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.
    """

def Quantize(
    *,
    on_no_gain: Literal['keep', 'skip', 'fail'] = ...,
    scheme: Literal['auto'] | Literal['u8s8', 'u8s8-reduced', 's8s8', 'u8u8'] = ...,
    per_channel: bool = ...,
    symmetric: bool = ...,
    calibration: Literal['min-max', 'percentile', 'entropy', 'mse'] = ...,
    percentile: float = ...,
    images: int | Literal['auto'] = ...,
    keep: Sequence[str] = ...,
    on_far: Literal['float', 'fail', 'keep'] = ...,
    engine: Literal['auto', 'onnxruntime', 'neural-compressor', 'nncf'] = ...,
    precision: Literal['int8', 'int8-dynamic', 'int8-weights', 'int4-weights', 'fp16-weights', 'fp16'] = ...,
    recover: Sequence[Literal['equalize', 'bias', 'adaround']] = ...,
    accuracy_drop: str = ...,
    score_drop: str | None = ...,
    budget: str = ...,
    arm_exact: bool = ...,
) -> dict[str, Any]:
    """{kind: quantize}: ONNX FP32 to ONNX int8 (QDQ), or to another precision.

    on_no_gain: What to do if the stage's exported file is not shown to be faster than the one before: `keep` the stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.

    scheme: Types of activations and weights (u unsigned, s signed; `reduced`: weights in 7 bits). `auto` chooses the one that suits the CPU: u8s8 with VNNI, s8s8 on ARM, u8s8-reduced otherwise.

    per_channel: One scale per output channel instead of one per weight.

    symmetric: Centre the ranges of activations on zero: slower, since ReLU can no longer be fused.

    calibration: How the ranges of activations are derived from the values that the images produce.

    percentile: Share of the values, in per cent, inside the range; for `calibration: percentile`.

    images: Training images for calibration, drawn with the run's seed. `auto` doubles their number, starting at 32, until the ranges move by less than 2 %, up to 1024.

    keep: Patterns of node names (`stem`, `stage1.*`) that stay in float.

    on_far: What to do if the file's outputs are far from those of the float file, on calibration or held-out images: `float` leaves the guilty layers in float if they are few, and else fails; `fail` fails at once; `keep` ships the file, and the report says so, unless its outputs are constant or not finite.

    engine: What places the QDQ pairs and finds scales. `auto` tries all that are installed, with the schemes that suit the target and every calibration, times them there, and takes the fastest file that is accurate enough. `neural-compressor` calibrates by min-max (its default here) or mse, `nncf` not by entropy; both store weights as s8.

    precision: int8: weights and activations. int8-dynamic: matrix products, with ranges found at run time. int8-weights, int4-weights, fp16-weights: smaller files, computed in float. fp16: all of it.

    recover: How to recover accuracy without a change in time: cross-layer equalization, bias correction, adaptive rounding. With `engine: auto` they are tried if accuracy falls short.

    accuracy_drop: With `engine: auto`: points of accuracy that may be lost on the validation split.

    score_drop: With `engine: auto`: how much of the task's score may be lost there instead, such as 0.5pt of a share, 2% of the original's score, or 0.2dB in the metric's own unit.

    budget: With `engine: auto`: time for all measurements.

    arm_exact: The file must compute the same on ARM as here, in onnxruntime: weights that any kernel clips are refused, and additions are computed in float, because integer additions round differently there. Other float operators may differ in the last bit; the report lists them.
    """

def QuantizeAwareFinetune(
    *,
    on_no_gain: Literal['keep', 'skip', 'fail'] = ...,
    scheme: Literal['auto'] | Literal['u8s8', 'u8s8-reduced', 's8s8', 'u8u8'] = ...,
    per_channel: bool = ...,
    symmetric: bool = ...,
    calibration: Literal['min-max', 'percentile', 'entropy', 'mse'] = ...,
    percentile: float = ...,
    images: int | Literal['auto'] = ...,
    keep: Sequence[str] = ...,
    on_far: Literal['float', 'fail', 'keep'] = ...,
    epochs: int,
    batch: int = ...,
    optimizer: Literal['adamw', 'sgd'] = ...,
    learning_rate: float = ...,
    schedule: Literal['cosine', 'constant', 'rewind', 'one_cycle'] = ...,
    from_fraction: float | None = ...,
    weight_decay: float = ...,
    momentum: float = ...,
    warmup: float = ...,
    label_smoothing: float = ...,
    ema: float = ...,
    recalibrate: int = ...,
    augment: Mapping[str, Any] = ...,
    distill: Mapping[str, Any] | None = ...,
    freeze_observers: float = ...,
    freeze_norms: float = ...,
    keep_zeros: bool = ...,
) -> dict[str, Any]:
    """{kind: quantize-aware-finetune}: Torch network to ONNX int8 (QDQ).

    on_no_gain: What to do if the stage's exported file is not shown to be faster than the one before: `keep` the stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.

    scheme: Types of activations and weights (u unsigned, s signed; `reduced`: weights in 7 bits). `auto` chooses the one that suits the CPU: u8s8 with VNNI, s8s8 on ARM, u8s8-reduced otherwise.

    per_channel: One scale per output channel instead of one per weight.

    symmetric: Centre the ranges of activations on zero: slower, since ReLU can no longer be fused.

    calibration: How the ranges of activations are derived from the values that the images produce.

    percentile: Share of the values, in per cent, inside the range; for `calibration: percentile`.

    images: Training images for calibration, drawn with the run's seed. `auto` doubles their number, starting at 32, until the ranges move by less than 2 %, up to 1024.

    keep: Patterns of node names (`stem`, `stage1.*`) that stay in float.

    on_far: What to do if the file's outputs are far from those of the float file, on calibration or held-out images: `float` leaves the guilty layers in float if they are few, and else fails; `fail` fails at once; `keep` ships the file, and the report says so, unless its outputs are constant or not finite.

    epochs: Passes over the training images; 0 only renews batch-norm statistics.

    batch: Images per step.

    optimizer: AdamW, or SGD with Nesterov momentum.

    learning_rate: Peak rate; what it does over the training says `schedule`.

    schedule: Linear warm-up, then a cosine to zero (cosine) or the same rate throughout (constant); up and down by cosine without warm-up (one_cycle, Smith and Topin 2018); or the last part of the training that made the network once more, without warm-up (rewind, Renda et al. 2020), with its peak as `learning_rate`.

    from_fraction: With `schedule: rewind`: the share of the first training that is not repeated; absent 0.5. What `epochs` repeat is the rest: of 20 epochs 10 with 0.5.

    weight_decay: Applied to weights with two or more dimensions, not to biases and norms.

    momentum: Of SGD.

    warmup: Epochs of linear warm-up, with `schedule` cosine or constant.

    label_smoothing: Probability that is spread evenly over all classes.

    ema: Decay of a moving average of the weights, which is then evaluated and kept; 0 for none.

    recalibrate: Training images that renew batch-norm statistics before each evaluation; 0 for none. It helps after pruning and with `ema`, when running averages lag behind the weights.

    augment: Random changes of the training images.

    distill: Learn from a teacher as well as from labels.

    freeze_observers: Share of the epochs after which ranges of activations are frozen.

    freeze_norms: Share of the epochs after which batch-norm statistics are frozen.

    keep_zeros: Weights that are zero stay zero, as after pruning by a mask.
    """

def Measure(
    *,
    on_no_gain: Literal['keep', 'skip', 'fail'] = ...,
    runtimes: Sequence[Literal['onnxruntime', 'openvino', 'torch']] = ...,
    budget: str = ...,
    time_scope: Literal['model', 'model+decode'] = ...,
    threads: int | None = ...,
) -> dict[str, Any]:
    """{kind: measure}: Latency of every file so far, paired with the original's.

    on_no_gain: What to do if the stage's exported file is not shown to be faster than the one before: `keep` the stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.

    runtimes: Runtimes to measure in; each measures the files that it can read. `torch` times the networks before export, paired with the original network.

    budget: Time for the whole measurement. It ends earlier if every speedup is known to within 4 %, and later if four sessions of three rounds do not fit.

    time_scope: What is timed: `model`, the file alone on random inputs, or `model+decode`, the file on the first validation samples and the task's numpy decode of what it gives (overlapping boxes removed, labels read). Decisions of other stages, such as `on_no_gain`, look at the file alone.

    threads: Threads of one inference; absent: those of the recipe's target.
    """

def Bundle(
    *,
    on_no_gain: Literal['keep', 'skip', 'fail'] = ...,
    samples: int = ...,
    sample_source: Literal['auto', 'validation', 'synthetic'] = ...,
    data_licence: str | None = ...,
    weights_licence: str | None = ...,
    storage: Literal['plain', 'packed'] = ...,
    runtimes: Sequence[Literal['onnxruntime', 'openvino']] | None = ...,
) -> dict[str, Any]:
    """{kind: bundle}: The exported files with code to run them, samples to check them, and where they came from.

    on_no_gain: What to do if the stage's exported file is not shown to be faster than the one before: `keep` the stage (without timing it), `skip` it, so that the next stage starts from the file before, or `fail`.

    samples: Samples with expected outputs, for the self-test.

    sample_source: `validation`: those of the validation split; `synthetic`: generated ones; `auto`: validation samples if the data's licence lets anyone pass them on, else synthetic.

    data_licence: Licence of the data (SPDX id or text); absent: what the data set itself says.

    weights_licence: Licence of the weights; absent: what the model's card.md says.

    storage: `packed`: model files in fewer bytes (`secateur pack`), which the bundle's code unpacks in memory when it loads them; `plain`: files that any program can load.

    runtimes: Runtimes to ship files for; absent: every exported form of the run.
    """
