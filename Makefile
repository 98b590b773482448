# Every target builds the virtual environment that it needs; nothing has to be installed before but Python >= 3.11.
#
#   make demo    train the embedded policy with AIPO on this machine's CPU and show what it learnt to do alone
#   make test    the test suite
#   make lint    formatter, linter, type checker
#   make bench   speed, side by side with peers

PYTHON ?= python3
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/aipo
# One environment for each set of dependencies and each clone (the project itself is installed editable).
KEY := $(shell { cat pyproject.toml constraints.txt; $(PYTHON) -VV; pwd; } | cksum | cut -d' ' -f1)
venv = $(CACHE)/venv-$(1)-$(KEY)
CHECK = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AIPO needs Python >= 3.11; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'

.PHONY: demo test lint format bench clean

demo: $(call venv,demo)/ready
	$(call venv,demo)/bin/aipo demo $(ARGS)

test: $(call venv,test)/ready
	$(call venv,test)/bin/python -m pytest $(ARGS)

lint: $(call venv,test)/ready
	$(call venv,test)/bin/ruff format --check .
	$(call venv,test)/bin/ruff check .
	$(call venv,test)/bin/mypy

format: $(call venv,test)/ready
	$(call venv,test)/bin/ruff format .
	$(call venv,test)/bin/ruff check --fix .

bench: $(call venv,bench)/ready
	$(call venv,bench)/bin/python -m benchmarks.trainer_speed
	$(call venv,bench)/bin/python -m benchmarks.env_speed
	$(call venv,bench)/bin/python -m benchmarks.code_sandbox

# The stamp is written last, so an installation that was cut is done again.
$(call venv,demo)/ready:  EXTRAS = train
$(call venv,test)/ready:  EXTRAS = dev,eval
$(call venv,bench)/ready: EXTRAS = dev,bench
$(CACHE)/venv-%/ready:
	$(CHECK)
	@echo "Building the virtual environment $(@D) (minutes on the first run)"
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(CACHE) .pytest_cache .ruff_cache .mypy_cache .hypothesis
