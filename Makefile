# Every command makes the environment first when it is missing. `make help` lists them.
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DIGITS := examples/digits/artifacts
BARS := startup overhead check-70b digits minilm int8-speed mil mil-operators ios gguf-identical gguf-size gguf-speed gguf-memory \
	tensorrt vllm stablehlo onnx-import arena edge

.PHONY: help env demo test test-fast lint format bars $(addprefix bar-,$(BARS)) clean

help:
	@echo "make demo       train a small CNN on digits and convert it to full-integer LiteRT"
	@echo "make test       every test (under 30 minutes on 2 cores)"
	@echo "make test-fast  the tests that load no framework (under 2 minutes)"
	@echo "make lint       ruff and mypy --strict"
	@echo "make bars       every benchmark with a bar; make bar-NAME for one of: $(BARS)"

env: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "modelport needs Python 3.11 or 3.12: make PYTHON=/path/to/python3.12 env"; exit 1; }
	@echo "[1/3] a virtual environment in $(VENV) with $(PYTHON)"
	$(PYTHON) -m venv $(VENV)
	@echo "[2/3] torch 2.13.0, the CPU build (200 MB)"
	$(BIN)/python -m pip install -c constraints.txt 'torch==2.13.0'
	@echo "[3/3] modelport with every part that needs no GPU (llama.cpp is compiled: 4 to 8 minutes)"
	$(BIN)/python -m pip install -c constraints.txt -e '.[all,test,lint]'
	@touch $(READY)

$(DIGITS)/digits.pt2: examples/digits/train.py examples/digits/preprocess.toml | $(READY)
	$(BIN)/python examples/digits/train.py --out $(DIGITS) 2>build-digits.log || { cat build-digits.log; rm -f build-digits.log; exit 1; }
	@rm -f build-digits.log

demo: $(READY) $(DIGITS)/digits.pt2
	@mkdir -p out
	$(BIN)/convert --target android --quant int8 --calibration $(DIGITS)/images --out out/digits-android --overwrite $(DIGITS)/digits.pt2

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-fast: $(READY)
	$(BIN)/python -m pytest -m "not slow"

# mypy wants the package's folder to be named as the package is, and a clone may be called anything.
lint: $(READY)
	@mkdir -p build/typecheck && ln -sfn "$(CURDIR)" build/typecheck/modelport
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=build/typecheck $(BIN)/mypy -p modelport

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bars: $(addprefix bar-,$(BARS))

$(addprefix bar-,$(BARS)): bar-%: $(READY) $(DIGITS)/digits.pt2
	$(BIN)/python benchmarks/$(subst -,_,$*).py

clean:
	rm -rf build dist out *.egg-info $(DIGITS)
