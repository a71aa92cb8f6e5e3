# make demo: train, evaluate and search on the synthetic library.   make test: everything that is checked.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test clean

demo: .venv/ready
	$(BIN)/python recipes/train.py hparams/cnn.yaml --output_folder results/demo --number_of_epochs 5 --warm_up_steps 30 \
		--batch_size 96 --channels "[16, 32, 64, 128]" --n_sources 300 --synthetic_share 0.3
	$(BIN)/python recipes/evaluate.py hparams/cnn.yaml --output_folder results/demo --robustness []
	$(BIN)/python recipes/evaluate.py hparams/cnn.yaml --output_folder results/shipped --robustness [] --model cochlea_sb:pretrained
	$(BIN)/python -c "from cochlea_sb.synthetic.library import write_library; write_library('results/sounds')"
	$(BIN)/cochlea index results/sounds --library results/demo/sounds.library --model results/demo
	$(BIN)/cochlea search results/demo/sounds.library results/sounds/bird/bird_003.wav

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.venv/ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv results
