"""What happens to a tensor that autograd saves: marshaling, uniquification, sharding.

Here: the policy that composes them and the parts it is made of. Not here: what is clustered
(`edkm.dkm`) and who watches (`profiler`).
"""

from edkm.saved.handle import SavedHandle
from edkm.saved.ledger import Copy, Ledger, Rebuilt
from edkm.saved.offload import Offload, offload
from edkm.saved.policy import SavedTensorPolicy, switch_name
from edkm.saved.shard import GroupLearners, Learners, SimulatedLearners
from edkm.saved.sharded import ShardedSaves

__all__ = [
    "Copy",
    "GroupLearners",
    "Learners",
    "Ledger",
    "Offload",
    "Rebuilt",
    "SavedHandle",
    "SavedTensorPolicy",
    "ShardedSaves",
    "SimulatedLearners",
    "offload",
    "switch_name",
]
