"""Bridges between Detectron2 as released and the libraries of today, one function each.

Runs on Detectron2 0.5 (plain Python, from PyPI), on 0.6 and on upstream's main, with or without
the compiled extension. Each bridge looks for the thing itself, never at a version number (main
still calls itself 0.6), does nothing where it is not needed, and may be called again.

Nothing here imports a heavy package ahead of its time: what is needed late is put in place when
the module that wants it is imported. numpy, Pillow and other packages' modules are left as they
are, but for Pillow's one missing constant.
"""

import functools
import importlib
import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

from axial_d2.import_hooks import is_found, run_around, stand_in

HOW_TO_GET_DETECTRON2 = (
    "Run `bash dev/setup.sh` in a checkout of this project, which installs it without a compiler, "
    "or follow https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
)


# ---- Detectron2 absent -------------------------------------------------------------------------


def has_detectron2() -> bool:
    """Whether a package `detectron2` is installed; a broken one counts, and speaks for itself.

    A mere folder of that name (the root of a clone, seen from beside it) is not the package.
    """
    try:
        spec = importlib.util.find_spec("detectron2")
    except ModuleNotFoundError:  # somebody's import hook forbids it
        return False
    except ValueError:  # already imported, by someone who gave it no spec
        return True
    return spec is not None and spec.origin is not None


def explain_missing_detectron2(names: Iterable[str]) -> None:
    """Makes the import of each module in `names` an ImportError that says how to get Detectron2.

    Only their execution fails: finding them (`importlib.util.find_spec`) works as ever.
    """

    def explain(execute: Callable, module: ModuleType) -> None:
        raise ImportError(
            f"{module.__name__} needs Detectron2, which is not installed. {HOW_TO_GET_DETECTRON2}",
            name="detectron2",
        )

    for name in names:
        run_around(name, explain)


# ---- the bridges -------------------------------------------------------------------------------


def pillow_linear() -> None:
    """Pillow 10 dropped `Image.LINEAR`, a default argument in detectron2.data.transforms.

    Needed by 0.5 and 0.6; until neither is supported.
    """
    from PIL import Image

    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR


def compiled_extension() -> None:
    """`from detectron2 import _C` stands unguarded in many modules of a Detectron2 without it.

    A placeholder lets them be imported; the use of an operator in it is an error naming it. An
    attribute alone, not in sys.modules: `import detectron2._C` has to go on failing, since
    collect_env asks that way. Main guards these imports itself, by a helper module that tells it
    from the others, and a placeholder would defeat its guard. Needed by 0.5 and 0.6.
    """
    if is_found("detectron2._C") or is_found("detectron2.utils.develop"):
        return
    import detectron2

    if hasattr(detectron2, "_C"):
        return
    placeholder = ModuleType("detectron2._C")

    def missing(name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)

        def operator(*args, **kwargs):
            raise RuntimeError(
                f"detectron2._C.{name} is in Detectron2's compiled extension, and this Detectron2 "
                "was installed without it"
            )

        return operator

    placeholder.__getattr__ = missing
    detectron2._C = placeholder


# Where detectron2.export takes each of its names from.
_EXPORT_NAMES = {
    "TracingAdapter": "flatten",
    "scripting_with_instances": "torchscript",
    "dump_torchscript_IR": "torchscript",
    "add_export_config": "api",
    "export_caffe2_model": "api",
    "export_onnx_model": "api",
    "Caffe2Model": "api",
    "Caffe2Tracer": "api",
}


def export_without_caffe2() -> None:
    """detectron2.export imports caffe2 unguarded, and detectron2.utils.analysis imports it.

    caffe2 is no longer to be had. Each name is fetched from its file at its first use instead, so
    that those that need no caffe2 work and the others say what is missing. Needed by 0.5 and 0.6.
    """
    package = "detectron2.export"
    if package in sys.modules or is_found("caffe2"):
        return
    import detectron2

    spec = importlib.util.find_spec(package)
    if not re.search(r"^from \.api import", Path(spec.origin).read_text(), re.MULTILINE):
        return  # main: guarded
    module = importlib.util.module_from_spec(spec)  # not executed

    def fetch(name: str) -> object:
        if name not in _EXPORT_NAMES:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{_EXPORT_NAMES[name]}"), name)

    module.__getattr__ = fetch
    sys.modules[package] = detectron2.export = module


def pkg_resources_for_model_zoo() -> None:
    """setuptools 82 dropped pkg_resources, which detectron2.model_zoo imports for one function.

    Lent to that one module, since others ask for pkg_resources to find out whether it is there.
    Needed by 0.5, 0.6 and main; until main takes importlib.resources.
    """

    def lend(execute: Callable, module: ModuleType) -> None:
        if is_found("pkg_resources"):
            return execute(module)
        lent = ModuleType("pkg_resources")
        lent.resource_filename = lambda package, path: str(
            Path(importlib.import_module(package).__file__).parent / path
        )
        sys.modules["pkg_resources"] = lent
        try:
            execute(module)
        finally:
            del sys.modules["pkg_resources"]

    run_around("detectron2.model_zoo.model_zoo", lend)


# Modules that use names numpy has dropped (int, float: 1.24; in1d: 2.4; bool is away from 1.24 up
# to 2.0), or a count_nonzero that gives an int (an np.int64 since 2.3, which json does not write).
_NUMPY_1_MODULES = (
    "detectron2.data.build",
    "detectron2.evaluation.pascal_voc_evaluation",
    "detectron2.evaluation.sem_seg_evaluation",
    "detectron2.structures.masks",
    "detectron2.utils.video_visualizer",
    "detectron2.utils.visualizer",
    "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling",
    "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
)


