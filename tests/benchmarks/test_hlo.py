"""The reader of compiled programs finds what is in them, as both compilers write it."""

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from benchmarks import hlo
from benchmarks.hlo import Shape
from rnnjax import scan

# ruff: noqa: E501, the lines are as long as a compiler writes them
# The layouts are a TPU's, the product a GPU's: brackets in brackets, results that are
# tuples, comments in types.
TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[]}

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum.1 = f32[]{:T(128)} add(%a, %b)
}

%fused_product (p: bf16[8,4], q: bf16[8,16]) -> bf16[4,16] {
  %p = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %q = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %dot.1 = bf16[4,16]{1,0:T(8,128)(2,1)} dot(%p, %q), lhs_contracting_dims={0}
}

%body.1 (state: (s32[], bf16[8,4], f32[5,8,4])) -> (s32[], bf16[8,4], f32[5,8,4]) {
  %state = (s32[]{:T(128)}, bf16[8,4]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/f32[5,8,4]{2,1,0}) parameter(0)
  %x.1 = bf16[8,4]{1,0} get-tuple-element(%state), index=1
  %whole = f32[5,8,4]{2,1,0} get-tuple-element(%state), index=2
  %copy.1 = f32[5,8,4]{1,2,0} copy(%whole)
  %gemm.1 = (f32[8,16]{1,0}, s8[1024]{0}) custom-call(%x.1, %x.1), custom_call_target="__cublas$gemm"
  %fusion.1 = bf16[4,16]{1,0:T(8,128)(2,1)} fusion(%x.1, %gemm.1), kind=kOutput, calls=%fused_product, metadata={op_name="jit(step)/while/body/dot (x)"}
  %inner.1 = (s32[], f32[]) while(%state), condition=%condition.2, body=%body.2
  ROOT %tuple.1 = (s32[], bf16[8,4]{1,0}, f32[5,8,4]{2,1,0}) tuple(%x.1, %x.1, %copy.1)
}

%condition.1 (state.1: (s32[], bf16[8,4], f32[5,8,4])) -> pred[] {
  ROOT %less.1 = pred[]{:T(512)} constant(true)
}

%body.2 (state.2: (s32[], f32[])) -> (s32[], f32[]) {
  %gather.1 = f32[8,4]{1,0} all-gather(%state.2), channel_id=2, dimensions={0}
  ROOT %tuple.2 = (s32[], f32[]) tuple(%gather.1)
}

%condition.2 (state.3: (s32[], f32[])) -> pred[] {
  ROOT %less.2 = pred[] constant(true)
}

ENTRY %main.1 (xs: f32[8,4]) -> f32[] {
  %xs = f32[8,4]{1,0:T(8,128)} parameter(0), sharding={devices=[4,1]<=[4]}
  %while.1 = (s32[]{:T(128)}, bf16[8,4]{1,0}, /*index=2*/f32[5,8,4]{2,1,0}) while(%xs), condition=%condition.1, body=%body.1, backend_config={"known_trip_count":{"n":"5"}}
  %walk.1 = f32[5,8,4]{2,1,0:T(8,128)} custom-call(%xs), custom_call_target="tpu_custom_call", operand_layout_constraints={f32[8,4]{1,0}}
  %start.1 = ((f32[4,16]{1,0}, f32[16]{0}), (f32[4,16]{1,0}, f32[16]{0})) all-reduce-start(%xs, %xs), channel_id=1, to_apply=%add.1
  %done.1 = (f32[4,16]{1,0}, f32[16]{0}) all-reduce-done(%start.1)
  ROOT %copy.2 = f32[]{:T(128)} copy(%done.1)
}
"""


def test_loops_and_what_runs_in_them():
    program = hlo.read(TEXT)
    assert program.entry == "main.1"
    outer, inner = sorted(hlo.loops(program), key=lambda at: at.name, reverse=True)
    assert (outer.name, inner.name) == ("while.1", "inner.1")
    assert outer.calls == ("condition.1", "body.1")
    names = {at.name for at in hlo.inside(program, inner)}
    assert names == {"gather.1", "tuple.2", "less.2"}
    reached = {at.name for at in hlo.inside(program, outer)}
    assert reached > names | {"dot.1", "gemm.1", "copy.1"}
    assert not reached & {"sum.1", "copy.2", "start.1"}
    assert {at.name for at in hlo.innermost(program)} == names


def test_exchanges_are_counted_once_with_all_that_they_combine():
    found = hlo.collectives(hlo.read(TEXT))
    assert sorted(found) == [
        ("all-gather", (Shape("f32", (8, 4)),)),
        ("all-reduce", (Shape("f32", (4, 16)), Shape("f32", (16,)))),
    ]


def test_products_are_found_in_fusions_and_in_calls_of_a_library():
    found = hlo.products(hlo.everything(hlo.read(TEXT)))
    assert sorted(found) == [Shape("bf16", (4, 16)), Shape("f32", (8, 16))]


def test_kernels_are_no_other_calls():
    assert [at.name for at in hlo.kernels(hlo.read(TEXT))] == ["walk.1"]


@pytest.mark.parametrize(
    ("least", "names"), [(640, {"copy.1"}), (641, set()), (4, {"copy.1", "copy.2"})]
)
def test_copies_are_found_by_their_size(least, names):
    every = hlo.everything(hlo.read(TEXT))
    assert {at.name for at in hlo.copies(every, least)} == names


@pytest.mark.parametrize(
    ("dtype", "size"), [("f32", 24), ("bf16", 12), ("pred", 6), ("f8e4m3fn", 6)]
)
def test_bytes_of_a_shape(dtype, size):
    assert Shape(dtype, (2, 3)).bytes == size


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match=r"Write compiled\.as_text\(\)"):
        hlo.read("no program")


@pytest.mark.float32
@pytest.mark.parametrize(
    ("traversal", "inside"), [(scan.fused, True), (scan.deferred, False)]
)
def test_a_gradient_of_weights_in_a_loop_is_seen(traversal, inside):
    """On a CPU, where every machine can compile it."""
    cell = rnnjax.lstm(3, 5, traversal=traversal)

    def loss(params, xs):
        return rnnjax.unroll(cell, params, xs)[1].sum()

    given = cell.init(jax.random.key(0)), jnp.ones((2, 7, 3))
    text = jax.jit(jax.grad(loss)).lower(*given).compile().as_text()
    found = hlo.products(hlo.innermost(hlo.read(str(text))))
    assert any(2 not in shape.dims for shape in found) == inside
    assert any(2 in shape.dims for shape in found)


STEP = """\
HloModule step

