"""Products and rows from the prefix planes of `exact` tiles alone."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from vortex_engine import errors, ops
from vortex_engine.ops.reference_codec import to_float32

SHAPES = [(1, 1), (64, 63), (128, 128), (500, 63), (65, 500)]
RAW, EXACT, EXACT12, DENSE = 0, 1, 5, 6


@pytest.fixture(scope="module")
def reference() -> ops.OpContext:
    return ops.make_context(threads=1, backend="reference")


def copy_of(ctx, packed) -> np.ndarray:
    """The whole low-precision copy, float32."""
    pager, handle = packed.open(ctx)
    rows = ops.embed_rows(ctx, pager, handle, np.arange(len(packed.patterns)), planes="prefix")
    pager.close()
    return rows


@pytest.mark.parametrize("dtype", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_those_of_the_reference(ctx, reference, pack_matrix, shape, dtype, same_bits):
    packed = pack_matrix(*shape, dtype)
    same_bits(copy_of(ctx, packed), copy_of(reference, packed))


@pytest.mark.parametrize("dtype", [1, 2, 3])
def test_the_copy_is_near_and_has_every_large_weight(ctx, pack_matrix, dtype):
    packed = pack_matrix(128, 200, dtype)
    weights, copy = to_float32(packed.patterns, dtype), copy_of(ctx, packed)
    known = copy != 0
    assert np.abs(copy / np.where(known, weights, 1))[known].max() <= 1.25
    assert np.abs(copy / np.where(known, weights, 1))[known].min() >= 0.8
    assert np.abs(weights[~known]).max() < 2.0**-5 and known.mean() > 0.9
    np.testing.assert_array_equal(np.signbit(copy), np.signbit(weights))


@pytest.mark.parametrize("dtype", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_match_float64(ctx, pack_matrix, shape, dtype, assert_close):
    packed = pack_matrix(*shape, dtype)
    copy = copy_of(ctx, packed).astype(np.float64)
    pager, handle = packed.open(ctx)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(shape[0]).astype(np.float32)
    for n_rows in (1, 3, 63):
        x = rng.standard_normal((n_rows, shape[1])).astype(np.float32)
        plain, biased = ops.paged_linear(ctx, pager, [handle, handle], x, [None, bias], planes="prefix")
        assert_close(plain, x.astype(np.float64) @ copy.T, "reduction")
        assert_close(biased, x.astype(np.float64) @ copy.T + bias, "reduction")
    pager.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_level_threads_or_rows(native_contexts, pack_matrix, shape, same_bits):
    packed = pack_matrix(*shape)
    x = np.random.default_rng(2).standard_normal((17, shape[1])).astype(np.float32)
    pager, handle = packed.open(native_contexts[0])
    wanted = ops.paged_linear(native_contexts[0], pager, [handle], x, [None], planes="prefix")[0]
    for ctx in native_contexts:
        for part in (slice(0, 17), slice(0, 1), slice(5, 12), slice(16, 17)):
            got = ops.paged_linear(ctx, pager, [handle], x[part].copy(), [None], planes="prefix")[0]
            same_bits(got, wanted[part])
    pager.close()


@pytest.mark.parametrize("codec", [RAW, EXACT12, DENSE])
def test_other_codecs_are_read_as_always(ctx, pack_matrix, codec, same_bits):
    packed = pack_matrix(130, 72, 1, codec)
    pager, handle = packed.open(ctx)
    x, ids = np.ones((2, 72), np.float32), np.array([0, 129], np.int64)
    for planes in ("all", "prefix"):
        same_bits(
            ops.paged_linear(ctx, pager, [handle], x, [None], planes=planes)[0],
            ops.paged_linear(ctx, pager, [handle], x, [None])[0],
        )
        same_bits(
            ops.embed_rows(ctx, pager, handle, ids, planes=planes),
            np.ascontiguousarray(to_float32(packed.patterns, 1)[ids]),
        )
    pager.close()


def open_with_budget(packed, share: float) -> tuple[ops.OpContext, object, int]:
    ctx = ops.make_context(threads=3, backend="cpu")
    total = packed.open(ctx)[0].total_bytes()
    pager = ops.make_pager(ctx, int(total * share), prefetch_depth=0)  # nothing is read ahead: bytes are exact
    handle = pager.add_matrix("w", pager.add_file(str(packed.path)), packed.base_offset, packed.index)
    pager.start([handle])
    return ctx, pager, handle


@pytest.mark.parametrize(("share", "keeps_prefixes"), [(1.0, False), (0.7, True), (0.2, False)])
def test_kept_prefixes_are_not_read_again(pack_matrix, share, keeps_prefixes, same_bits):
    packed = pack_matrix(64 * 60, 128, tile_rows=128)
    ctx, pager, handle = open_with_budget(packed, share)
    x = np.random.default_rng(3).standard_normal((1, 128)).astype(np.float32)
    exact = ops.paged_linear(ctx, pager, [handle], x, [None])[0]
    assert (pager.counters()["n_kept_prefixes"] > 0) is keeps_prefixes
    pager.reset_counters()
    drafts = [ops.paged_linear(ctx, pager, [handle], x, [None], planes="prefix")[0] for _ in range(3)]
    row = ops.embed_rows(ctx, pager, handle, np.array([77], np.int64), planes="prefix")
    counters = pager.counters()
    assert (counters["bytes_compressed_read"] == 0) is (share > 0.5)
    if share > 0.5:
        assert counters["hits"] == 3 * 30 + 1 and counters["page_faults"] == 0
    copy = copy_of(ctx, packed)
    same_bits(row, copy[77:78])
    for draft in drafts:
        same_bits(draft, drafts[0])
        np.testing.assert_allclose(draft, x @ copy.T, rtol=1e-3, atol=1e-3)
    same_bits(ops.paged_linear(ctx, pager, [handle], x, [None])[0], exact)
    pager.close()


@pytest.mark.parametrize(("share", "all_resident"), [(1.0, True), (0.7, False)])
def test_resident_planes_are_all_of_a_tile_in_ram_and_else_its_prefix(pack_matrix, share, all_resident, same_bits):
    packed = pack_matrix(64 * 60, 128, tile_rows=128)
    x = np.random.default_rng(5).standard_normal((1, 128)).astype(np.float32)
    ctx, pager, handle = open_with_budget(packed, share)
    values = {
        planes: ops.paged_linear(ctx, pager, [handle], x, [None], planes=planes)[0].reshape(-1, 128)
        for planes in ("all", "prefix", "resident")
    }
    is_whole = (values["resident"] == values["all"]).all(axis=1)
    same_bits(values["resident"], np.where(is_whole[:, None], values["all"], values["prefix"]))
    assert is_whole.sum() == pager.counters()["n_resident_tiles"] > 0
    assert is_whole.all() == all_resident
    pager.reset_counters()
    ops.paged_linear(ctx, pager, [handle], x, [None], planes="resident")
    assert pager.counters()["bytes_compressed_read"] == 0
    pager.close()


@pytest.mark.parametrize("wants", [False, True])
def test_what_drafts_want_whole_is_resident_first(pack_matrix, wants, same_bits):
    packed = pack_matrix(64 * 60, 128, 1, tile_rows=128), pack_matrix(256, 128, 2, tile_rows=128)
    ctx = ops.make_context(threads=2, backend="cpu")
    total = sum(one.open(ctx)[0].total_bytes() for one in packed)
    pager = ops.make_pager(ctx, int(total * 0.6), prefetch_depth=0)
    handles = [
        pager.add_matrix(str(i), pager.add_file(str(one.path)), one.base_offset, one.index)
        for i, one in enumerate(packed)
    ]
    pager.start(handles, handles[1:] if wants else [])
    x = np.random.default_rng(6).standard_normal((1, 128)).astype(np.float32)
    exact = [ops.paged_linear(ctx, pager, [handle], x, [None])[0] for handle in handles]
    assert pager.counters()["n_kept_prefixes"] > 0
    got = [ops.paged_linear(ctx, pager, [handle], x, [None], planes="resident")[0] for handle in handles]
    assert (got[0] != exact[0]).any()
    assert (got[1] == exact[1]).all() == wants
    for handle, values in zip(handles, exact, strict=True):
        same_bits(ops.paged_linear(ctx, pager, [handle], x, [None])[0], values)
    pager.close()


def test_a_drafted_matrix_is_in_the_sweep(native_contexts, pack_matrix):
    packed = pack_matrix(64, 64)
    pager = ops.make_pager(native_contexts[0], 1 << 24)
    handle = pager.add_matrix("w", pager.add_file(str(packed.path)), packed.base_offset, packed.index)
    with pytest.raises(ValueError, match="a drafted matrix is in the sweep"):
        pager.start([], [handle])
    pager.close()


def test_drafts_beside_a_sweep(pack_matrix, same_bits):
    packed = pack_matrix(64 * 60, 128, tile_rows=128)
    ctx, pager, handle = open_with_budget(packed, 0.7)
    x = np.random.default_rng(4).standard_normal((1, 128)).astype(np.float32)
    wanted = {
        planes: ops.paged_linear(ctx, pager, [handle], x, [None], planes=planes)[0] for planes in ("all", "prefix")
    }
    got: dict[str, list[np.ndarray]] = {"all": [], "prefix": []}

    def run(planes: str) -> None:
        own = ops.make_context(threads=2, backend="cpu")
        got[planes] += [ops.paged_linear(own, pager, [handle], x, [None], planes=planes)[0] for _ in range(40)]

    workers = [threading.Thread(target=run, args=(planes,), daemon=True) for planes in got]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    for planes, results in got.items():
        assert len(results) == 40
        for values in results:
            same_bits(values, wanted[planes])
    pager.close()


def test_unknown_planes_are_named(ctx, pack_matrix):
    pager, handle = pack_matrix(65, 40).open(ctx)
    with pytest.raises(ValueError, match=r"\[paged_linear\] planes must be all, prefix or resident, got half"):
        ops.paged_linear(ctx, pager, [handle], np.zeros((1, 40), np.float32), [None], planes="half")
    with pytest.raises(ValueError, match=r"\[embed_rows\] planes must be all, prefix or resident, got half"):
        ops.embed_rows(ctx, pager, handle, np.zeros(1, np.int64), planes="half")
    pager.close()


def test_the_triton_backend_refuses_prefixes():
    pytest.importorskip("triton", reason="triton is not installed: pip install triton")
    from vortex_engine.kernels.resident import ResidentMatrices, paged_linear_arrays

    with pytest.raises(errors.BackendUnavailableError, match="planes='prefix'"):
        paged_linear_arrays(ResidentMatrices(), [], np.zeros((1, 8), np.float32), [], planes="prefix")
