"""The tables of docs/scale.md, and programs read by hand."""

import types

import pytest

from benchmarks import aot, compiled, performance, roofline

HLO = """HloModule m
body (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %a = f32[4]{0} add(%p, %p)
}
ENTRY %main (x: f32[100,128], i: s32[2]) -> f32[100,128] {
  %x = f32[100,128]{1,0:T(8,128)} parameter(0)
  %i = s32[2]{0:T(256)} parameter(1)
  %gather_fusion = f32[2,128]{1,0:T(8,128)} fusion(%x, %i), kind=kLoop
  %copy.1 = f32[100,128]{0,1:T(8,128)} copy(%x)
  %all-reduce = f32[2,128]{1,0} all-reduce(%gather_fusion), to_apply=%sum
  %q = f32[4]{0} constant({1, 2, 3, 4})
  ROOT %w = f32[4]{0} while(%q), body=%body, BACKEND
}
""".replace("BACKEND", 'backend_config={"known_trip_count":{"n":"5"}}')


@pytest.fixture
def program():
    return types.SimpleNamespace(as_text=lambda: HLO)


def test_what_is_read_from_a_program_by_hand(program):
    # 100 rows are padded to 104 in tiles of 8, columns of 100 to 128.
    (copy,) = compiled.copies(program, 100 * 128 * 4)
    assert (copy.nbytes, copy.padded_nbytes) == (100 * 128 * 4, 128 * 128 * 4)
    assert not compiled.copies(program, 100 * 128 * 4 + 1)
    assert compiled.collectives(program) == {"all-reduce": (1, 2 * 128 * 4)}
    assert compiled.dtypes(program) == {"f32", "s32"}
    # Two rows, padded to eight, and their places, padded to 256; not the table.
    gathered = 8 * 128 * 4 + 256 * 4
    copied = (104 + 128) * 128 * 4
    exchanged = 2 * 128 * 4 + 8 * 128 * 4
    assert compiled.moved(program) == gathered + copied + exchanged + 5 * 3 * 16


def test_a_roofline_by_hand():
    row = {
        "chips": 4,
        "dtype": "bfloat16",
        "flops": 2e12,
        "moved_bytes": 3e9,
        "collectives": {"all-reduce": [2, 100], "all-gather": [1, 10]},
    }
    times = roofline.roofline(row, roofline.Peak(1e12, 1e9, 1e3))
    assert times == pytest.approx((2.0, 3.0, (100 * 1.5 + 10 * 0.75) / 1e3))
    assert times.bound == "memory" and times.share_of_peak == pytest.approx(2 / 3)


def test_float32_on_gpus_has_half_of_the_flops():
    row = {"chips": 1, "flops": 1e12, "moved_bytes": 0, "collectives": {}}
    peak = roofline.Peak(1e12, 1e9, 1e3, float32=0.5)
    for dtype, seconds in (("bfloat16", 1.0), ("float32", 2.0)):
        assert roofline.roofline({**row, "dtype": dtype}, peak).compute == seconds


def test_rows_of_gpus_get_the_flops_of_the_step_for_tpus():
    row = {"config": "cifar10", "step": "task", "steps_per_dispatch": 1, "batch": 256}
    rows = [
        {**row, "chips": 1, "error": "out of memory"},
        {**row, "chips": 8, "flops": 1e12},
        {**row, "chips": 2, "flops": None},
        {**row, "chips": 2, "flops": None, "step": "hyper"},
    ]
    found = roofline.with_flops(rows)
    assert found[:2] == rows[:2] and found[2]["flops"] == 4e12
    assert found[3]["flops"] is None


def test_tables_are_those_of_the_programs():
    text = roofline.PAGE.read_text()
    tables = roofline.tables()
    assert performance.filled(text, tables) == text
    assert all(f"<!-- {name} -->\n| " in text for name in tables)


def test_every_program_has_a_name_of_its_own():
    rows = aot.rows()
    assert len({aot.name_of(row) for row in rows}) == len(rows)
    assert {roofline.chip_of(row["topology"]) for row in rows} <= {
        *roofline.PEAKS,
        "a100",
    }
