# Bootstraps nox in an environment of its own and calls it. What is done is in noxfile.py.
PYTHON ?= python3
NOX := .nox/bootstrap/bin/nox
STAMP := .nox/bootstrap/$(shell cksum < requirements/nox.txt | cut -d' ' -f1).installed

.PHONY: help test demo cluster cluster-down
help:
	@echo 'make test          every check and test'
	@echo 'make demo          a cluster, a dead primary, and what became of it'
	@echo 'make cluster       a local Kubernetes with the operator'
	@echo 'make cluster-down  removes it'
	@echo '$(NOX) --list      single sessions (after the first make)'

test: $(STAMP)
	$(NOX)

demo cluster: $(STAMP)
	$(NOX) --session $@

cluster-down: $(STAMP)
	$(NOX) --session cluster_down

$(STAMP): requirements/nox.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'needs Python 3.11 or newer as python3; another one: make PYTHON=python3.13 ...'; exit 1; }
	@echo 'preparing nox in .nox/bootstrap'
	@rm -rf .nox/bootstrap
	@$(PYTHON) -m venv .nox/bootstrap || \
	  { echo 'this Python can make no environments; on Debian, as root: apt-get install python3-venv'; exit 1; }
	@.nox/bootstrap/bin/pip install --quiet --require-hashes -r requirements/nox.txt
	@touch $@
