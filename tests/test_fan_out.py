"""Rows are copied inside stock encoders as if the batch had held the copies."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, XLNetConfig

from hf_mtl.errors import UserError
from hf_mtl.modeling.fan_out import FanOut
from hf_mtl.modeling.layers import layer_list
from tests.tiny import ARCHITECTURES, save_tiny_encoder, tiny_encoder

OWN_LAYERS = [name for name in (*ARCHITECTURES, "qwen3") if name != "albert"]
LENGTH = 9


class Choice:
    """Gives the rows to copy, and counts how often it was asked."""

    def __init__(self, *rows):
        self.rows, self.asked = torch.tensor(rows) if rows else None, 0

    def index(self):
        self.asked += 1
        return self.rows


class Holder(nn.Module):
    """An encoder, the rows to copy and what copies them, as a multi-task model holds them."""

    def __init__(self, encoder, first, *rows):
        super().__init__()
        self.encoder, self.choice = encoder, Choice(*rows)
        self.fan_out = FanOut(encoder, first, self.choice.index)

    def forward(self, **inputs):
        return self.encoder(**inputs).last_hidden_state


def three_layers(architecture, **changes):
    changes["n_layers" if architecture == "distilbert" else "num_hidden_layers"] = 3
    return tiny_encoder(architecture, **changes)


def other_encoder(architecture, **changes):
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 37}
    sizes |= {"num_hidden_layers": 3, "max_position_embeddings": 80, "pad_token_id": 1}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = AutoModel.from_config(AutoConfig.for_model(architecture, **sizes | dropout | changes))
    return encoder.eval()


def batch(rows, padding=True, length=LENGTH):
    """Rows of different lengths and words; without padding their lengths are the same, and no mask is given."""
    ids = torch.randint(5, 100, (rows, length), generator=torch.Generator().manual_seed(rows))
    if not padding:
        return {"input_ids": ids}
    lengths = length - torch.arange(rows) % (length - 2)
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": ids.where(mask.bool(), 1), "attention_mask": mask}


def chosen(inputs, rows):
    return {key: value[torch.as_tensor(rows)] for key, value in inputs.items()}


def gradients(model, states):
    direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad((states * direction).sum(), list(model.parameters()), allow_unused=True)
    pairs = zip(found, model.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(weight) if grad is None else grad).ravel() for grad, weight in pairs])


def assert_as_copied_before(encoder, first, inputs, rows):
    """The states and gradients of copies made inside are those of copies made before the encoder."""
    wanted = encoder(**chosen(inputs, rows)).last_hidden_state
    wanted_gradients = gradients(encoder, wanted)
    holder = Holder(encoder, first, *rows)
    found = holder(**inputs)
    found_gradients = gradients(encoder, found)
    holder.fan_out.remove()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert (found_gradients - wanted_gradients).norm() < 1e-6 * wanted_gradients.norm()
    unlike = encoder(**chosen(inputs, rows[::-1])).last_hidden_state
    assert rows == rows[::-1] or (found - unlike).abs().max() > 0.1


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_copies_inside_are_as_copies_before_the_encoder(architecture, first, attention):
    encoder = three_layers(architecture)
    encoder.set_attn_implementation(attention)
    assert_as_copied_before(encoder.train(), first, batch(6), [5, 0, 0, 3, 1, 5, 0, 4])


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_rows_may_be_left_out_and_padding_too(architecture):
    encoder = three_layers(architecture)
    unpadded = batch(6, padding=False)
    for inputs in (batch(6), unpadded, unpadded | {"attention_mask": torch.ones(6, LENGTH, dtype=torch.long)}):
        for first, rows in ((0, [4, 1]), (1, [4, 1]), (1, [2])):
            assert_as_copied_before(encoder, first, inputs, rows)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, LENGTH])
@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_a_batch_may_have_as_many_rows_as_there_are_heads_or_words_or_one(architecture, count):
    for padding in (True, False):
        assert_as_copied_before(three_layers(architecture), 1, batch(count, padding), [count - 1, 0, 0])


@pytest.mark.parametrize("changes", [{}, {"position_buckets": 4}, {"norm_rel_ebd": "layer_norm"}])
def test_relative_positions_are_no_rows(changes):
    encoder = three_layers("deberta-v2", max_relative_positions=8, **changes)
    size = len(encoder.encoder.rel_embeddings.weight)
    assert size == (8 if changes.get("position_buckets") else 16)
    for first in (0, 2):
        assert_as_copied_before(encoder, first, batch(size, length=8), [*range(size - 1, -1, -1), 3])


@pytest.mark.parametrize("first", [0, 1, 2])
def test_what_reads_rows_beside_the_layers_reads_copies_too(first):
    encoder = three_layers("deberta-v2", conv_kernel_size=3)
    assert_as_copied_before(encoder, first, batch(5), [4, 0, 0, 2])
    assert_as_copied_before(encoder, first, batch(1), [0, 0])


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("deberta", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
        ("longformer", {"attention_window": 4}),
        ("esm", {"position_embedding_type": "rotary", "mask_token_id": 4}),
        ("rembert", {"input_embedding_size": 16}),
        ("gemma2", {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4, "attention_dropout": 0.0}),
    ],
)
def test_architectures_that_nothing_here_knows_work_too(architecture, changes):
    encoder = other_encoder(architecture, **changes)
    for first in (0, 1, 2):
        assert_as_copied_before(encoder, first, batch(4), [3, 0, 0, 1, 3])


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_without_an_index_and_once_taken_out_not_a_bit_differs(architecture):
    plain, holder = tiny_encoder(architecture), Holder(tiny_encoder(architecture), 1)
    for inputs in (batch(4), batch(4, padding=False), batch(1)):
        wanted = plain(**inputs).last_hidden_state
        found = holder(**inputs)
        assert torch.equal(found, wanted)
        assert torch.equal(gradients(holder.encoder, found), gradients(plain, wanted))
        assert holder.choice.asked
    holder.choice.rows = torch.tensor([0])
    assert len(holder(**batch(4))) == 1
    holder.fan_out.remove()
    asked = holder.choice.asked
    assert torch.equal(holder(**batch(4)), plain(**batch(4)).last_hidden_state)
    assert holder.choice.asked == asked
    assert not any(module._forward_pre_hooks for module in holder.encoder.modules())


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_the_encoder_and_the_random_generators_are_left_as_they_were(architecture):
    encoder = tiny_encoder(architecture).train()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    layer_list(encoder)[1][0].eval()
    modes = [module.training for module in encoder.modules()]
    weights = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    drawn = torch.get_rng_state()
    FanOut(encoder, 0, Choice(0).index)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [module.training for module in encoder.modules()] == modes
    assert encoder.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in encoder.state_dict().items())
    assert all(weight.grad is None for weight in encoder.parameters())
    assert torch.is_grad_enabled()


def test_copies_train_with_checkpointed_activations():
    able = [name for name in OWN_LAYERS if tiny_encoder(name).supports_gradient_checkpointing]
    assert len(able) >= 8
    for architecture in able:
        encoder = three_layers(architecture)
        wanted = gradients(encoder, encoder(**chosen(batch(4), [3, 0, 0])).last_hidden_state)
        holder = Holder(encoder, 1, 3, 0, 0).train()
        encoder.activation_checkpointing_enable()
        computed = []
        inner = next(module for module in layer_list(encoder)[1][1].modules() if isinstance(module, nn.Linear))
        inner.register_forward_hook(lambda *_, computed=computed: computed.append(1))
        states = holder(**batch(4))
        once = len(computed)
        assert (gradients(encoder, states) - wanted).norm() < 1e-6 * wanted.norm()
        assert len(computed) == 2 * once


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_the_index_is_asked_again_where_states_are_computed_again(architecture):
    encoder = three_layers(architecture)
    wanted = gradients(encoder, encoder(**chosen(batch(4), [3, 0, 0])).last_hidden_state)
    holder = Holder(encoder, 1, 3, 0, 0).train()
    states = checkpoint(lambda: holder(**batch(4)), use_reentrant=False)
    asked = holder.choice.asked
    assert (gradients(encoder, states) - wanted).norm() < 1e-6 * wanted.norm()
    assert holder.choice.asked == 2 * asked


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_a_deep_copy_has_hooks_and_an_index_of_its_own(architecture):
    holder = Holder(three_layers(architecture), 1, 0, 1)
    twin = copy.deepcopy(holder)
    twin.choice.rows = torch.tensor([3, 2, 1])
    asked = holder.choice.asked
    wanted = twin.encoder(**batch(4)).last_hidden_state
    assert holder.choice.asked == asked
    assert len(wanted) == 3
    assert len(holder(**batch(4))) == 2
    twin.fan_out.remove()
    assert len(twin(**batch(4))) == 4
    assert len(holder(**batch(4))) == 2
    torch.testing.assert_close(twin(**chosen(batch(4), [3, 2, 1])), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", OWN_LAYERS)
def test_loaded_encoders_copy_rows_in_inference_and_in_bfloat16(architecture, tmp_path):
    plain = AutoModel.from_pretrained(save_tiny_encoder(tmp_path, architecture)).eval()
    holder = Holder(AutoModel.from_pretrained(tmp_path).eval(), 1, 3, 0, 0, 2)
    inputs, copied = batch(4), chosen(batch(4), [3, 0, 0, 2])
    with torch.inference_mode():
        torch.testing.assert_close(holder(**inputs), plain(**copied).last_hidden_state, rtol=0, atol=1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(holder(**inputs), plain(**copied).last_hidden_state, rtol=0, atol=5e-2)


def test_compiled_encoders_copy_rows():
    compiled = []
    plain, encoder = tiny_encoder("modernbert"), tiny_encoder("modernbert")
    encoder.compile(dynamic=True, backend=lambda graph, _: compiled.append(graph) or graph.forward)
    holder = Holder(encoder, 1)
    assert not compiled
    with torch.no_grad():
        for count, rows in ((4, [3, 0, 0]), (6, [0, 5, 2, 2, 1, 1, 3]), (5, None)):
            holder.choice.rows = None if rows is None else torch.tensor(rows)
            wanted = plain(**chosen(batch(count), rows or range(count))).last_hidden_state
            torch.testing.assert_close(holder(**batch(count)), wanted, rtol=0, atol=1e-6)
    assert compiled


@pytest.mark.parametrize(
    ("encoder", "first", "message"),
    [
        (lambda: tiny_encoder("albert"), 0, "albert.* has no list of layers"),
        (lambda: tiny_encoder(), 2, "bert.* has layers 0 to 1, no 2"),
        (lambda: tiny_encoder(), -1, "bert.* has layers 0 to 1, no -1"),
        (lambda: other_encoder("bloom"), 1, r"argument alibi of h.1 has shape \[8, .* rows must be the first"),
        (lambda: AutoModel.from_config(XLNetConfig(vocab_size=9, d_model=8, n_layer=3, n_head=2)), 1, "argument 0 of"),
        (lambda: other_encoder("squeezebert", embedding_size=32, intermediate_size=40), 1, "2 rows come out where"),
        (lambda: other_encoder("canine", num_hash_buckets=20), 0, "canine.* a trial pass failed"),
    ],
)
def test_encoders_whose_rows_cannot_be_followed_are_refused(encoder, first, message):
    encoder = encoder()
    with pytest.raises(UserError, match=message):
        FanOut(encoder, first, Choice(0).index)
    assert not any(module._forward_pre_hooks for module in encoder.modules())


def test_what_also_runs_on_rows_before_they_are_copied_is_refused():
    encoder = three_layers("deberta-v2", conv_kernel_size=3)
    mask = torch.ones(1, 1, dtype=torch.long)
    encoder.embeddings.register_forward_hook(lambda _, args, states: encoder.encoder.conv(states, states, mask))
    with pytest.raises(UserError, match="deberta-v2.* cannot be copied before encoder.layer.0: a trial pass failed"):
        FanOut(encoder, 0, Choice(0).index)
    assert_as_copied_before(encoder, 1, batch(4), [3, 0, 0])


def test_tables_inside_tuples_go_by_row_where_the_encoder_makes_them_so():
    encoder = three_layers("modernbert")

    def stretched(_, args):
        states, places, kind = args
        return states, places * (1 + (states[:, :1, 0] > 0).long()), kind

    encoder.rotary_emb.register_forward_pre_hook(stretched)
    for first in (0, 1, 2):
        assert_as_copied_before(encoder, first, batch(6), [5, 0, 0, 3, 2])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_one_mask_may_stand_for_all_rows(attention):
    encoder = three_layers("bert")
    encoder.set_attn_implementation(attention)
    inputs = batch(4, padding=False)
    mask = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(torch.arange(LENGTH) > 5, -1e9)
    wanted = encoder(**chosen(inputs, [3, 0, 0]), attention_mask=mask).last_hidden_state
    found = Holder(encoder, 1, 3, 0, 0)(**inputs, attention_mask=mask)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_what_the_trial_passes_did_not_meet_is_refused_and_not_guessed():
    holder = Holder(tiny_encoder("modernbert"), 1, 3, 0, 0)
    places = torch.arange(LENGTH).repeat(4, 1)
    with pytest.raises(UserError, match=r"layers.1 of the encoder got argument position_embeddings.0 of shape \[4, 9,"):
        holder(**batch(4), position_ids=places)
    torch.testing.assert_close(holder(**batch(4), position_ids=places[:1]), holder(**batch(4)))
    holder.encoder.set_attn_implementation("flex_attention")
    with pytest.raises(UserError, match="attn_implementation: with flex_attention rows cannot be copied"):
        FanOut(holder.encoder, 0, Choice(0).index)
