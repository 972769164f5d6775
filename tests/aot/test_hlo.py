"""Traffic read from the text of programs, against counts by hand."""
# ruff: noqa: E501

import pytest

from asesjax.aot.hlo import Traffic, group_size, read, shape_bytes

# A loop of 24 iterations with a gather of 4 devices, inside a loop of 3; a sum of all 8 outside.
LOOPS = """\
HloModule jit_step, is_scheduled=true

%inner_condition.1 (p.1: (s32[], bf16[8])) -> pred[] {
  %c.1 = s32[]{:T(128)} constant(24)
  %p.1 = (s32[]{:T(128)}, bf16[8]{0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %c.1), direction=LT
}

%inner.1 (p.2: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %p.2 = (s32[]{:T(128)}, bf16[8]{0}) parameter(0)
  %x.2 = bf16[2]{0} slice(%p.2), slice={[0:2]}
  ROOT %all-gather.7 = bf16[8]{0:T(8,128)(2,1)} all-gather(%x.2), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
}

%outer_condition.1 (p.3: (s32[], bf16[8])) -> pred[] {
  %c.3 = s32[] constant(3)
  %p.3 = (s32[], bf16[8]{0}) parameter(0)
  %i.3 = s32[] get-tuple-element(%p.3), index=0
  ROOT %lt.3 = pred[] compare(%i.3, %c.3), direction=LT
}

%outer.1 (p.4: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %p.4 = (s32[], bf16[8]{0}) parameter(0)
  ROOT %while.4 = (s32[], bf16[8]{0}) while(%p.4), condition=%inner_condition.1, body=%inner.1
}

ENTRY %main.1 (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %t = (s32[], bf16[8]{0}) tuple(%a)
  %while.5 = (s32[], bf16[8]{0}) while(%t), condition=%outer_condition.1, body=%outer.1
  ROOT %all-reduce.9 = f32[8]{0} all-reduce(%a), channel_id=2, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
}
"""


def test_loops_count_once_per_iteration():
    found = read(LOOPS)
    assert found.count == {"all-gather": 72, "all-reduce": 1}
    assert found.size == {"all-gather": 72 * 16, "all-reduce": 32}
    # Of 4 devices each gets the other 3 parts; a sum over 8 is scattered and gathered again.
    assert found.sent == pytest.approx(72 * 16 * 3 / 4 + 2 * 32 * 7 / 8)


def test_trip_counts_that_xla_writes_are_used():
    text = LOOPS.replace("constant(24)", "add(%p.1)").replace(
        "body=%inner.1", 'body=%inner.1, backend_config={"known_trip_count":{"n":"5"}}'
    )
    assert read(text).count["all-gather"] == 15


# A loop whose end depends on data, with another one of branches in it.
OPEN = """\
HloModule jit_run

%going (p: (pred[], f32[4])) -> pred[] {
  %p = (pred[], f32[4]{0}) parameter(0)
  ROOT %g = pred[] get-tuple-element(%p), index=0
}

%write (p: (pred[], f32[4])) -> (pred[], f32[4]) {
  %p = (pred[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %all-reduce-start.1 = f32[4]{0} all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%add, metadata={op_name="jit(run)/while/body/T5.decode_step/add"}
  ROOT %all-reduce-done.1 = f32[4]{0} all-reduce-done(%all-reduce-start.1)
}

%short (p: (pred[], f32[4])) -> (pred[], f32[4]) {
  %p = (pred[], f32[4]{0}) parameter(0)
  ROOT %w = (pred[], f32[4]{0}) while(%p), condition=%going, body=%write
}

%none (p: (pred[], f32[4])) -> (pred[], f32[4]) {
  ROOT %p = (pred[], f32[4]{0}) parameter(0)
}

%turn (p: (pred[], f32[4])) -> (pred[], f32[4]) {
  %p = (pred[], f32[4]{0}) parameter(0)
  %i = s32[] constant(0)
  %all-to-all.1 = f32[4]{0} all-to-all(%p), replica_groups=[1,2]<=[2], dimensions={0}, metadata={op_name="jit(run)/while/body/T5.encode"}
  ROOT %c = (pred[], f32[4]{0}) conditional(%i, %p, %p), branch_computations={%none, %short}
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %w = (pred[], f32[4]{0}) while(%a), condition=%going, body=%turn
}
"""


def test_a_loop_without_a_trip_count_counts_once():
    assert read(OPEN).count == {"all-to-all": 1, "all-reduce": 1}


def test_the_innermost_loop_is_found_by_name():
    assert read(OPEN, "decode_step") == Traffic({"all-reduce": 1}, {"all-reduce": 16}, 16.0, 32.0)
    assert read(OPEN, "no_such_name") == Traffic()


