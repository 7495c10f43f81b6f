"""The formats of exported files: how each is written, run, and quantised by its runtime's own tool.

    onnx        NAME.onnx              run and quantised by onnxruntime
    openvino    NAME.xml, NAME.bin     run by OpenVINO, quantised by NNCF
    litert      NAME.tflite            run by LiteRT, one image at a time, quantised by ai-edge-quantizer
    torch       NAME.pt2               torch.export's program, run by PyTorch

All quantise in one way, after a training: weights have a scale for each output channel, activations one for each
tensor, by the lowest and the highest value that it has on the calibration images. Of networks with layer
normalisations (ConvNeXts, ViTs) convolutions and matrix products alone are quantised: sums along their skips, which
the norms rescale, have extremes that leave few of 256 steps to the rest.

Packages are imported when they are used.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from bsszoo.errors import SettingsError
from bsszoo.files import whole_file

if TYPE_CHECKING:
    import torch
    from torch import nn

FormatName = Literal["onnx", "openvino", "litert", "torch"]
Images = NDArray[np.float32]
#: A forward on images that are there, to outputs [n, k].
Forward = Callable[[], Images]

#: Names of the input and the output of a file, in the formats that have names.
INPUT: Final = "images"
OUTPUT: Final = "logits"
#: Under which other formats hold what ONNX's metadata hold.
SECTION: Final = "bsszoo"
# Calibration images of a forward.
_BATCH: Final = 16
_HOW: Final = "weights per channel, activations per tensor between their extremes on calibration images"


class Session(ABC):
    """A file that its runtime has opened on the CPU."""

    @abstractmethod
    def bind(self, images: Images) -> Forward:
        """The forward on these images, float32 [n, c, h, w], to outputs [n, k], as often as it is called."""

    def __call__(self, images: Images) -> Images:
        """The outputs for images."""
        return self.bind(images)()


class Format(ABC):
    """A format of exported files."""

    name: ClassVar[FormatName]
    #: Its name in sentences.
    title: ClassVar[str]
    suffix: ClassVar[str]
    #: Suffixes of the files that belong to one of ``suffix``.
    beside: ClassVar[tuple[str, ...]] = ()
    #: The name of its runtime in ``bsszoo.latency.runtimes``.
    runtime: ClassVar[str]
    #: The modules that write and run it, those that quantise it, and bsszoo's extra that installs all of them.
    modules: ClassVar[tuple[str, ...]] = ()
    quantisers: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    #: Whether its files take any number of images, or one; and those in int8.
    free_batch: ClassVar[bool] = True
    free_batch_int8: ClassVar[bool] = True
    #: Whether float16 is a type of its weights alone, so that the runtime chooses that of the arithmetic.
    half_weights: ClassVar[bool] = False

    @abstractmethod
    def write(
        self, network: nn.Module, sample: torch.Tensor, path: Path, facts: Mapping[str, str], *, opset: int, half: bool
    ) -> None:
        """Write a network in evaluation mode.

        Args:
            network: Of float32 images to float32 outputs; where ``half_weights`` is not set it computes in float16
                itself, if that was asked for.
            sample: Two images, [2, c, h, w].
            path: The file, of this format's suffix.
            facts: What a user of the file needs to know.
            opset: ONNX operator set.
            half: Weights in float16.
        """

    @abstractmethod
    def session(self, network: Path | bytes, threads: int) -> Session:
        """A file, or what is in one, opened with a number of CPU threads."""

    def quantise(self, source: Path, target: Path, images: Images, facts: Mapping[str, str]) -> None:
        """Write a float32 file with weights and activations of 8 bits, calibrated on images [n, c, h, w].

        The file has what ``source`` says of itself, and ``facts`` too.
        """
        raise NotImplementedError(f"{self.title} files are not quantised.")

    @property
    def method(self) -> str:
        """How it is quantised, in words, with the tool's version."""
        raise NotImplementedError(f"{self.title} files are not quantised.")

    def check(self, *, quantises: bool = False) -> None:
        """A ``SettingsError`` where a package that writes and runs it, or one that quantises it, is not installed."""
        for who, modules in (self.title, self.modules), ("--quantize", self.quantisers if quantises else ()):
            for module in modules:
                if find_spec(module) is None:
                    raise SettingsError(
                        f"{who} needs the package {module.replace('_', '-')}, which is not installed: "
                        f"pip install 'bsszoo[{self.extra}]'."
                    )

    def files(self, path: Path) -> tuple[Path, ...]:
        """A file of this format and those that belong to it."""
        return path, *(path.with_suffix(suffix) for suffix in self.beside)

    def size(self, path: Path) -> int:
        """Their bytes."""
        return sum(file.stat().st_size for file in self.files(path))

    def copy(self, source: Path, target: Path) -> None:
        """Copy a file, with those that belong to it, as a whole: ``target`` is there only beside its own ones."""
        with ExitStack() as stack:
            for of, to in zip(self.files(source), self.files(target), strict=True):
                shutil.copyfile(of, stack.enter_context(whole_file(to)))
            if self.beside:  # they are replaced first
                target.unlink(missing_ok=True)