@functools.cache
def _numpy_with_old_names() -> ModuleType:
    """A module that has what numpy has, and the old names it lacks."""
    import numpy

    def in1d(values, among, **kwargs):
        return numpy.isin(numpy.ravel(values), among, **kwargs)

    def count_nonzero(values, axis=None, **kwargs):
        count = numpy.count_nonzero(values, axis=axis, **kwargs)
        return int(count) if numpy.ndim(count) == 0 else count

    proxy = ModuleType("numpy")
    proxy.__getattr__ = functools.partial(getattr, numpy)
    old = {"int": int, "float": float, "bool": bool, "in1d": in1d}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of numpy warn when asked
        vars(proxy).update({k: v for k, v in old.items() if not hasattr(numpy, k)})
    if not isinstance(numpy.count_nonzero([1]), int):
        proxy.count_nonzero = count_nonzero
    return proxy


def numpy_names() -> None:
    """Names that numpy has dropped, given to the single modules that still use them.

    numpy itself stays as it is, because other packages look at it to see what it has. Detectron2:
    0.5 and, less so, 0.6; cityscapesscripts: until it is released for numpy 2.4.
    """

    def give(module: ModuleType) -> None:
        proxy = _numpy_with_old_names()
        used = set(re.findall(r"\bnp\.(\w+)", Path(module.__file__).read_text(encoding="utf-8")))
        if used & {name for name in vars(proxy) if not name.startswith("_")}:
            module.np = proxy

    def execute_and_give(execute: Callable, module: ModuleType) -> None:
        execute(module)
        give(module)

    for name in _NUMPY_1_MODULES:
        if name in sys.modules:
            give(sys.modules[name])
        else:
            run_around(name, execute_and_give)


def cityscapes_paths() -> None:
    """Main imports cityscapesscripts by a path that exists at Meta only; it becomes an alias.

    Since December 2024; needed until main goes back. The others never ask for that path.
    """
    path = "deeplearning.projects.cityscapesApi.cityscapesscripts"
    leaves = (
        "helpers.labels",
        "evaluation.evalInstanceLevelSemanticLabeling",
        "evaluation.evalPixelLevelSemanticLabeling",
    )
    if is_found(path) or not is_found("cityscapesscripts"):
        return

    def alias(module: ModuleType) -> None:
        real = module.__name__.removeprefix("deeplearning.projects.cityscapesApi.")
        sys.modules[module.__name__] = importlib.import_module(real)

    for leaf in leaves:
        parts = f"{path}.{leaf}".split(".")
        for depth in range(1, len(parts)):
            stand_in(".".join(parts[:depth]))
        stand_in(".".join(parts), alias)


def panopticapi() -> None:
    """panopticapi is not on PyPI; Detectron2 takes rgb2id, id2rgb and pq_compute from it.

    The first two are served by `axial_d2.panoptic.encoding`, the third by
    `axial_d2.panoptic_quality` over cityscapesscripts, which carries the same computation. Needed
    by 0.5, 0.6 and main; until panopticapi is on PyPI.
    """
    if is_found("panopticapi"):
        return

    def utils(module: ModuleType) -> None:
        from axial_d2.panoptic.encoding import id_to_rgb, rgb_to_id

        module.rgb2id, module.id2rgb = rgb_to_id, id_to_rgb

    def evaluation(module: ModuleType) -> None:
        from axial_d2.panoptic_quality import pq_compute

        module.pq_compute = pq_compute

    stand_in("panopticapi")
    stand_in("panopticapi.utils", utils)
    stand_in("panopticapi.evaluation", evaluation)


def apply() -> None:
    """All bridges; called by `import axial_d2` where Detectron2 is installed."""
    pillow_linear()
    compiled_extension()
    export_without_caffe2()
    pkg_resources_for_model_zoo()
    numpy_names()
    cityscapes_paths()
    panopticapi()


# ---- for the engine: many processes, with or without GPUs --------------------------------------


def local_process_group(num_per_machine: int) -> None:
    """Tells Detectron2 which processes share a machine, after `init_process_group`.

    Detectron2's own launch() does this; torchrun and our launcher do not pass through it. Main's
    function for it works once only. To be called by every process, as groups are made together.

    Args:
        num_per_machine: processes on each machine; divides the number of all processes.

    Raises:
        ValueError: where it does not.
    """
    import torch.distributed as dist
    from detectron2.utils import comm

    world = dist.get_world_size()
    if num_per_machine < 1 or world % num_per_machine:
        raise ValueError(
            f"num_per_machine must divide the number of processes, {world}; got {num_per_machine}"
        )
    if comm._LOCAL_PROCESS_GROUP is None:
        comm._LOCAL_PROCESS_GROUP, _ = dist.new_subgroups(num_per_machine)


def forget_process_groups() -> None:
    """Lets go of the groups that Detectron2 keeps for good, before `destroy_process_group`."""
    from detectron2.utils import comm

    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()


def ddp_on_cpu() -> None:
    """Lets DefaultTrainer wrap a model that lies on the CPU, when there are many processes.

    create_ddp_model always names a GPU, which DistributedDataParallel refuses for a CPU model.
    Needed by 0.5, 0.6 and main.
    """
    from detectron2.engine import defaults

    original = defaults.create_ddp_model
    if getattr(original, "knows_cpu", False):
        return

    @functools.wraps(original)
    def create_ddp_model(model, **kwargs):
        if not any(parameter.is_cuda for parameter in model.parameters()):
            kwargs["device_ids"] = None
        return original(model, **kwargs)

    create_ddp_model.knows_cpu = True
    defaults.create_ddp_model = create_ddp_model
