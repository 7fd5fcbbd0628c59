"""GPUs by name, and how programs for them are read."""

import pytest

from aa_flax.analysis import gpu_compiler
from aa_flax.analysis.cards import CARDS, Machine, target_config
from aa_flax.analysis.compiler import CompilerError, TargetError
from aa_flax.analysis.hlo import Program
from aa_flax.analysis.hlo_work import launches, work
from aa_flax.analysis.targets import compiler_of, find_target


def test_machines_by_name():
    target = find_target("h100:8")
    assert isinstance(target, Machine) and target.chips == 8 and target.topology == "h100:8"
    assert compiler_of(target) is gpu_compiler
    assert compiler_of(find_target("v5e:2x2")) is not gpu_compiler


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h100", "must say how many cards of one machine, 1 to 8, such as h100:1"),
        ("l4:16", "must say how many cards"),
        ("a100:2x2", "must say how many cards"),
        ("b300:1", "h100, h200, a100, l4, such as h100:8"),
    ],
)
def test_names_that_are_no_machine(name, message):
    with pytest.raises(TargetError, match=message) as error:
        find_target(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.name)
def test_a_card_can_do_less_in_more_bits(card):
    assert card.peaks["bfloat16"] >= 2 * card.peaks["tf32"] > card.peaks["float32"]
    assert card.usable_bytes < card.memory_bytes
    assert f'name: "{card.title}"' in target_config(card)


def test_without_the_plugin_it_is_one_line(monkeypatch):
    monkeypatch.setattr(gpu_compiler, "packages", tuple)
    with pytest.raises(CompilerError, match="JAX's plugin for CUDA is not installed: pip install") as error:
        gpu_compiler.prepare()
    assert "\n" not in str(error.value)


def test_a_plugin_of_another_jax_is_one_line(monkeypatch):
    monkeypatch.setattr(gpu_compiler, "packages", lambda: ("jax-cuda13-plugin",))
    monkeypatch.setattr(gpu_compiler, "version", lambda name: "0.1.2")
    with pytest.raises(
        CompilerError, match=r"jax-cuda13-plugin 0.1.2 does not go with jaxlib .* pip install --no-deps"
    ):
        gpu_compiler.prepare()


# As XLA of jaxlib 0.11.2 prints programs for an H100, shortened.
CONVOLUTION = """HloModule step

%fused (p: bf16[8,6,6,16]) -> bf16[8,6,6,16] {
  %p = bf16[8,6,6,16]{3,2,1,0} parameter(0)
  ROOT %n = bf16[8,6,6,16]{3,2,1,0} negate(%p)
}

%body (s: (s32[], bf16[8,6,6,16])) -> (s32[], bf16[8,6,6,16]) {
  %s = (s32[], bf16[8,6,6,16]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %m = bf16[8,6,6,16]{3,2,1,0} get-tuple-element(%s), index=1
  %f = bf16[8,6,6,16]{3,2,1,0} fusion(%m), kind=kLoop, calls=%fused
  ROOT %t = (s32[], bf16[8,6,6,16]) tuple(%i, %f)
}

%condition (s: (s32[], bf16[8,6,6,16])) -> pred[] {
  %s = (s32[], bf16[8,6,6,16]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %five), direction=LT
}

ENTRY %main (x: bf16[8,6,6,16], k: bf16[16,3,3,16]) -> bf16[8,6,6,16] {
  %x = bf16[8,6,6,16]{3,2,1,0} parameter(0)
  %k = bf16[16,3,3,16]{3,2,1,0} parameter(1)
  %conv = (bf16[8,6,6,16]{3,2,1,0}, u8[4096]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %y = bf16[8,6,6,16]{3,2,1,0} get-tuple-element(%conv), index=0
  %zero = s32[] constant(0)
  %start = (s32[], bf16[8,6,6,16]) tuple(%zero, %y)
  %loop = (s32[], bf16[8,6,6,16]) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %z = bf16[8,6,6,16]{3,2,1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_a_program_for_gpus():
    program = Program(CONVOLUTION)
    map_bytes, kernel_bytes = 2 * 8 * 6 * 6 * 16, 2 * 16 * 9 * 16
    found = {launch.name: launch for launch in launches(program)}
    # Operands and results; the workspace of cuDNN, 4,096 bytes, is not counted.
    assert found["__cudnn$convForward"].bytes == 2 * map_bytes + kernel_bytes
    assert (found["f"].calls, found["f"].bytes) == (5, 5 * 2 * map_bytes)
    assert work(program).all_bytes == sum(launch.bytes for launch in found.values())
    valid = (3 * 6 - 2) ** 2  # pairs of place and kernel place inside the map
    assert work(program).products == 2 * 8 * 16 * 16 * valid
