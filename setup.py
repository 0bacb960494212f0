"""Packaging of axial_d2: version ranges here, tested versions in requirements*.txt."""

from setuptools import find_packages, setup

# axial_d2/__init__.py holds the version; read, not imported: that would need torch.
with open("axial_d2/__init__.py", encoding="utf-8") as _file:
    VERSION = next(line.split('"')[1] for line in _file if line.startswith("__version__ ="))

# Detectron2 is not among them: PyPI has it only as detectron2-cdo, an archive that a plain
# `pip install` cannot resolve (dev/setup.sh can), and most people bring a build of their own.
INSTALL_REQUIRES = [
    "torch>=2.4",
    "torchvision>=0.19",
    "numpy>=1.26",
    "pillow>=9.1",
    "fvcore>=0.1.5,<0.1.6",  # the cap is Detectron2's own
    "iopath>=0.1.7,<0.1.10",  # likewise
    "yacs>=0.1.8",
    "pycocotools>=2.0.6",
    "pyyaml>=5.1",
    "cityscapesscripts>=2.2",
    "shapely>=2",  # by Detectron2, for Cityscapes' instances
    "matplotlib>=3.7",
    "tabulate>=0.9",
    "tensorboard>=2.12",
    "termcolor>=2.0",
    "tqdm>=4.60",
]

EXTRAS_REQUIRE = {
    "demo": ["opencv-python-headless>=4.8"],  # an opencv-python already installed does as well
    "compiler": ["ziglang>=0.17"],  # for the CPU's attention, where the system has none
    "dev": ["hypothesis>=6.100", "mypy>=1.11", "pytest>=8.0", "ruff>=0.6", "safetensors>=0.4"],
}

setup(
    name="axial_d2",
    version=VERSION,
    description="Axial-DeepLab for Detectron2: panoptic segmentation with axial attention",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["axial_d2", "axial_d2.*"]),
    # Built where it is used, if there is a compiler: see axial_d2/ops/cpp_build.py.
    package_data={"axial_d2.ops": ["cpp/*"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
