"""The tables of a card: tasks, data, results, recipe, and what nothing is known about."""

from collections.abc import Iterable, Sequence
from typing import Any

from huggingface_hub.utils import yaml_dump

from hf_mtl.config import load_config
from hf_mtl.config_keys import RunConfig
from hf_mtl.errors import ConfigError
from hf_mtl.hub.card_data import scalars
from hf_mtl.hub.contents import Contents

SHOWN_LABELS = 30
FEW = 20
"""Test rows (or spans) of a label below which its figure says little."""
OF_THE_PLACE = {"output_dir", "push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "report_to"}
"""Keys of `training` that say nothing of how the model was trained."""
OF_THE_ROWS = {"task_type", "dataset", "label_column", "spans_column", "label_list", "metrics", "score_weight"}
"""Keys of a task that say what it is, not how it was trained."""


def tasks_section(contents: Contents, task: str | None) -> str:
    """A row a task: its type and labels."""
    rows = []
    for spec in contents.tasks:
        if task in (None, spec.name):
            kind = spec.task_type + (f" ({spec.problem_type.replace('_', ' ')})" if spec.problem_type else "")
            reads = "pairs of texts" if spec.text_pair else "texts"
            labels = spec.label_list or []
            shown = ", ".join(f"{code(label)}" for label in labels[:SHOWN_LABELS]) or "a number"
            more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
            rows.append([spec.name, kind, reads, shown + more])
    return table(["task", "type", "reads", "labels"], rows)


def data_section(contents: Contents) -> str:
    """A row a data set, and what was left out of it. A single task's encoder was trained on those of the others too."""
    tasks = contents.run.get("tasks") or {}
    rows, remarks = [], []
    for name, entry in contents.record.get("datasets", {}).items():
        readers = [key for key, values in tasks.items() if values.get("dataset") == name]
        shares = ((contents.run.get("datasets") or {}).get(name) or {}).get("splits") or {}
        source = entry.get("id")
        where = f"[{source}](https://huggingface.co/datasets/{source})" if source else "local files"
        where += f", configuration {cell(entry['name'])}" if entry.get("name") else ""
        licence = entry.get("license") or ""
        cut = {split: f" ({share:g} of train)" for split, share in shares.items() if isinstance(share, float)}
        splits = entry.get("splits", {})
        counts = ", ".join(f"{split} {one['rows']:,}{cut.get(split, '')}" for split, one in splits.items())
        revision = f"`{entry['revision']}`" if entry.get("revision") else ""
        rows.append([name, where, revision, _listed(licence), counts, ", ".join(readers)])
        remarks += [f"- {name} {cell(remark)}" for remark in entry.get("remarks", ())]
    if not rows:
        return ""
    headings = ["data set", "source", "revision", "licence", "rows", "tasks"]
    return "\n".join([_without_empty(headings, rows), *([""] if remarks else []), *remarks])


def results_section(contents: Contents, task: str | None) -> str:
    """A row a metric: validation, by which the weights were chosen, and test."""
    rows = []
    for spec in contents.tasks:
        if task in (None, spec.name):
            values = {split: scalars(contents, split, spec.name) for split in ("validation", "test")}
            for metric in values["validation"] | values["test"]:
                cells = [f"{one[metric]:.4f}" if metric in one else "" for one in values.values()]
                rows.append([spec.name, metric, *cells])
    return table(["task", "metric", "validation", "test"], rows) if rows else ""


def training_section(contents: Contents, task: str | None) -> str:
    """The recipe where it differs from the defaults, and what it ran on."""
    lines = []
    trained = contents.record.get("tasks", [])
    if earlier := [spec.name for spec in contents.tasks if spec.name not in trained and trained]:
        if task in earlier:
            return ""
        lines += [f"The run that added {', '.join(trained)} to a model that had {', '.join(earlier)} before it.", ""]
    if recipe := _recipe(contents):
        lines += ["Keys of the run file that are not the defaults:", "", "```yaml", recipe.rstrip("\n"), "```"]
    record = contents.record
    if record:
        several = f" on {record['processes']} processes" if record.get("processes", 1) > 1 else ""
        minutes = record["seconds"] / 60
        took = f"{minutes:.0f} minutes" if minutes >= 2 else f"{record['seconds']:.1f} seconds"
        versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
        lines += ["", f"{record['steps']} steps in {took}{several}, {record['hardware']}. {versions}."]
    return "\n".join(lines).strip("\n")


def _recipe(contents: Contents) -> str:
    try:
        config: RunConfig = load_config({key: value for key, value in contents.run.items() if key != "base_dir"})
    except ConfigError:
        return ""
    given = config.model_dump(mode="json", exclude_defaults=True)
    own = {name: _without(entry, OF_THE_ROWS) for name, entry in given["tasks"].items()}
    parts: dict[str, Any] = {
        key: given.get(key) for key in ("heads", "max_length", "encoder_config", "sampling", "lora", "sharing")
    }
    parts["tasks"] = {name: entry for name, entry in own.items() if entry}
    parts["training"] = _without(given["training"], OF_THE_PLACE)
    said = {key: value for key, value in parts.items() if value}
    return str(yaml_dump(said)) if said else ""


def _without(values: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def limits_section(contents: Contents, task: str | None) -> str:
    """What no figure above speaks of."""
    lines = []
    for spec in contents.tasks:
        if task not in (None, spec.name):
            continue
        if spec.name not in contents.record.get("tasks", [spec.name]):
            lines.append(f"- {spec.name}: trained in an earlier run, of which nothing is known here.")
        elif not scalars(contents, "test", spec.name):
            lines.append(f"- {spec.name}: no test rows were measured.")
        labels = ((contents.metrics.get("test") or {}).get(spec.name) or {}).get("by_label") or {}
        few = [label for label, values in labels.items() if values.get("support", FEW) < FEW]
        if few:
            shown = ", ".join(f"{code(label)}" for label in few[:SHOWN_LABELS])
            more = f" and {len(few) - SHOWN_LABELS} more" if len(few) > SHOWN_LABELS else ""
            lines.append(f"- {spec.name}: fewer than {FEW} examples in test of {shown}{more}.")
    if length := contents.run.get("max_length"):
        lines.append(f"- Texts beyond {length} pieces: text classification reads their first {length}.")
    lines += [
        "- Texts of other sources, domains and languages than the rows it was trained on.",
        "- Unequal errors between groups of people, hostile input, and whether scores are probabilities.",
        "- Other seeds: every figure is of one run.",
    ]
    return "\n".join(lines)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _without_empty(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without the columns that say nothing in any row."""
    kept = [place for place in range(len(headings)) if any(row[place] for row in rows)]
    return table([headings[place] for place in kept], [[row[place] for place in kept] for row in rows])


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def cell(text: Any) -> str:
    """Text of the user's that stands in a table: it cannot end a cell, nor be read as HTML or Markdown."""
    plain = " ".join(str(text).split())
    for mark, instead in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("`", "'"), ("[", "&#91;")):
        plain = plain.replace(mark, instead)
    return plain


def code(text: Any) -> str:
    """The same as code, in which only a backtick and, in a table, a bar mean something."""
    return f"`{' '.join(str(text).split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"