def test_a_collective_beside_other_work_counts_once():
    """On a TPU it is in three fusions."""
    one = (
        "all-gather(%p), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}, "
        'frontend_attributes={chain_id="0"}'
    )
    text = f"""\
%begin (p: f32[2]) -> (f32[2], f32[8]) {{
  %p = f32[2]{{0}} parameter(0)
  %all-gather.1 = f32[8]{{0}} {one}
  ROOT %custom-call.1 = (f32[2]{{0}}, f32[8]{{0}}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}}

%async_collective_fusion.1 (p: f32[2]) -> f32[8] {{
  %p = f32[2]{{0}} parameter(0)
  ROOT %all-gather.2 = f32[8]{{0}} {one}
}}

%end (p: f32[2]) -> f32[8] {{
  %p = f32[2]{{0}} parameter(0)
  %all-gather.3 = f32[8]{{0}} {one}
  ROOT %custom-call.2 = f32[8]{{0}} custom-call(%all-gather.3), custom_call_target="AsyncCollectiveDone"
}}

ENTRY %main (a: f32[2]) -> f32[8] {{
  %a = f32[2]{{0}} parameter(0)
  %f.1 = (f32[2]{{0}}, f32[8]{{0}}) fusion(%a), kind=kCustom, calls=%begin
  %f.2 = f32[8]{{0}} fusion(%f.1), kind=kOutput, calls=%async_collective_fusion.1
  ROOT %f.3 = f32[8]{{0}} fusion(%f.2), kind=kCustom, calls=%end
}}
"""
    found = read(text)
    assert (found.count, found.size, found.sent) == ({"all-gather": 1}, {"all-gather": 32}, 24.0)


def test_an_all_reduce_that_scatters_counts_as_reduce_scatter():
    text = """\
%all-reduce-scatter.1 (p: f32[8]) -> f32[2] {
  %p = f32[8]{0} parameter(0)
  %all-reduce.1 = f32[8]{0} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %dynamic-slice.1 = f32[2]{0} dynamic-slice(%all-reduce.1), dynamic_slice_sizes={2}
}

ENTRY %main (a: f32[8]) -> f32[2] {
  %a = f32[8]{0} parameter(0)
  ROOT %f = f32[2]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    found = read(text)
    assert (found.count, found.size, found.sent) == (
        {"reduce-scatter": 1}, {"reduce-scatter": 8}, 24.0
    )  # fmt: skip


def test_plain_reduce_scatter_and_permutation():
    text = """\
ENTRY %main (a: f32[8]) -> f32[2] {
  %a = f32[8]{0} parameter(0)
  %collective-permute.1 = f32[8]{0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}
  ROOT %reduce-scatter.1 = f32[2]{0} reduce-scatter(%a), replica_groups=[1,4]<=[4], dimensions={0}
}
"""
    found = read(text)
    assert found.count == {"collective-permute": 1, "reduce-scatter": 1}
    assert found.sent == 32 + 8 * 3


def test_bytes_moved_to_and_from_memory():
    text = """\
%fused (p.0: f32[24,8], p.1: s32[]) -> f32[8] {
  %p.0 = f32[24,8]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %slice.1 = f32[1,8]{1,0} dynamic-slice(%p.0, %p.1, %p.1), dynamic_slice_sizes={1,8}
  ROOT %exp.1 = f32[8]{0} exponential(%slice.1)
}

%written (p.0: f32[24,8], p.1: f32[1,8], p.2: s32[]) -> f32[24,8] {
  %p.0 = f32[24,8]{1,0} parameter(0)
  %p.1 = f32[1,8]{1,0} parameter(1)
  %p.2 = s32[] parameter(2)
  ROOT %update.1 = f32[24,8]{1,0} dynamic-update-slice(%p.0, %p.1, %p.2, %p.2)
}

ENTRY %main (a: f32[24,8]) -> f32[24,8] {
  %a = f32[24,8]{1,0} parameter(0)
  %i = s32[] constant(3)
  %one = f32[8]{0} fusion(%a, %i), kind=kLoop, calls=%fused
  %copy.1 = f32[1,8]{1,0:T(8,128)S(1)} copy(%one)
  %on_chip = f32[1,8]{1,0:T(8,128)S(1)} negate(%copy.1)
  %slice-start.1 = ((f32[24,8]{1,0}), f32[2,8]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%a)
  %part = f32[2,8]{1,0:T(8,128)S(1)} slice-done(%slice-start.1)
  %copy-start.1 = (f32[1,8]{1,0}, f32[1,8]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%on_chip)
  %back = f32[1,8]{1,0} copy-done(%copy-start.1)
  ROOT %all = f32[24,8]{1,0} fusion(%a, %back, %i), kind=kLoop, calls=%written
}
"""
    sliced = 32 + 4 + 32  # a row and its number, and the result
    loaded, stored, part = 32, 32, 64 + 4
    updated = 32 + 32 + 4  # the part that is written, where it comes from, its number
    assert read(text).moved == sliced + loaded + stored + part + updated


@pytest.mark.parametrize(
    "shape, size",
    [("f32[]", 4), ("bf16[2,3]{1,0:T(8,128)(2,1)S(1)}", 12), ("s4[3]", 1), ("pred[5]", 5),
     ("f8e4m3fn[10]", 10), ("(u32[2]{0}, /*index=1*/f64[1], token[])", 16), ("f32[0,7]", 0)],
)  # fmt: skip
def test_sizes_of_shapes(shape, size):
    assert shape_bytes(shape) == size


@pytest.mark.parametrize(
    "rest, size",
    [("channel_id=2, replica_groups={{0,2},{1,3}}", 2), ("replica_groups={}", 1),
     ("replica_groups=[8,2]<=[4,2,2]T(2,1,0)", 2),
     ("replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_2'}, use", 2),
     ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a','b'}, x", 8)],
)  # fmt: skip
def test_sizes_of_groups(rest, size):
    assert group_size(rest) == size
