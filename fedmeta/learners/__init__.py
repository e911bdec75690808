"""Learners: what a client does with its episodes. One idea per file."""

from fedmeta.learners.base import Learner
from fedmeta.learners.ditto import Ditto
from fedmeta.learners.heads import FedBabu, FedPer, FedRep
from fedmeta.learners.imaml import Imaml
from fedmeta.learners.maml import Anil, Boil, Fomaml, Maml, MamlPlusPlus, MetaSgd
from fedmeta.learners.per_fedavg import PerFedAvg
from fedmeta.learners.protonet import ProtoNet
from fedmeta.learners.proximal import MinibatchProx, PFedMe
from fedmeta.learners.reptile import Reptile
from fedmeta.learners.sgd import FedProx, LocalOnly, LocalSgd

__all__ = ["LEARNERS", "Learner"]

LEARNERS: dict[str, type[Learner]] = {
    "anil": Anil,
    "boil": Boil,
    "ditto": Ditto,
    "fedbabu": FedBabu,
    "fedper": FedPer,
    "fedprox": FedProx,
    "fedrep": FedRep,
    "fomaml": Fomaml,
    "imaml": Imaml,
    "local_only": LocalOnly,
    "maml": Maml,
    "maml_plus_plus": MamlPlusPlus,
    "meta_sgd": MetaSgd,
    "minibatch_prox": MinibatchProx,
    "per_fedavg": PerFedAvg,
    "pfedme": PFedMe,
    "protonet": ProtoNet,
    "reptile": Reptile,
    "sgd": LocalSgd,
}
