"""Multi-task fine-tuning: one Hugging Face encoder, a stock head for every task.

Importing the package is cheap: torch and transformers come with the first name that needs them. transformers' auto
classes know `hf_mtl` models, and `transformers.pipeline` knows "multi-task", as soon as they are imported themselves.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from hf_mtl.config import load_config
    from hf_mtl.inference.pipeline import MultiTaskPipeline
    from hf_mtl.modeling.configuration import MultiTaskConfig
    from hf_mtl.modeling.model import MultiTaskModel
    from hf_mtl.training.trainer import MultiTaskTrainer

__version__ = "0.1.0"
__all__ = ["MultiTaskConfig", "MultiTaskModel", "MultiTaskPipeline", "MultiTaskTrainer", "load_config"]

_HOMES = {
    "MultiTaskConfig": "hf_mtl.modeling.configuration",
    "MultiTaskModel": "hf_mtl.modeling.model",
    "MultiTaskPipeline": "hf_mtl.inference.pipeline",
    "MultiTaskTrainer": "hf_mtl.training.trainer",
    "load_config": "hf_mtl.config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _announce_config(_: Any) -> None:
    importlib.import_module("hf_mtl.modeling.configuration")


def _announce_pipeline(pipelines: Any) -> None:
    pipelines.PIPELINE_REGISTRY.supported_tasks["multi-task"] = {
        "impl": "hf_mtl.inference.pipeline.MultiTaskPipeline",
        "pt": (pipelines.AutoModel,),
        "type": "text",
    }


# These run halfway through transformers' own imports, so they import nothing that needs all of it.
wrapt.register_post_import_hook(_announce_config, "transformers.models.auto.configuration_auto")
wrapt.register_post_import_hook(_announce_pipeline, "transformers.pipelines")
