"""Tests of names with something before them, and of what else stands in state dicts."""

import numpy as np
import pytest

from aa_flax.weights import WeightsError, init_from_plain, load_torch_state_dict, read_state_dict
from aa_flax.weights.arrays import flat_arrays
from aa_flax.weights.given import common_prefix

from .torch_written import Name, write

PREFIXES = ["module.", "model.", "backbone.", "net.", "timm_model.", "module._orig_mod.", "a.very.long one."]


@pytest.fixture
def model(small):
    return small[0]


@pytest.fixture
def state(small):
    return dict(small[1])


def stem_is(model, state):
    return (np.asarray(model.stem.kernel[...]) == state["conv_stem.weight"].transpose(2, 3, 1, 0)).all()


@pytest.mark.few(2)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_stands_before_every_name_is_taken_off_and_named(model, state, prefix):
    given = {prefix + key: value for key, value in state.items()}
    report = load_torch_state_dict(model, given, source="timm")
    assert stem_is(model, state) and len(report.loaded) == len(state)
    assert report.notes == (f"names without their prefix {prefix!r}",) and f"prefix {prefix!r}" in str(report)
    report = init_from_plain(model, given, source="timm")
    assert report.notes == (f"names without their prefix {prefix!r}",) and not report.unused


@pytest.mark.few
@pytest.mark.parametrize("prefix", ["detector.neck.backbone.", "backbone."])
def test_so_is_the_prefix_of_our_own_names(model, state, prefix):
    load_torch_state_dict(model, state, source="timm")
    ours = {prefix + path: np.asarray(value) for path, value in flat_arrays(model).items()}
    report = init_from_plain(model, ours, source="aa_flax")
    assert len(report.loaded) == len(ours) and report.notes == (f"names without their prefix {prefix!r}",)


def test_no_prefix_is_no_note(model, state):
    assert load_torch_state_dict(model, state, source="timm").notes == ()


def test_what_stands_beside_the_network(model, state):
    """The lenient reader leaves it; the strict one, which uses every array, names it in full, a classifier too."""
    inside = {f"model.{key}": value for key, value in state.items() if not key.startswith("classifier.")}
    beside = {
        "loss.weight": np.ones(7, np.float32),
        "classifier.weight": state["classifier.weight"],
        "classifier.bias": state["classifier.bias"],
    }
    report = init_from_plain(model, inside | beside, source="timm")
    assert set(report.unused) == {*beside} and {"head.kernel", "head.bias"} == {*report.new}
    inside |= {"model.classifier.weight": state["classifier.weight"], "model.classifier.bias": state["classifier.bias"]}
    with pytest.raises(
        WeightsError, match=r"named without 'model.', do not fit this MnasNet; 3 problems:\n  loss.weight"
    ):
        load_torch_state_dict(model, inside | beside, source="timm")
    report = init_from_plain(
        model, {**{f"model.{k}": v for k, v in state.items()}, "model.x": np.ones(2)}, source="timm"
    )
    assert report.unused == ("model.x",)  # by its full name


def test_a_network_without_classifier_leaves_one_beside_the_prefix(build, state):
    headless = build("mnasnet_100", num_classes=0)
    given = {f"backbone.{key}": value for key, value in state.items() if not key.startswith("classifier.")}
    given |= {"classifier.weight": state["classifier.weight"], "classifier.bias": state["classifier.bias"]}
    assert load_torch_state_dict(headless, given, source="timm").unused == ("classifier.weight", "classifier.bias")
    report = load_torch_state_dict(headless, {f"m.{k}": v for k, v in state.items()}, source="timm")
    assert {*report.unused} == {"m.classifier.weight", "m.classifier.bias"}