class _Onnx(Format):
    name, title, suffix, runtime, extra = "onnx", "ONNX", ".onnx", "onnxruntime", "onnx"
    modules = ("onnx", "onnxscript", "onnxruntime")
    quantisers = ("onnx", "onnxruntime")
    _NORM: Final = "LayerNormalization"
    _PRODUCTS: Final = ("Conv", "MatMul", "Gemm")

    def write(
        self, network: nn.Module, sample: torch.Tensor, path: Path, facts: Mapping[str, str], *, opset: int, half: bool
    ) -> None:
        import onnx
        import torch

        torch.onnx.export(
            network,
            (sample,),
            path,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            external_data=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        model = onnx.load(str(path))
        # The exporter notes on each node which line of which file of this machine it comes from.
        for part in (*model.graph.node, *model.graph.value_info, model.graph):
            del part.metadata_props[:]
        onnx.helper.set_model_props(model, dict(facts))
        onnx.checker.check_model(model)
        onnx.save(model, str(path))

    def session(self, network: Path | bytes, threads: int) -> Session:
        return _OnnxSession(network, threads)

    @property
    def method(self) -> str:
        return f"int8 by onnxruntime {version('onnxruntime')}: static, QDQ, {_HOW}"

    def quantise(self, source: Path, target: Path, images: Images, facts: Mapping[str, str]) -> None:
        """Quantise with ``quantize_static``, after ``quant_pre_process``: shapes inferred, normalisations folded."""
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with TemporaryDirectory(prefix="bsszoo-int8-") as folder:
            prepared = Path(folder) / "prepared.onnx"
            # Exported files have the shapes; onnxruntime's symbolic inference of them fails on ConvNeXt V2's norms.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            nodes = {node.op_type for node in onnx.load(str(prepared)).graph.node}
            quantize_static(
                str(prepared),
                str(target),
                _onnx_reader(images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(self._PRODUCTS) if self._NORM in nodes else None,
                per_channel=True,
                # On x86 onnxruntime computes these products fastest; signed activations took three times as long.
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        model = onnx.load(str(target))
        before = {p.key: p.value for p in onnx.load(str(source), load_external_data=False).metadata_props}
        onnx.helper.set_model_props(model, {**before, **facts})
        onnx.checker.check_model(model)
        onnx.save(model, str(target))


class _OnnxSession(Session):
    def __init__(self, network: Path | bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # The threads of a network at rest would else spin while another's forward is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        opened = network if isinstance(network, bytes) else str(network)
        self._session = onnxruntime.InferenceSession(opened, options, providers=["CPUExecutionProvider"])

    def bind(self, images: Images) -> Forward:
        inputs = {INPUT: images}
        return lambda: self._session.run([OUTPUT], inputs)[0]


def _onnx_reader(images: Images) -> Any:
    """The quantiser's reader of calibration images."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # a class of a package without types
        def __init__(self) -> None:
            self._starts = iter(range(0, len(images), _BATCH))

        def get_next(self) -> dict[str, Images] | None:
            start = next(self._starts, None)
            return None if start is None else {INPUT: np.ascontiguousarray(images[start : start + _BATCH])}

    return Reader()


class _OpenVino(Format):
    name, title, suffix, runtime, extra = "openvino", "OpenVINO", ".xml", "openvino", "openvino"
    beside = (".bin",)
    modules = ("openvino",)
    quantisers = ("nncf",)
    free_batch_int8 = False
    half_weights = True
    #: What a layer normalisation is here.
    _NORM: Final = "MVN"

    def write(
        self, network: nn.Module, sample: torch.Tensor, path: Path, facts: Mapping[str, str], *, opset: int, half: bool
    ) -> None:
        import openvino

        model = openvino.convert_model(_program(network, sample))
        model.reshape([-1, *sample.shape[1:]])
        model.inputs[0].get_tensor().set_names({INPUT})
        model.outputs[0].get_tensor().set_names({OUTPUT})
        _inform(model, facts)
        openvino.save_model(model, path, compress_to_fp16=half)

    def session(self, network: Path | bytes, threads: int) -> Session:
        return _OpenVinoSession(network, threads)

    @property
    def method(self) -> str:
        return f"int8 by NNCF {version('nncf')} for OpenVINO {version('openvino')}: static, {_HOW}"

    def quantise(self, source: Path, target: Path, images: Images, facts: Mapping[str, str]) -> None:
        """Quantise with ``nncf.quantize``.

        Without its correction of biases, which of 256 small images took accuracy: of 500 digits a SE-ResNet lost five
        and gained two with it, and without it lost none and gained one. Nor does it move scales from activations to
        weights (SmoothQuant): with it outputs of a ConvNeXt and a DeiT of random weights differed more.

        The batch is one image: with a free one OpenVINO 2026.4 computes ConvNeXt V2's response normalisations in int8
        wrongly on the CPU. ``model.reshape`` gives the file another batch.
        """
        import nncf
        import openvino
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        level = logging.getLogger("nncf").level
        nncf.set_log_level(logging.ERROR)
        try:
            model = _core().read_model(source)
            norms = any(node.get_type_name() == self._NORM for node in model.get_ops())
            quantised = nncf.quantize(
                model,
                nncf.Dataset([images[i : i + 1] for i in range(len(images))]),
                subset_size=len(images),
                model_type=nncf.ModelType.TRANSFORMER if norms else None,
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    disable_bias_correction=True,
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                    smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
                ),
            )
        finally:
            nncf.set_log_level(level)
        quantised.reshape([1, *images.shape[1:]])
        _inform(quantised, facts)
        openvino.save_model(quantised, target, compress_to_fp16=False)


class _OpenVinoSession(Session):
    def __init__(self, network: Path | bytes, threads: int) -> None:
        # Its own choice of a precision is bfloat16 where the processor has it. A thread that is bound to a core waits
        # for whatever else runs there.
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        self._model = _core().read_model(network)
        self._compiled: dict[tuple[int, ...], Any] = {}

    def bind(self, images: Images) -> Forward:
        import openvino

        if images.shape not in self._compiled:
            # With a free batch a forward takes up to a tenth longer.
            model = self._model.clone()
            model.reshape(list(images.shape))
            self._compiled[images.shape] = _core().compile_model(model, "CPU", self._settings)
        request = self._compiled[images.shape].create_infer_request()
        request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(images), shared_memory=True))
        return lambda: request.infer()[0]


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _inform(model: Any, facts: Mapping[str, str]) -> None:
    for key, text in facts.items():
        model.set_rt_info(text, [SECTION, key])


# Products with weights.
_LITERT_PRODUCTS: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


class _LiteRt(Format):
    name, title, suffix, runtime, extra = "litert", "LiteRT", ".tflite", "litert", "litert"
    modules = ("litert_torch", "ai_edge_litert")
    quantisers = ("ai_edge_quantizer",)
    free_batch = free_batch_int8 = False
    half_weights = True

    def write(
        self, network: nn.Module, sample: torch.Tensor, path: Path, facts: Mapping[str, str], *, opset: int, half: bool
    ) -> None:
        written = _with_facts(litert_bytes(network, sample[:1]), facts)
        path.write_bytes(_litert_half(written) if half else written)

    def session(self, network: Path | bytes, threads: int) -> Session:
        return _LiteRtSession(network, threads)

    @property
    def method(self) -> str:
        tools = f"ai-edge-quantizer {version('ai-edge-quantizer')} for LiteRT {version('ai-edge-litert')}"
        return f"int8 by {tools}: static, {_HOW}"

    def quantise(self, source: Path, target: Path, images: Images, facts: Mapping[str, str]) -> None:
        """Quantise with ai-edge-quantizer's static recipe; inputs and outputs stay float32.

        Hard-swish and products of two activations, as in attention, stay float32 too: with them in int8 a
        MobileNetV3-Large at 224 px took seven times as long, and a DeiT-Ti four times.
        """
        import torch
        from ai_edge_litert.interpreter import Interpreter
        from ai_edge_litert.schema_py_generated import BuiltinOperator
        from ai_edge_litert.tools import flatbuffer_utils
        from ai_edge_quantizer import quantizer, recipe
        from ai_edge_quantizer.calibrator import Calibrator
        from ai_edge_quantizer.qtyping import TFLOperationName as Operation
        from ai_edge_quantizer.recipe_manager import RecipeManager
        from ai_edge_quantizer.utils.qsv_utils import min_max_update

        # The quantiser keeps the metadata; its large files cannot be written by others.
        network = _with_facts(source.read_bytes(), facts)
        codes = flatbuffer_utils.convert_bytearray_to_object(bytearray(network)).operatorCodes
        tool = quantizer.Quantizer(bytearray(network))
        if any(code.builtinCode == BuiltinOperator.RSQRT for code in codes):  # of a layer normalisation
            for product in _LITERT_PRODUCTS:
                tool.add_static_config(".*", Operation[product], activation_num_bits=8, weight_num_bits=8)
        else:
            tool.load_quantization_recipe(recipe.static_wi8_ai8())
            for name in ("INPUT", "OUTPUT", "HARD_SWISH"):
                tool.update_quantization_recipe(
                    ".*", Operation[name], algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE
                )
        manager = RecipeManager()
        manager.load_quantization_recipe(tool.get_quantization_recipe())
        # The quantiser's own ``calibrate`` averages extremes.
        calibrator = Calibrator(network, num_threads=torch.get_num_threads(), qsv_update_func=min_max_update)
        ((signature, names),) = Interpreter(model_content=network).get_signature_list().items()
        (name,) = names["inputs"]
        with _silent():
            calibrator.calibrate({signature: [{name: images[i : i + 1]} for i in range(len(images))]}, manager)
            quantised = tool.quantize(calibrator.get_model_qsvs(), enable_progress_report=False).quantized_model
        target.write_bytes(quantised)


class _LiteRtSession(Session):
    def __init__(self, network: Path | bytes, threads: int) -> None:
        given = {"model_content": network} if isinstance(network, bytes) else {"model_path": str(network)}
        with _silent():
            from ai_edge_litert.interpreter import Interpreter

            self._interpreter = Interpreter(**given, num_threads=threads)
            self._interpreter.allocate_tensors()
        self._held: Images | None = None

    def bind(self, images: Images) -> Forward:
        interpreter = self._interpreter
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
        batch = int(taken["shape"][0])
        parts = [images[start : start + batch] for start in range(0, len(images), batch)]

        def forward() -> Images:
            outputs = []
            for part in parts:
                if self._held is not part:  # what is timed computes alone
                    interpreter.set_tensor(taken["index"], part)
                    self._held = part
                interpreter.invoke()
                outputs.append(interpreter.get_tensor(given["index"]))
            return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

        return forward


def litert_bytes(module: nn.Module, images: torch.Tensor) -> bytes:
    """A network in evaluation mode as LiteRT's file, for as many images as these."""
    with TemporaryDirectory(prefix="bsszoo-litert-") as folder, _silent():
        import litert_torch

        file = Path(folder) / "network.tflite"
        litert_torch.convert(module, (images,)).export(str(file))
        return file.read_bytes()


@contextmanager
def _silent() -> Iterator[None]:
    """Without what LiteRT's libraries write to the terminal of themselves, each network and their progress."""
    # Read where they load.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing, redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _with_facts(network: bytes, facts: Mapping[str, str]) -> bytes:
    """LiteRT's file with facts in its metadata, beside those that are there: JSON, in the entry ``bsszoo``."""
    from ai_edge_litert.schema_py_generated import BufferT, MetadataT
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(network))
    before = {entry.name.decode(): entry for entry in model.metadata or []}
    if SECTION not in before:
        entry = MetadataT()
        entry.name, entry.buffer = SECTION.encode(), len(model.buffers)
        model.buffers.append(BufferT())
        model.metadata = [*(model.metadata or []), entry]
        known = {}
    else:
        entry = before[SECTION]
        known = json.loads(bytes(model.buffers[entry.buffer].data))
    for buffer in model.buffers:
        if buffer.data is not None and not isinstance(buffer.data, np.ndarray):  # else it is written byte by byte
            buffer.data = np.frombuffer(buffer.data, dtype=np.uint8)
    text = json.dumps({**known, **facts})
    model.buffers[entry.buffer].data = np.frombuffer(text.encode(), dtype=np.uint8)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _litert_half(network: bytes) -> bytes:
    """LiteRT's file with the weights of products in float16."""
    from ai_edge_quantizer import qtyping, quantizer

    tool = quantizer.Quantizer(bytearray(network))
    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    for product in _LITERT_PRODUCTS:
        tool.update_quantization_recipe(
            ".*", qtyping.TFLOperationName[product], half, algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING
        )
    with _silent():
        return bytes(tool.quantize(enable_progress_report=False).quantized_model)


class _Torch(Format):
    name, title, suffix, runtime = "torch", "torch.export program", ".pt2", "pytorch"

    def write(
        self, network: nn.Module, sample: torch.Tensor, path: Path, facts: Mapping[str, str], *, opset: int, half: bool
    ) -> None:
        import torch

        program = _program(network, sample)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # lines of files of this machine
        torch.export.save(program, path)

    def session(self, network: Path | bytes, threads: int) -> Session:
        return _Program(network if isinstance(network, Path) else io.BytesIO(network))


class _Program(Session):
    def __init__(self, network: Path | io.BytesIO) -> None:
        import torch

        self._module = torch.export.load(network).module()

    def bind(self, images: Images) -> Forward:
        import torch

        given = torch.from_numpy(images)

        def forward() -> Images:
            with torch.inference_mode():
                outputs: Images = self._module(given).numpy()
            return outputs

        return forward


def _program(network: nn.Module, sample: torch.Tensor) -> torch.export.ExportedProgram:
    import torch

    return torch.export.export(network, (sample,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


#: The formats by name.
FORMATS: Final[dict[str, Format]] = {format.name: format for format in (_Onnx(), _OpenVino(), _LiteRt(), _Torch())}
#: Those with a tool that quantises.
QUANTISED: Final = tuple(format.name for format in FORMATS.values() if format.quantisers)


def either(names: Sequence[str]) -> str:
    """Names as the end of a sentence: ``a, b or c``."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def format_of(path: Path) -> Format:
    """The format of a file, by its suffix.

    Raises:
        SettingsError: It is of none.
    """
    for format in FORMATS.values():
        if path.suffix == format.suffix:
            return format
    suffixes = ", ".join(format.suffix for format in FORMATS.values())
    raise SettingsError(f"{path} is no exported file, whose name ends with one of {suffixes}.")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the remarks of exporters and quantisers, which are for their developers."""
    names = ("", "torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch.utils.cpp_extension")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
