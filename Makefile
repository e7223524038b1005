# The three things to do here. Everything else that has to be set up for them is set up by them.

# Used when no ROS 2 environment is sourced: its wheels, pinned in requirements/ros-$(ROS).txt;
# jazzy or kilted. Another one than .venv was made with makes it anew.
ROS ?= jazzy
# Any Python from 3.10; with a sourced ROS 2 environment, the one that environment is made for.
PYTHON ?= python3
# Processes that run tests, each with a ROS domain of its own; most tests wait, and do not compute.
JOBS ?= 2
# More for pytest: make test TESTS='test/test_gate.py -x'
TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test clean

help:
	@echo 'make setup   make .venv: ROS 2 $(ROS) or the sourced one, torch, taolora_msgs, taolora_ros'
	@echo 'make demo    play recordings through the node and print the events that it finds'
	@echo 'make test    run all tests; TESTS="test/test_gate.py -x" runs some'
	@echo 'make clean   remove .venv and what colcon made'

setup:
	@$(PYTHON) tools/set_up.py --ros $(ROS)

demo: setup
	@.venv/bin/taolora demo

test: setup
	@.venv/bin/python -m pytest -n $(JOBS) --dist loadfile $(TESTS)

clean:
	rm -rf .venv build install log