@pytest.mark.few(2)
@pytest.mark.parametrize("parts", [("student.", "teacher."), ("", "ema_model.module."), ("encoder_q.", "encoder_k.")])
def test_several_networks_are_told_apart_by_the_user_only(tmp_path, model, state, parts):
    both = {part + key: value + i for i, part in enumerate(parts) for key, value in state.items()}
    if parts[0]:
        with pytest.raises(
            WeightsError, match=f"several networks: .* follow '{parts[0]}' and '{parts[1]}'; choose one"
        ):
            load_torch_state_dict(model, both, source="timm")
        write({"state_dict": both}, tmp_path / "w.ckpt")
        load_torch_state_dict(model, read_state_dict(tmp_path / "w.ckpt", key=parts[0]), source="timm")
        assert stem_is(model, state)
    else:  # names that fit as they are
        assert set(init_from_plain(model, both, source="timm").unused) == {parts[1] + key for key in state}


def test_few_known_names_are_no_prefix():
    """Blocks of another network have names of their own at the end that are known at the top."""
    blocks = [f"stage{i}.bn1.{leaf}" for i in range(4) for leaf in ("weight", "bias")]
    assert common_prefix(blocks, {"bn1.weight", "bn1.bias", "stem", "a", "b", "c"}) == ""
    assert common_prefix([], {"a"}) == common_prefix(["a"], set()) == ""
    assert common_prefix(["m.a", "m.b", "x", "y"], {"a", "b", "c"}) == "m."


@pytest.mark.few(4)
@pytest.mark.parametrize(
    "counters",
    [
        {"bn1.num_batches_tracked": np.int64(3), "layer1.0.bn1.num_batches_tracked": np.asarray(3)},
        {"n_averaged": np.asarray(5, np.int32)},  # of torch.optim.swa_utils.AveragedModel
        {"epoch": 7, "global_step": 70000},
        {"initialized": np.asarray(1, np.uint8), "frozen": np.asarray(True)},
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_counters_are_left_out_with_a_note(model, state, counters, prefix):
    given = {**counters, **{prefix + key: value for key, value in state.items()}}
    for function in (load_torch_state_dict, init_from_plain):
        report = function(model, given, source="timm")
        assert report.notes[-1] == f"{len(counters)} counters left out, such as {min(counters)}" and not report.unused


def test_the_lenient_reader_leaves_what_it_does_not_need(tmp_path, model, state):
    odd = {
        "relative_position_index": np.arange(9).reshape(3, 3),
        "queue": np.full(3, np.nan, np.float32),
        "name": "resnet18",
    }
    report = init_from_plain(model, {**state, **odd}, source="timm")
    (note,) = report.notes
    assert (
        note.startswith("left out: relative_position_index has dtype int64") and "queue holds infinity or NaN" in note
    )
    with pytest.raises(WeightsError, match="3 problems:\n  relative_position_index: has dtype int64, expected float16"):
        load_torch_state_dict(model, {**state, **odd}, source="timm")
    state["bn1.weight"] = Name("numpy", "ndarray")()
    write(state, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match="1 problems:\n  bn1.weight: is an object of numpy.ndarray, expected float16"
    ):
        init_from_plain(model, read_state_dict(tmp_path / "w.pth"), source="timm")


@pytest.mark.usefixtures("unchecked_shapes")
def test_names_are_strings(model):
    with pytest.raises(WeightsError, match="must map names to arrays, got 3 as a name"):
        load_torch_state_dict(model, {3: np.ones(3)}, source="timm")


def test_names_that_could_steer_a_terminal_are_shown_with_escapes(model, state):
    state |= {"a\nb": np.ones(1, np.float32), "\x1b[2Jc\u202e": np.ones(1, np.float32)}
    with pytest.raises(WeightsError) as error:
        load_torch_state_dict(model, state, source="timm")
    assert str(error.value).split("\n  ")[1:] == [
        r"a\nb: the network has no such array",
        r"\x1b[2Jc\u202e: the network has no such array",
    ]
    report = init_from_plain(model, state, source="timm")
    assert report.unused == ("a\nb", "\x1b[2Jc\u202e")
    assert str(report).endswith("\n  unused   a\\nb\n  unused   \\x1b[2Jc\\u202e")
    with pytest.raises(WeightsError, match=r"^/no/\\x1b\[0m: no such file$"):
        read_state_dict("/no/\x1b[0m")
