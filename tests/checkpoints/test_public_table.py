# SPDX-License-Identifier: Apache-2.0
"""The table of public weights: each row names what there is."""

import dataclasses
import pathlib
import re

import pytest

import spectral_flax as sf
from spectral_flax.checkpoints.public import table as public
from spectral_flax.models.record import ModelRecord, Preprocessing
from spectral_flax.models.registry import MODELS, abstract_model

ROWS = list(public.table().values())


def test_rows_name_models_options_places_and_licences_that_there_are():
    assert len(ROWS) >= 60 and len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        known = MODELS[row.model].options
        assert set(row.options) <= set(known), row.name
        assert set(row.preprocessing) <= {
            field.name for field in dataclasses.fields(Preprocessing)
        }, row.name
        assert sum(map(bool, (row.hub, row.url, row.page))) == 1, row.name
        assert row.filename or row.hub, row.name
        assert row.source.startswith("https://") and bool(row.metric) <= bool(row.of), row.name
        assert re.fullmatch("[0-9a-f]*", row.sha256)
        record = row.record()
        assert isinstance(record, ModelRecord) and record.preprocessing is not None


def test_the_readme_counts_them():
    text = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
    assert f"names {len(ROWS)} public files of weights" in text


def test_a_model_has_one_default_which_anybody_may_use_and_programs_can_fetch():
    defaults = [row for row in ROWS if row.default]
    assert len({row.model for row in defaults}) == len(defaults) >= 15
    assert not any(row.restricted or row.page for row in defaults)
    assert {"timm/resnet50.fb_swsl_ig1b_ft_in1k"} <= {r.name for r in ROWS if r.restricted}


def test_labels_are_as_many_as_the_outputs_of_the_models_that_have_them():
    counts = {"imagenet": 1000, "kinetics400": 400, "voc": 21}
    assert {label: len(public.class_names(label)) for label in counts} == counts
    for row in {(r.model, r.labels): r for r in ROWS if r.labels}.values():
        default = MODELS[row.model].options["num_classes"].default
        assert row.options.get("num_classes", default) == counts[row.labels], row.name


WITH_OPTIONS = {(row.model, str(row.options)): row for row in ROWS if row.options}


@pytest.mark.parametrize("row", WITH_OPTIONS.values(), ids=lambda row: row.name)
def test_models_build_with_the_options_of_their_weights(row):
    narrow = dict(width=8, encoder_width=8, depths=(1, 1, 1, 1), head_features=8)
    narrow = {k: v for k, v in narrow.items() if k in MODELS[row.model].options}
    narrow |= dict(width=32) if row.model.startswith("ffc") else {}
    abstract_model(row.model, **row.options, **narrow)


def test_weights_are_listed_by_their_own_name_and_by_their_models():
    everything = sf.list_models(pretrained=True)
    assert everything == sorted(row.name for row in ROWS)
    assert sf.list_models("tsm_*", pretrained=True) == [n for n in everything if "tsm_" in n]
    assert "timm/bat_resnext26ts.ch_in1k" in sf.list_models("timm/bat*", pretrained=True)
    assert set(sf.list_models(rank=3, pretrained=True)) < set(everything)
    assert sf.list_models("resnet18") == ["resnet18"]
    with pytest.raises(ValueError, match="pretrained='yes'; expected one of False, True"):
        sf.list_models(pretrained="yes")
