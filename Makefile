# Nothing has to be done first: every target makes the environment it needs, once.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup run test nightly check sources lab dashboards lock clean
BIN := .venv/bin
FROM ?= 2013-02
TO ?= 2013-05

# One thread per process (several run at once), and nothing phones home.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export PLOOMBER_STATS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export GX_ANALYTICS_ENABLED := false
export PYTHON

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: .venv/.ready  ## make .venv from requirements.lock, with the kernel (again only when needed)

.venv/.ready: requirements.lock pyproject.toml settings.ini .ci/setup
	@.ci/setup

run: .venv/.ready  ## live through a few months of flights: FROM=2013-02 TO=2013-05 STORE=store
	@echo "one run of the pipeline per month, $(FROM) to $(TO): score, watch, decide, retrain (about twenty seconds each)"
	@$(BIN)/nbops replay --from $(FROM) --to $(TO) $(if $(STORE),--store $(STORE))

test: .venv/.ready  ## everything: sources, library notebooks, all tests (installs what the tests need, if it may)
	@.ci/servers
	@$(MAKE) --no-print-directory sources FLAGS=slow
	@echo "== all tests"
	@$(BIN)/pytest --durations=15
	@$(BIN)/nbops engine stop

nightly: .venv/.ready  ## the engine's endurance tests: 2,000 notebooks a hundred at a time, 500 in one process
	@NBOPS_LONG=1 $(BIN)/pytest --durations=5 tests/test_engine.py -k "many"

check: .venv/.ready  ## the quick part of test, for while you work
	@$(MAKE) --no-print-directory sources
	@echo "== quick tests"
	@$(BIN)/pytest -m "not slow and not browser"

sources: .venv/.ready
	@echo "== notebooks are clean and lib/ is what they export"
	@$(BIN)/python .ci/unchanged
	@echo "== the library notebooks' examples run"
	@$(BIN)/nbdev_test --n_workers 2 --timing --flags "$(FLAGS)"
	@echo "== ruff (most findings: $(BIN)/ruff check --fix)"
	@$(BIN)/ruff check .
	@echo "== mypy on lib/"
	@$(BIN)/mypy

lab: .venv/.ready  ## JupyterLab in this folder; LAB= for more options
	@JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" $(BIN)/jupyter-lab $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

dashboards: .venv/.ready  ## the dashboards, on http://127.0.0.1:8866; VOILA= for more options
	@echo "dashboards: http://127.0.0.1:8866 (Ctrl-C stops them; what they show is made by: make run)"
	@$(BIN)/voila reports --Voila.config_file_paths=reports/theme $(VOILA)

lock: .venv/.ready  ## pin pyproject.toml's requirements in requirements.lock; UPGRADE=1 for newer versions
	@$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-emit-index-url --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) -o requirements.lock
	@echo "requirements.lock: $$(grep -c == requirements.lock) packages; 'make setup' installs them"

clean: .venv/.ready  ## strip outputs and stray metadata from notebooks, remove caches (never store/ or .venv)
	@find notebooks reports -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' -print0 | \
	  xargs -0 $(BIN)/jupyter-nbconvert --clear-output --inplace --log-level=WARN
	@for folder in notebooks reports; do $(BIN)/nbdev_clean --fname $$folder; done
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
