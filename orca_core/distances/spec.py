from types import SimpleNamespace

O = ("otdd-exact", "otdd-gaussian")


def knob_owners():
    return {"label_gradient": O, "entropic_reg": O, "solver": O, "l2_batches": ("l2",)}


def find_distance(name):
    k = {n: None for n, w in knob_owners().items() if name in w}
    return SimpleNamespace(version=1, knobs=k, prepare=f"orca_core.alignment.loop:prepare_{name.replace('-', '_')}")
