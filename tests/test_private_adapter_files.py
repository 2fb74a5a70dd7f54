"""Adapters of groups in a folder: what is saved comes back, and PEFT puts each group's on the stock encoder."""

import peft
import pytest
import torch
from transformers import AutoModel

from hf_mtl.modeling.model import MultiTaskModel
from tests.adapted import MIXED, OTHERS, five_texts, settings
from tests.grouped import TASKS, encoder_folder, equal
from tests.test_model import text_task
from tests.test_private_adapters import FROZEN, KINDS, adapted

SAVED = [("bert", kind) for kind in KINDS]
SAVED += [(name, "both, encoder") for name in ("modernbert", "deberta-v2", "electra", "distilbert")]
SAVED += [("modernbert", "shared dora"), ("deberta-v2", "shared")]


@pytest.mark.parametrize(("architecture", "kind"), SAVED)
def test_a_saved_model_gives_the_same_answers_to_the_bit(tiny, tmp_path, architecture, kind):
    model, batch = adapted(tiny, architecture, kind), five_texts(architecture)
    model.save_pretrained(tmp_path)
    read = MultiTaskModel.from_pretrained(tmp_path)
    read.save_pretrained(tmp_path / "again")
    for other in (read, MultiTaskModel.from_pretrained(tmp_path / "again")):
        assert other.groups == model.groups
        assert equal(model(**batch).logits, other(**batch).logits)
        for rows in (MIXED, OTHERS):
            assert equal(model(**batch, rows=rows).logits, other(**batch, rows=rows).logits)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [*(("bert", kind) for kind in FROZEN), *((name, "shared") for name in ("deberta-v2", "modernbert", "electra"))],
)
def test_peft_puts_a_saved_adapter_on_the_stock_encoder_with_equal_states(tiny, tmp_path, architecture, kind):
    model, batch = adapted(tiny, architecture, kind), five_texts(architecture)
    model.save_pretrained(tmp_path)
    names = TASKS if KINDS[kind]["scope"] == "both" else ["topic", "score", "slots"]
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == sorted(names)
    assert not (tmp_path / "model.safetensors").exists()
    for name in names:
        stock = AutoModel.from_pretrained(encoder_folder(tiny, architecture)).eval()
        with_adapter = peft.PeftModel.from_pretrained(stock, tmp_path / "adapters" / name).eval()
        wanted = model.encode(**batch, tasks=[name])[name]
        torch.testing.assert_close(with_adapter(**batch).last_hidden_state, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["both", "both, encoder"])
def test_a_task_may_be_called_as_the_adapter_of_a_group_would_be(tiny, tmp_path, kind):
    """`shared-a` cannot name a task; the nearest that can must not clash either."""
    tasks = [text_task(name) for name in ("a", "shared_a", "b")]
    sharing = {"private_layers": 1, "groups": [["a"], ["shared_a", "b"]]}
    model = MultiTaskModel.from_encoder(str(encoder_folder(tiny)), tasks, lora=settings(**KINDS[kind]), sharing=sharing)
    model.save_pretrained(tmp_path)
    ours, theirs = (one(**five_texts()).logits for one in (model, MultiTaskModel.from_pretrained(tmp_path)))
    assert equal(ours, theirs)
