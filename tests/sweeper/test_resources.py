"""What a trial asks for, and how many trials fit on a node."""

from __future__ import annotations

import pytest

from sweeper.space.file import Resources

GIB = 2.0**30


def test_a_bundle_has_the_names_and_units_of_ray():
    assert Resources().bundle() == {"CPU": 1.0}
    asked = Resources(cpu=2, gpu=0.5, memory=1.5, custom={"fast disk": 3})
    assert asked.bundle() == {"CPU": 2.0, "GPU": 0.5, "memory": 1.5 * GIB, "fast disk": 3.0}


def test_a_list_of_labels_is_a_selector_of_any_of_them():
    asked = Resources(labels={"ray.io/accelerator-type": ["A100", "H100"], "ray.io/market-type": "spot", "zone": "!in(a, b)"})
    assert asked.label_selector() == {
        "ray.io/accelerator-type": "in(A100, H100)",
        "ray.io/market-type": "spot",
        "zone": "!in(a, b)",
    }
    assert Resources().label_selector() == {}


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({}, "1 CPU"),
        ({"cpu": 2, "gpu": 1, "memory": 1.5, "custom": {"licence": 3}}, "2 CPUs, 1 GPU, 1.5 GiB of memory, 3 licence"),
        ({"gpu": 0.5, "labels": {"zone": ["a", "b"], "disk": "!slow"}}, "1 CPU, 0.5 GPUs, on a node with zone: in(a, b), disk: !slow"),
    ],
)
def test_what_is_asked_for_as_text(asked, text):
    assert Resources(**asked).describe() == text


@pytest.mark.parametrize(
    ("asked", "node", "count"),
    [
        ({}, {"CPU": 4.0}, 4),
        ({}, {"memory": 8 * GIB}, 0),  # a head without CPUs
        ({"cpu": 1.5}, {"CPU": 4.0}, 2),
        ({"cpu": 0.1}, {"CPU": 1.0}, 10),  # 1 // 0.1 is 9 in floats
        ({"gpu": 1}, {"CPU": 8.0}, 0),
        ({"gpu": 1}, {"CPU": 8.0, "GPU": 2.0}, 2),
        ({"gpu": 0.5}, {"CPU": 3.0, "GPU": 2.0}, 3),
        ({"gpu": 0.4}, {"CPU": 8.0, "GPU": 2.0}, 4),  # 2 on each GPU; by the sum it would be 5
        ({"gpu": 0.6}, {"CPU": 8.0, "GPU": 3.0}, 3),
        ({"gpu": 1 / 3}, {"CPU": 8.0, "GPU": 1.0}, 3),
        ({"gpu": 1 / 6}, {"CPU": 8.0, "GPU": 1.0}, 6),  # Ray takes it for 0.1666
        ({"gpu": 0.168}, {"CPU": 8.0, "GPU": 1.0}, 5),
        ({"memory": 2}, {"CPU": 8.0, "memory": 7 * GIB}, 3),
        ({"memory": 2}, {"CPU": 8.0, "memory": 1 * GIB}, 0),
        ({"custom": {"licence": 1}}, {"CPU": 8.0, "licence": 2.0}, 2),
        ({"custom": {"licence": 0.4}}, {"CPU": 8.0, "licence": 2.0}, 5),  # a custom resource is one pool
        ({"custom": {"licence": 1}}, {"CPU": 8.0}, 0),
    ],
)
def test_count_of_trials_that_fit_on_a_node(asked, node, count):
    assert Resources(**asked).count_on(node, {}) == count


@pytest.mark.parametrize(
    ("selector", "fits"),  # on a node that is spot, one that is on-demand, one that does not say
    [
        ("spot", (True, False, False)),
        ("!spot", (False, True, True)),
        (["spot"], (True, False, False)),
        (["spot", "on-demand"], (True, True, False)),
        ("in(spot, on-demand)", (True, True, False)),
        ("!in(spot,on-demand)", (False, False, True)),
    ],
)
def test_trials_fit_only_on_nodes_with_the_labels(selector, fits):
    asked = Resources(labels={"ray.io/market-type": selector})
    nodes = ({"ray.io/market-type": "spot"}, {"ray.io/market-type": "on-demand"}, {"ray.io/region": "spot"})
    assert tuple(asked.count_on({"CPU": 2.0}, labels) for labels in nodes) == tuple(2 * fit for fit in fits)


def test_all_labels_must_agree():
    asked = Resources(labels={"ray.io/market-type": "spot", "ray.io/accelerator-type": ["A100", "H100"]})
    assert asked.count_on({"CPU": 1.0}, {"ray.io/market-type": "spot", "ray.io/accelerator-type": "H100"}) == 1
    assert asked.count_on({"CPU": 1.0}, {"ray.io/market-type": "spot", "ray.io/accelerator-type": "T4"}) == 0


def test_selectors_are_those_that_ray_takes():
    """Ray checks selectors only when a placement group is made: what passes here must pass there, and what it refuses is refused here."""
    from ray._private.label_utils import validate_label_selector

    from sweeper.space.file import SpaceFile

    selectors = ["spot", "!spot", "in(a)", "in(a, b)", "!in(a,b)", "!!a", "in()", "in(a", "-a", "a-", "a" * 63, "a" * 64, "!in(a, -b)"]
    keys = ["ray.io/market-type", "zone", "a.b/c", "-a", "a" * 64, "a/b/c", "my@label", "_a"]
    for labels in [*({"zone": selector} for selector in selectors), *({key: "spot"} for key in keys)]:
        try:
            accepted = SpaceFile(resources={"labels": labels}) is not None
        except ValueError:
            accepted = False
        refusal = validate_label_selector(labels)
        assert accepted == (refusal is None), (labels, refusal)
