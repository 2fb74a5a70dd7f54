"""What a card says of the model's use: code that runs as printed, and what loads it."""

from hf_mtl.hub.contents import Contents
from hf_mtl.modeling.adapted_folder import ADAPTERS
from hf_mtl.modeling.groups import group_list, saved_groups
from hf_mtl.tasks.spec import TaskSpec

TEXT, PAIR = "Replace this with a text of your own.", "And this with the text beside it."


def encoder_name(contents: Contents) -> str:
    """What the card calls the encoder: its id where it has one."""
    encoder = contents.record.get("encoder", {})
    kind = contents.config["encoder_config"].get("model_type", "Transformer")
    if encoder.get("id"):
        return f"[{encoder['id']}](https://huggingface.co/{encoder['id']})"
    named = encoder.get("package") or encoder.get("folder")
    return f"`{named}` ({kind})" if named else kind


def summary(contents: Contents, task: str | None) -> str:
    """What the model is, in a sentence or two."""
    if task is not None:
        return (
            f"The task **{task}** of a multi-task model that was fine-tuned with hf_mtl on the encoder "
            f"{encoder_name(contents)}, as an ordinary checkpoint: transformers loads it without hf_mtl."
        )
    count = len(contents.tasks)
    heads = f"{count} tasks" if count > 1 else "one task"
    how = "that stays as it was published, with LoRA adapters," if contents.base is not None else ""
    answer = "answered in one pass" if count > 1 else "fine-tuned with hf_mtl"
    groups = saved_groups(contents.config.get("groups") or (), [spec.name for spec in contents.tasks])
    copied = groups and contents.base is None  # On an encoder as it was published they have adapters of their own.
    own = f" Tasks have top layers of their own ({group_list(groups)}), the others are everybody's." if copied else ""
    return f"One encoder, {encoder_name(contents)}, {how + ' ' if how else ''}with heads for {heads}, {answer}.{own}"


def packages(contents: Contents, task: str | None) -> str:
    """What pip is to install."""
    package = contents.record.get("encoder", {}).get("package")
    if task is not None:
        return "transformers torch"
    return "hf_mtl" + (f" {package.replace('_', '-')}" if package and contents.base is not None else "")


def usage(contents: Contents, name: str, task: str | None) -> str:
    """Python code that loads the model and answers a text; it runs as printed."""
    if task is not None:
        spec = next(spec for spec in contents.tasks if spec.name == task)
        return "\n".join(
            [
                "from transformers import pipeline",
                "",
                f'pipe = pipeline("{spec.task_type}", model="{name}")',
                _call([spec]),
            ]
        )
    calls = [_call(specs) for specs in _kinds(contents.tasks)]
    return "\n".join(
        [
            "from hf_mtl import MultiTaskPipeline",
            "",
            f'pipe = MultiTaskPipeline.from_pretrained("{name}")',
            *calls,
        ]
    )


def _kinds(tasks: list[TaskSpec]) -> list[list[TaskSpec]]:
    """Tasks that read single texts, and tasks that read pairs."""
    return [specs for pair in (False, True) if (specs := [spec for spec in tasks if spec.text_pair == pair])]


def _call(specs: list[TaskSpec]) -> str:
    if specs[0].text_pair:
        return f'print(pipe({{"text": "{TEXT}", "text_pair": "{PAIR}"}}))'
    return f'print(pipe("{TEXT}"))'


def usage_notes(contents: Contents, name: str, task: str | None) -> str:
    """What else loads the model, and what does not."""
    if task is not None:
        return "Nothing but transformers is needed."
    first = contents.tasks[0].name
    lines = [
        "Each task's answer is that of the stock transformers pipeline of its type. "
        f'`transformers.pipeline("multi-task", model="{name}")` gives the same once `hf_mtl` is imported, and '
        f"`hf-mtl predict {name}` on the command line.",
        "",
        "Without hf_mtl, transformers loads the tokenizer, and not the model: its `model_type` is `hf_mtl`, and no "
        f"code is shipped with it. `hf-mtl export {name} --task {first} --output {first}` writes a task as an ordinary "
        "checkpoint that it does load.",
    ]
    adapters = (contents.config.get("lora") or {}).get("adapters") or {}
    base = contents.base
    if base is not None and not base["encoder"].startswith("package://") and any(adapters.values()):
        folder = next(filter(None, adapters.values()))
        lines += [
            "",
            f"`{ADAPTERS}/` holds ordinary PEFT adapters of the encoder: `PeftModel.from_pretrained(encoder, "
            f'"{name}", subfolder="{ADAPTERS}/{folder}")` loads one without hf_mtl.',
        ]
    return "\n".join(lines)
