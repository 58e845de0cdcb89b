"""The rate that `--learning_rate=auto` takes: measured, or by the law of smaller networks."""

import pytest

from experiments import vanilla
from mfcnn import data, training


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", 16, subset=32, test_subset=8)


def config(**changes):
    small = {"optimizer": "momentum", "filters": 2, "strides": ["2", "2"]}
    return vanilla.configuration(default=True) | small | changes


@pytest.mark.parametrize("q_star, kappa", [(None, 1.0), (1e-4, 10.0)])
def test_a_network_too_deep_to_measure_takes_the_law_of_its_family(
    q_star, kappa, digits, monkeypatch
):
    def law(make_model, depth, images, rho, depths, jit_compile, rates):
        assert rates == {}
        assert depth == 100_000 and max(depths) < depth and len(images) == 16
        small = make_model(40)
        alike = vanilla.make_model(config(depth=40, q_star=kappa / 40), (8, 8, 1), 10)
        assert [layer.get_config() for layer in small.layers] == [
            layer.get_config() for layer in alike.layers
        ]
        return 2 * rho / 7, 7.0

    monkeypatch.setattr(training, "extrapolated_learning_rate", law)
    rate, reason = vanilla.learning_rate(config(depth=100_000, q_star=q_star), None, digits)
    assert rate == pytest.approx(0.6 / 7) and "(500, 1000, 2000) layers" in reason


def test_smaller_networks_of_the_law_have_the_input_scale_of_their_own(digits, monkeypatch):
    def law(make_model, depth, *_):
        scale = make_model(40).get_layer("input_scale").scale
        assert scale == pytest.approx(0.01 * (100_000 / 40) ** 0.5)
        return 0.1, 7.0

    monkeypatch.setattr(training, "extrapolated_learning_rate", law)
    assert vanilla.learning_rate(config(depth=100_000, input_scale=0.01), None, digits)[0] == 0.1


def test_stem_and_readout_have_the_rate_that_they_are_given():
    own = config(depth=3, optimizer="adam", learning_rate="1e-4", outer_rate=30.0)
    model = vanilla.make_model(own, (8, 8, 1), 10)
    optimizer = vanilla.make_optimizer(own, model, None, verbose=False)
    assert optimizer.rates == {"stem_1": 30.0, "stem_2": 30.0, "logits": 30.0}
    plain = vanilla.make_optimizer(config(learning_rate="1e-4"), model, None, verbose=False)
    assert not hasattr(plain, "rates")


@pytest.mark.parametrize(
    "changes", [{"weight_variance": 1.2, "bias_variance": 0.1}, {"q_star": 0.01}, {"depth": 9}]
)
def test_where_no_law_holds_the_own_ntk_is_measured(changes, digits, monkeypatch):
    monkeypatch.setattr(training, "ntk_learning_rate", lambda model, *_, **__: (model, 7.0))
    own = config(**({"depth": 100_000} | changes))
    assert vanilla.learning_rate(own, "this network", digits)[0] == "this network"
