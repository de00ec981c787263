# One line of help per target: `make help`.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The first Python from 3.10 to 3.13 on this machine; `make PYTHON=/path/to/python demo` overrides it.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
  $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := torch==2.13.0
SAMPLE := Resources/SampleData/hippocampus
DATASET ?= data/Task04_Hippocampus
RUN ?= runs/hippocampus
SHARED ?= ../shared
NNUNET_PYTHON ?= .venv-nnunet/bin/python

.PHONY: help demo test lint format bench soak screenshots train-hippocampus clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

.venv/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "No Python from 3.10 to 3.13 found; name one: make PYTHON=/path/to/python demo"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/pyvenv.cfg pyproject.toml
	$(PIP) --upgrade "pip>=23.2"
	$(PIP) -e ".[preview]"
	@touch $@

# Without an NVIDIA card, Linux gets PyTorch's CPU build (some 200 MB instead of gigabytes).
.venv/.torch: .venv/.demo
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	  $(PIP) --no-deps --retries 1 --index-url https://download.pytorch.org/whl/cpu $(TORCH) 2>/dev/null || $(PIP) $(TORCH); \
	else $(PIP) $(TORCH); fi
	@touch $@

# slicer-core and PySide6 carry the stand-in host; where they have no wheel, the host's tests say so and are skipped.
.venv/.dev: .venv/.torch requirements/constraints.txt requirements/host.txt training/pyproject.toml
	$(PIP) -c requirements/constraints.txt -e ".[dev,preview,torch]" -e ./training
	@$(PIP) -r requirements/host.txt || echo "slicer-core or PySide6 is not available here: tests on the stand-in host will be skipped"
	@touch $@

demo: .venv/.demo ## segment the sample MRI with the model that ships, into demo/
	@mkdir -p demo
	$(BIN)/unetsegment segment $(SAMPLE)/hippocampus_084_image.nii.gz -m hippocampus-mr-t1 -o demo/hippocampus.seg.nrrd \
	  --preview demo/hippocampus.png --compare $(SAMPLE)/hippocampus_084_label.nii.gz

test: .venv/.dev lint ## lint, then run all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow"

lint: .venv/.dev ## check the code with ruff
	$(BIN)/ruff check .

format: .venv/.dev ## format the code and sort imports
	$(BIN)/ruff check --extend-select I --fix .
	$(BIN)/ruff format .

# The peer gets an environment of its own, made once; NNUNET_PYTHON=/path/to/python takes one that is there.
.venv-nnunet/.ready:
	$(PYTHON) -m venv .venv-nnunet
	.venv-nnunet/bin/python -m pip install --quiet $(if $(shell command -v nvidia-smi),,--extra-index-url https://download.pytorch.org/whl/cpu) $(TORCH) nnunetv2==2.8.1
	@touch $@

bench: .venv/.dev $(if $(filter .venv-nnunet/%,$(NNUNET_PYTHON)),.venv-nnunet/.ready) ## measure speed and memory beside nnU-Net and MONAI; BENCH="--case network", SHARED=folder
	cd Testing && ../$(BIN)/python -m benchmarks --nnunet-python "$(abspath $(NNUNET_PYTHON))" --data "$(abspath $(SHARED))" $(BENCH)

soak: .venv/.dev ## hundreds of runs through the panel that are cancelled, killed or closed at random moments; SOAK="--share 0.1"
	cd Testing && QT_QPA_PLATFORM=offscreen ../$(BIN)/python -m soak $(SOAK)

screenshots: .venv/.dev ## draw the icon, the model's thumbnail and the README's pictures again
	$(BIN)/python docs/draw_icon.py
	$(MAKE) demo
	$(BIN)/unetsegment segment $(SAMPLE)/hippocampus_084_image.nii.gz -m hippocampus-mr-t1 -o demo/hippocampus.seg.nrrd --quiet \
	  --thumbnail Resources/Models/hippocampus-mr-t1/docs/thumbnail.png
	cp demo/hippocampus.png Resources/Screenshots/hippocampus.png
	cd Testing && ../$(BIN)/python -m host.picture ../UNetSegment/UNetSegment.py ../Resources/Screenshots/panel.png \
	  --volume ../$(SAMPLE)/hippocampus_084_image.nii.gz --apply

train-hippocampus: .venv/.dev ## train, measure and pack the hippocampus model; DATASET=folder, RUN=folder
	$(BIN)/unetsegment-train fit $(DATASET) $(RUN) --fold 0 --epochs 55
	$(BIN)/unetsegment-train pack $(DATASET) $(RUN) $(RUN)/hippocampus-mr-t1 --card training/cards/hippocampus.json \
	  --thumbnail Resources/Models/hippocampus-mr-t1/docs/thumbnail.png

clean: ## remove the virtual environment and everything generated
	rm -rf .venv .venv-nnunet demo build .pytest_cache .ruff_cache .hypothesis UNetSegment/*.egg-info training/src/*.egg-info
