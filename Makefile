# make run    sets up the environment and trains the main job on the embedded data
# make test   sets up the environment and runs the quick test suite
# make test-slow  runs the tests that take minutes
# make coverage   runs the quick suite and prints which lines it leaves out
# make figures  draws every figure at its quick size into experiments/results (about an hour)
# make docs   runs the code of all pages and builds the site into build/site (SITE=...)
# make bench  lists the benchmarks and runs them (hours); `make bench-NAME` runs one
# make soak   deals faults to running programs for an hour (SOAK="--minutes=5 --seed=7")
# make lint   checks style, format and types

# Any Python from 3.11 that is there, the newest last: TensorFlow may not have it yet.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
# A file of versions that pip must keep to, as .ci/lowest.txt.
CONSTRAINTS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
SITE ?= build/site
OUTPUT_DIR ?= runs/digits

export TF_CPP_MIN_LOG_LEVEL ?= 2

# The quick runs that experiments/README.md shows; those with data need TFDS_DATA_DIR for MNIST.
FIGURES := phase_diagram gradient_norms weight_spectrum kernel_modes fourier_modes \
	jacobian_spectrum condition_numbers ntk_spectrum kappa kernel_limits ntk_modes perturbation \
	eigenvector_overlap deep_predictor learning_curves ntk_prediction ntk_variance \
	output_variance effective_rank ntk_change linearization learning_rates \
	trainability_generalization trainability orthogonal_speed variance_profiles train_depths \
	train_depths_sgd train_depths_momentum train_depths_modes \
	variance_profiles_circular before_after rate_laws

BENCHMARKS := $(patsubst benchmarks/%.py,%,$(filter-out %/__init__.py %_child.py, \
	$(wildcard benchmarks/*.py)))

# Folders of tests that fill the memory of processes of their own, and how all are run: the last
# run has what the others have not.
LARGE_ROOMS := empirical experiments kernels diagnosis layers models site tpu training
TEST_RUNS := "tests/empirical/test_[a-r]*.py" "tests/empirical/test_[s-z]*.py" tests/experiments \
	tests/diagnosis tests/layers "tests/kernels/test_[a-k]*.py" "tests/kernels/test_[l-n]*.py" \
	"tests/kernels/test_[o-z]*.py" "tests/test_*.py" \
	"tests/models tests/site" tests/tpu tests/training \
	"mfcnn tests $(LARGE_ROOMS:%=--ignore=tests/%) --ignore-glob=tests/test_*.py"

.PHONY: run test test-slow soak coverage figures docs bench lint format clean

run: $(STAMP)
	$(BIN)/python -m experiments.train --learning_rate=3e-5 --schedule=cosine --outer_rate=100 \
		--output_dir=$(OUTPUT_DIR)

# One run after the other: TensorFlow keeps what it compiled until its process ends, and no process
# is to need 2 GB.
test: $(STAMP)
	@failed=0; for room in $(TEST_RUNS); do \
		echo "pytest $$room"; \
		$(BIN)/python -m pytest -n 2 --durations=5 $(PYTEST_FLAGS) $$room || failed=1; \
	done; exit $$failed

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# Kills, signals, full disks, damaged files, two owners, lost workers; prints its seed and a table.
SOAK ?= --minutes=60
soak: $(STAMP)
	$(BIN)/python -m tests.soak $(SOAK)

coverage: $(STAMP)
	$(BIN)/coverage erase
	$(MAKE) --no-print-directory test PYTEST_FLAGS="--cov=mfcnn --cov-append --cov-report="
	$(BIN)/coverage report --show-missing --skip-covered

bench: $(STAMP)
	@for name in $(BENCHMARKS); do echo "$$name: $$(sed -n '1s/^r*\"*//p' benchmarks/$$name.py)"; done
	@$(MAKE) --no-print-directory $(BENCHMARKS:%=bench-%)

bench-%: $(STAMP)
	$(BIN)/python -m benchmarks.$*

# Goes on where it was interrupted: a binary does not repeat what its directory holds.
figures: $(FIGURES:%=figure-%)

figure-%: $(STAMP)
	$(BIN)/python -m experiments.$* --output_dir=experiments/results/$*

# 50 to 10,000 layers on digits, each at the rate that its own NTK allows.
figure-train_depths_%: $(STAMP)
	$(BIN)/python -m experiments.train_depths --dataset=digits --resize=8 --test_subset=300 \
		--depths=50,200,1000,10000 --initializations=delta_orthogonal --padding=same \
		--readout=pool --optimizer=$* --eval_every=15 --checkpoint_every=60 --target=0.8 \
		--output_dir=experiments/results/train_depths_$*

# Figure 3 where its effect could show: circular, beyond the depth of all modes but one, trained to 1.
figure-train_depths_modes: $(STAMP)
	$(BIN)/python -m experiments.train_depths --dataset=mnist --resize=8 --strides=1 --filters=16 \
		--readout=flatten --q_star=0.1 --optimizer=adam --subset=300 --test_subset=10000 \
		--depths=8,32,128 --steps=450 --eval_every=150 \
		--output_dir=experiments/results/train_depths_modes

# Figure 4(a) likewise: more channels than layers, eight draws of each network.
figure-variance_profiles_circular: $(STAMP)
	$(BIN)/python -m experiments.variance_profiles --dataset=mnist --resize=8 --strides=2 \
		--filters=64 --readout=flatten --q_star=0.3 --subset=300 --test_subset=10000 \
		--depths=4,16 --profiles=gs0,gs4 --seeds=8 --steps=450 --eval_every=150 \
		--output_dir=experiments/results/variance_profiles_circular

# A page whose code fails is an error, as is every warning. What ran before is kept in build/executed.
docs: $(DOCS_STAMP)
	$(BIN)/python -m mkdocs build --strict --site-dir $(SITE)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist *.egg-info

# Installs once; again only when the declared dependencies change.
$(STAMP): setup.cfg setup.py
	@test -n "$(PYTHON)" || { echo "No Python from 3.11 is there; name one: make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]' $(CONSTRAINTS:%=--constraint %)
	touch $@

$(DOCS_STAMP): $(STAMP) setup.cfg
	$(BIN)/python -m pip install --quiet --editable '.[docs]' $(CONSTRAINTS:%=--constraint %)
	touch $@
