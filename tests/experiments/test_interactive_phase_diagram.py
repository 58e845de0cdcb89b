"""The page of the phase diagram: its data are the theory's, and a browser shows them."""

import base64
import json
import re
import shutil

import numpy as np
import pytest

from experiments import interactive_phase_diagram
from mfcnn import meanfield
from tests.experiments.running import run
from tests.tolerances import float64

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The file that the program writes, tanh and relu on a small grid."""
    folder = tmp_path_factory.mktemp("page")
    run(interactive_phase_diagram, folder, "--grid=20", "--activations=tanh,relu")
    return folder / "phase_diagram.html"


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    driver = shutil.which("chromedriver")
    if not (CHROMIUM and driver):
        pytest.skip("there is no Chromium with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(argument)
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def embedded(page):
    return json.loads(re.search(r"^const DATA = (.*);$", page.read_text(), re.MULTILINE)[1])


def test_the_data_are_those_of_meanfield(page):
    data = embedded(page)
    weights, biases = np.array(data["weights"]), np.array(data["biases"])
    for name, diagram in data["activations"].items():
        points = meanfield.fixed_points(name, weights[:, None], biases)
        for field in interactive_phase_diagram.FIELDS:
            packed = np.frombuffer(base64.b64decode(diagram["grid"][field]), "<f8")
            np.testing.assert_array_equal(packed, np.ravel(getattr(points, field)))
        phases = np.frombuffer(base64.b64decode(diagram["grid"]["phase"]), np.uint8)
        named = np.array(interactive_phase_diagram.PHASES)[phases]
        np.testing.assert_array_equal(named, np.ravel(points.phase))
    line = data["activations"]["tanh"]["line"]
    assert len(line["weights"]) > 30
    critical = meanfield.critical_weight_variance("tanh", np.array(line["biases"]))
    np.testing.assert_allclose(line["weights"], critical, rtol=float64.solved)


def test_the_page_needs_nothing_else(page):
    text = page.read_text()
    assert not re.findall(r"https?:|src=|@import|url\(|<link", text)


POINTS = {
    "ordered": ("tanh", 1.4, 0.1, 50, "gs2"),
    "chaotic": ("tanh", 3.0, 0.5, 12, "gs1"),
    "of relu": ("relu", 1.8, 1.0, 20, "gs3"),
    "without bound": ("relu", 3.0, 1.0, 20, "gs3"),
}


def shown(browser, name):
    return float(browser.find_element("id", name).get_attribute("data-value"))


def assert_shows(browser, activation, weight_variance, bias_variance, depth, profile):
    """The numbers, the verdict and the modes beside `meanfield`'s own."""
    verdict = meanfield.trainability(
        activation, weight_variance, bias_variance, depth, variance_profile=profile, size=8
    )
    sentence = browser.find_element("id", "verdict").text
    assert str(verdict).startswith(sentence), (str(verdict), sentence)
    assert len(sentence) > 80
    if verdict.phase == "unbounded":
        return
    point = meanfield.fixed_point(activation, weight_variance, bias_variance)
    for field in ("q_star", "c_star", "chi_1", "xi_c", "xi_q", "xi_star"):
        found = browser.find_element("id", field).get_attribute("data-value")
        expected = getattr(point, field)
        assert float(found.replace("Infinity", "inf")) == pytest.approx(expected, rel=float64.deep)
    assert np.log10(shown(browser, "gradient")) == pytest.approx(
        verdict.log10_gradient_ratio, abs=1e-9
    )
    arrive = int(browser.find_element("id", "surviving").text)
    assert (arrive, browser.find_element("id", "of").text) == (verdict.surviving_modes, "64")


@pytest.mark.parametrize("name", POINTS)
def test_the_address_names_a_point(browser, page, name):
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#{','.join(map(str, POINTS[name]))}")
    assert_shows(browser, *POINTS[name])
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize(("weight_variance", "bias_variance"), [(1.0, 0.3), (2.4, 1.5), (3.6, 0.2)])
def test_the_point_under_the_cursor_is_shown(browser, page, weight_variance, bias_variance):
    from selenium.webdriver import ActionChains

    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#tanh,1.4,0.1,30,gs2")
    canvas = browser.find_element("id", "map")
    x, y, width, height = browser.execute_script(
        "const at = layout(); return [at.x(arguments[0]), at.y(arguments[1]), at.width, at.height]",
        weight_variance,
        bias_variance,
    )
    from_centre = round(x - width / 2), round(y - height / 2)
    ActionChains(browser).move_to_element_with_offset(canvas, *from_centre).perform()
    assert shown(browser, "weight_variance") == pytest.approx(weight_variance)
    assert shown(browser, "bias_variance") == pytest.approx(bias_variance)
    assert_shows(browser, "tanh", weight_variance, bias_variance, 30, "gs2")


def test_near_the_critical_line_the_point_is_on_it(browser, page):
    from selenium.webdriver import ActionChains

    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#tanh,1.4,0.1,1000,gs4")
    line = embedded(page)["activations"]["tanh"]["line"]
    w, b = (line[name][len(line["weights"]) // 2] for name in ("weights", "biases"))
    x, y, width, height = browser.execute_script(
        f"const at = layout(); return [at.x({w}), at.y({b}), at.width, at.height]"
    )
    canvas = browser.find_element("id", "map")
    at = round(x - width / 2) + 2, round(y - height / 2) - 1
    ActionChains(browser).move_to_element_with_offset(canvas, *at).perform()
    assert (shown(browser, "weight_variance"), shown(browser, "bias_variance")) == (w, b)
    assert browser.find_element("id", "verdict").text.startswith("Critical (chi_1 = 1")
    assert_shows(browser, "tanh", w, b, 1000, "gs4")
