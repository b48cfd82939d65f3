# %% [markdown]
# # A sweep on a cluster
#
# `run(space, results, address="HEAD:6379")` runs a sweep on a Ray cluster, and sends code and small data to its nodes. This script starts a
# cluster of two nodes on this machine to try that. With a cluster of your own, set `ADDRESS`, and results
# to a place that all nodes see, such as `s3://bucket/results`. In the shell: `sweeper run SPACE --address HEAD:6379 --results PLACE`.

# %%
from pathlib import Path

from sweeper import Results, load_space, run

ADDRESS = None  # "HEAD:6379" of your cluster
RESULTS = Path("results").resolve()

# %%
cluster = None
if ADDRESS is None:
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    ADDRESS = cluster.address
print("cluster at", ADDRESS)

# %% [markdown]
# A trial takes one CPU unless `resources` says otherwise, so two run at once, one on each node.

# %%
space = load_space(
    {
        "name": "on-two-nodes",
        "base": {
            "task": "openml/187",
            "body.weights": "random",
            "align.epochs": 0,
            "finetune": {"epochs": 2, "warmup_epochs": 0, "decay_epochs": None},
        },
        "space": {"freezing": {"grid": ["full", "frozen-body"]}},
        "seeds": 2,
        "floors": False,
    }
)
code = run(space, RESULTS, address=ADDRESS)

# %% [markdown]
# Every row names the node that computed it, and its machine.

# %%
placed = Results(RESULTS).sql(
    """
    select freezing, seed, left(node_id, 8) as node, host, test_error
    from trials where sweep = 'on-two-nodes' and task = 'openml/187'
    order by all
    """
)
print(placed)

# %% [markdown]
# The cluster goes; the results stay, and the same `run` would continue from them.

# %%
if cluster is not None:
    cluster.shutdown()
