"""The catalogue of networks: which parameters a checkpoint must hold, known without MindSpore."""

from __future__ import annotations

import math

import pytest

from agent.backends import mindspore_checkpoint
from registry.contracts.catalogue import networks
from registry.contracts.catalogue.manifest import FileRef, Format, Network, Target, Variant
from registry.contracts.catalogue.networks import NetworkError
from registry.contracts.codes import ResolutionCode
from registry.contracts.fit.platforms import BackendFacts, Platform
from registry.contracts.fit.resolution import FitOutcome, judge
from registry.mindspore_networks.table import NETWORKS, mismatches

LENET = Network(name="lenet5", arguments={"num_class": 10, "num_channel": 1})


def weights(name: str, **arguments: int | float | bool | str) -> int:
    return sum(math.prod(shape) for shape in networks.parameters(Network(name=name, arguments=arguments)).values())


def test_both_sides_have_the_same_catalogue() -> None:
    assert networks.networks() == tuple(sorted(NETWORKS))


def test_lenet_has_the_parameters_of_mindspores_tutorial() -> None:
    assert networks.parameters(LENET) == {
        "conv1.weight": (6, 1, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc1.bias": (120,),
        "fc2.weight": (84, 120),
        "fc2.bias": (84,),
        "fc3.weight": (10, 84),
        "fc3.bias": (10,),
    }


@pytest.mark.parametrize(
    ("name", "arguments", "published"),
    [
        ("resnet18", {"class_num": 1000}, 11_689_512),
        ("resnet34", {"class_num": 1000}, 21_797_672),
        ("resnet50", {"class_num": 1000}, 25_557_032),
        ("mobilenet_v2", {}, 3_504_872),
        ("vgg11", {}, 132_863_336),
        ("vgg16", {}, 138_357_544),
    ],
)
def test_the_networks_have_the_published_numbers_of_trainable_weights(
    name: str, arguments: dict[str, int], published: int
) -> None:
    """The numbers are those of torchvision's documentation for the same architectures; moving averages do not count."""
    shapes = networks.parameters(Network(name=name, arguments=dict(arguments)))
    moving = sum(math.prod(shape) for key, shape in shapes.items() if ".moving_" in key)
    assert weights(name, **arguments) - moving == published


def test_a_signature_follows_the_arguments() -> None:
    (x,), (y,) = networks.signature(Network(name="lenet5", arguments={"num_class": 7, "num_channel": 3}))
    assert (x.name, x.datatype, x.shape) == ("x", "FP32", (-1, 3, 32, 32))
    assert (y.name, y.shape) == ("y", (-1, 7))
    (x,), _ = networks.signature(Network(name="vgg11", arguments={"image_size": 64}))
    assert x.shape == (-1, 3, 64, 64)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Network(name="lenet6"), "no network is called 'lenet6'; the catalogue has alexnet, lenet5"),
        (Network(name="lenet5", arguments={"classes": 10}), "has no argument 'classes'; it has num_class, num_channel"),
        (Network(name="lenet5", arguments={"num_class": "ten"}), "num_class of lenet5 is of type int, not 'ten'"),
        (Network(name="lenet5", arguments={"num_class": True}), "of type int, not True"),
        (Network(name="lenet5", arguments={"num_class": 0}), "from 1 to 1e.06, not 0"),
        (Network(name="vgg16", arguments={"batch_norm": 1}), "of type bool, not 1"),
    ],
)
def test_what_the_catalogue_does_not_have_is_refused_with_what_it_has(network: Network, said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        networks.parameters(network)


def test_missing_foreign_and_misshapen_parameters_are_named() -> None:
    found = dict(networks.parameters(LENET))
    del found["fc1.bias"]
    found["fc3.weight"] = (12, 84)
    found["fc9.weight"] = (1,)
    assert mismatches(networks.parameters(LENET), found) == (
        "missing: fc1.bias",
        "not of this network: fc9.weight",
        "of another shape: fc3.weight is [12, 84], not [10, 84]",
    )


def test_what_an_optimizer_saved_beside_the_network_does_not_count() -> None:
    wanted = networks.parameters(LENET)
    state = {"moment1.fc1.bias": (120,), "moments.conv1.weight": (6, 1, 5, 5), "global_step": (1,), "beta1_power": ()}
    assert mismatches(wanted, wanted | state) == ()
    assert mismatches(wanted, wanted | {"moment1.fc9.bias": (1,)}) == ("not of this network: moment1.fc9.bias",)


def test_a_long_list_is_cut() -> None:
    (missing,) = mismatches(networks.parameters(Network(name="resnet50")), {})
    assert missing.startswith("missing: conv1.weight, ")
    assert missing.endswith(" and 262 more")


@pytest.mark.parametrize(
    ("takes", "said", "loaded"),
    [
        ((-1, 3, -1, -1), (-1, 3, 32, 32), (-1, 3, 32, 32)),
        ((-1, 3, -1, -1), (4, 3, 32, 32), (4, 3, 32, 32)),
        ((-1, 1, 32, 32), (-1, 1, 28, 28), (-1, 1, 32, 32)),
        ((-1, 1, 32, 32), (-1, 32), (-1, 1, 32, 32)),
    ],
)
def test_a_network_takes_the_manifests_sizes_where_it_takes_any(
    takes: tuple[int, ...], said: tuple[int, ...], loaded: tuple[int, ...]
) -> None:
    assert mindspore_checkpoint.declared(takes, (said,)) == loaded


@pytest.mark.parametrize(
    ("network", "known", "code"),
    [
        (LENET, ("alexnet", "lenet5"), None),
        (LENET, ("alexnet",), ResolutionCode.NETWORK_UNKNOWN),
        (LENET, (), ResolutionCode.NETWORK_UNKNOWN),
        (None, ("alexnet", "lenet5"), ResolutionCode.NETWORK_MISSING),
    ],
)
def test_a_checkpoint_fits_a_host_whose_own_catalogue_has_its_network(
    network: Network | None, known: tuple[str, ...], code: ResolutionCode | None
) -> None:
    blob = FileRef(path="lenet.ckpt", digest="sha256:" + "0" * 64, size=1)
    checkpoint = Variant(
        name="c", format=Format.MINDSPORE_CKPT, target=Target.CPU, entry="lenet.ckpt", files=(blob,), network=network
    )
    backend = BackendFacts(
        name="mindspore", usable=True, version="2.10.0", formats=(Format.MINDSPORE_CKPT,), targets=(Target.CPU,),
        networks=known,
    )  # fmt: skip
    verdict = judge(checkpoint, Platform(os="linux", arch="x86_64", backends=(backend,)))
    assert verdict.outcome is (FitOutcome.FAIL if code else FitOutcome.PASS)
    assert [reason.code for reason in verdict.reasons] == ([code] if code else [])
    assert all(reason.remedy for reason in verdict.reasons)
