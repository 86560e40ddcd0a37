# amaranth: UnusedElaboratable=no
"""Networks generated at random: the gateware against the golden model and the cycle model.

As in :mod:`tests.test_random_components`, the profile ``full`` draws many more.
"""

import numpy as np
from hypothesis import given, settings

from flightrtl import golden
from flightrtl.check import check
from flightrtl.gateware import Network
from flightrtl.gateware.dataflow import least_depths
from flightrtl.planner.cycles import measure
from tests.strategies import graphs, mixed_graphs, networks, stalls
from tests.test_network import simulate

# A network takes longer than a component, so a long run draws fewer.
few = settings(max_examples=min(settings().max_examples, 300))
fewer = settings(max_examples=min(settings().max_examples // 3, 300))
fewest = settings(max_examples=min(settings().max_examples // 6, 300))


@few
@given(case=networks(), stall=stalls("i", "o"))
def test_equals_golden_under_stalls(case, stall):
    network, images = case.build(images=3)
    assert not check(network.model)
    np.testing.assert_array_equal(network.compute(images), golden.run(network.model, images))
    simulate(network, images, seed=case.seed, stall=stall)


@few
@given(case=networks())
def test_cycle_model_equals_gateware(case):
    """Interval and latency, to the cycle, over networks whose layers wait for each other."""
    network, images = case.build(images=8)
    check_timing(case, network, images)


def check_timing(case, network, images):
    timing = measure(network.model, case.foldings, memory_register=case.register)
    run = simulate(network, images)
    size = network.model.output.size
    ends = run.cycles["o"][size - 1::size]
    assert ends[0] - run.cycles["i"][0] == timing.latency
    # Of two intervals that take turns, the longer one.
    assert max(ends[-1] - ends[-2], ends[-2] - ends[-3]) == timing.interval


@fewer
@given(case=graphs(), stall=stalls("i", "o"))
def test_branches_equal_golden_under_stalls(case, stall):
    """Branches and additions, with queues that are no deeper than they must be."""
    network, images = case.build(images=2)
    assert not check(network.model)
    np.testing.assert_array_equal(network.compute(images), golden.run(network.model, images))
    stages = {name: stage for name, stage in network.stages.items() if name not in network.queues}
    least = least_depths(network.model, stages)
    network = Network(network.model, case.foldings, memory_register=case.register, queues=least)
    simulate(network, images, seed=case.seed, stall=stall)


@fewer
@given(case=graphs())
def test_cycle_model_equals_gateware_with_branches(case):
    network, images = case.build(images=6)
    check_timing(case, network, images)


@fewest
@given(case=mixed_graphs(), stall=stalls("i", "o"))
def test_branches_of_every_data_flow(case, stall):
    """No deadlock with the least queues, and every cycle as the cycle model has it."""
    network, images = case.build(images=5)
    np.testing.assert_array_equal(network.compute(images), golden.run(network.model, images))
    check_timing(case, network, images)
    stages = {name: stage for name, stage in network.stages.items() if name not in network.queues}
    least = least_depths(network.model, stages)
    network = Network(network.model, case.foldings, memory_register=case.register, queues=least)
    simulate(network, images[:2], seed=case.seed, stall=stall)