%cut (whole: f32[5,8,4], t: s32[], w: f32[4,4], h: f32[8,4]) -> f32[8,4] {
  %whole.1 = f32[5,8,4]{2,1,0} parameter(0)
  %t.1 = s32[] parameter(1)
  %w.1 = f32[4,4]{1,0} parameter(2)
  %h.1 = f32[8,4]{1,0} parameter(3)
  %turned.1 = f32[5,8,4]{2,1,0} bitcast(%whole.1)
  %x.1 = f32[1,8,4]{2,1,0} dynamic-slice(%turned.1, %t.1), dynamic_slice_sizes={1,8,4}
  ROOT %new.1 = f32[8,4]{1,0} dot(%x.1, %w.1)
}

%put (whole.2: f32[5,8,4], t.2: s32[], h.2: f32[8,4]) -> (f32[5,8,4], f32[8]) {
  %whole.3 = f32[5,8,4]{2,1,0} parameter(0)
  %t.3 = s32[] parameter(1)
  %h.3 = f32[8,4]{1,0} parameter(2)
  %one.1 = f32[1,8,4]{2,1,0} bitcast(%h.3)
  %sum.1 = f32[8]{0} reduce(%h.3, %h.3), dimensions={1}
  %in.1 = f32[5,8,4]{2,1,0} dynamic-update-slice(%whole.3, %one.1, %t.3)
  ROOT %both.1 = (f32[5,8,4]{2,1,0}, f32[8]{0}) tuple(%in.1, %sum.1)
}

%next (whole.4: f32[5,8,4], t.4: s32[]) -> f32[1,8,4] {
  %whole.5 = f32[5,8,4]{2,1,0} parameter(0)
  %t.5 = s32[] parameter(1)
  ROOT %x.2 = f32[1,8,4]{2,1,0} dynamic-slice(%whole.5, %t.5), dynamic_slice_sizes={1,8,4}
}

%body (state: (s32[], f32[8,4], f32[5,8,4])) -> (s32[], f32[8,4], f32[5,8,4]) {
  %state = (s32[], f32[8,4]{1,0}, f32[5,8,4]{2,1,0}) parameter(0)
  %t = s32[] get-tuple-element(%state), index=0
  %h = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %w = f32[4,4]{1,0} get-tuple-element(%state), index=2
  %whole = f32[5,8,4]{2,1,0} get-tuple-element(%state), index=3
  %new = f32[8,4]{1,0} fusion(%whole, %t, %w, /*index=3*/%h), kind=kLoop, calls=%cut
  %put.1 = (f32[5,8,4]{2,1,0}, f32[8]{0}) fusion(%whole, %t, %new), kind=kLoop, calls=%put
  %start = ((f32[5,8,4]{2,1,0}, s32[]), f32[1,8,4]{2,1,0}, u32[]) fusion-start(%whole, %t), kind=kCustom, calls=%next
  %done = f32[1,8,4]{2,1,0} fusion-done(%start)
  %copy = f32[8,4]{1,0} copy(%new)
  ROOT %tuple = (s32[], f32[8,4]{1,0}, f32[5,8,4]{2,1,0}) tuple(%t, %copy, %whole)
}

%condition (state.1: (s32[], f32[8,4], f32[5,8,4])) -> pred[] {
  ROOT %less = pred[] constant(true)
}

ENTRY %main (xs: f32[5,8,4]) -> f32[] {
  %xs = f32[5,8,4]{2,1,0} parameter(0)
  ROOT %while = (s32[], f32[8,4]{1,0}, f32[5,8,4]{2,1,0}) while(%xs), condition=%condition, body=%body
}
"""


def test_a_step_launches_kernels_and_moves_the_parts_that_they_take():
    program = hlo.read(STEP)
    (loop,) = hlo.loops(program)
    assert hlo.body(loop) == "body"
    names = [at.name for at in hlo.launched(program, "body")]
    assert names == ["new", "put.1", "start", "copy"]
    h = 8 * 4 * 4
    cut = h + 4 + 4 * 4 * 4 + h  # x, t, w and the new h; no old h
    put = 4 + h + h + 8 * 4  # t, h, a step of all, the sums
    start = h + 4 + h
    assert hlo.moved(program, "body") == cut + put + start + 2 * h
    assert hlo.moved(program, program.entry) == 0
