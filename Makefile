# make quickstart   everything from nothing: environment, images, weights, a trained network
# make test         the test suite      make test-slow   its slow tests      make check   lint, format, types
# make bench        a short form of benchmarks/finetune.py: ours, timm and Hugging Face, some 5 minutes
# make results      the README's table of results: an hour for the fast columns, hours for the others
#                   (DATA=folder of characters5, hymenoptera, signdigits; resumable)
# make clean        remove the environment and what quickstart made

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
RUN := logs/quickstart
DATA ?= data

.PHONY: quickstart test test-slow check bench results clean

quickstart: $(VENV)/main.done
	@$(PY) -m tools.draw_pilots --out data/pilots --per-class 150 --seed 0
	@$(PY) -m tools.quickstart_weights
	@if [ -f $(RUN)/summary.json ]; then \
		echo "$(RUN) is there already; remove it and weights/quickstart to train again:"; \
		tail -n 4 $(RUN)/run.log | sed 's/^[^ ]* [^ ]* INFO //'; \
	elif [ -f $(RUN)/split.csv ]; then \
		$(PY) training.py --config configs/quickstart.yaml train.from_checkpoint=true; \
	else \
		$(PY) training.py --config configs/quickstart.yaml; \
	fi

# A process a core, of one thread each: what is tested is small.
TESTS := OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses=8 --dist=loadfile

test: $(VENV)/dev.done
	$(TESTS) -m "not slow"

test-slow: $(VENV)/dev.done
	$(TESTS) -m slow

check: $(VENV)/dev.done
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(VENV)/dev.done
	$(PY) -m benchmarks.finetune --short

results: $(VENV)/dev.done
	@$(PY) -m tools.draw_pilots --out data/pilots --per-class 150 --seed 0
	@$(PY) -m tools.quickstart_weights
	$(PY) -m benchmarks.results --fast --data $(DATA)
	$(PY) -m benchmarks.results --slow --data $(DATA)

clean:
	rm -rf $(VENV) $(RUN) weights/quickstart data/pilots

$(PY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/main.done: requirements.txt | $(PY)
	$(PIP) install -r requirements.txt
	@touch $@

$(VENV)/dev.done: requirements-dev.txt requirements.txt | $(PY)
	$(PIP) install -r requirements-dev.txt
	@touch $@ $(VENV)/main.done
